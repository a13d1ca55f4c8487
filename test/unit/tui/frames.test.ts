// SPDX-License-Identifier: Apache-2.0
// Whole frames as text, in files that people can look at (frames/*.txt), with every style marked. A frame that changes
// on purpose: GB_FRAMES=write writes them anew, and the diff is read.
import { describe, expect, test } from '@jest/globals';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { GIB } from '../../../proto/base/units.js';
import { reduce, type Message } from '../../../tui/model/reducer.js';
import { initialState, type UiState } from '../../../tui/model/state.js';
import {
  ASCII_GLYPHS,
  UNICODE_GLYPHS,
  type Line,
  type StyleName,
} from '../../../tui/view/lines.js';
import { renderScreen } from '../../../tui/view/screen.js';
import { ROOT } from '../../arch/files.js';
import { attachment, link, snapshot, START_UNIX_MS } from './fixtures.js';

const FOLDER = join(ROOT, 'test', 'unit', 'tui', 'frames');
const WRITES = process.env['GB_FRAMES'] === 'write';

/** One letter a style, below each line that has one: what colour and emphasis would be, readable in a diff. */
const LETTERS: Readonly<Record<StyleName, string>> = {
  plain: ' ',
  bold: 'b',
  good: 'g',
  warn: 'w',
  bad: 'B',
  stale: '.',
  frame: ' ',
  focus: 'F',
  selected: 'S',
};

function asText(lines: readonly Line[]): string {
  return lines
    .flatMap((line) => {
      const text = line.map((part) => part.text).join('');
      const styles = line
        .map((part) => LETTERS[part.style].repeat([...part.text].length))
        .join('')
        .trimEnd();
      return styles === '' ? [`|${text}|`] : [`|${text}|`, ` ${styles}`];
    })
    .join('\n')
    .concat('\n');
}

const key = (name: string): Message => ({ t: 'key', key: name });

function moving(atMs: number): Message {
  const step = atMs / 1000;
  const busy = attachment(48123, 'python serve.py --model big', {
    allocatedBytes: 38 * GIB,
    fetchBytes: step * 1.41 * GIB,
    evictBytes: step * 0.49 * GIB,
    stallMicros: step * 41_000,
    nvmeUsedBytes: GIB,
  });
  const quiet = attachment(51880, 'llama-server -m qwen.gguf', { allocatedBytes: 18 * GIB });
  const drain = {
    totalBytes: 15 * GIB,
    movedBytes: 2.3 * GIB,
    bytesPerSecond: 0.48 * GIB,
    etaMs: 26_000,
    elapsedMs: 5_000,
    waitsFor: null,
    done: false,
  };
  const base = snapshot();
  const links = base.links.map((each) => {
    if (each.feederName === 'anvil') return { ...each, receivedBytes: step * 1.08 * GIB };
    return each.feederName === 'forge' ? { ...each, drain } : each;
  });
  const now = { ...base, links: [...links, link('slate', { paused: true })] };
  return { t: 'snapshot', snapshot: { ...now, attachments: [busy, quiet] }, atMs };
}

const MOVING: readonly Message[] = [0, 1000, 2000, 3000].map(moving);
const AWAY: Message = { t: 'away', cause: 'no agent is running', atMs: 4000, retryAtMs: 8000 };
const PLAN: Message = {
  t: 'planned',
  id: 1,
  plan: {
    action: 'drain',
    epoch: 12,
    feederId: 'F-1',
    feederName: 'anvil',
    pid: null,
    moveBytes: 15 * GIB,
    missingBytes: 0,
    lostBytes: 0,
    rangeCount: 239,
    leaseCount: 2,
    moves: [
      { feederId: 'F-2', feederName: 'slate', device: 'vram 0', bytes: 11 * GIB },
      { feederId: 'F-2', feederName: 'slate', device: 'ram', bytes: 4 * GIB },
    ],
    bytesPerSecond: 0.48 * GIB,
    etaMs: 31_000,
    programs: [{ pid: 48123, command: 'python serve.py', bytes: 11 * GIB, note: '' }],
    refusal: null,
  },
};

interface Frame {
  readonly name: string;
  readonly cols: number;
  readonly rows: number;
  readonly messages: readonly Message[];
  readonly ascii?: boolean;
  readonly readonly?: boolean;
}

const SIZES: readonly (readonly [number, number])[] = [
  [160, 45],
  [120, 35],
  [100, 30],
  [80, 24],
  [60, 12],
  [39, 9],
];

const FRAMES: readonly Frame[] = [
  ...SIZES.map(([cols, rows]) => ({ name: `main-${cols}x${rows}`, cols, rows, messages: MOVING })),
  { name: 'ascii-120x35', cols: 120, rows: 35, messages: MOVING, ascii: true },
  { name: 'readonly-80x24', cols: 80, rows: 24, messages: MOVING, readonly: true },
  { name: 'away-120x35', cols: 120, rows: 35, messages: [...MOVING, AWAY] },
  { name: 'empty-80x24', cols: 80, rows: 24, messages: [{ ...AWAY, atMs: 0, retryAtMs: 500 }] },
  { name: 'help-120x35', cols: 120, rows: 35, messages: [...MOVING, key('?')] },
  {
    name: 'wide-marked-120x35',
    cols: 120,
    rows: 35,
    messages: [...MOVING, ...['w', '3', 'j', 'space', 'space', 'D'].map(key), PLAN],
  },
  {
    name: 'drain-120x35',
    cols: 120,
    rows: 35,
    messages: [...MOVING, ...['3', 'j', 'D'].map(key), PLAN],
  },
  {
    name: 'feeder-100x30',
    cols: 100,
    rows: 30,
    messages: [...MOVING, ...['3', 'j', 'enter'].map(key)],
  },
  {
    name: 'process-120x35',
    cols: 120,
    rows: 35,
    messages: [...MOVING, ...['4', 'j', 'enter'].map(key)],
  },
  {
    name: 'tier-80x24',
    cols: 80,
    rows: 24,
    messages: [...MOVING, ...['1', 'j', 'enter'].map(key)],
  },
  {
    name: 'command-80x24',
    cols: 80,
    rows: 24,
    messages: [...MOVING, ...[':', 'd', 'r', 'tab'].map(key)],
  },
];

function stateOf({ cols, rows, messages, readonly = false }: Frame): UiState {
  // The clock in the corner is local: the frame is drawn for the zone it is read in.
  const start = initialState({ cols, rows, readonly }, 0, START_UNIX_MS);
  return messages.reduce(reduce, start);
}

/** Times of day depend on the reader's zone. */
function withoutClock(text: string): string {
  return text.replace(/\b\d\d:\d\d:\d\d\b/g, 'hh:mm:ss');
}

describe('frames', () => {
  test.each(FRAMES)('$name', (frame) => {
    const glyphs = frame.ascii ? ASCII_GLYPHS : UNICODE_GLYPHS;
    const drawn = withoutClock(asText(renderScreen(stateOf(frame), glyphs)));
    const path = join(FOLDER, `${frame.name}.txt`);
    if (WRITES) {
      mkdirSync(FOLDER, { recursive: true });
      writeFileSync(path, drawn);
    }
    expect(drawn).toBe(readFileSync(path, 'utf8'));
  });

  test('no file is left over', () => {
    const names = FRAMES.map(({ name }) => `${name}.txt`).sort();
    expect(readdirSync(FOLDER).sort()).toEqual(names);
  });
});
