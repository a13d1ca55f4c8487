// SPDX-License-Identifier: Apache-2.0
// Actions cannot hit what was not meant: dialogs, epochs, targets, and a screen that only looks.
import { describe, expect, test } from '@jest/globals';
import { ACTIONS, actionsOf } from '../../../tui/model/actions.js';
import { commandsOf } from '../../../tui/model/commands.js';
import { buttonsOf } from '../../../tui/model/dialog.js';
import { keyBindings } from '../../../tui/model/keys.js';
import type { ActionPlanJson } from '../../../tui/model/plans.js';
import { reduce, type Message } from '../../../tui/model/reducer.js';
import { initialState, JOBS_MAX, type Request, type UiState } from '../../../tui/model/state.js';
import { lineText, UNICODE_GLYPHS } from '../../../tui/view/lines.js';
import { renderScreen } from '../../../tui/view/screen.js';
import { attachment, link, snapshot, START_UNIX_MS } from './fixtures.js';

const key = (name: string): Message => ({ t: 'key', key: name });
const keys = (...names: string[]): Message[] => names.map(key);
const typed = (text: string): Message[] => [...text].map((c) => key(c === ' ' ? 'space' : c));
const picture = (atMs: number, over: Parameters<typeof snapshot>[0] = {}): Message => ({
  t: 'snapshot',
  snapshot: snapshot(over),
  atMs,
});

function run(messages: readonly Message[], readonly = false): UiState {
  return messages.reduce(reduce, initialState({ cols: 120, rows: 35, readonly }, 0, START_UNIX_MS));
}

function plan(over: Partial<ActionPlanJson> = {}): ActionPlanJson {
  return {
    action: 'drain',
    epoch: 12,
    feederId: 'F-1',
    feederName: 'anvil',
    pid: null,
    moveBytes: 64 << 20,
    missingBytes: 0,
    lostBytes: 0,
    rangeCount: 8,
    leaseCount: 1,
    moves: [{ feederId: 'F-2', feederName: 'forge', device: 'ram', bytes: 64 << 20 }],
    bytesPerSecond: 64 << 20,
    etaMs: 1000,
    programs: [{ pid: 48123, command: 'python serve.py', bytes: 64 << 20, note: '' }],
    refusal: null,
    ...over,
  };
}

/** The dialog of anvil's drain with its plan. */
const OPEN: readonly Message[] = [picture(0), ...keys('3', 'j', 'D')];
const PLANNED: readonly Message[] = [...OPEN, { t: 'planned', id: 1, plan: plan() }];
const acts = ({ requests }: UiState): Request[] => requests.filter(({ t }) => t === 'act');

describe('marks', () => {
  const FEEDERS = ['anvil', 'forge', 'kiln'].map((name) => link(name));
  const three = picture(0, { links: FEEDERS });
  const answered = (state: UiState): UiState =>
    reduce(state, { t: 'planned', id: state.dialog!.requestId, plan: plan() });
  const acted = (state: UiState): UiState => keys('tab', 'enter').reduce(reduce, answered(state));

  test('each marked row has its turn, with a plan and a dialog of its own that starts on Cancel', () => {
    let state = run([three, ...keys('3', 'j', 'space', 'j', 'space', 'P')]);
    expect(state.dialog).toMatchObject({ target: { name: 'anvil' }, rest: [{ name: 'kiln' }] });
    state = acted(state);
    expect(acts(state)).toMatchObject([{ target: { name: 'anvil' } }]);
    state = reduce(state, { t: 'done', id: state.dialog!.requestId, text: 'is paused' });
    expect(state.dialog).toMatchObject({ phase: 'planning', button: 0, target: { name: 'kiln' } });
    state = acted(state);
    state = reduce(state, { t: 'done', id: state.dialog!.requestId, text: 'is paused' });
    expect(acts(state).map((act) => (act as { target: { name: string } }).target.name)).toEqual([
      'anvil',
      'kiln',
    ]);
    expect(state.dialog).toBeNull();
    expect(state.marks.size).toBe(0);
  });

  test('Cancel ends it for all that come after', () => {
    const state = run([three, ...keys('3', 'j', 'space', 'space', 'P', 'escape')]);
    expect(state.dialog).toBeNull();
    expect(state.marks.size).toBe(2);
    expect(reduce(state, key('escape')).marks.size).toBe(0);
  });

  test('a selected row that is not marked is not meant; a marked one that has gone neither', () => {
    const marked = run([three, ...keys('3', 'j', 'space')]);
    expect(reduce(marked, key('X')).dialog?.target.name).toBe('anvil');
    const gone = reduce(marked, picture(1000, { links: FEEDERS.slice(1) }));
    expect(gone.marks.size).toBe(0);
  });

  test('marks of feeders are nothing to the keys of processes, and tiers have none', () => {
    const state = run([three, ...keys('3', 'j', 'space', '4', 'j', 'E')]);
    expect(state.dialog?.target.kind).toBe('process');
    expect(state.dialog?.rest).toEqual([]);
    expect(run([three, ...keys('1', 'j', 'space')]).marks.size).toBe(0);
  });

  test('are drawn, and counted in the header', () => {
    const text = renderScreen(run([three, ...keys('3', 'j', 'space')]), UNICODE_GLYPHS).map(
      lineText,
    );
    expect(text[0]).toContain('1 marked');
    expect(text.some((line) => /│ {2}\*\+ anvil/.test(line))).toBe(true);
    expect(text.some((line) => /│ > \+ forge/.test(line))).toBe(true);
  });
});

