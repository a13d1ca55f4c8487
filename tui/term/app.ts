// SPDX-License-Identifier: Apache-2.0
// The full-screen program: messages in, frames out, at most four a second plus one for every key. Ends on q, Ctrl-C,
// SIGTERM and SIGHUP with the terminal as it was.
import { systemClock } from '../../proto/base/clock.js';
import { watchAgent } from '../control/watch.js';
import { reduce, type Message } from '../model/reducer.js';
import { initialState, type UiState } from '../model/state.js';
import { ASCII_GLYPHS, UNICODE_GLYPHS } from '../view/lines.js';
import { renderScreen } from '../view/screen.js';
import { hasUtf8Locale } from './locale.js';
import { openTerminal, type Terminal } from './screen.js';

const FRAME_INTERVAL_MS = 250;
const SIGNALS: Readonly<Partial<Record<NodeJS.Signals, number>>> = {
  SIGTERM: 143,
  SIGHUP: 129,
  SIGINT: 130,
};

export interface AppOptions {
  readonly intervalMs: number;
  readonly ascii: boolean;
}

/** Runs until the user or a signal ends it. Returns the exit code: 0 for q and Ctrl-C, 128 + signal else. */
export async function runApp(options: AppOptions): Promise<number> {
  const glyphs = options.ascii || !hasUtf8Locale() ? ASCII_GLYPHS : UNICODE_GLYPHS;
  const stop = new AbortController();
  let exitCode = 0;
  let dirty = true;
  let terminal: Terminal | undefined;
  let state: UiState | undefined;
  const draw = (): void => {
    if (!terminal || !state) return;
    dirty = false;
    terminal.draw(renderScreen(state, glyphs));
  };
  const take = (message: Message): void => {
    if (!state) return;
    state = reduce(state, message);
    dirty = true;
    if (message.t === 'key' || message.t === 'resize') draw();
    if (state.quit) stop.abort();
  };
  terminal = openTerminal({
    onKey: (key) => take({ t: 'key', key }),
    onResize: ({ cols, rows }) => take({ t: 'resize', cols, rows }),
  });
  const handlers = Object.entries(SIGNALS).map(([signal, code]) => {
    const handler = (): void => {
      exitCode = code;
      stop.abort();
    };
    process.on(signal, handler);
    return [signal, handler] as const;
  });
  // Whatever ends the process, the terminal is given back first.
  const giveBack = (): void => terminal?.close();
  process.on('exit', giveBack);
  state = initialState(terminal.size(), systemClock.nowMs(), systemClock.unixMs());
  draw();
  const frames = systemClock.every(FRAME_INTERVAL_MS, () => {
    take({ t: 'tick', nowMs: systemClock.nowMs(), unixMs: systemClock.unixMs() });
    if (dirty) draw();
  });
  try {
    await watchAgent({ intervalMs: options.intervalMs, signal: stop.signal, onMessage: take });
  } finally {
    frames.cancel();
    for (const [signal, handler] of handlers) process.off(signal, handler);
    terminal.close();
    process.off('exit', giveBack);
  }
  return exitCode;
}
