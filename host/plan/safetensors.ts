// SPDX-License-Identifier: Apache-2.0
// The head of a safetensors file, and the index of a model in several of them. Weights are not read.
import { z } from 'zod';
import { GbError } from '../../proto/base/errors.js';
import { MIB } from '../../proto/base/units.js';
import type { ByteSource } from './bytes.js';

/** As the format's own reader has it. */
const HEAD_BYTES_MAX = 100 * MIB;
const INDEX_BYTES_MAX = 64 * MIB;
const SHARDS_MAX = 4_096;
const TENSORS_MAX = 1_000_000;

const count = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
const tensorSchema = z.object({
  dtype: z.string().max(32),
  shape: z.array(count).max(16),
  data_offsets: z.tuple([count, count]),
});
const indexSchema = z.object({ weight_map: z.record(z.string(), z.string().max(1024)) });

export interface SafeTensor {
  readonly name: string;
  readonly dtype: string;
  readonly elements: number;
  readonly bytes: number;
}

/** @throws GbError INVALID_ARGUMENT when it is no safetensors file; DATA_LOSS when it is cut short
 *  or contradicts itself. */
export function parseSafetensors(source: ByteSource): SafeTensor[] {
  if (source.size < 10) throw new GbError('INVALID_ARGUMENT', 'not a safetensors file');
  const length = source.read(0, 8).readBigUInt64LE(0);
  if (length > BigInt(Math.min(HEAD_BYTES_MAX, source.size - 8)))
    throw new GbError('INVALID_ARGUMENT', 'not a safetensors file, or cut short');
  const dataBytes = source.size - 8 - Number(length);
  const head = parseObject(source.read(8, Number(length)), 'the head of the file');
  const entries = Object.entries(head).filter(([name]) => name !== '__metadata__');
  if (entries.length > TENSORS_MAX) throw new GbError('DATA_LOSS', 'too many tensors');
  const tensors = entries.map(([name, value]) => {
    const tensor = tensorSchema.safeParse(value);
    if (!tensor.success) throw new GbError('DATA_LOSS', `${name.slice(0, 100)} is no tensor`);
    const { dtype, shape, data_offsets: offsets } = tensor.data;
    const elements = shape.reduce((product, size) => product * size, 1);
    const bytes = offsets[1] - offsets[0];
    if (bytes < 0 || offsets[1] > dataBytes || !Number.isSafeInteger(elements)) {
      const text = `the file ends before ${name.slice(0, 100)} does; is it complete?`;
      throw new GbError('DATA_LOSS', text);
    }
    return { name, dtype, elements, bytes };
  });
  if (tensors.reduce((sum, { bytes }) => sum + bytes, 0) > dataBytes)
    throw new GbError('DATA_LOSS', 'the tensors lie over each other');
  return tensors;
}

/** The files of a model in several parts, each once, relative to the index.
 *  @throws GbError INVALID_ARGUMENT when it is no index, or names a file elsewhere. */
export function parseIndex(source: ByteSource): string[] {
  if (source.size > INDEX_BYTES_MAX)
    throw new GbError('INVALID_ARGUMENT', 'the index is too large');
  const index = indexSchema.safeParse(parseObject(source.read(0, source.size), 'the index'));
  if (!index.success) throw new GbError('INVALID_ARGUMENT', 'the index names no files');
  const files = [...new Set(Object.values(index.data.weight_map))].sort();
  if (files.length > SHARDS_MAX) throw new GbError('INVALID_ARGUMENT', `${files.length} files`);
  for (const file of files) {
    if (file.includes('/') || file === '..')
      throw new GbError(
        'INVALID_ARGUMENT',
        `the index names a file elsewhere: ${file.slice(0, 100)}`,
      );
  }
  return files;
}

/** JSON text that is one object. @throws GbError INVALID_ARGUMENT. */
export function parseObject(bytes: Uint8Array, what: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(Buffer.from(bytes).toString('utf8'));
    if (typeof value === 'object' && value !== null && !Array.isArray(value))
      return value as Record<string, unknown>;
  } catch {
    // Not JSON: said below.
  }
  throw new GbError('INVALID_ARGUMENT', `${what} is no JSON object`);
}
