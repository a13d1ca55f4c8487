// SPDX-License-Identifier: Apache-2.0
// Writing to people: colours only on a terminal that wants them, tables that fit its width, JSON for everybody else.
import type { Table, TableColumn } from '../view/plain.js';
import type { Outputs } from './outputs.js';
import { cleanText, cutText, padEndCells, padStartCells, textWidth } from '../view/text.js';

type Paint = (text: string) => string;
type PaintName = 'bold' | 'dim' | 'green' | 'yellow' | 'red' | 'cyan';

const CODES: Readonly<Record<PaintName, readonly [number, number]>> = {
  bold: [1, 22],
  dim: [90, 39],
  green: [32, 39],
  yellow: [33, 39],
  red: [31, 39],
  cyan: [36, 39],
};

/** True when `stream` is a terminal whose user did not refuse colours (NO_COLOR, TERM=dumb). */
export function wantsColor(stream: NodeJS.WriteStream): boolean {
  const refused = (process.env['NO_COLOR'] ?? '') !== '' || process.env['TERM'] === 'dumb';
  return stream.isTTY === true && !refused;
}

/** Painters for `stream`; they return their text unchanged where colours are not wanted. */
export function painters(stream: NodeJS.WriteStream): Readonly<Record<PaintName, Paint>> {
  const on = wantsColor(stream);
  const make = (name: PaintName): Paint => {
    const [open, close] = CODES[name];
    return on ? (text) => `\u001b[${open}m${text}\u001b[${close}m` : (text) => text;
  };
  return {
    bold: make('bold'),
    dim: make('dim'),
    green: make('green'),
    yellow: make('yellow'),
    red: make('red'),
    cyan: make('cyan'),
  };
}

/** Columns people can see; 100 where there is no terminal, so that piped tables are not cut. */
export function outputWidth(): number {
  return process.stdout.isTTY
    ? Math.max(20, process.stdout.columns || 80)
    : Number.POSITIVE_INFINITY;
}

export function writeOut(text: string): void {
  process.stdout.write(text);
}

export function writeLine(text = ''): void {
  process.stdout.write(`${text}\n`);
}

/** A note beside the data: stderr, so that pipes carry data only. */
export function note(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Pretty JSON on a terminal and in files alike; one document. The command is named, so that the compiler holds it to
 *  what outputs.ts promises: `writeJson<'feed status'>(status)`. */
export function writeJson<Command extends keyof Outputs = never>(value: Outputs[Command]): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}

/** The same as one line, for streams. */
export function writeJsonLine<Command extends keyof Outputs = never>(
  value: Outputs[Command],
): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

function widthsOf(
  cells: readonly (readonly string[])[],
  columns: readonly TableColumn[],
): number[] {
  return columns.map((_, index) => Math.max(...cells.map((row) => textWidth(row[index] ?? ''))));
}

function totalOf(widths: readonly number[]): number {
  return widths.reduce((sum, value) => sum + value, 2 * (widths.length - 1));
}

/** A table as lines, two spaces between columns. Cells are cleaned here. On a narrow terminal optional
 *  columns are left out first, then the shrinking one is cut; numbers never are. */
export function tableLines(table: Table, width = outputWidth()): string[] {
  const { columns, rows } = table;
  const cells = [columns.map((column) => column.title), ...rows.map((row) => row.map(cleanText))];
  const widths = widthsOf(cells, columns);
  const excess = totalOf(widths) - width;
  const dropped = columns.findLastIndex((column) => column.optional);
  if (excess > 0 && dropped >= 0) {
    const without = <T>(list: readonly T[]): T[] => list.filter((_, index) => index !== dropped);
    return tableLines({ columns: without(columns), rows: rows.map(without) }, width);
  }
  const shrinking = columns.findIndex((column) => column.shrinks);
  if (excess > 0 && shrinking >= 0)
    widths[shrinking] = Math.max(6, (widths[shrinking] ?? 0) - excess);
  return cells.map((row) => {
    const line = columns
      .map((column, index) => {
        const [cell, cellWidth] = [row[index] ?? '', widths[index] ?? 0];
        return column.align === 'right'
          ? padStartCells(cell, cellWidth)
          : padEndCells(cell, cellWidth);
      })
      .join('  ')
      .trimEnd();
    return Number.isFinite(width) ? cutText(line, width) : line;
  });
}
