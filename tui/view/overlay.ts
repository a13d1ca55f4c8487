// SPDX-License-Identifier: Apache-2.0
// A box over a finished screen: cells of lines, cut and put together again.
import { span, type Line, type Span } from './lines.js';
import { textWidth } from './text.js';

/** Cells `from` up to `to` of a line. A wide character that the edge goes through becomes spaces. */
export function sliceCells(line: Line, from: number, to: number): Line {
  const parts: Span[] = [];
  let at = 0;
  for (const { text, style } of line) {
    let kept = '';
    for (const character of text) {
      const width = textWidth(character);
      const [start, end] = [at, at + width];
      at = end;
      if (start >= from && end <= to) kept += character;
      else if (end > from && start < to)
        kept += ' '.repeat(Math.min(end, to) - Math.max(start, from));
    }
    if (kept !== '') parts.push(span(kept, style));
  }
  return parts;
}

/** `box`, whose lines are all `width` cells, over the middle of `screen`. */
export function overlaid(
  screen: readonly Line[],
  box: readonly Line[],
  cols: number,
  width: number,
): Line[] {
  const x = Math.max(0, Math.floor((cols - width) / 2));
  const y = Math.max(0, Math.floor((screen.length - box.length) / 2));
  return screen.map((line, index) => {
    const over = box[index - y];
    if (!over) return line;
    return [...sliceCells(line, 0, x), ...over, ...sliceCells(line, x + width, cols)];
  });
}
