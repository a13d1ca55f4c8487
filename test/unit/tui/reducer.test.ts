// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from '@jest/globals';
import { reduce, type Message } from '../../../tui/model/reducer.js';
import { feederRows, matchesFilter, processRows } from '../../../tui/model/rows.js';
import {
  HISTORY_LENGTH_MAX,
  initialState,
  isStale,
  type UiState,
} from '../../../tui/model/state.js';
import { attachment, link, snapshot, START_UNIX_MS } from './fixtures.js';

function stateAfter(...messages: Message[]): UiState {
  return messages.reduce(reduce, initialState({ cols: 100, rows: 30 }, 0, START_UNIX_MS));
}

const key = (name: string): Message => ({ t: 'key', key: name });
const picture = (atMs: number, over: Parameters<typeof snapshot>[0] = {}): Message => ({
  t: 'snapshot',
  snapshot: snapshot(over),
  atMs,
});

describe('connection', () => {
  test('one sample gives no rate, two give the growth per second', () => {
    const first = picture(0, {
      attachments: [attachment(7, 'x', { fetchBytes: 1000, stallMicros: 0 })],
    });
    expect(stateAfter(first).latest?.rates).toBeNull();
    const second = picture(2000, {
      attachments: [attachment(7, 'x', { fetchBytes: 5000, stallMicros: 500_000 })],
    });
    const rate = [...(stateAfter(first, second).latest?.rates?.processes.values() ?? [])][0];
    expect(rate?.fetchBytesPerSecond).toBe(2000);
    expect(rate?.stallPercent).toBe(25);
  });

  test('snapshots in quick succession are measured over the whole time since the last rate', () => {
    const at = (ms: number, bytes: number): Message =>
      picture(ms, { attachments: [attachment(7, 'x', { fetchBytes: bytes })] });
    const state = stateAfter(at(0, 0), at(100, 100), at(1000, 3000));
    expect([...(state.latest?.rates?.processes.values() ?? [])][0]?.fetchBytesPerSecond).toBe(3000);
  });

  test('a counter that went backwards counts as no growth', () => {
    const state = stateAfter(
      picture(0, { attachments: [attachment(7, 'x', { fetchBytes: 9000 })] }),
      picture(1000, { attachments: [attachment(7, 'x', { fetchBytes: 10 })] }),
    );
    expect([...(state.latest?.rates?.processes.values() ?? [])][0]?.fetchBytesPerSecond).toBe(0);
  });

  test('a new agent process starts the rates anew and keeps the history', () => {
    const before = stateAfter(picture(0), picture(1000));
    const after = reduce(before, picture(2000, { agentPid: 99 }));
    expect(after.latest?.rates).toBeNull();
    expect(after.latest?.history).toEqual(before.latest?.history);
  });

  test('an agent that goes away leaves its last picture, stale, and counts the tries from the same moment', () => {
    const away = (atMs: number): Message => ({
      t: 'away',
      cause: 'gone',
      atMs,
      retryAtMs: atMs + 500,
    });
    const state = stateAfter(picture(1000), away(2000), away(3000));
    expect(state.latest).not.toBeNull();
    expect(isStale(state)).toBe(true);
    expect(state.connection).toMatchObject({ t: 'away', tries: 2, sinceMs: 1000 });
    expect(isStale(reduce(state, picture(4000)))).toBe(false);
  });

  test('a silent agent makes the picture stale by time alone', () => {
    const state = stateAfter(picture(1000), {
      t: 'tick',
      nowMs: 1000 + 3_001,
      unixMs: START_UNIX_MS,
    });
    expect(isStale(state)).toBe(true);
  });

  test('histories are rings', () => {
    let state = stateAfter(picture(0));
    for (let index = 1; index <= HISTORY_LENGTH_MAX + 50; index += 1)
      state = reduce(state, picture(index * 1000));
    expect(state.latest?.history.fetch).toHaveLength(HISTORY_LENGTH_MAX);
  });
});

describe('keys', () => {
  test('digits and Tab move the focus, in a circle', () => {
    expect(stateAfter(key('3')).focus).toBe('feeders');
    expect(stateAfter(key('5'), key('tab')).focus).toBe('tiers');
    expect(stateAfter(key('1'), key('S-tab')).focus).toBe('events');
  });

  test('the selection stays on its program when the order changes', () => {
    const selected = stateAfter(picture(0), key('4'), key('j'));
    const id = selected.selected.processes;
    expect(id).toBe(attachment(48123, '').attachmentId);
    expect(reduce(reduce(selected, key('s')), key('-')).selected.processes).toBe(id);
  });

  test('the selection stops at both ends', () => {
    const many = stateAfter(picture(0), key('4'), key('j'), key('j'), key('j'), key('j'));
    expect(many.selected.processes).toBe(attachment(51880, '').attachmentId);
    const back = ['k', 'k', 'k'].map(key).reduce(reduce, many);
    expect(back.selected.processes).toBe(attachment(48123, '').attachmentId);
  });

  test('a filter counts while it is typed, stays with Enter, goes with Escape', () => {
    const typing = stateAfter(
      picture(0),
      key('/'),
      key('l'),
      key('l'),
      key('a'),
      key('m'),
      key('a'),
    );
    expect(processRows(typing).map((from) => from.pid)).toEqual([51880]);
    const kept = reduce(typing, key('enter'));
    expect(kept).toMatchObject({ filter: 'llama', prompt: null });
    expect(reduce(kept, key('escape')).filter).toBe('');
    expect(typing.quit).toBe(false);
  });

  test('letters that are keys elsewhere are text inside the filter; Ctrl-C still quits', () => {
    const typing = stateAfter(key('/'), key('q'), key('?'), key('space'), key('1'));
    expect(typing).toMatchObject({
      prompt: { kind: 'filter', text: 'q? 1' },
      quit: false,
      help: false,
    });
    expect(reduce(typing, key('C-c')).quit).toBe(true);
  });

  test('a frozen picture stays while data arrives', () => {
    const frozen = stateAfter(picture(0), key('z'), picture(1000, { attachments: [] }));
    expect(processRows(frozen)).toHaveLength(2);
    expect(processRows(reduce(frozen, key('z')))).toHaveLength(0);
  });

  test('Escape never quits and q does', () => {
    expect(stateAfter(key('escape'), key('escape')).quit).toBe(false);
    expect(stateAfter(key('q')).quit).toBe(true);
  });

  test('an unknown key changes nothing', () => {
    const state = stateAfter(picture(0));
    expect(reduce(state, key('M-x'))).toBe(state);
  });
});

describe('rows', () => {
  test('words of a filter must all be met; ! means not; state: is the state', () => {
    expect(matchesFilter('py serve', 'python serve.py', 'idle')).toBe(true);
    expect(matchesFilter('py !serve', 'python serve.py', 'idle')).toBe(false);
    expect(matchesFilter('state:st', 'kiln', 'stale')).toBe(true);
    expect(matchesFilter('state:ready', 'kiln', 'stale')).toBe(false);
    expect(matchesFilter('', 'anything', '')).toBe(true);
  });

  test('equal rows keep one order whatever order they arrive in', () => {
    const links = [
      link('b', { rttMicros: 5 }),
      link('a', { rttMicros: 5 }),
      link('c', { rttMicros: 5 }),
    ];
    const order = (rows: typeof links): string[] =>
      feederRows(stateAfter(picture(0, { links: rows }), key('3'), key('s'), key('s'))).map(
        (row) => row.feederName,
      );
    expect(order(links)).toEqual(order([...links].reverse()));
  });
});
