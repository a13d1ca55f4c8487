// SPDX-License-Identifier: Apache-2.0
// The workstation comes first: RAM is lent only while what is left for its own user stays above the
// reserve.
import { readFile } from 'node:fs/promises';
import { readFileSync } from 'node:fs';
import { GbError } from '../proto/base/errors.js';
import { RAM_RESERVE_BYTES_MIN, RAM_RESERVE_FRACTION } from '../proto/base/limits.js';
import { formatBytes, KIB } from '../proto/base/units.js';

export interface MemoryFacts {
  readonly totalBytes: number;
  /** What new programs can get without swapping. */
  readonly availableBytes: number;
}

const MEMINFO = '/proc/meminfo';

export function parseMeminfo(text: string): MemoryFacts {
  const field = (name: string): number => {
    const match = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text);
    if (!match)
      throw new GbError('UNSUPPORTED', `${MEMINFO} has no ${name}; Linux 3.14 or newer is needed`);
    return Number(match[1]) * KIB;
  };
  return { totalBytes: field('MemTotal'), availableBytes: field('MemAvailable') };
}

export function readMemory(): MemoryFacts {
  return parseMeminfo(readFileSync(MEMINFO, 'utf8'));
}

/** What stays for the machine's own user. */
export function defaultReserveBytes(memory: MemoryFacts): number {
  return Math.max(RAM_RESERVE_BYTES_MIN, Math.floor(memory.totalBytes * RAM_RESERVE_FRACTION));
}

/** Admits allocations one against the other: what is being mapped does not show in MemAvailable
 *  yet. */
export class MemoryGuard {
  private pendingBytes = 0;

  constructor(
    private readonly reserveBytes: number,
    private readonly read: () => Promise<MemoryFacts> = async () =>
      parseMeminfo(await readFile(MEMINFO, 'utf8')),
  ) {}

  /** Returns a function to call when the memory is mapped, or was not. @throws GbError
   *  CAPACITY_EXHAUSTED. */
  async admit(bytes: number): Promise<() => void> {
    const { availableBytes } = await this.read();
    const room = Math.max(0, availableBytes - this.reserveBytes - this.pendingBytes);
    if (bytes > room) {
      throw new GbError(
        'CAPACITY_EXHAUSTED',
        `the feeder's own user needs its RAM: ${formatBytes(room)} can be given now`,
        {
          details: {
            availableBytes,
            reserveBytes: this.reserveBytes,
            pendingBytes: this.pendingBytes,
          },
        },
      );
    }
    this.pendingBytes += bytes;
    return () => {
      this.pendingBytes -= bytes;
    };
  }
}
