// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from '@jest/globals';
import { reduce, type Message } from '../../../tui/model/reducer.js';
import { initialState, type UiState } from '../../../tui/model/state.js';
import { lineText, lineWidth, span, UNICODE_GLYPHS } from '../../../tui/view/lines.js';
import { overlaid, sliceCells } from '../../../tui/view/overlay.js';
import { renderScreen } from '../../../tui/view/screen.js';
import { textWidth, wrapText } from '../../../tui/view/text.js';
import { attachment, link, snapshot, START_UNIX_MS, tier } from './fixtures.js';

const key = (name: string): Message => ({ t: 'key', key: name });
const picture = (atMs: number, over: Parameters<typeof snapshot>[0] = {}): Message => ({
  t: 'snapshot',
  snapshot: snapshot(over),
  atMs,
});

function run(messages: readonly Message[]): UiState {
  return messages.reduce(reduce, initialState({ cols: 120, rows: 45 }, 0, START_UNIX_MS));
}

const text = (state: UiState): string =>
  renderScreen(state, UNICODE_GLYPHS).map(lineText).join('\n');

const MERGED = attachment(48123, 'python serve.py', {
  launchCount: 3000,
  dispatch: {
    on: true,
    hereCount: 2000,
    dispatchedCount: 1000,
    undispatched: { hidden: 7, room: 3 },
    devices: [],
    owners: [
      {
        feederId: link('anvil').feederId,
        feederName: 'anvil',
        lane: 1,
        launchCount: 1000,
        crossingCount: 12,
        crossingSentBytes: 3 << 20,
        crossingReceivedBytes: 1 << 20,
        replicaBytes: 4 << 20,
      },
    ],
  },
});

describe('a feeder', () => {
  test('tells who it is, its lanes, what it lends, what ran there and what happened; Esc goes back', () => {
    const open = run([picture(0, { attachments: [MERGED] }), ...['3', 'j', 'enter'].map(key)]);
    const shown = text(open);
    expect(shown).toContain('Feeder anvil');
    expect(shown).toMatch(/address +10\.0\.0\.21:9740/);
    expect(shown).toMatch(/round trip 210us/);
    expect(shown).toMatch(/1\.00 GiB used, 2\.00 GiB leased of 24\.0 GiB/);
    expect(shown).toMatch(/48123 +1,000 +12 +3\.00 MiB +1\.00 MiB +4\.00 MiB/);
    expect(shown).toContain('Events');
    expect(reduce(open, key('escape')).detail).toBeNull();
    expect(reduce(open, key('escape')).quit).toBe(false);
  });

  test('that has gone stays named', () => {
    const gone = run([picture(0), ...['3', 'j', 'enter'].map(key), picture(1000, { links: [] })]);
    expect(text(gone)).toContain('anvil has gone; Esc goes back');
  });

  test('y shows the very record that --json prints', () => {
    const state = run([picture(0), ...['3', 'j', 'y'].map(key)]);
    expect(text(state)).toContain('"feederName": "anvil"');
  });
});

describe('a process', () => {
  const open = run([picture(0, { attachments: [MERGED] }), ...['4', 'j', 'enter'].map(key)]);

  test('asks the agent where its ranges lie and shows them', () => {
    expect(open.requests).toEqual([{ t: 'explain', pid: 48123 }]);
    const told = reduce(open, {
      t: 'explained',
      pid: 48123,
      explain: {
        schemaVersion: 1,
        pid: 48123,
        command: '',
        dispatch: MERGED.dispatch,
        ranges: [
          {
            address: '0x500000000000',
            bytes: 8 << 20,
            feederId: 'F-1',
            feederName: 'anvil',
            device: 'vram 0',
            lane: 1,
            kind: 'owned',
            lost: false,
            why: 'kernels that name it run there',
          },
        ],
        step: null,
        rangeCount: 3,
        reasons: [{ name: 'hidden', count: 7, text: 'one of its operands holds addresses' }],
      },
    });
    const shown = text(told);
    expect(shown).toMatch(/0x500000000000 +8\.00 MiB +owned +anvil +vram 0 +kernels that name it/);
    expect(shown).toContain('and 2 more');
    expect(shown).toMatch(/hidden +7 +one of its operands holds addresses/);
  });

  test('names launches, crossings, bytes and the reasons of what was brought back', () => {
    const shown = text(open);
    expect(shown).toContain('2,000 launches here, 1,000 on anvil (12 crossings');
    expect(shown).toContain('hidden 7, room 3');
  });

  test('an explanation of another process is not taken for its', () => {
    expect(reduce(open, { t: 'explained', pid: 1, explain: 'nothing' }).detail?.explain).toBeNull();
  });
});

