// SPDX-License-Identifier: Apache-2.0
// Tables inside panels: columns have a width and a priority; the lowest priority goes first when room is short, and
// only the column that shrinks is ever cut.
import { span, type Glyphs, type Line, type StyleName } from './lines.js';
import { padEndCells, padStartCells, textWidth } from './text.js';

export interface Cell {
  readonly text: string;
  readonly style?: StyleName;
}

export interface PanelColumn<Row> {
  readonly title: string;
  readonly align: 'left' | 'right';
  /** Higher stays longer. */
  readonly priority: number;
  readonly width: number;
  /** Takes what is left over, at least `width`. */
  readonly grows?: boolean;
  readonly cell: (row: Row, width: number) => Cell;
}

/** From here on a screen has the columns of wide ones without being asked. */
const WIDE_COLS_MIN = 160;
/** Of columns that are asked for by `w`: what is always wanted stays, what is nice to see goes. */
export const WIDE_PRIORITY = 7;

export function isWide({ wide, cols }: { readonly wide: boolean; readonly cols: number }): boolean {
  return wide || cols >= WIDE_COLS_MIN;
}

/** Columns that fit into `width` with one space between them, in their order, with their final widths. */
export function fittingColumns<Row>(
  columns: readonly PanelColumn<Row>[],
  width: number,
): { column: PanelColumn<Row>; width: number }[] {
  const kept = [...columns];
  const total = (): number => kept.reduce((sum, column) => sum + column.width + 1, -1);
  while (kept.length > 1 && total() > width) {
    const lowest = kept.reduce((least, column) =>
      column.priority < least.priority ? column : least,
    );
    kept.splice(kept.indexOf(lowest), 1);
  }
  const spare = Math.max(0, width - total());
  const growing = kept.findIndex((column) => column.grows);
  return kept.map((column, index) => ({
    column,
    width: column.width + (index === growing ? spare : 0),
  }));
}

function padded(text: string, width: number, align: 'left' | 'right', glyphs: Glyphs): string {
  return align === 'right'
    ? padStartCells(text, width, glyphs.cut)
    : padEndCells(text, width, glyphs.cut);
}

/** The header and one line a row. `sortTitle` gets an arrow; the selected row is told by a letter and by style, marked
 *  ones by an asterisk. */
export function panelTable<Row>(
  columns: readonly PanelColumn<Row>[],
  rows: readonly Row[],
  options: {
    readonly width: number;
    readonly glyphs: Glyphs;
    readonly sort: { readonly title: string; readonly reverse: boolean } | null;
    readonly isSelected: (row: Row) => boolean;
    readonly isMarked?: (row: Row) => boolean;
  },
): { header: Line; lines: Line[] } {
  const { glyphs } = options;
  const fitted = fittingColumns(columns, options.width - 2);
  const header = fitted.map(({ column, width }) => {
    const sorted = options.sort?.title === column.title;
    const arrow = options.sort?.reverse ? glyphs.down : glyphs.up;
    const marked = sorted && textWidth(column.title) < width ? column.title + arrow : column.title;
    return padded(marked, width, column.align, glyphs);
  });
  const lines = rows.map((row): Line => {
    const selected = options.isSelected(row);
    const spans = fitted.flatMap(({ column, width }, index) => {
      const cell = column.cell(row, width);
      const text = padded(cell.text, width, column.align, glyphs);
      const style = selected ? 'selected' : (cell.style ?? 'plain');
      return [span(index === 0 ? text : ` ${text}`, style)];
    });
    const marked = options.isMarked?.(row) ?? false;
    const mark = (selected ? '>' : ' ') + (marked ? '*' : ' ');
    return [span(mark, selected ? 'selected' : marked ? 'bold' : 'plain'), ...spans];
  });
  return { header: [span(`  ${header.join(' ')}`, 'bold')], lines };
}

/** The part of `count` rows that a window of `height` shows so that row `selected` is in it. */
export function windowStart(count: number, height: number, selected: number): number {
  if (selected < 0 || count <= height) return 0;
  return Math.min(Math.max(0, selected - Math.floor(height / 2)), count - height);
}
