// SPDX-License-Identifier: Apache-2.0
// The head of a GGUF file (versions 2 and 3, little-endian): metadata and tensor infos. Weights are
// not read. Every count is bounded by what the file could hold before anything is made for it.
import { GbError } from '../../proto/base/errors.js';
import { KIB, MIB } from '../../proto/base/units.js';
import { Cursor, type ByteSource } from './bytes.js';

const MAGIC = 0x46554747; // "GGUF"
const HEAD_BYTES_MAX = 512 * MIB;
const KEYS_MAX = 65_536;
const TENSORS_MAX = 262_144;
const NAME_BYTES_MAX = 64 * KIB;
/** Longer strings (chat templates) are passed over. */
const TEXT_BYTES_KEPT = 4 * KIB;
/** Longer arrays (vocabularies) are passed over. */
const ARRAY_KEPT_MAX = 4_096;
const DIMENSIONS_MAX = 8;
const DEPTH_MAX = 4;
/** Key, type and a value of one byte; name, count of dimensions, one of them, type, offset. */
const KEY_BYTES_MIN = 8 + 4 + 1;
const TENSOR_BYTES_MIN = 8 + 4 + 8 + 4 + 8;

type Scalar = number | boolean | string;
export type GgufValue = Scalar | readonly Scalar[];

export interface GgufTensor {
  readonly name: string;
  readonly elements: number;
  readonly type: number;
  readonly bytes: number;
}

export interface Gguf {
  readonly version: number;
  /** Scalars and short arrays. */
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: readonly GgufTensor[];
  /** Where the weights begin. */
  readonly dataOffset: number;
}

/** ggml types: elements and bytes of a block. */
const BLOCKS: Readonly<Record<number, readonly [elements: number, bytes: number]>> = {
  0: [1, 4], // F32
  1: [1, 2], // F16
  2: [32, 18], // Q4_0
  3: [32, 20], // Q4_1
  6: [32, 22], // Q5_0
  7: [32, 24], // Q5_1
  8: [32, 34], // Q8_0
  9: [32, 36], // Q8_1
  10: [256, 84], // Q2_K
  11: [256, 110], // Q3_K
  12: [256, 144], // Q4_K
  13: [256, 176], // Q5_K
  14: [256, 210], // Q6_K
  15: [256, 292], // Q8_K
  16: [256, 66], // IQ2_XXS
  17: [256, 74], // IQ2_XS
  18: [256, 98], // IQ3_XXS
  19: [256, 50], // IQ1_S
  20: [32, 18], // IQ4_NL
  21: [256, 110], // IQ3_S
  22: [256, 82], // IQ2_S
  23: [256, 136], // IQ4_XS
  24: [1, 1], // I8
  25: [1, 2], // I16
  26: [1, 4], // I32
  27: [1, 8], // I64
  28: [1, 8], // F64
  29: [256, 56], // IQ1_M
  30: [1, 2], // BF16
  34: [256, 54], // TQ1_0
  35: [256, 66], // TQ2_0
  39: [32, 17], // MXFP4
};

/** Bytes of a metadata value, by type; strings and arrays have none. */
const VALUE_BYTES: Readonly<Record<number, number>> = {
  0: 1,
  1: 1,
  2: 2,
  3: 2,
  4: 4,
  5: 4,
  6: 4,
  7: 1,
  10: 8,
  11: 8,
  12: 8,
};
const TYPE_STRING = 8;
const TYPE_ARRAY = 9;

/** @throws GbError INVALID_ARGUMENT when it is no GGUF; UNSUPPORTED for another version or byte
 *  order; DATA_LOSS when it is cut short or contradicts itself. */
export function parseGguf(source: ByteSource): Gguf {
  const cursor = new Cursor(source, HEAD_BYTES_MAX);
  if (source.size < 24 || cursor.u32() !== MAGIC)
    throw new GbError('INVALID_ARGUMENT', 'not a GGUF file');
  const version = cursor.u32();
  if (version !== 2 && version !== 3)
    throw new GbError('UNSUPPORTED', `GGUF version ${version}; versions 2 and 3 are read`);
  const tensorCount = counted(cursor, TENSORS_MAX, TENSOR_BYTES_MIN, 'tensors');
  const keyCount = counted(cursor, KEYS_MAX, KEY_BYTES_MIN, 'keys');
  const metadata = new Map<string, GgufValue>();
  for (let index = 0; index < keyCount; index++) {
    const key = text(cursor, NAME_BYTES_MAX);
    const value = readValue(cursor, cursor.u32(), 0);
    if (value !== undefined) metadata.set(key, value);
  }
  const infos: TensorInfo[] = [];
  for (let index = 0; index < tensorCount; index++) infos.push(readInfo(cursor));
  const alignment = metadata.get('general.alignment') ?? 32;
  if (typeof alignment !== 'number' || !(alignment > 0 && alignment <= MIB) || alignment % 8 !== 0)
    throw new GbError('DATA_LOSS', 'the alignment of the tensors is none');
  const dataOffset = Math.ceil(cursor.offset / alignment) * alignment;
  return { version, metadata, tensors: sized(infos, source.size - dataOffset), dataOffset };
}

