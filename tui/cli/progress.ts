// SPDX-License-Identifier: Apache-2.0
// What is under way, on stderr: one line that changes where that is a terminal; elsewhere nothing, or now and then a
// line of its own. It is gone when the work has ended.
import { systemClock } from '../../proto/base/clock.js';
import { hasUtf8Locale } from '../term/locale.js';
import { cleanText, cutText, textWidth } from '../view/text.js';
import { note } from './output.js';

const BAR_CELLS = 24;
/** Where stderr is no terminal, progress is told so often, by who asks for it. */
const LINE_MS = 5_000;
const TURN_MS = 120;
const WHEEL = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
const ASCII_WHEEL = ['|', '/', '-', '\\'];
const EIGHTHS = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/** A bar of 24 cells for a share from 0 to 1. */
export function barText(share: number, ascii: boolean): string {
  const bounded = Math.min(1, Math.max(0, share));
  if (ascii) {
    const full = Math.floor(bounded * BAR_CELLS);
    return `[${'#'.repeat(full)}${'.'.repeat(BAR_CELLS - full)}]`;
  }
  const eighths = Math.floor(bounded * BAR_CELLS * 8);
  const bar = `${'█'.repeat(eighths >>> 3)}${EIGHTHS[eighths % 8] ?? ''}`;
  return `▕${bar}${' '.repeat(BAR_CELLS - textWidth(bar))}▏`;
}

/** True when a line on stderr can be written over. */
function isLive(): boolean {
  return process.stderr.isTTY === true && process.env['TERM'] !== 'dumb';
}

/** One line of progress. Ownership: whoever makes it ends it. */
export class ProgressLine {
  private shownMs = Number.NEGATIVE_INFINITY;
  private open = false;
  private readonly ascii = !hasUtf8Locale();

  /** `share` from 0 to 1 draws a bar before the text. `lines`: told without a terminal, too, every five seconds. */
  show(text: string, options: { share?: number; lines?: boolean } = {}): void {
    const clean = cleanText(text);
    if (isLive()) {
      const bar = options.share === undefined ? '' : `${barText(options.share, this.ascii)} `;
      process.stderr.write(`\r\u001b[K${cutText(bar + clean, (process.stderr.columns || 80) - 1)}`);
      this.open = true;
    } else if (options.lines && systemClock.nowMs() - this.shownMs >= LINE_MS) {
      this.shownMs = systemClock.nowMs();
      note(clean);
    }
  }

  /** Takes the line away. */
  end(): void {
    if (this.open) process.stderr.write('\r\u001b[K');
    this.open = false;
  }
}

/** Shows that `work` goes on, and for how long, until it has ended. `text` is asked each time. */
export async function whileWorking<T>(text: () => string, work: Promise<T>): Promise<T> {
  if (!isLive()) return work;
  const line = new ProgressLine();
  const wheel = hasUtf8Locale() ? WHEEL : ASCII_WHEEL;
  const beganMs = systemClock.nowMs();
  const turn = (): void => {
    const passedMs = systemClock.nowMs() - beganMs;
    const spoke = wheel[Math.floor(passedMs / TURN_MS) % wheel.length] ?? '';
    line.show(`${spoke} ${text()} … ${Math.floor(passedMs / 1000)} s`);
  };
  const timer = systemClock.every(TURN_MS, turn);
  try {
    turn();
    return await work;
  } finally {
    timer.cancel();
    line.end();
  }
}
