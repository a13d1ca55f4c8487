// SPDX-License-Identifier: Apache-2.0
// A line of text as a QR code for a terminal: half blocks, two modules a cell, as square as cells are.
import encodeQR from 'qr';
import { hasUtf8Locale } from '../term/locale.js';
import { wantsColor } from './output.js';

/** Light modules around it. The standard wants four; readers do with two. */
const BORDER = 2;
/** Lines that a screen keeps for what else is printed with it. */
const LINES_BESIDE = 10;

/** The code's lines. `color`: black on white by escape sequences; otherwise what is light is drawn, which is right
 *  where the terminal is dark. */
export function qrLines(text: string, color: boolean): string[] {
  const modules = encodeQR(text, 'raw', { ecc: 'low', border: BORDER });
  const width = modules[0]?.length ?? 0;
  const isDrawn = (row: number, column: number): boolean =>
    (modules[row]?.[column] ?? false) === color;
  const lines: string[] = [];
  for (let row = 0; row < modules.length; row += 2) {
    let line = '';
    for (let column = 0; column < width; column++) {
      const [above, below] = [isDrawn(row, column), isDrawn(row + 1, column)];
      line += above ? (below ? '█' : '▀') : below ? '▄' : ' ';
    }
    lines.push(color ? `\u001b[30;107m${line}\u001b[0m` : line);
  }
  return lines;
}

/** The code where it can be shown: a terminal that is large enough and has the blocks; else no lines. */
export function qrForTerminal(text: string, stream: NodeJS.WriteStream): string[] {
  if (stream.isTTY !== true || process.env['TERM'] === 'dumb' || !hasUtf8Locale()) return [];
  const color = wantsColor(stream);
  const lines = qrLines(text, color);
  const width = qrLines(text, false)[0]?.length ?? 0;
  const fits = width <= stream.columns && lines.length + LINES_BESIDE <= stream.rows;
  return fits ? lines : [];
}
