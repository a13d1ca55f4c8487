// SPDX-License-Identifier: Apache-2.0
// What each key does, as one table that the help screen is drawn from.
import { FEEDER_SORTS, PROCESS_SORTS, rowIdentities } from './rows.js';
import {
  FILTER_CHARACTERS_MAX,
  PANELS,
  type ListName,
  type PanelName,
  type UiState,
} from './state.js';

export interface KeyBinding {
  /** Names as the terminal layer gives them: a character, or `up`, `tab`, `S-tab`, `escape`, `enter`, … */
  readonly keys: readonly string[];
  readonly label: string;
  readonly help: string;
  readonly run: (state: UiState) => UiState;
}

function isList(panel: PanelName): panel is ListName {
  return panel === 'feeders' || panel === 'processes' || panel === 'events';
}

function moveFocus(state: UiState, step: number): UiState {
  const index = (PANELS.indexOf(state.focus) + step + PANELS.length) % PANELS.length;
  return { ...state, focus: PANELS[index] ?? 'processes' };
}

function moveSelection(state: UiState, step: number): UiState {
  if (!isList(state.focus)) return state;
  const rows = rowIdentities(state, state.focus);
  if (rows.length === 0) return state;
  const current = rows.indexOf(state.selected[state.focus] ?? '');
  // Without a selection, down begins above the first row and up below the last.
  const from = current >= 0 ? current : step > 0 ? -1 : rows.length;
  const index = from + step;
  const bounded = Math.min(rows.length - 1, Math.max(0, index));
  return { ...state, selected: { ...state.selected, [state.focus]: rows[bounded] ?? null } };
}

function sortable(state: UiState): 'feeders' | 'processes' | null {
  return state.focus === 'feeders' || state.focus === 'processes' ? state.focus : null;
}

function moveSort(state: UiState, step: number): UiState {
  const list = sortable(state);
  if (!list) return state;
  const count = (list === 'feeders' ? FEEDER_SORTS : PROCESS_SORTS).length;
  const column = (state.sort[list].column + step + count) % count;
  return {
    ...state,
    sort: { ...state.sort, [list]: { column, reverse: state.sort[list].reverse } },
  };
}

function reverseSort(state: UiState): UiState {
  const list = sortable(state);
  if (!list) return state;
  const order = state.sort[list];
  return { ...state, sort: { ...state.sort, [list]: { ...order, reverse: !order.reverse } } };
}

function escape(state: UiState): UiState {
  if (state.filter !== '') return { ...state, filter: '' };
  if (state.frozen) return { ...state, frozen: null };
  return state;
}

const focusBindings: KeyBinding[] = PANELS.map((panel, index) => ({
  keys: [String(index + 1)],
  label: '1-5',
  help: 'focus a panel',
  run: (state) => ({ ...state, focus: panel }),
}));

export const KEY_BINDINGS: readonly KeyBinding[] = [
  ...focusBindings,
  { keys: ['tab'], label: 'Tab', help: 'next panel', run: (state) => moveFocus(state, 1) },
  { keys: ['S-tab'], label: 'S-Tab', help: 'panel before', run: (state) => moveFocus(state, -1) },
  {
    keys: ['down', 'j'],
    label: 'down j',
    help: 'next row',
    run: (state) => moveSelection(state, 1),
  },
  {
    keys: ['up', 'k'],
    label: 'up k',
    help: 'row before',
    run: (state) => moveSelection(state, -1),
  },
  {
    keys: ['pagedown'],
    label: 'PgDn',
    help: 'ten rows on',
    run: (state) => moveSelection(state, 10),
  },
  {
    keys: ['pageup'],
    label: 'PgUp',
    help: 'ten rows back',
    run: (state) => moveSelection(state, -10),
  },
  {
    keys: ['g', 'home'],
    label: 'g',
    help: 'first row',
    run: (state) => moveSelection(state, -1e6),
  },
  {
    keys: ['S-g', 'G', 'end'],
    label: 'G',
    help: 'last row',
    run: (state) => moveSelection(state, 1e6),
  },
  {
    keys: ['s', '>'],
    label: 's >',
    help: 'sort by the next column',
    run: (state) => moveSort(state, 1),
  },
  {
    keys: ['<'],
    label: '<',
    help: 'sort by the column before',
    run: (state) => moveSort(state, -1),
  },
  { keys: ['-'], label: '-', help: 'reverse the order', run: reverseSort },
  {
    keys: ['/'],
    label: '/',
    help: 'filter: words, !word, state:ready',
    run: (state) => ({ ...state, prompt: state.filter }),
  },
  {
    keys: ['f', 'z'],
    label: 'f',
    help: 'freeze the picture, data keeps arriving',
    run: (state) => ({ ...state, frozen: state.frozen ? null : state.latest }),
  },
  { keys: ['escape'], label: 'Esc', help: 'clear filter, unfreeze; never quits', run: escape },
  {
    keys: ['?', 'h', 'f1'],
    label: '?',
    help: 'this help',
    run: (state) => ({ ...state, help: true }),
  },
  {
    keys: ['q', 'C-c', 'f10'],
    label: 'q',
    help: 'quit',
    run: (state) => ({ ...state, quit: true }),
  },
];

const BY_KEY: ReadonlyMap<string, KeyBinding> = new Map(
  KEY_BINDINGS.flatMap((binding) => binding.keys.map((key) => [key, binding] as const)),
);

function onPromptKey(state: UiState, prompt: string, key: string): UiState {
  if (key === 'C-c') return { ...state, quit: true };
  if (key === 'escape') return { ...state, prompt: null, filter: '' };
  if (key === 'enter') return { ...state, prompt: null, filter: prompt.trim() };
  if (key === 'backspace') return { ...state, prompt: prompt.slice(0, -1) };
  const character = key === 'space' ? ' ' : key;
  const fits = [...character].length === 1 && prompt.length < FILTER_CHARACTERS_MAX;
  return fits ? { ...state, prompt: prompt + character } : state;
}

/** One key. While the filter is typed, characters belong to it; on the help screen any key closes it. */
export function onKey(state: UiState, key: string): UiState {
  if (state.prompt !== null) return onPromptKey(state, state.prompt, key);
  const binding = BY_KEY.get(key);
  if (state.help)
    return binding?.keys.includes('q') ? { ...state, quit: true } : { ...state, help: false };
  return binding ? binding.run(state) : state;
}
