// SPDX-License-Identifier: Apache-2.0
// Panel 5: what happened, newest first.
import type { EventJson } from '../../model/snapshot.js';
import { eventRows } from '../../model/rows.js';
import { shownPicture, type UiState } from '../../model/state.js';
import { windowStart } from '../columns.js';
import { span, type Line, type StyleName } from '../lines.js';
import { eventLine } from '../plain.js';
import { cleanText } from '../text.js';

const STYLES: Readonly<Record<EventJson['severity'], StyleName>> = {
  info: 'plain',
  warning: 'warn',
  error: 'bad',
};

/** The body of the panel, `height` lines at most. */
export function eventsBody(state: UiState, height: number): Line[] {
  if (!shownPicture(state)) return [];
  const rows = eventRows(state);
  if (rows.length === 0) return [[span('nothing yet', 'stale')]];
  const selected = rows.findIndex((event) => String(event.sequence) === state.selected.events);
  const start = windowStart(rows.length, height, selected);
  return rows
    .slice(start, start + Math.max(0, height))
    .map((event, index) => [
      span(
        cleanText(eventLine(event)),
        index + start === selected ? 'selected' : STYLES[event.severity],
      ),
    ]);
}
