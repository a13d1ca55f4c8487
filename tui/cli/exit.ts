// SPDX-License-Identifier: Apache-2.0
// The command line's edge: what an error becomes on stderr, and which exit code it has (docs/exit-codes.md lists them).
import type { GbError, GbErrorCode } from '../../proto/base/errors.js';
import { cleanText } from '../view/text.js';

export const EXIT_CHECK_FAILED = 1;
export const EXIT_USAGE = 2;
export const EXIT_NOT_EXECUTABLE = 126;
export const EXIT_NOT_FOUND = 127;
export const EXIT_SIGNAL_BASE = 128;

/** What each exit code means; docs/exit-codes.md and the manual are made from it. */
export const EXIT_MEANINGS: Readonly<Record<number, string>> = {
  0: 'done',
  [EXIT_CHECK_FAILED]: '`demo`: a check failed',
  [EXIT_USAGE]: 'usage, malformed argument or message',
  3: 'feeder or agent unreachable, lease expired; `doctor`: ShimOnly',
  4: 'wrong key, or no permission',
  5: 'not found, or exists already',
  6: 'no room',
  7: 'not possible in this state',
  8: 'timeout, or given up',
  9: 'bytes were lost, or a file is damaged',
  10: 'not supported, driver or system error; `doctor`: Failed',
  [EXIT_NOT_EXECUTABLE]: '`run`: CMD cannot be executed',
  [EXIT_NOT_FOUND]: '`run`: CMD is not found',
  [EXIT_SIGNAL_BASE]: 'plus n: ended by signal n (`run`: CMD was)',
};

export const EXIT_CODES: Readonly<Record<GbErrorCode, number>> = {
  INVALID_ARGUMENT: 2,
  PROTOCOL_VIOLATION: 2,
  LEASE_EXPIRED: 3,
  FEEDER_UNREACHABLE: 3,
  AGENT_UNREACHABLE: 3,
  UNAUTHENTICATED: 4,
  PERMISSION_DENIED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 5,
  CAPACITY_EXHAUSTED: 6,
  EPOCH_STALE: 7,
  WRONG_STATE: 7,
  DEADLINE_EXCEEDED: 8,
  CANCELED: 8,
  DATA_LOSS: 9,
  UNSUPPORTED: 10,
  DRIVER_ERROR: 10,
};

const HINTS: Readonly<Partial<Record<GbErrorCode, string>>> = {
  INVALID_ARGUMENT: 'see: greenboost help',
  FEEDER_UNREACHABLE:
    'is the feeder running (greenboost feed status) and its port open in the firewall?',
  AGENT_UNREACHABLE: 'start one: greenboost connect HOST, or: greenboost agent',
  UNAUTHENTICATED:
    'the keys differ: on the feeder run `greenboost key show`, here `greenboost key import`',
  CAPACITY_EXHAUSTED: 'see what holds the memory: greenboost status',
  WRONG_STATE: 'see the state: greenboost status',
  DEADLINE_EXCEEDED: 'try again; if it stays, see: greenboost events',
};

/** The exit code of an error; a GbError may carry another one in `details.exitCode`. */
export function exitCodeOf(error: GbError): number {
  const named = error.details['exitCode'];
  return typeof named === 'number' ? named : EXIT_CODES[error.code];
}

/** Two lines for people: what happened, and what to do about it. */
export function describeError(error: GbError): string {
  const named = error.details['hint'];
  const hint = typeof named === 'string' ? named : HINTS[error.code];
  const what = error.rawMessage.split('\n').map(cleanText).join('\n  ');
  return hint ? `greenboost: ${what}\n  ${hint}\n` : `greenboost: ${what}\n`;
}
