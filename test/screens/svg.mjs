// SPDX-License-Identifier: Apache-2.0
// A captured terminal (`tmux capture-pane -e`) as an SVG: one text element a run of cells in one style. Pure.

const CELL = { width: 8.4, height: 16.5 };
const PADDING = 14;
const COLORS = {
  background: '#16181d',
  plain: '#d6d9df',
  30: '#3b4048',
  31: '#ff6b68',
  32: '#7bd88f',
  33: '#f2c14e',
  34: '#6fa8ff',
  35: '#d38cff',
  36: '#5fd7d7',
  37: '#d6d9df',
  90: '#858b96',
};

/** Styles after an SGR sequence. Only what our own screen uses is known; more is an error, never guessed. */
function afterSgr(style, parameters) {
  let next = { ...style };
  for (const code of (parameters || '0').split(';').map(Number)) {
    if (code === 0) next = { color: null, bold: false, inverse: false };
    else if (code === 1) next.bold = true;
    else if (code === 7) next.inverse = true;
    else if (code === 22) next.bold = false;
    else if (code === 27) next.inverse = false;
    else if (code === 39) next.color = null;
    else if (code === 49) continue;
    else if (COLORS[code]) next.color = COLORS[code];
    else throw new Error(`unknown SGR ${code}`);
  }
  return next;
}

/** Runs of one style in a line: text, style and the cell they begin in. The style goes on to the next line. */
function runsOf(line, start) {
  const runs = [];
  let style = start;
  let cell = 0;
  for (const part of line.split(/(\u001b\[[0-9;]*m|\u001b\(B|[\u000e\u000f])/)) {
    const sgr = /^\u001b\[([0-9;]*)m$/.exec(part);
    if (sgr) style = afterSgr(style, sgr[1]);
    else if (part !== '' && !/^[\u001b\u000e\u000f]/.test(part)) {
      const text = [...part];
      runs.push({ text: part, style, cell, cells: text.length });
      cell += text.length;
    }
  }
  return { runs, style };
}

const escaped = (text) =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

function runSvg({ text, style, cell, cells }, row) {
  const x = PADDING + cell * CELL.width;
  const y = PADDING + row * CELL.height;
  const color = style.color ?? COLORS.plain;
  const width = (cells * CELL.width).toFixed(1);
  const box = style.inverse
    ? `<rect x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${width}" height="${CELL.height}" fill="${color}"/>`
    : '';
  if (text.trim() === '') return box;
  const fill = style.inverse ? COLORS.background : color;
  const weight = style.bold ? ' font-weight="bold"' : '';
  const baseline = (y + 13).toFixed(1);
  return (
    `${box}<text x="${x.toFixed(1)}" y="${baseline}" fill="${fill}"${weight} textLength="${width}" ` +
    `lengthAdjust="spacingAndGlyphs" xml:space="preserve">${escaped(text)}</text>`
  );
}

/** `capture`: lines with escape sequences; `caption` stands below them. */
export function terminalSvg(capture, { cols, rows, caption }) {
  const lines = capture.replace(/\n$/, '').split('\n').slice(0, rows);
  let style = { color: null, bold: false, inverse: false };
  const body = lines.flatMap((line, row) => {
    const parsed = runsOf(line, style);
    style = parsed.style;
    return parsed.runs.map((run) => runSvg(run, row));
  });
  const width = Math.ceil(2 * PADDING + cols * CELL.width);
  const height = Math.ceil(2 * PADDING + (rows + 1.5) * CELL.height);
  const note = `<text x="${PADDING}" y="${height - PADDING}" fill="${COLORS[90]}">${escaped(caption)}</text>`;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">`,
    `<title>${escaped(caption)}</title>`,
    `<rect width="${width}" height="${height}" rx="8" fill="${COLORS.background}"/>`,
    '<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14">',
    ...body.filter(Boolean),
    note,
    '</g>',
    '</svg>',
    '',
  ].join('\n');
}