describe('a dialog', () => {
  test('asks for the plan first, starts on Cancel, and Enter there does nothing', () => {
    const open = run(OPEN);
    expect(open.requests).toMatchObject([
      { t: 'plan', action: 'drain', target: { name: 'anvil' } },
    ]);
    expect(open.dialog).toMatchObject({ phase: 'planning', button: 0 });
    const planned = run(PLANNED);
    expect(buttonsOf(planned.dialog!)).toEqual(['Cancel', 'Act']);
    const after = reduce(planned, key('enter'));
    expect(after.dialog).toBeNull();
    expect(acts(after)).toEqual([]);
  });

  test('acts once on Tab and Enter, in the epoch of the plan, however often Enter comes', () => {
    const after = run([...PLANNED, ...keys('tab', 'enter', 'enter')]);
    expect(acts(after)).toMatchObject([
      { t: 'act', action: 'drain', epoch: 12, force: false, target: { name: 'anvil' } },
    ]);
  });

  test('two Enters in one read send one request, too', () => {
    const once = run([...PLANNED, ...keys('tab', 'enter')]);
    expect(once.dialog?.phase).toBe('sent');
    expect(acts(reduce(once, key('enter')))).toHaveLength(1);
  });

  test('keeps its target when the list is sorted anew, rows come and rows go', () => {
    const fresh = picture(1000, { links: [link('zeta'), link('aaa'), link('anvil')] });
    const after = run([...PLANNED, fresh, ...keys('s', '-', 'tab', 'enter')]);
    expect(acts(after)).toMatchObject([{ target: { kind: 'feeder', name: 'anvil' } }]);
    expect(run([...PLANNED, fresh]).dialog?.target.id).toBe(link('anvil').feederId);
  });

  test('rows behind it do not move', () => {
    const names = (state: UiState): string[] =>
      renderScreen(state, UNICODE_GLYPHS)
        .map(lineText)
        .filter((line) => /│ [> ] [+~!] /.test(line))
        .map((line) => line.slice(0, 16));
    const before = names(run(PLANNED));
    expect(before.length).toBeGreaterThan(0);
    expect(names(run([...PLANNED, picture(1000, { links: [link('aaa')] })]))).toEqual(before);
  });

  test('is built anew with the new plan when the cluster has changed, for the same target, on Cancel', () => {
    const sent = run([...PLANNED, ...keys('tab', 'enter')]);
    const id = sent.dialog!.requestId;
    const stale = reduce(sent, { t: 'refused', id, code: 'EPOCH_STALE', text: 'changed' });
    expect(stale.dialog).toMatchObject({
      phase: 'planning',
      button: 0,
      target: { name: 'anvil' },
    });
    expect(stale.dialog?.note).toContain('changed');
    expect(stale.jobs.size).toBe(0);
    const again = stale.requests.at(-1) as Extract<Request, { t: 'plan' }>;
    expect(again).toMatchObject({ t: 'plan', action: 'drain' });
    const newPlan = plan({ epoch: 13 });
    const replanned = reduce(stale, { t: 'planned', id: again.id, plan: newPlan });
    const second = keys('tab', 'enter').reduce(reduce, replanned);
    expect(acts(second).map((act) => (act as { epoch: number }).epoch)).toEqual([12, 13]);
  });

  test('a plan that comes late is not taken for the one that is asked', () => {
    const after = run([
      ...OPEN,
      key('escape'),
      ...keys('j', 'D'),
      { t: 'planned', id: 1, plan: plan() },
    ]);
    expect(after.dialog).toMatchObject({
      phase: 'planning',
      plan: null,
      target: { name: 'forge' },
    });
  });

  test('says what the agent refused, and closes', () => {
    const refused = run([
      ...OPEN,
      { t: 'refused', id: 1, code: 'NOT_FOUND', text: 'no such feeder' },
    ]);
    expect(refused.dialog).toMatchObject({ phase: 'failed', note: 'no such feeder' });
    expect(reduce(refused, key('enter')).dialog).toBeNull();
  });

  test('offers only Cancel when a drain would be refused', () => {
    const refusal = plan({ refusal: 'other feeders have no room for 64 MiB' });
    const state = run([...OPEN, { t: 'planned', id: 1, plan: refusal }]);
    expect(buttonsOf(state.dialog!)).toEqual(['Cancel']);
    expect(
      acts(run([...OPEN, { t: 'planned', id: 1, plan: refusal }, ...keys('tab', 'enter')])),
    ).toEqual([]);
  });
});

