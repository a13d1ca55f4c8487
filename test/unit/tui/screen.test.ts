// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { GIB } from '../../../proto/base/units.js';
import { reduce, type Message } from '../../../tui/model/reducer.js';
import { initialState, type UiState } from '../../../tui/model/state.js';
import { layoutKind, panelRects } from '../../../tui/view/layout.js';
import {
  ASCII_GLYPHS,
  lineText,
  lineWidth,
  sparkText,
  UNICODE_GLYPHS,
} from '../../../tui/view/lines.js';
import { fittingColumns } from '../../../tui/view/columns.js';
import { residencyStrip } from '../../../tui/view/panels/processes.js';
import { renderScreen } from '../../../tui/view/screen.js';
import { attachment, link, snapshot, START_UNIX_MS } from './fixtures.js';

function screen(cols: number, rows: number, messages: readonly Message[] = []): UiState {
  const start: Message = { t: 'snapshot', snapshot: snapshot(), atMs: 0 };
  return [start, ...messages].reduce(reduce, initialState({ cols, rows }, 0, START_UNIX_MS));
}

function text(state: UiState, glyphs = UNICODE_GLYPHS): string[] {
  return renderScreen(state, glyphs).map(lineText);
}

function lineWith(lines: readonly string[], word: string): string {
  return lines.find((line) => line.includes(word)) ?? '';
}

describe('layout', () => {
  test('rectangles lie inside the screen, none is empty, none overlaps another', () => {
    for (let cols = 60; cols <= 250; cols += 7) {
      for (let rows = 20; rows <= 80; rows += 3) {
        const wants = {
          tiers: (cols * rows) % 9,
          feeders: (cols + rows) % 40,
          processes: rows % 30,
        };
        const cells = new Set<number>();
        for (const rect of panelRects(cols, rows, wants)) {
          expect(rect.width).toBeGreaterThan(4);
          expect(rect.height).toBeGreaterThan(2);
          expect(rect.x + rect.width).toBeLessThanOrEqual(cols);
          expect(rect.y + rect.height).toBeLessThanOrEqual(rows - 2);
          for (let y = rect.y; y < rect.y + rect.height; y += 1) {
            for (const x of [rect.x, rect.x + rect.width - 1]) {
              expect(cells.has(y * 1000 + x)).toBe(false);
              cells.add(y * 1000 + x);
            }
          }
        }
      }
    }
  });

  test('every size from 1x1 on is drawn in exactly its cells, with any number of rows and any key pressed', () => {
    const sizes = fc.record({
      cols: fc.integer({ min: 1, max: 200 }),
      rows: fc.integer({ min: 1, max: 70 }),
    });
    const keys = fc.array(
      fc.constantFrom(
        'j',
        '?',
        '/',
        ':',
        'z',
        'f',
        'v',
        '1',
        '3',
        '5',
        's',
        '-',
        'x',
        'enter',
        'y',
        'D',
        'X',
      ),
      {
        maxLength: 4,
      },
    );
    fc.assert(
      fc.property(
        sizes,
        keys,
        fc.integer({ min: 0, max: 64 }),
        ({ cols, rows }, pressed, count) => {
          const links = Array.from({ length: count }, (_, index) => link(`f${index}`));
          const more: Message = { t: 'snapshot', snapshot: snapshot({ links }), atMs: 1000 };
          const state = screen(cols, rows, [
            more,
            ...pressed.map((key): Message => ({ t: 'key', key })),
          ]);
          const lines = renderScreen(state, UNICODE_GLYPHS);
          expect(lines).toHaveLength(rows);
          for (const line of lines) expect(lineWidth(line)).toBe(cols);
        },
      ),
      { numRuns: 150 },
    );
  });

  test('small screens give up boxes, then everything but totals', () => {
    expect(layoutKind(120, 35)).toBe('boxes');
    expect(layoutKind(80, 24)).toBe('boxes');
    expect(layoutKind(80, 15)).toBe('mini');
    expect(layoutKind(39, 30)).toBe('line');
    expect(text(screen(30, 4))[0]).toContain('39.0/64.0 GiB');
  });

  test('columns with the lowest priority go first', () => {
    const column = (title: string, priority: number) => ({
      title,
      priority,
      width: 10,
      align: 'left' as const,
      cell: () => ({ text: '' }),
    });
    const kept = fittingColumns([column('a', 1), column('b', 3), column('c', 2)], 21);
    expect(kept.map(({ column: { title } }) => title)).toEqual(['b', 'c']);
  });
});

