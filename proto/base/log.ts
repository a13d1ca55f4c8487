// SPDX-License-Identifier: Apache-2.0
// The one pino factory: structured lines on stderr (or a file), stable `event` names, secrets redacted.
import { pino, type Logger } from 'pino';
import { LOG_LEVELS } from './log-levels.js';

export type { Logger };

/** Keys whose values never reach a log, at any depth up to three. */
export const REDACTED_KEYS = ['psk', 'key', 'secret', 'nonce', 'auth', 'pairing', 'exporter'];

export interface LogOptions {
  /** What is running: `agent`, `feeder`, `cli`. */
  readonly name: string;
  /** Default: GREENBOOST_LOG, else `info`. */
  readonly level?: string;
  /** File to append to instead of stderr. */
  readonly file?: string;
}

/** Creates a logger. Ownership: the caller passes it down; nobody makes a second one. */
export function createLogger(options: LogOptions): Logger {
  const wanted = options.level ?? process.env['GREENBOOST_LOG'] ?? 'info';
  const paths = REDACTED_KEYS.flatMap((key) => [key, `*.${key}`, `*.*.${key}`]);
  return pino(
    {
      name: options.name,
      level: LOG_LEVELS.find((level) => level === wanted) ?? 'info',
      redact: { paths, censor: '[redacted]' },
      timestamp: pino.stdTimeFunctions.isoTime,
    },
    options.file
      ? pino.destination({ dest: options.file, append: true, sync: true, mode: 0o600 })
      : pino.destination({ dest: 2, sync: true }),
  );
}
