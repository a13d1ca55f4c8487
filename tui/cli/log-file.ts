// SPDX-License-Identifier: Apache-2.0
// Lines of a log that another process writes: its last ones, then those that come. A file that was renamed away, as
// daemons do when they start, is followed to the new one.
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';

/** Last lines are looked for this far from the end. */
const TAIL_BYTES_MAX = 4 * 1024 * 1024;
/** Read at a time. */
const PIECE_BYTES = 256 * 1024;
/** A line that is longer is cut there. */
const LINE_BYTES_MAX = 64 * 1024;
const NEWLINE = 0x0a;

export class LogFile {
  private inode = 0;
  private offset = 0;
  private rest: Buffer = Buffer.alloc(0);

  constructor(readonly path: string) {}

  /** The last `count` lines that are whole; none where there is no file. The next ones are those behind them.
   *  @throws the error of fs.open but for ENOENT. */
  last(count: number): string[] {
    this.inode = 0;
    const lines = this.read((bytes) => Math.max(0, bytes - TAIL_BYTES_MAX));
    return count === 0 ? [] : lines.slice(-count);
  }

  /** What has come since. @throws as last. */
  next(): string[] {
    return this.read(() => 0);
  }

  /** `start`: where a file begins that was not read before, by its bytes. */
  private read(start: (bytes: number) => number): string[] {
    const fd = openThere(this.path);
    if (fd === undefined) return [];
    try {
      const { ino, size } = fstatSync(fd);
      if (ino !== this.inode || size < this.offset) {
        this.inode = ino;
        this.offset = start(size);
        this.rest = Buffer.alloc(0);
      }
      const lines: string[] = [];
      const piece = Buffer.allocUnsafe(PIECE_BYTES);
      while (this.offset < size) {
        const count = readSync(
          fd,
          piece,
          0,
          Math.min(PIECE_BYTES, size - this.offset),
          this.offset,
        );
        if (count === 0) break;
        this.offset += count;
        lines.push(...this.take(piece.subarray(0, count)));
      }
      return lines;
    } finally {
      closeSync(fd);
    }
  }

  /** Whole lines; what is left over waits for its end. */
  private take(piece: Buffer): string[] {
    const lines: string[] = [];
    let text = Buffer.concat([this.rest, piece]);
    for (;;) {
      const end = text.indexOf(NEWLINE);
      const cut = end >= 0 ? end : text.length > LINE_BYTES_MAX ? LINE_BYTES_MAX : -1;
      if (cut < 0) break;
      lines.push(text.subarray(0, cut).toString('utf8'));
      text = text.subarray(end >= 0 ? cut + 1 : cut);
    }
    this.rest = Buffer.from(text);
    return lines;
  }
}

function openThere(path: string): number | undefined {
  try {
    return openSync(path, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}
