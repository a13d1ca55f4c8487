// SPDX-License-Identifier: Apache-2.0
// Text measured in terminal cells. Everything that came from outside (command lines, host names, log lines) passes
// `cleanText` before it is shown, so that no byte of it can steer the terminal.

// C0 and C1 controls, DEL, line separators, and the invisible characters that reorder or hide text.
const UNSAFE =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

/** `text` without anything a terminal would obey; line breaks and tabs become one space. */
export function cleanText(text: string): string {
  return text
    .replace(/[\t\r\n]+/g, ' ')
    .replace(UNSAFE, '')
    .replace(/\p{Surrogate}/gu, '\ufffd');
}

// Ranges that take two cells (East Asian wide and fullwidth, and the emoji planes).
const WIDE: readonly (readonly [number, number])[] = [
  [0x1100, 0x115f],
  [0x231a, 0x231b],
  [0x2329, 0x232a],
  [0x23e9, 0x23ec],
  [0x25fd, 0x25fe],
  [0x2614, 0x2615],
  [0x2648, 0x2653],
  [0x26aa, 0x26ab],
  [0x26bd, 0x26be],
  [0x26c4, 0x26c5],
  [0x2705, 0x2705],
  [0x270a, 0x270b],
  [0x2728, 0x2728],
  [0x274c, 0x274c],
  [0x2753, 0x2755],
  [0x2795, 0x2797],
  [0x2b1b, 0x2b1c],
  [0x2b50, 0x2b50],
  [0x2e80, 0x303e],
  [0x3041, 0x33ff],
  [0x3400, 0x4dbf],
  [0x4e00, 0x9fff],
  [0xa000, 0xa4cf],
  [0xa960, 0xa97f],
  [0xac00, 0xd7a3],
  [0xf900, 0xfaff],
  [0xfe30, 0xfe6f],
  [0xff00, 0xff60],
  [0xffe0, 0xffe6],
  [0x16fe0, 0x18aff],
  [0x1b000, 0x1b2ff],
  [0x1f004, 0x1f004],
  [0x1f0cf, 0x1f0cf],
  [0x1f18e, 0x1f18e],
  [0x1f191, 0x1f19a],
  [0x1f200, 0x1f64f],
  [0x1f680, 0x1f6ff],
  [0x1f7e0, 0x1f7eb],
  [0x1f900, 0x1f9ff],
  [0x1fa70, 0x1faff],
  [0x20000, 0x3fffd],
];

/** Cells one code point takes: 0 for combining marks, 2 for wide ones, else 1. */
function cellsOf(character: string): number {
  const code = character.codePointAt(0) ?? 0;
  if (code < 0x300) return 1;
  if (/^\p{M}$/u.test(character)) return 0;
  if (code < 0x1100) return 1;
  for (const [low, high] of WIDE) {
    if (code < low) return 1;
    if (code <= high) return 2;
  }
  return 1;
}

/** Terminal cells `text` takes; control characters are expected to be gone. */
export function textWidth(text: string): number {
  let width = 0;
  for (const character of text) width += cellsOf(character);
  return width;
}

/** `text` in at most `width` cells; what was cut is marked by `mark` in the last cell. */
export function cutText(text: string, width: number, mark = '…'): string {
  if (width <= 0) return '';
  // Four thousand characters never fit; looking at more would only cost time.
  const bounded = text.length > 4096 ? text.slice(0, 4096) : text;
  if (textWidth(bounded) <= width && bounded.length === text.length) return text;
  let used = 0;
  let kept = '';
  for (const character of bounded) {
    const cells = cellsOf(character);
    if (used + cells > width - 1) break;
    used += cells;
    kept += character;
  }
  return kept + mark;
}

/** Cuts and pads to exactly `width` cells, text on the left. */
export function padEndCells(text: string, width: number, mark = '…'): string {
  const cut = cutText(text, width, mark);
  return cut + ' '.repeat(Math.max(0, width - textWidth(cut)));
}

/** Cuts and pads to exactly `width` cells, text on the right. */
export function padStartCells(text: string, width: number, mark = '…'): string {
  const cut = cutText(text, width, mark);
  return ' '.repeat(Math.max(0, width - textWidth(cut))) + cut;
}

/** The beginning of `text` that fits; at least one character, which may be wider. */
function headOf(text: string, width: number): string {
  let head = '';
  let used = 0;
  for (const character of text) {
    used += cellsOf(character);
    if (head !== '' && used > width) break;
    head += character;
  }
  return head;
}

/** `text` in lines of at most `width` cells, broken at spaces where there are some. */
export function wrapText(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    const joined = line === '' ? word : `${line} ${word}`;
    if (textWidth(joined) <= width) {
      line = joined;
      continue;
    }
    if (line !== '') lines.push(line);
    line = word;
    while (textWidth(line) > width) {
      const taken = headOf(line, width);
      lines.push(taken);
      line = line.slice(taken.length);
    }
  }
  return line === '' ? lines : [...lines, line];
}
