// SPDX-License-Identifier: Apache-2.0
// Numbers that people type as options and arguments.
import { GbError } from '../../proto/base/errors.js';

export interface Bounds {
  readonly least: number;
  readonly most: number;
}

/** The least time that a duration may have which is not 0. */
export const SECONDS_MIN = 0.001;

/** `what`: who takes it, as `--timeout`. Returns milliseconds. @throws GbError INVALID_ARGUMENT. */
export function parseSeconds(what: string, text: string, { least, most }: Bounds): number {
  const seconds = Number(text);
  if (!/^\d+(\.\d+)?$/.test(text.trim()) || seconds < least || seconds > most)
    throw new GbError('INVALID_ARGUMENT', `${what} takes ${least} to ${most} seconds`);
  return Math.round(seconds * 1000);
}

/** @throws GbError INVALID_ARGUMENT. */
export function parseWhole(what: string, text: string, { least, most }: Bounds): number {
  const value = Number(text);
  if (!/^\d+$/.test(text.trim()) || value < least || value > most)
    throw new GbError('INVALID_ARGUMENT', `${what} takes a whole number from ${least} to ${most}`);
  return value;
}

const PID_MAX = 2 ** 22;

/** Of a process. @throws GbError INVALID_ARGUMENT. */
export function parsePid(text: string): number {
  return parseWhole('PID', text, { least: 1, most: PID_MAX });
}
