// SPDX-License-Identifier: Apache-2.0
// Lines of logs for people: local time, who, what, then its facts.
import { cleanText } from './text.js';

/** `2026-01-02 10:11:12`; what is no time stays as it is. */
export function localTime(time: string): string {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return time;
  const shifted = new Date(date.getTime() - date.getTimezoneOffset() * 60_000);
  return shifted.toISOString().slice(0, 19).replace('T', ' ');
}

/** A value of a log as one word or a few. */
export function factText(value: unknown): string {
  if (Array.isArray(value)) return value.map(factText).join(',');
  if (typeof value !== 'object' || value === null) return String(value);
  // Errors are written as objects: their message says what a person needs.
  const { message } = value as { message?: unknown };
  return typeof message === 'string' ? message : JSON.stringify(value);
}

/** Severities, as the logs number them. */
export const LOG_LEVELS = {
  trace: 10,
  debug: 20,
  info: 30,
  warn: 40,
  error: 50,
  fatal: 60,
} as const;
export type LogLevel = keyof typeof LOG_LEVELS;

/** A line of a daemon's log, read. */
export interface LogLine {
  readonly time: string;
  readonly level: LogLevel;
  readonly daemon: string;
  readonly event: string;
  readonly text: string;
  readonly facts: Readonly<Record<string, unknown>>;
}

/** undefined for a line that no logger wrote: a message for people, or of Node.js. */
export function parseLogLine(line: string): LogLine | undefined {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const { time, level, name, event, msg, ...others } = value as Record<string, unknown>;
  if (typeof time !== 'string' || typeof level !== 'number' || typeof name !== 'string')
    return undefined;
  const { pid: _pid, hostname: _hostname, v: _version, ...facts } = others;
  const levels = Object.keys(LOG_LEVELS) as LogLevel[];
  return {
    time,
    level: levels.findLast((one) => LOG_LEVELS[one] <= level) ?? 'trace',
    daemon: name,
    event: typeof event === 'string' ? event : '',
    text: typeof msg === 'string' ? msg : '',
    facts,
  };
}

/** `2026-01-02 10:11:12 feeder info  feeder_started  lending memory  lanePort=9741`. */
export function logText(line: LogLine): string {
  const facts = Object.entries(line.facts).map(([name, value]) => `${name}=${factText(value)}`);
  const head = `${localTime(line.time)} ${line.daemon.padEnd(6)} ${line.level.padEnd(5)}`;
  return cleanText([head, line.event, line.text, facts.join(' ')].filter(Boolean).join('  '));
}
