// SPDX-License-Identifier: Apache-2.0
// (columns, rows, wants) -> rectangles. Pure; every rectangle lies inside the screen and none overlaps another.
import type { PanelName } from '../model/state.js';

export interface Rect {
  readonly panel: PanelName;
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** Lines of header (2) and of flash and keys (2) around the panels. */
export const HEADER_LINES = 2;
export const FOOTER_LINES = 2;
/** Below this the boxes go and only the most important lines stay. */
export const BOXES_COLS_MIN = 60;
export const BOXES_ROWS_MIN = 20;
/** Below this: totals and the size of the screen, nothing else. */
export const MINI_COLS_MIN = 40;
export const MINI_ROWS_MIN = 10;
/** From here on panel 2 has room beside panel 1. */
const SIDE_BY_SIDE_COLS_MIN = 116;
const FRAME_LINES = 2;

export type LayoutKind = 'line' | 'mini' | 'boxes';

export function layoutKind(cols: number, rows: number): LayoutKind {
  if (cols < MINI_COLS_MIN || rows < MINI_ROWS_MIN) return 'line';
  return cols < BOXES_COLS_MIN || rows < BOXES_ROWS_MIN ? 'mini' : 'boxes';
}

/** Body lines each panel would like, without its frame. */
export interface Wants {
  readonly tiers: number;
  readonly feeders: number;
  readonly processes: number;
}

/** Where the panels go. Panels get their minimum first, then what they want in the order tiers, feeders, processes;
 *  events take the rest. */
export function panelRects(cols: number, rows: number, wants: Wants): Rect[] {
  const room = rows - HEADER_LINES - FOOTER_LINES;
  const minimum = { tiers: 2, feeders: 2, processes: 2, events: 1 };
  const frames = 4 * FRAME_LINES;
  let spare =
    room - frames - (minimum.tiers + minimum.feeders + minimum.processes + minimum.events);
  const grow = (least: number, want: number): number => {
    const extra = Math.max(0, Math.min(spare, want - least));
    spare -= extra;
    return least + extra;
  };
  const tiers = grow(minimum.tiers, Math.max(wants.tiers, cols >= SIDE_BY_SIDE_COLS_MIN ? 4 : 0));
  const feeders = grow(minimum.feeders, wants.feeders);
  const processes = grow(minimum.processes, wants.processes);
  const events = minimum.events + Math.max(0, spare);
  const side = cols >= SIDE_BY_SIDE_COLS_MIN;
  const left = side ? Math.floor(cols * 0.56) : cols;
  const rects: Rect[] = [];
  let y = HEADER_LINES;
  rects.push({ panel: 'tiers', x: 0, y, width: left, height: tiers + FRAME_LINES });
  if (side)
    rects.push({
      panel: 'throughput',
      x: left,
      y,
      width: cols - left,
      height: tiers + FRAME_LINES,
    });
  y += tiers + FRAME_LINES;
  for (const [panel, body] of [
    ['feeders', feeders],
    ['processes', processes],
    ['events', events],
  ] as const) {
    rects.push({ panel, x: 0, y, width: cols, height: body + FRAME_LINES });
    y += body + FRAME_LINES;
  }
  return rects;
}
