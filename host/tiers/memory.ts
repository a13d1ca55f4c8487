// SPDX-License-Identifier: Apache-2.0
// What the kernel says of this machine's RAM: MemAvailable, MemTotal, and the pressure of those who
// wait for memory.
import { readFileSync } from 'node:fs';
import { GbError } from '../../proto/base/errors.js';
import { RAM_RESERVE_BYTES_MIN, RAM_RESERVE_FRACTION } from '../../proto/base/limits.js';
import type { MemoryFigures } from '../ledger.js';

export interface MemInfo {
  readonly totalBytes: number;
  readonly availableBytes: number;
}

/** Reads the text of /proc/meminfo. @throws GbError DRIVER_ERROR when a figure is missing. */
export function parseMemInfo(text: string): MemInfo {
  const figure = (name: string): number => {
    const match = new RegExp(`^${name}:\\s+(\\d{1,15}) kB$`, 'm').exec(text);
    if (!match) throw new GbError('DRIVER_ERROR', `/proc/meminfo has no ${name}`);
    return Number(match[1]) * 1024;
  };
  return { totalBytes: figure('MemTotal'), availableBytes: figure('MemAvailable') };
}

/** "some avg10" out of /proc/pressure/memory, in percent; -1 when it is not there. */
export function parsePressure(text: string): number {
  const match = /^some avg10=(\d{1,3}(?:\.\d{1,4})?) /m.exec(text);
  return match ? Number(match[1]) : -1;
}

export function readMemInfo(): MemInfo {
  return parseMemInfo(readFileSync('/proc/meminfo', 'utf8'));
}

/** Both figures now; where the kernel has no PSI the pressure is -1. */
export function readMemoryFigures(): MemoryFigures {
  let pressurePercent = -1;
  try {
    pressurePercent = parsePressure(readFileSync('/proc/pressure/memory', 'utf8'));
  } catch {
    // Kernels without PSI have no such file, containers may hide it.
  }
  return { availableBytes: readMemInfo().availableBytes, pressurePercent };
}

/** RAM left to the machine's own user. */
export function reserveBytes(totalBytes: number): number {
  return Math.floor(Math.max(RAM_RESERVE_BYTES_MIN, totalBytes * RAM_RESERVE_FRACTION));
}