describe('losing bytes', () => {
  const LOSING: readonly Message[] = [
    picture(0),
    ...keys('3', 'j', 'X'),
    {
      t: 'planned',
      id: 1,
      plan: plan({ action: 'disconnect', lostBytes: 64 << 20, refusal: 'feeder anvil is stale' }),
    },
  ];

  test('is offered last, after Drain, and needs the name typed whole', () => {
    expect(buttonsOf(run(LOSING).dialog!)).toEqual(['Cancel', 'Drain', 'Force']);
    const asked = run([...LOSING, ...keys('tab', 'tab', 'enter')]);
    expect(acts(asked)).toEqual([]);
    expect(asked.dialog?.typed).toBe('');
    const wrong = [...typed('anvi'), key('enter')].reduce(reduce, asked);
    expect(acts(wrong)).toEqual([]);
    expect(wrong.dialog?.note).toContain('that is not anvil');
    const right = [...typed('l'), key('enter')].reduce(reduce, wrong);
    expect(acts(right)).toMatchObject([
      { action: 'disconnect', force: true, target: { name: 'anvil' } },
    ]);
  });

  test('Drain there is a drain with a plan of its own', () => {
    const drain = run([...LOSING, ...keys('tab', 'enter')]);
    expect(drain.dialog).toMatchObject({ action: 'drain', phase: 'planning', button: 0 });
  });
});

describe('a screen that only looks', () => {
  test('has no key, no command and no button of any action', () => {
    const state = run([picture(0), ...keys('3', 'j')], true);
    expect(actionsOf(state)).toEqual([]);
    const bound = new Set(keyBindings(state).flatMap((binding) => binding.keys));
    const names = new Set(commandsOf(state).flatMap((command) => command.names));
    for (const { id, key: letter } of ACTIONS) {
      if (letter !== null) expect(bound.has(letter)).toBe(false);
      expect(names.has(id)).toBe(false);
      const tried = [...keys(letter ?? 'D'), key(':'), ...typed(`${id} anvil`), key('enter')];
      const after = tried.reduce(reduce, state);
      expect(after.dialog).toBeNull();
      expect(after.requests).toEqual([]);
    }
    const text = renderScreen({ ...state, help: true }, UNICODE_GLYPHS)
      .map(lineText)
      .join('\n');
    expect(text).not.toMatch(/evict|disconnect|move what/);
    expect(renderScreen(state, UNICODE_GLYPHS).map(lineText).join('\n')).toContain('read-only');
  });

  test('every action that has a key is upper case, and none sits on a function key alone', () => {
    for (const { key: letter } of ACTIONS) expect(letter ?? 'D').toMatch(/^[A-Z]$/);
  });
});

