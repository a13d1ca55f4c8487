// SPDX-License-Identifier: Apache-2.0
// The full-screen program: messages in, frames out, at most four a second plus one for every key. Ends on q, Ctrl-C,
// SIGTERM and SIGHUP with the terminal as it was.
import { systemClock } from '../../proto/base/clock.js';
import { Requests } from '../control/requests.js';
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
  readonly color: boolean;
  readonly readonly: boolean;
}

const secondOf = ({ unixMs }: UiState): number => Math.floor(unixMs / 1000);

/** State, screen and requests of one run. */
class App {
  private dirty = true;
  private readonly requests = new Requests((message) => this.take(message));

  constructor(
    private state: UiState,
    private readonly draw: (state: UiState) => void,
    private readonly onQuit: () => void,
  ) {}

  take(message: Message): void {
    const before = this.state;
    const { requests, ...next } = reduce(before, message);
    this.state = { ...next, requests: [] };
    // Four ticks a second, of which one moves the clock and the ages: an idle screen costs a frame a second.
    const moved = secondOf(before) !== secondOf(this.state) || before.flash !== this.state.flash;
    if (message.t !== 'tick' || moved) this.dirty = true;
    for (const request of requests) this.requests.perform(request);
    if (message.t === 'key' || message.t === 'resize') this.frame();
    if (this.state.quit) this.onQuit();
  }

  /** Draws if something has changed. */
  frame(): void {
    if (!this.dirty) return;
    this.dirty = false;
    this.draw(this.state);
  }

  close(): void {
    this.requests.close();
  }
}

/** Runs until the user or a signal ends it. Returns the exit code: 0 for q and Ctrl-C, 128 + signal else. */
export async function runApp(options: AppOptions): Promise<number> {
  const glyphs = options.ascii || !hasUtf8Locale() ? ASCII_GLYPHS : UNICODE_GLYPHS;
  const stop = new AbortController();
  let exitCode = 0;
  let app: App | undefined;
  const terminal: Terminal = openTerminal(
    {
      onKey: (key) => app?.take({ t: 'key', key }),
      onResize: ({ cols, rows }) => app?.take({ t: 'resize', cols, rows }),
    },
    options,
  );
  const handlers = Object.entries(SIGNALS).map(([signal, code]) => {
    const handler = (): void => {
      exitCode = code;
      stop.abort();
    };
    process.on(signal, handler);
    return [signal, handler] as const;
  });
  // Whatever ends the process, the terminal is given back first.
  const giveBack = (): void => terminal.close();
  process.on('exit', giveBack);
  const size = { ...terminal.size(), readonly: options.readonly };
  app = new App(
    initialState(size, systemClock.nowMs(), systemClock.unixMs()),
    (state) => terminal.draw(renderScreen(state, glyphs)),
    () => stop.abort(),
  );
  app.frame();
  const running = app;
  const frames = systemClock.every(FRAME_INTERVAL_MS, () => {
    running.take({ t: 'tick', nowMs: systemClock.nowMs(), unixMs: systemClock.unixMs() });
    running.frame();
  });
  try {
    const onMessage = (message: Message): void => running.take(message);
    await watchAgent({ intervalMs: options.intervalMs, signal: stop.signal, onMessage });
  } finally {
    frames.cancel();
    running.close();
    for (const [signal, handler] of handlers) process.off(signal, handler);
    terminal.close();
    process.off('exit', giveBack);
  }
  return exitCode;
}