describe('panels', () => {
  test('80x24 names every tier, feeder and program with its figures', () => {
    const lines = text(screen(80, 24));
    expect(lineWith(lines, 'vram local')).toMatch(/23\.0\s+24\.0/);
    expect(lineWith(lines, 'anvil')).toMatch(/\+ anvil|anvil: RAM/);
    expect(lineWith(lines, '48123')).toMatch(/python serve.*38\.0 V+r+F+f+/);
    expect(lineWith(lines, 'Tiers')).toContain('simulated');
  });

  test('tiers are ordered by measured bandwidth', () => {
    const lines = text(screen(120, 35)).join('\n');
    expect(lines.indexOf('vram local')).toBeLessThan(lines.indexOf('ram local   '));
    expect(lines.indexOf('ram local   ')).toBeLessThan(lines.indexOf('ram feeder'));
  });

  test('a stale feeder keeps its row, with its age instead of rates, in the stale style', () => {
    const lines = renderScreen(screen(120, 35), UNICODE_GLYPHS);
    const row = lines.find((line) => lineText(line).includes('! kiln'));
    expect(lineText(row ?? [])).toMatch(/stale 9\.4s/);
    expect(row?.find((part) => part.text.includes('kiln'))?.style).toBe('stale');
  });

  test('the residency strip fills its cells and names every tier that holds bytes', () => {
    const strip = residencyStrip(attachment(1, 'x'), 20);
    expect(strip).toHaveLength(20);
    expect(strip).toBe('VVVVVVVVVVrrrrrFFFff'.slice(0, 20));
    const nothing = {
      vramUsedBytes: 0,
      ramUsedBytes: 0,
      feederVramUsedBytes: 0,
      feederRamUsedBytes: 0,
    };
    expect(residencyStrip(attachment(1, 'x', nothing), 20)).toBe('-');
  });

  test('an agent that is away is named with its age, and all data is grey', () => {
    const away: Message = { t: 'away', cause: 'no agent is running', atMs: 1000, retryAtMs: 5000 };
    const state = screen(120, 35, [away, { t: 'tick', nowMs: 4000, unixMs: START_UNIX_MS }]);
    expect(text(state)[0]).toContain('agent away 4.0s, retry 1 in 1 s');
    const row = renderScreen(state, UNICODE_GLYPHS).find((line) =>
      lineText(line).includes('48123'),
    );
    const data = row?.filter((part) => part.style !== 'frame' && part.text.trim() !== '') ?? [];
    expect(data.every((part) => part.style === 'stale')).toBe(true);
  });

  test('before the first answer the frame is there, with the reason and what to do', () => {
    const empty = initialState({ cols: 80, rows: 24 }, 0, START_UNIX_MS);
    const away = reduce(empty, {
      t: 'away',
      cause: 'no agent is running',
      atMs: 0,
      retryAtMs: 500,
    });
    expect(text(away).join('\n')).toContain('no agent is running; start it: greenboost agent');
  });

  test('hostile names stay inside their cells and carry no escape', () => {
    const evil = '{red-fg}\u001b[2J\n日本語\u202e'.repeat(200);
    const over = { links: [link(evil)], attachments: [attachment(1, evil)], hostName: evil };
    const state = screen(80, 24, [{ t: 'snapshot', snapshot: snapshot(over), atMs: 1000 }]);
    for (const line of text(state)) {
      expect(line).not.toMatch(/[\u0000-\u001f\u202e]/);
    }
    expect(text(state)).toHaveLength(24);
  });

  test('the ASCII form has no other character', () => {
    for (const size of [
      [120, 35],
      [80, 24],
      [50, 12],
    ] as [number, number][]) {
      expect(text(screen(...size), ASCII_GLYPHS).join('')).toMatch(/^[\u0020-\u007e]*$/);
    }
  });

  test('the selected row is marked by a character, not only by style', () => {
    const state = screen(100, 30, [
      { t: 'key', key: '4' },
      { t: 'key', key: 'j' },
    ]);
    expect(lineWith(text(state), '48123')).toContain('>');
    expect(lineWith(text(state), '51880')).not.toContain('>');
  });

  test('a list longer than its panel shows the window around the selected row', () => {
    const attachments = Array.from({ length: 300 }, (_, index) =>
      attachment(1000 + index, 'x', { allocatedBytes: (300 - index) * GIB }),
    );
    const state = screen(100, 30, [
      { t: 'snapshot', snapshot: snapshot({ attachments }), atMs: 1000 },
      { t: 'key', key: '4' },
      { t: 'key', key: 'G' },
    ]);
    expect(text(state).join('\n')).toContain(' 1299 ');
  });

  test('a sparkline is never taller than its scale and idle noise is flat', () => {
    expect(sparkText([0, 1, 10], 5, 100, ASCII_GLYPHS)).toBe('   __');
    expect(sparkText([50, 100], 2, 100, UNICODE_GLYPHS)).toBe('▅█');
  });
});