describe('actions', () => {
  test('are off while no agent answers, and say so', () => {
    const away: Message = { t: 'away', cause: 'gone', atMs: 10, retryAtMs: 500 };
    const state = run([picture(0), ...keys('3', 'j'), away, key('D')]);
    expect(state.dialog).toBeNull();
    expect(state.flash?.text).toContain('actions are off');
  });

  test('of the wrong kind of row ask for a right one', () => {
    const state = run([picture(0), ...keys('4', 'j', 'D')]);
    expect(state.dialog).toBeNull();
    expect(state.flash?.text).toBe('Drain: select a feeder first');
  });

  test('P on a paused feeder resumes it', () => {
    const paused = picture(0, { links: [link('anvil', { paused: true })] });
    expect(run([paused, ...keys('3', 'j', 'P')]).dialog?.action).toBe('resume');
  });

  test('D again gives up a drain that was begun here, and no other', () => {
    const drain = {
      totalBytes: 10,
      movedBytes: 1,
      bytesPerSecond: 1,
      etaMs: 9,
      elapsedMs: 1,
      waitsFor: null,
      done: false,
    };
    const draining = picture(2000, { links: [link('anvil', { state: 'draining', drain })] });
    const own = run([
      ...PLANNED,
      ...keys('tab', 'enter'),
      { t: 'begun', id: 2 },
      draining,
      key('D'),
    ]);
    expect(own.dialog).toBeNull();
    expect(own.requests.at(-1)).toEqual({ t: 'cancel', id: 2 });
    const foreign = run([draining, ...keys('3', 'j', 'D')]);
    expect(foreign.requests).toEqual([]);
    expect(foreign.flash?.text).toContain('somebody else');
  });

  test('q warns once while a drain would end with the screen', () => {
    const begun = run([...PLANNED, ...keys('tab', 'enter'), { t: 'begun', id: 2 }]);
    const asked = reduce(begun, key('q'));
    expect(asked).toMatchObject({ quit: false, quitAsked: true });
    expect(reduce(asked, key('q')).quit).toBe(true);
    expect(reduce(reduce(asked, key('j')), key('q')).quit).toBe(false);
    const done = reduce(begun, { t: 'done', id: 2, text: 'anvil is empty' });
    expect(reduce(done, key('q')).quit).toBe(true);
  });

  test('under way are bounded', () => {
    const jobs = new Map(
      Array.from({ length: JOBS_MAX }, (_, id) => [
        id,
        { action: 'pause' as const, target: { kind: 'feeder' as const, id: '', name: '' } },
      ]),
    );
    const state = { ...run([picture(0), ...keys('3', 'j')]), jobs };
    expect(reduce(state, key('D')).dialog).toBeNull();
  });

  test('evict begins with half, + and - change it in quarters and ask again', () => {
    const state = run([picture(0), ...keys('4', 'j', 'E')]);
    const half = attachment(48123, '').vramUsedBytes / 2;
    expect(state.requests).toMatchObject([{ t: 'plan', action: 'evict', bytes: half }]);
    const evict = plan({
      action: 'evict',
      programs: [{ pid: 48123, command: 'x', bytes: half * 2, note: '' }],
    });
    const more = [{ t: 'planned', id: 1, plan: evict } as const, key('+')].reduce(reduce, state);
    expect(more.requests.at(-1)).toMatchObject({ t: 'plan', bytes: half * 1.5 });
  });
});

describe('the command line of the screen', () => {
  const line = (text: string, ...after: string[]): UiState =>
    run([picture(0), key(':'), ...typed(text), ...keys(...after)]);

  test('focuses, filters, sorts, quits', () => {
    expect(line('feeders', 'enter').focus).toBe('feeders');
    expect(line('ps', 'enter').focus).toBe('processes');
    expect(line('filter llama', 'enter').filter).toBe('llama');
    expect(line('sort pid', 'enter').sort.processes.column).toBe(0);
    expect(line('q', 'enter').quit).toBe(true);
    expect(line('qq', 'enter')).toMatchObject({ quit: false, flash: { bad: true } });
  });

  test('acts through the same dialog', () => {
    expect(line('drain anvil', 'enter').dialog).toMatchObject({
      action: 'drain',
      phase: 'planning',
    });
    expect(line('evict 48123 1GiB', 'enter').requests).toMatchObject([{ bytes: 2 ** 30 }]);
    expect(line('evict 48123 lots', 'enter')).toMatchObject({ dialog: null, flash: { bad: true } });
    expect(line('drain nobody', 'enter').flash?.text).toContain('nobody is none');
  });

  test('Tab completes commands, feeders and pids as far as they are one', () => {
    expect(line('dr', 'tab').prompt?.text).toBe('drain ');
    expect(line('drain k', 'tab').prompt?.text).toBe('drain kiln');
    expect(line('evict 4', 'tab').prompt?.text).toBe('evict 48123');
    expect(line('xyz', 'tab').prompt?.text).toBe('xyz');
  });

  test('Escape leaves it, and letters are text', () => {
    expect(line('q', 'escape')).toMatchObject({ prompt: null, quit: false });
  });
});
