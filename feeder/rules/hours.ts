// SPDX-License-Identifier: Apache-2.0
// When a feeder lends by its hours: local time of the machine, as its owner reads the clock. Pure.
import type { HoursWindow } from '../../proto/settings/hours.js';

const DAY_MINUTES = 1_440;
const DAYS = 7;
/** Every window comes back within a week. */
const AHEAD_MINUTES = 8 * DAY_MINUTES;

/** True inside any of the windows. */
export function isOpen(windows: readonly HoursWindow[], at: Date): boolean {
  const minute = at.getHours() * 60 + at.getMinutes();
  return windows.some(({ days, fromMinute, minutes }) =>
    // It began today, or yesterday and goes over midnight.
    [0, 1].some((daysAgo) => {
      const since = minute + daysAgo * DAY_MINUTES - fromMinute;
      return since >= 0 && since < minutes && days.has((at.getDay() + DAYS - daysAgo) % DAYS);
    }),
  );
}

/** When that changes next, to the minute; undefined: never. */
export function nextChange(windows: readonly HoursWindow[], at: Date): Date | undefined {
  const now = isOpen(windows, at);
  for (let ahead = 1; ahead <= AHEAD_MINUTES; ahead++) {
    const then = new Date(
      at.getFullYear(),
      at.getMonth(),
      at.getDate(),
      at.getHours(),
      at.getMinutes() + ahead,
    );
    if (isOpen(windows, then) !== now) return then;
  }
  return undefined;
}
