// SPDX-License-Identifier: Apache-2.0
// Pieces of the detail views: labelled lines, headings, tables, events.
import type { EventJson, SnapshotJson } from '../../model/snapshot.js';
import { span, type Line, type StyleName } from '../lines.js';
import { eventLine, type Table } from '../plain.js';
import { cleanText, padEndCells, padStartCells, textWidth, wrapText } from '../text.js';

const LABEL_CELLS = 12;
const EVENTS_SHOWN_MAX = 20;

const EVENT_STYLES: Readonly<Record<EventJson['severity'], StyleName>> = {
  info: 'plain',
  warning: 'warn',
  error: 'bad',
};

/** `label       text`, going on below itself. */
export function labelled(
  label: string,
  text: string,
  width: number,
  style: StyleName = 'plain',
): Line[] {
  const room = Math.max(8, width - LABEL_CELLS);
  return wrapText(cleanText(text), room).map((line, index) => [
    span((index === 0 ? label : '').padEnd(LABEL_CELLS), 'stale'),
    span(line, style),
  ]);
}

export function heading(text: string): Line[] {
  return [[], [span(text, 'bold')]];
}

/** A table as lines, its cells cleaned. What is too long is cut by the box around it. */
export function tableOf({ columns, rows }: Table): Line[] {
  const cells = [columns.map(({ title }) => title), ...rows.map((row) => row.map(cleanText))];
  const widths = columns.map((_, index) =>
    Math.max(...cells.map((row) => textWidth(row[index] ?? ''))),
  );
  return cells.map((row, rowIndex): Line => {
    const text = columns
      .map(({ align }, index) => {
        const [cell, cellWidth] = [row[index] ?? '', widths[index] ?? 0];
        return align === 'right' ? padStartCells(cell, cellWidth) : padEndCells(cell, cellWidth);
      })
      .join('  ')
      .trimEnd();
    return [span(text, rowIndex === 0 ? 'bold' : 'plain')];
  });
}

/** The last events about one subject, newest first. */
export function eventsAbout({ events }: SnapshotJson, subjects: readonly string[]): Line[] {
  const about = events.filter(({ subject }) => subjects.includes(subject));
  if (about.length === 0) return [];
  const lines = about
    .slice(-EVENTS_SHOWN_MAX)
    .reverse()
    .map((event): Line => [span(cleanText(eventLine(event)), EVENT_STYLES[event.severity])]);
  return [...heading('Events'), ...lines];
}
