// SPDX-License-Identifier: Apache-2.0
// The only file that knows blessed: puts lines on the screen, reads keys, follows resizes, and
// gives the terminal back.
import blessed from 'blessed';
import { lineText, type Line, type StyleName } from '../view/lines.js';
import { hasUtf8Locale } from './locale.js';

export interface Terminal {
  size(): { cols: number; rows: number };
  /** Draws `lines`, which fill the screen; only what changed is sent. */
  draw(lines: readonly Line[]): void;
  /** Gives the terminal back as it was found. May be called more than once. */
  close(): void;
}

export interface TerminalHandlers {
  /** A character, or `up`, `down`, `tab`, `S-tab`, `enter`, `escape`, `backspace`, `C-c`, … */
  readonly onKey: (key: string) => void;
  readonly onResize: (size: { cols: number; rows: number }) => void;
}

/** SGR parameters per style; the second column is for terminals without colour. */
const STYLES: Readonly<Record<StyleName, readonly [string, string]>> = {
  plain: ['', ''],
  bold: ['1', '1'],
  good: ['32', ''],
  warn: ['33', ''],
  bad: ['1;31', '1'],
  stale: ['90', ''],
  frame: ['90', ''],
  focus: ['7', '7'],
  selected: ['7', '7'],
};

/** Descriptions of these are misread by blessed's parser (8 colours, error text); all speak xterm. */
const MODERN_TERMINALS = /256color|kitty|alacritty|ghostty|foot|wezterm|direct/;

function encode(line: Line, color: boolean): string {
  return line
    .map(({ text, style }) => {
      const code = STYLES[style][color ? 0 : 1];
      return code === '' ? text : `\u001b[${code}m${text}\u001b[0m`;
    })
    .join('');
}

function keyName(
  character: string | undefined,
  key: { full?: string; name?: string } | undefined,
): string | undefined {
  const full = key?.full;
  // Enter arrives twice, as `enter` and as `return`; one of them counts.
  if (full === 'return') return undefined;
  if (full !== undefined && full.length > 1 && !/^S-[a-z]$/.test(full))
    return full === 'linefeed' ? 'enter' : full;
  return character && character >= ' ' ? character : full;
}

/** Takes the terminal over. The caller has made sure that standard output is one. */
export function openTerminal(
  handlers: TerminalHandlers,
  options: { readonly color: boolean },
): Terminal {
  // Box characters by UTF-8 instead of the alternate character set, which tmux captures as letters.
  process.env['NCURSES_NO_UTF8_ACS'] ??= '1';
  const term = process.env['TERM'] ?? 'xterm';
  const color = options.color && (process.env['NO_COLOR'] ?? '') === '';
  const screen = blessed.screen({
    smartCSR: true,
    fullUnicode: true,
    warnings: false,
    forceUnicode: hasUtf8Locale(),
    autoPadding: false,
    title: 'greenboost cluster',
    ...(MODERN_TERMINALS.test(term) ? { terminal: 'xterm-256color' } : {}),
  });
  const box = blessed.box({
    parent: screen,
    top: 0,
    left: 0,
    width: '100%',
    height: '100%',
    tags: false,
    wrap: false,
  });
  let open = true;
  let drawn = '';
  screen.on(
    'keypress',
    (character: string | undefined, key: { full?: string; name?: string } | undefined) => {
      const name = keyName(character, key);
      if (open && name !== undefined) handlers.onKey(name);
    },
  );
  const size = (): { cols: number; rows: number } => ({
    cols: screen.width as number,
    rows: screen.height as number,
  });
  screen.on('resize', () => {
    drawn = '';
    if (open) handlers.onResize(size());
  });
  return {
    size,
    draw(lines) {
      if (!open) return;
      const text = lines
        .map((line) => (line.length === 0 ? lineText(line) : encode(line, color)))
        .join('\n');
      if (text === drawn) return;
      drawn = text;
      box.setContent(text);
      screen.render();
    },
    close() {
      if (!open) return;
      open = false;
      screen.destroy();
    },
  };
}
