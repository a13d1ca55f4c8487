// SPDX-License-Identifier: Apache-2.0
// How fast a disk goes past the page cache: direct I/O by dd, which aligns its blocks itself.
import { execFile } from 'node:child_process';
import { statSync } from 'node:fs';
import { systemClock } from '../../proto/base/clock.js';
import { MIB } from '../../proto/base/units.js';

const BLOCK_MIB = 16;
const BLOCKS = 32;

/** What one measurement moves at the most. */
export const DISK_RATE_BYTES = BLOCKS * BLOCK_MIB * MIB;

/** Bytes per second of `dd` with these operands, which moves `bytes` of DISK_RATE_BYTES; undefined where that does not
 *  work (no direct I/O, no room) or takes longer than `timeoutMs`. */
export function measureDirect(
  operands: readonly string[],
  bytes: number,
  timeoutMs: number,
): Promise<number | undefined> {
  const beginMs = systemClock.nowMs();
  const sizes = [`bs=${BLOCK_MIB}M`, `count=${BLOCKS}`, 'status=none'];
  return new Promise((resolve) => {
    const limits = { timeout: timeoutMs, killSignal: 'SIGKILL' as const };
    execFile('dd', [...operands, ...sizes], limits, (error) => {
      const seconds = (systemClock.nowMs() - beginMs) / 1000;
      resolve(error || seconds <= 0 ? undefined : bytes / seconds);
    });
  });
}

/** The rate of reading a file that exists, its beginning if it is larger.
 *  @throws the error of fs.stat where it does not. */
export function measureDirectRead(path: string, timeoutMs: number): Promise<number | undefined> {
  const bytes = Math.min(statSync(path).size, DISK_RATE_BYTES);
  return measureDirect([`if=${path}`, 'of=/dev/null', 'iflag=direct'], bytes, timeoutMs);
}
