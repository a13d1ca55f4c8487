// SPDX-License-Identifier: Apache-2.0
// Windows of the week: `22:00-07:00`, `mon-fri 18:00-24:00`, `sat,sun 00:00-24:00`. A window that ends before it
// begins goes over midnight and belongs to the day on which it begins.
import { GbError } from '../base/errors.js';

export interface HoursWindow {
  /** As it was written. */
  readonly text: string;
  /** Days on which it begins, 0: Sunday, as Date.getDay tells them. */
  readonly days: ReadonlySet<number>;
  /** Minutes from the midnight before, 0 to 1439. */
  readonly fromMinute: number;
  /** Minutes that it lasts, 1 to 1440. */
  readonly minutes: number;
}

const DAYS = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'] as const;
const DAY_MINUTES = 1_440;
const TEXT_CHARACTERS_MAX = 80;

/** @throws GbError INVALID_ARGUMENT for what is no window. */
export function parseHours(text: string): HoursWindow {
  const match = /^(?:([a-z,\s-]+?)\s+)?(\d{1,2}:\d{2})\s*-\s*(\d{1,2}:\d{2})$/i.exec(text);
  if (!match || text.length > TEXT_CHARACTERS_MAX) throw wrong(text);
  const [, days, from, to] = match as unknown as [string, string | undefined, string, string];
  const fromMinute = minuteOf(from, text);
  const toMinute = minuteOf(to, text);
  if (fromMinute === DAY_MINUTES || fromMinute === toMinute) throw wrong(text);
  const minutes =
    toMinute > fromMinute ? toMinute - fromMinute : toMinute + DAY_MINUTES - fromMinute;
  return { text, days: daysOf(days, text), fromMinute, minutes };
}

function minuteOf(clock: string, text: string): number {
  const [hour = 0, minute = 0] = clock.split(':').map(Number);
  const total = hour * 60 + minute;
  if (minute > 59 || total > DAY_MINUTES) throw wrong(text);
  return total;
}

function daysOf(days: string | undefined, text: string): ReadonlySet<number> {
  if (days === undefined) return new Set(DAYS.keys());
  const named = new Set<number>();
  for (const part of days.split(',')) {
    const [first, last = first, ...rest] = part.split('-').map((name) => dayOf(name, text));
    if (first === undefined || last === undefined || rest.length > 0) throw wrong(text);
    for (let day = first; ; day = (day + 1) % 7) {
      named.add(day);
      if (day === last) break;
    }
  }
  return named;
}

function dayOf(name: string, text: string): number {
  const word = name.trim().toLowerCase();
  const day = DAYS.findIndex((known) => known === word);
  if (day < 0) throw wrong(text);
  return day;
}

function wrong(text: string): GbError {
  return new GbError(
    'INVALID_ARGUMENT',
    `"${text.slice(0, TEXT_CHARACTERS_MAX)}": write hours such as 22:00-07:00, or mon-fri 18:00-24:00`,
  );
}