describe('a tier', () => {
  test('tells whose bytes are in it', () => {
    const shown = text(run([picture(0), ...['1', 'j', 'enter'].map(key)]));
    expect(shown).toContain('Tier Test GPU');
    expect(shown).toMatch(/48123 +4\.00 GiB/);
  });

  test('T3 has a row as soon as a program uses it, with its size unknown', () => {
    const attachments = [attachment(7, 'x', { nvmeUsedBytes: 3 * 2 ** 30 })];
    const shown = text(run([picture(0, { attachments })]));
    expect(shown).toMatch(/nvme local +NVMe +3\.0 +- /);
    expect(text(run([picture(0)]))).not.toContain('nvme local');
  });
});

describe('dispatch columns', () => {
  test('are there when a program has dispatch, with rates of launches and crossings', () => {
    const later = {
      ...MERGED,
      launchCount: 5000,
      dispatch: {
        ...MERGED.dispatch,
        dispatchedCount: 2500,
        owners: [{ ...MERGED.dispatch.owners[0]!, launchCount: 2500, crossingCount: 32 }],
      },
    };
    const shown = text(
      run([picture(0, { attachments: [MERGED] }), picture(2000, { attachments: [later] })]),
    );
    expect(shown).toMatch(/LAUNCH\/s +REMOTE +CROSS\/s/);
    expect(shown).toMatch(/48123.* 1000 +75% +10/);
    expect(shown).toMatch(/anvil.* 750 +10 /);
  });

  test('are not there otherwise', () => {
    expect(text(run([picture(0)]))).not.toContain('REMOTE');
  });
});

describe('following', () => {
  const links = ['aa', 'bb', 'cc'].map((name) => link(name));
  const more = [link('a0'), ...links];

  test('on: the selection stays with its row', () => {
    const state = run([
      picture(0, { links }),
      ...['3', 'j', 'j'].map(key),
      picture(1000, { links: more }),
    ]);
    expect(state.selected.feeders).toBe(link('bb').feederId);
  });

  test('off: the selection keeps its place on the screen', () => {
    const state = run([
      picture(0, { links }),
      ...['3', 'j', 'j', 'f'].map(key),
      picture(1000, { links: more }),
    ]);
    expect(state.selected.feeders).toBe(link('aa').feederId);
  });

  test('l shows the events of the row, v one panel alone', () => {
    const state = run([picture(0), ...['3', 'j', 'l'].map(key)]);
    expect(state).toMatchObject({ focus: 'events', filter: 'anvil' });
    expect(text(run([picture(0), ...['3', 'v'].map(key)]))).not.toContain('1 Tiers');
  });
});

describe('cells', () => {
  test('a slice keeps its width, through wide characters, too', () => {
    const line = [span('ab'), span('日本語', 'bold'), span('cd')];
    for (let from = 0; from <= 10; from += 1) {
      for (let to = from; to <= 10; to += 1)
        expect(lineWidth(sliceCells(line, from, to))).toBe(to - from);
    }
  });

  test('a box over a screen leaves every line as wide as it was', () => {
    const screen = Array.from({ length: 9 }, () => [span('日本語日本語日本語日')]);
    const box = [[span('+---+')], [span('|   |')], [span('+---+')]];
    const lines = overlaid(screen, box, 20, 5);
    expect(lines.map(lineWidth)).toEqual(Array.from({ length: 9 }, () => 20));
    expect(lineText(lines[4] ?? [])).toContain('|   |');
  });

  test('wrapped text fits its width and loses no word', () => {
    const words = 'the quick 日本語の長い言葉 fox averyverylongwordwithoutanyspace end';
    for (let width = 2; width < 40; width += 1) {
      const lines = wrapText(words, width);
      for (const line of lines) expect(textWidth(line)).toBeLessThanOrEqual(width);
      expect(lines.join('').replaceAll(' ', '')).toBe(words.replaceAll(' ', ''));
    }
  });

  test('a tier of an unknown kind is still drawn', () => {
    expect(text(run([picture(0, { tiers: [tier('unknown')] })]))).toContain('unknown');
  });
});
