// SPDX-License-Identifier: Apache-2.0
// Clocks that jump and a disk that is slow, for one daemon that runs with test/net/trouble.c.
import { closeSync, openSync, readSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '../arch/files.js';
import type { Machine } from './machine.js';

const LIBRARY = join(ROOT, 'build', 'test', 'net', 'libtrouble.so');
const PAGE_BYTES = 4096;
const WORDS = { wallMs: 0, suspendedMs: 8, diskMs: 16 } as const;
const SLOWED_AT = 24;

export class Trouble {
  private readonly path: string;
  /** What the daemon must be started with. */
  readonly env: Readonly<Record<string, string>>;

  /** Slow is what lies in the machine's own folder: keys, state, caches. */
  constructor(machine: Machine) {
    this.path = join(machine.folder, 'trouble');
    writeFileSync(this.path, Buffer.alloc(PAGE_BYTES));
    this.env = {
      LD_PRELOAD: LIBRARY,
      GBTROUBLE_FILE: this.path,
      GBTROUBLE_FOLDER: machine.folder,
    };
  }

  /** Adds to the wall clock, to the time spent suspended, to each write to the disk; from now on. */
  set(what: keyof typeof WORDS, ms: number): void {
    const word = Buffer.alloc(8);
    word.writeBigInt64LE(BigInt(ms) * 1_000_000n);
    const fd = openSync(this.path, 'r+');
    writeSync(fd, word, 0, 8, WORDS[what]);
    closeSync(fd);
  }

  /** How many operations the slow disk has held up. */
  slowed(): number {
    const word = Buffer.alloc(8);
    const fd = openSync(this.path, 'r');
    readSync(fd, word, 0, 8, SLOWED_AT);
    closeSync(fd);
    return Number(word.readBigInt64LE());
  }
}