interface TensorInfo {
  readonly name: string;
  readonly elements: number;
  readonly type: number;
  readonly offset: number;
}

/** A count no larger than `max`, nor than what the rest of the file could hold. */
function counted(cursor: Cursor, max: number, bytesEach: number, what: string): number {
  const count = cursor.u64();
  if (count > max || count * bytesEach > cursor.remaining)
    throw new GbError('DATA_LOSS', `${count} ${what} do not fit into the file`);
  return count;
}

function text(cursor: Cursor, max: number): string {
  const length = cursor.u64();
  if (length > max) throw new GbError('DATA_LOSS', `a name of ${length} bytes`);
  return cursor.bytes(length).toString('utf8');
}

function keptText(cursor: Cursor): string | undefined {
  const length = cursor.u64();
  if (length <= TEXT_BYTES_KEPT) return cursor.bytes(length).toString('utf8');
  cursor.skip(length);
  return undefined;
}

/** undefined for what is passed over. */
function readValue(cursor: Cursor, type: number, depth: number): GgufValue | undefined {
  if (type === TYPE_STRING) return keptText(cursor);
  if (type === TYPE_ARRAY) return readArray(cursor, depth);
  const length = VALUE_BYTES[type];
  if (length === undefined) throw new GbError('DATA_LOSS', `a value of type ${type}`);
  return scalar(cursor.bytes(length), type);
}

function scalar(bytes: Buffer, type: number): number | boolean {
  switch (type) {
    case 0:
      return bytes.readUInt8(0);
    case 1:
      return bytes.readInt8(0);
    case 2:
      return bytes.readUInt16LE(0);
    case 3:
      return bytes.readInt16LE(0);
    case 4:
      return bytes.readUInt32LE(0);
    case 5:
      return bytes.readInt32LE(0);
    case 6:
      return bytes.readFloatLE(0);
    case 7:
      return bytes.readUInt8(0) !== 0;
    case 10:
      return Number(bytes.readBigUInt64LE(0));
    case 11:
      return Number(bytes.readBigInt64LE(0));
    default:
      return bytes.readDoubleLE(0);
  }
}

function readArray(cursor: Cursor, depth: number): readonly Scalar[] | undefined {
  if (depth >= DEPTH_MAX) throw new GbError('DATA_LOSS', 'arrays in arrays, too deep');
  const type = cursor.u32();
  const each = type === TYPE_STRING ? 8 : type === TYPE_ARRAY ? 12 : VALUE_BYTES[type];
  if (each === undefined) throw new GbError('DATA_LOSS', `an array of type ${type}`);
  const count = cursor.u64();
  if (count * each > cursor.remaining)
    throw new GbError('DATA_LOSS', `an array of ${count} does not fit into the file`);
  const numbers = VALUE_BYTES[type] !== undefined;
  if (numbers && count > ARRAY_KEPT_MAX) {
    cursor.skip(count * each);
    return undefined;
  }
  const values: Scalar[] = [];
  for (let index = 0; index < count; index++) {
    const value = readValue(cursor, type, depth + 1);
    if (numbers) values.push(value as number | boolean);
  }
  return numbers ? values : undefined;
}

function readInfo(cursor: Cursor): TensorInfo {
  const name = text(cursor, NAME_BYTES_MAX);
  const dimensions = cursor.u32();
  if (dimensions > DIMENSIONS_MAX)
    throw new GbError('DATA_LOSS', `a tensor of ${dimensions} dimensions`);
  let elements = 1;
  for (let index = 0; index < dimensions; index++) elements *= cursor.u64();
  if (!Number.isSafeInteger(elements)) throw new GbError('DATA_LOSS', `${name} is too large`);
  return { name, elements, type: cursor.u32(), offset: cursor.u64() };
}

/** A type that is not known is as long as the next tensor is far. */
function sized(infos: readonly TensorInfo[], dataBytes: number): GgufTensor[] {
  const offsets = infos.map(({ offset }) => offset).sort((a, b) => a - b);
  const next = new Map(offsets.map((offset, index) => [offset, offsets[index + 1] ?? dataBytes]));
  const tensors = infos.map(({ name, elements, type, offset }) => {
    const block = BLOCKS[type];
    const bytes = block
      ? Math.ceil(elements / block[0]) * block[1]
      : (next.get(offset) ?? dataBytes) - offset;
    if (bytes < 0 || offset + bytes > dataBytes)
      throw new GbError('DATA_LOSS', `the file ends before ${name} does; is it complete?`);
    return { name, elements, type, bytes };
  });
  if (tensors.reduce((sum, { bytes }) => sum + bytes, 0) > dataBytes)
    throw new GbError('DATA_LOSS', 'the tensors lie over each other');
  return tensors;
}
