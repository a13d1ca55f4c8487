// SPDX-License-Identifier: Apache-2.0
// The language between view and terminal: a line is a list of spans, a span is cleaned text in one named style.
import { cutText, textWidth } from './text.js';

export type StyleName =
  'plain' | 'bold' | 'good' | 'warn' | 'bad' | 'stale' | 'focus' | 'selected' | 'frame';

export interface Span {
  readonly text: string;
  readonly style: StyleName;
}

export type Line = readonly Span[];

/** Characters a terminal may or may not have. */
export interface Glyphs {
  readonly topLeft: string;
  readonly topRight: string;
  readonly bottomLeft: string;
  readonly bottomRight: string;
  readonly horizontal: string;
  readonly vertical: string;
  readonly full: string;
  readonly empty: string;
  readonly cut: string;
  readonly up: string;
  readonly down: string;
  /** From lowest to highest. */
  readonly spark: readonly string[];
}

export const UNICODE_GLYPHS: Glyphs = {
  topLeft: '┌',
  topRight: '┐',
  bottomLeft: '└',
  bottomRight: '┘',
  horizontal: '─',
  vertical: '│',
  full: '█',
  empty: '░',
  cut: '…',
  up: '↑',
  down: '↓',
  spark: ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
};

export const ASCII_GLYPHS: Glyphs = {
  topLeft: '+',
  topRight: '+',
  bottomLeft: '+',
  bottomRight: '+',
  horizontal: '-',
  vertical: '|',
  full: '#',
  empty: '.',
  cut: '~',
  up: '^',
  down: 'v',
  spark: ['_', '.', ':', '-', '=', '+', '*', '#'],
};

export function span(text: string, style: StyleName = 'plain'): Span {
  return { text, style };
}

/** The line as text, for tests and for plain output. */
export function lineText(line: Line): string {
  return line.map((part) => part.text).join('');
}

export function lineWidth(line: Line): number {
  return line.reduce((sum, part) => sum + textWidth(part.text), 0);
}

/** Exactly `width` cells: spans that do not fit are cut, the rest is spaces. */
export function fitLine(line: Line, width: number, glyphs: Glyphs): Line {
  const fitted: Span[] = [];
  let used = 0;
  for (const part of line) {
    const room = width - used;
    if (room <= 0) break;
    const text = cutText(part.text, room, glyphs.cut);
    fitted.push({ text, style: part.style });
    used += textWidth(text);
  }
  if (used < width) fitted.push(span(' '.repeat(width - used)));
  return fitted;
}

/** `left` and, if there is room for both, `right` at the right edge. */
export function splitLine(left: Line, right: Line, width: number, glyphs: Glyphs): Line {
  const gap = width - lineWidth(left) - lineWidth(right);
  if (gap < 1) return fitLine(left, width, glyphs);
  return [...left, span(' '.repeat(gap)), ...right];
}

/** Every span in one style: for data that is too old to be trusted. */
export function restyled(line: Line, style: StyleName): Line {
  return line.map((part) => span(part.text, style));
}

/** A frame of `height` lines with a title in its upper edge; the body is cut or filled up. */
export function boxLines(
  box: {
    readonly title: string;
    /** Or several, the longest first: the first that fits. */
    readonly hint: string | readonly string[];
    readonly focused: boolean;
    readonly width: number;
    readonly height: number;
  },
  body: readonly Line[],
  glyphs: Glyphs,
): Line[] {
  const { width, height, focused } = box;
  const inner = Math.max(0, width - 4);
  const title = cutText(` ${box.title} `, Math.max(0, width - 4), glyphs.cut);
  const hintRoom = width - 4 - textWidth(title) - 3;
  const fitting = [box.hint].flat().find((text) => textWidth(text) + 2 <= hintRoom);
  const hint = fitting ? ` ${fitting} ` : '';
  const rule = glyphs.horizontal.repeat(
    Math.max(0, width - 4 - textWidth(title) - textWidth(hint)),
  );
  const top: Line = [
    span(glyphs.topLeft + glyphs.horizontal, 'frame'),
    span(title, focused ? 'focus' : 'bold'),
    span(rule, 'frame'),
    span(hint, 'frame'),
    span(glyphs.horizontal + glyphs.topRight, 'frame'),
  ];
  const lines: Line[] = [top];
  for (let index = 0; index < height - 2; index += 1) {
    const content = fitLine(body[index] ?? [], inner, glyphs);
    lines.push([
      span(`${glyphs.vertical} `, 'frame'),
      ...content,
      span(` ${glyphs.vertical}`, 'frame'),
    ]);
  }
  const bottom =
    glyphs.bottomLeft + glyphs.horizontal.repeat(Math.max(0, width - 2)) + glyphs.bottomRight;
  lines.push([span(bottom, 'frame')]);
  return lines.slice(0, height);
}

/** `████░░░░` for a share between 0 and 1. */
export function barText(share: number, width: number, glyphs: Glyphs): string {
  const bounded = Math.min(1, Math.max(0, Number.isFinite(share) ? share : 0));
  const full = bounded > 0 ? Math.max(1, Math.round(bounded * width)) : 0;
  return glyphs.full.repeat(full) + glyphs.empty.repeat(Math.max(0, width - full));
}

/** The newest `width` samples, newest at the right, scaled to the highest of them, but never below
 *  `floor`, so that noise stays flat. */
export function sparkText(
  samples: readonly number[],
  width: number,
  floor: number,
  glyphs: Glyphs,
): string {
  const shown = samples.slice(-Math.max(0, width));
  const top = Math.max(floor, ...shown);
  const steps = glyphs.spark.length;
  const text = shown
    .map((value) =>
      value <= 0
        ? ' '
        : (glyphs.spark[Math.min(steps - 1, Math.floor((value / top) * steps))] ?? ' '),
    )
    .join('');
  return ' '.repeat(Math.max(0, width - shown.length)) + text;
}
