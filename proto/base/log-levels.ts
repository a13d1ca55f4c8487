// SPDX-License-Identifier: Apache-2.0
// How much is logged, from least to most, apart from pino: the command's arguments name them at every start.

export const LOG_LEVELS = ['silent', 'fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];
