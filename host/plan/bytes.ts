// SPDX-License-Identifier: Apache-2.0
// Bytes of a model file, read piece by piece: these files are larger than memory, their heads are
// not.
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { GbError } from '../../proto/base/errors.js';
import { KIB } from '../../proto/base/units.js';

export interface ByteSource {
  readonly size: number;
  /** Up to `length` bytes from `offset`; fewer at the end. */
  read(offset: number, length: number): Buffer;
}

/** A source over bytes in memory. */
export function memorySource(bytes: Uint8Array): ByteSource {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return {
    size: buffer.length,
    read: (offset, length) => buffer.subarray(offset, offset + length),
  };
}

/** Runs `work` with the file open. @throws GbError NOT_FOUND, PERMISSION_DENIED or
 *  INVALID_ARGUMENT when it cannot be read. */
export function withFile<T>(path: string, work: (source: ByteSource) => T): T {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (reason) {
    const { code } = reason as NodeJS.ErrnoException;
    const missing = code === 'ENOENT' || code === 'ENOTDIR';
    throw new GbError(
      missing ? 'NOT_FOUND' : 'PERMISSION_DENIED',
      `${path}: ${missing ? 'no such file' : `cannot be read (${code ?? 'unknown'})`}`,
    );
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new GbError('INVALID_ARGUMENT', `${path} is not a file`);
    return work({
      size: stat.size,
      read: (offset, length) => {
        const buffer = Buffer.allocUnsafe(Math.max(0, Math.min(length, stat.size - offset)));
        const got = buffer.length > 0 ? readSync(fd, buffer, 0, buffer.length, offset) : 0;
        return buffer.subarray(0, got);
      },
    });
  } finally {
    closeSync(fd);
  }
}

const WINDOW_BYTES = 256 * KIB;

/** Reads little-endian values one after another, never beyond `limit` bytes of the source. */
export class Cursor {
  private at = 0;
  private window: Buffer = Buffer.alloc(0);
  private windowAt = 0;

  constructor(
    private readonly source: ByteSource,
    private readonly limit = source.size,
  ) {}

  get offset(): number {
    return this.at;
  }

  get remaining(): number {
    return Math.min(this.source.size, this.limit) - this.at;
  }

  /** The next `length` bytes; they are the caller's until the next call. @throws GbError DATA_LOSS
   *  when there are fewer. pre: length was bounded by the caller. */
  bytes(length: number): Buffer {
    this.need(length);
    const begin = this.at - this.windowAt;
    if (begin < 0 || begin + length > this.window.length) {
      this.window = this.source.read(this.at, Math.max(length, WINDOW_BYTES));
      this.windowAt = this.at;
    }
    const found = this.window.subarray(this.at - this.windowAt, this.at - this.windowAt + length);
    if (found.length < length) throw truncated();
    this.at += length;
    return found;
  }

  /** Passes over bytes without reading them. */
  skip(length: number): void {
    this.need(length);
    this.at += length;
  }

  u32(): number {
    return this.bytes(4).readUInt32LE(0);
  }

  /** @throws GbError DATA_LOSS above 2^53: no count or offset of a file is that large. */
  u64(): number {
    const value = this.bytes(8).readBigUInt64LE(0);
    if (value > BigInt(Number.MAX_SAFE_INTEGER))
      throw new GbError('DATA_LOSS', 'a count above 2^53');
    return Number(value);
  }

  private need(length: number): void {
    if (length > this.remaining) throw truncated();
  }
}

function truncated(): GbError {
  return new GbError('DATA_LOSS', 'the file ends in the middle of its head');
}
