// SPDX-License-Identifier: Apache-2.0
// A program's staging memory: a sealed memfd of the shim, opened through /proc and used with pread
// and pwrite.
import { open, readlink, type FileHandle } from 'node:fs/promises';
import { fileSeals, SEAL_SHRINK } from '../../driver/os/unix.js';
import { GbError } from '../../proto/base/errors.js';
import { STAGING_BYTES_MAX, STAGING_BYTES_MIN } from '../shim/abi.js';

const SIZE_STEP = 2 * 2 ** 20;

export class Staging {
  private constructor(
    private readonly file: FileHandle,
    readonly bytes: number,
  ) {}

  /** Opens descriptor `fd` of process `pid`. Ownership: the caller closes it.
   *  @throws GbError INVALID_ARGUMENT when it is no sealed memfd of `bytes` bytes. */
  static async open(pid: number, fd: number, bytes: number): Promise<Staging> {
    if (fd < 0) throw new GbError('INVALID_ARGUMENT', 'the staging descriptor is negative');
    if (bytes < STAGING_BYTES_MIN || bytes > STAGING_BYTES_MAX || bytes % SIZE_STEP !== 0) {
      throw new GbError('INVALID_ARGUMENT', `a staging memory of ${bytes} bytes`);
    }
    const path = `/proc/${pid}/fd/${fd}`;
    let file: FileHandle | undefined;
    try {
      const target = await readlink(path);
      if (!target.startsWith('/memfd:')) throw new Error('it is no memfd');
      file = await open(path, 'r+');
      const stat = await file.stat();
      if (!stat.isFile() || stat.size < bytes)
        throw new Error(`it has ${stat.size} of ${bytes} bytes`);
      const seals = fileSeals(file.fd);
      if (seals < 0 || (seals & SEAL_SHRINK) === 0) throw new Error('it can still shrink');
      return new Staging(file, bytes);
    } catch (reason) {
      await file?.close();
      const text = reason instanceof Error ? reason.message : String(reason);
      throw new GbError('INVALID_ARGUMENT', `the staging memory cannot be used: ${text}`, {
        cause: reason,
      });
    }
  }

  /** Fills `target` from `offset`. @throws GbError INVALID_ARGUMENT outside the staging memory. */
  async read(offset: number, target: Uint8Array): Promise<void> {
    this.check(offset, target.length);
    let done = 0;
    while (done < target.length) {
      const { bytesRead } = await this.file.read(target, done, target.length - done, offset + done);
      if (bytesRead === 0) throw new GbError('INVALID_ARGUMENT', 'the staging memory ended early');
      done += bytesRead;
    }
  }

  /** Writes all of `source` at `offset`. @throws GbError INVALID_ARGUMENT outside the staging
   *  memory. */
  async write(offset: number, source: Uint8Array): Promise<void> {
    this.check(offset, source.length);
    let done = 0;
    while (done < source.length) {
      done += (await this.file.write(source, done, source.length - done, offset + done))
        .bytesWritten;
    }
  }

  check(offset: number, length: number): void {
    if (!Number.isSafeInteger(offset) || offset < 0 || length < 0 || offset + length > this.bytes) {
      throw new GbError(
        'INVALID_ARGUMENT',
        `bytes ${offset} + ${length} lie outside the staging memory`,
      );
    }
  }

  close(): Promise<void> {
    return this.file.close();
  }
}
