// SPDX-License-Identifier: Apache-2.0
// What can be typed after `:`; Tab completes. Commands that act are the table of actions, so that `readonly` has none.
import { GbError } from '../../proto/base/errors.js';
import { parseBytes } from '../../proto/base/units.js';
import { actionsOf, beginAction } from './actions.js';
import { FEEDER_SORTS, PROCESS_SORTS } from './rows.js';
import {
  asking,
  flashed,
  linkIdentity,
  PANELS,
  shownPicture,
  type Target,
  type UiState,
} from './state.js';

export interface UiCommand {
  readonly names: readonly string[];
  readonly argument: string;
  readonly help: string;
  readonly run: (state: UiState, argument: string) => UiState;
}

function sortBy(state: UiState, word: string): UiState {
  const list = state.focus === 'feeders' ? 'feeders' : 'processes';
  const sorts: readonly { readonly title: string }[] =
    list === 'feeders' ? FEEDER_SORTS : PROCESS_SORTS;
  const column = sorts.findIndex(({ title }) => title === word.toUpperCase());
  const titles = sorts.map(({ title }) => title).join(' ');
  if (column < 0) return flashed(state, `:sort takes one of ${titles}`, true);
  const { reverse } = state.sort[list];
  return { ...state, sort: { ...state.sort, [list]: { column, reverse } } };
}

const LOOKING: readonly UiCommand[] = [
  ...PANELS.map((panel): UiCommand => ({
    names: panel === 'processes' ? ['processes', 'ps'] : [panel],
    argument: '',
    help: 'focus that panel',
    run: (state) => ({ ...state, focus: panel, detail: null }),
  })),
  {
    names: ['filter'],
    argument: 'WORDS',
    help: 'as / does',
    run: (state, words) => ({ ...state, filter: words, detail: null }),
  },
  { names: ['sort'], argument: 'COLUMN', help: 'of the focused panel', run: sortBy },
  {
    names: ['freeze'],
    argument: '',
    help: 'as z does',
    run: (state) => ({ ...state, frozen: state.frozen ? null : state.latest }),
  },
  {
    names: ['refresh'],
    argument: '',
    help: 'ask the agent now',
    run: (state) => asking(state, { t: 'refresh' }),
  },
  { names: ['help'], argument: '', help: 'as ? does', run: (state) => ({ ...state, help: true }) },
  { names: ['quit', 'q'], argument: '', help: 'as q does', run: quitting },
];

/** q: at once, unless drains that were begun here would end with the screen. */
export function quitting(state: UiState): UiState {
  const drains = [...state.jobs.values()].filter(({ action }) => action === 'drain');
  if (drains.length === 0 || state.quitAsked) return { ...state, quit: true };
  const names = drains.map(({ target }) => target.name).join(', ');
  const text = `the drain of ${names} ends with this screen; q once more quits`;
  return { ...flashed(state, text, true), quitAsked: true };
}

function feederNamed(state: UiState, word: string): Target | null {
  const link = shownPicture(state)?.snapshot.links.find((candidate) =>
    [candidate.feederName, candidate.feederId, candidate.address].includes(word),
  );
  if (!link) return null;
  return { kind: 'feeder', id: linkIdentity(link), name: link.feederName || link.feederId };
}

function processOf(state: UiState, word: string): Target | null {
  const from = shownPicture(state)?.snapshot.attachments.find(({ pid }) => String(pid) === word);
  return from
    ? { kind: 'process', id: from.attachmentId, pid: from.pid, name: `pid ${from.pid}` }
    : null;
}

function acting(state: UiState): UiCommand[] {
  return actionsOf(state).map(({ id, appliesTo, help }) => ({
    names: [id],
    argument: appliesTo === 'feeder' ? 'FEEDER' : 'PID [SIZE]',
    help,
    run: (now, argument) => {
      const [word = '', size] = argument.split(/\s+/);
      const find = appliesTo === 'feeder' ? feederNamed : processOf;
      const target = find(now, word);
      if (!target) return flashed(now, `:${id} takes a ${appliesTo}: ${word} is none`, true);
      const bytes = bytesOf(size);
      return typeof bytes === 'string'
        ? flashed(now, bytes, true)
        : beginAction(now, id, target, { bytes });
    },
  }));
}

/** None: all of it. A sentence when it is no size. */
function bytesOf(size: string | undefined): number | string {
  try {
    return size === undefined ? 0 : parseBytes(size);
  } catch (reason) {
    return GbError.from(reason).rawMessage;
  }
}

export function commandsOf(state: UiState): readonly UiCommand[] {
  return [...LOOKING, ...acting(state)];
}

/** Carries a typed line out. */
export function runCommand(state: UiState, line: string): UiState {
  const [word = '', ...rest] = line.trim().split(/\s+/);
  if (word === '') return state;
  const command = commandsOf(state).find(({ names }) => names.includes(word));
  return command
    ? command.run(state, rest.join(' '))
    : flashed(state, `no command :${word}; ? lists them`, true);
}

/** What Tab makes of a line: the longest beginning that all fitting words share. */
export function completed(state: UiState, line: string): string {
  const space = line.lastIndexOf(' ');
  const begun = line.slice(space + 1);
  const words =
    space < 0 ? commandsOf(state).flatMap(({ names }) => names) : argumentWords(state, line);
  const fitting = words.filter((word) => word.startsWith(begun));
  const [first] = fitting;
  if (first === undefined) return line;
  let shared = first;
  for (const word of fitting) while (!word.startsWith(shared)) shared = shared.slice(0, -1);
  return line.slice(0, space + 1) + shared + (fitting.length === 1 && space < 0 ? ' ' : '');
}

function argumentWords(state: UiState, line: string): string[] {
  const snapshot = shownPicture(state)?.snapshot;
  const [word = ''] = line.split(/\s+/);
  if (word === 'sort') {
    const sorts: readonly { readonly title: string }[] =
      state.focus === 'feeders' ? FEEDER_SORTS : PROCESS_SORTS;
    return sorts.map(({ title }) => title.toLowerCase());
  }
  const action = actionsOf(state).find(({ id }) => id === word);
  if (!action || !snapshot) return [];
  return action.appliesTo === 'feeder'
    ? snapshot.links.map(({ feederName }) => feederName)
    : snapshot.attachments.map(({ pid }) => String(pid));
}
