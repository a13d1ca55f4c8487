// SPDX-License-Identifier: Apache-2.0
// What each key does, as one table that the help screen is drawn from. Lower case looks, upper case acts.
import { actByKey, actionsOf, actionsOff } from './actions.js';
import { completed, quitting, runCommand } from './commands.js';
import { askedAgain, openDetail, scrollDetail, toggleJson } from './detail.js';
import { onDialogKey } from './dialog.js';
import { FEEDER_SORTS, PROCESS_SORTS } from './rows.js';
import { activeRow, isList, markedRows, moveSelection, toggleMark } from './selection.js';
import { asking, PANELS, PROMPT_CHARACTERS_MAX, type Prompt, type UiState } from './state.js';

export interface KeyBinding {
  /** Names as the terminal layer gives them: a character, or `up`, `tab`, `S-tab`, `escape`, `enter`, … */
  readonly keys: readonly string[];
  readonly label: string;
  readonly help: string;
  /** Why the key does nothing here; null: it works. */
  readonly off?: (state: UiState) => string | null;
  readonly run: (state: UiState) => UiState;
}

const ALL_ROWS = 1e6;

function moveFocus(state: UiState, step: number): UiState {
  const index = (PANELS.indexOf(state.focus) + step + PANELS.length) % PANELS.length;
  return { ...state, focus: PANELS[index] ?? 'processes' };
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

/** One step back, and never out. */
function escape(state: UiState): UiState {
  if (state.detail) return { ...state, detail: null };
  if (state.flash) return { ...state, flash: null, quitAsked: false };
  if (state.zoom) return { ...state, zoom: false };
  if (state.marks.size > 0) return { ...state, marks: new Set() };
  if (state.filter !== '') return { ...state, filter: '' };
  if (state.frozen) return { ...state, frozen: null };
  return state;
}

function eventsOfRow(state: UiState): UiState {
  const target = activeRow(state);
  if (!target || target.kind === 'tier') return state;
  const word = target.kind === 'process' ? String(target.pid) : target.name;
  return { ...state, detail: null, focus: 'events', filter: word };
}

const onlyLists = (state: UiState): string | null => (isList(state.focus) ? null : 'not a list');
const onlySorted = (state: UiState): string | null =>
  sortable(state) ? null : 'feeders and processes';
const onlyMarkable = (state: UiState): string | null =>
  sortable(state) && !state.detail && activeRow(state) ? null : 'select a feeder or a process';
const onlyRows = (state: UiState): string | null =>
  activeRow(state) ? null : 'select a tier, a feeder or a process';

/** In a detail view the keys of a list scroll. */
function moves(step: number): (state: UiState) => UiState {
  return (state) =>
    state.detail ? scrollDetail(state, state.detail, step) : moveSelection(state, step);
}

const PANEL_KEYS: readonly KeyBinding[] = [
  ...PANELS.map((panel, index): KeyBinding => ({
    keys: [String(index + 1)],
    label: '1-5',
    help: 'focus a panel',
    run: (state) => ({ ...state, focus: panel, detail: null }),
  })),
  { keys: ['tab'], label: 'Tab', help: 'next panel', run: (state) => moveFocus(state, 1) },
  { keys: ['S-tab'], label: 'S-Tab', help: 'panel before', run: (state) => moveFocus(state, -1) },
];

const ROW_KEYS: readonly KeyBinding[] = [
  { keys: ['down', 'j'], label: 'down j', help: 'next row', off: onlyLists, run: moves(1) },
  { keys: ['up', 'k'], label: 'up k', help: 'row before', off: onlyLists, run: moves(-1) },
  { keys: ['pagedown'], label: 'PgDn', help: 'ten rows on', off: onlyLists, run: moves(10) },
  { keys: ['pageup'], label: 'PgUp', help: 'ten rows back', off: onlyLists, run: moves(-10) },
  { keys: ['g', 'home'], label: 'g', help: 'first row', off: onlyLists, run: moves(-ALL_ROWS) },
  {
    keys: ['S-g', 'G', 'end'],
    label: 'G',
    help: 'last row',
    off: onlyLists,
    run: moves(ALL_ROWS),
  },
  {
    keys: ['enter'],
    label: 'Enter',
    help: 'detail of the row',
    off: onlyRows,
    run: (state) => openDetail(state),
  },
  {
    keys: ['space'],
    label: 'Space',
    help: 'mark the row; actions are about the marked ones then',
    off: onlyMarkable,
    run: (state) => (onlyMarkable(state) ? state : toggleMark(state)),
  },
  { keys: ['y'], label: 'y', help: 'the row as JSON', off: onlyRows, run: toggleJson },
  { keys: ['l'], label: 'l', help: 'events of the row', off: onlyRows, run: eventsOfRow },
  {
    keys: ['s', '>', 'f6'],
    label: 's >',
    help: 'sort by the next column',
    off: onlySorted,
    run: (state) => moveSort(state, 1),
  },
  {
    keys: ['<'],
    label: '<',
    help: 'sort by the column before',
    off: onlySorted,
    run: (state) => moveSort(state, -1),
  },
  { keys: ['-'], label: '-', help: 'reverse the order', off: onlySorted, run: reverseSort },
];

const SCREEN_KEYS: readonly KeyBinding[] = [
  {
    keys: ['/'],
    label: '/',
    help: 'filter: words, !word, state:stale, tier:vram',
    run: (state) => ({ ...state, prompt: { kind: 'filter', text: state.filter } }),
  },
  {
    keys: [':'],
    label: ':',
    help: 'a command; Tab completes',
    run: (state) => ({ ...state, prompt: { kind: 'command', text: '' } }),
  },
  {
    keys: ['z'],
    label: 'z',
    help: 'freeze the picture, data keeps arriving',
    run: (state) => ({ ...state, frozen: state.frozen ? null : state.latest }),
  },
  {
    keys: ['f'],
    label: 'f',
    help: 'follow the selected row, or keep its place on the screen',
    run: (state) => ({ ...state, follow: !state.follow }),
  },
  {
    keys: ['w'],
    label: 'w',
    help: 'the columns of wide screens',
    run: (state) => ({ ...state, wide: !state.wide }),
  },
  {
    keys: ['v'],
    label: 'v',
    help: 'the focused panel alone',
    run: (state) => ({ ...state, zoom: !state.zoom }),
  },
  {
    keys: ['r', 'f5'],
    label: 'r',
    help: 'ask the agent now',
    run: (state) => askedAgain(asking(state, { t: 'refresh' })),
  },
  { keys: ['escape'], label: 'Esc', help: 'one step back; never quits', run: escape },
  {
    keys: ['?', 'h', 'f1'],
    label: '?',
    help: 'this help',
    run: (state) => ({ ...state, help: true }),
  },
  { keys: ['q', 'C-c', 'f10'], label: 'q', help: 'quit', run: quitting },
];

/** Every key that exists in this state; with `readonly` none that acts. */
export function keyBindings(state: UiState): readonly KeyBinding[] {
  const acting = actionsOf(state).flatMap((action): KeyBinding[] =>
    action.key === null
      ? []
      : [
          {
            keys: [action.key],
            label: action.key,
            help: action.help,
            off: (now) =>
              actionsOff(now) ??
              ((markedRows(now)[0] ?? activeRow(now))?.kind === action.appliesTo
                ? null
                : `select a ${action.appliesTo}`),
            run: (now) => actByKey(now, action),
          },
        ],
  );
  return [...PANEL_KEYS, ...ROW_KEYS, ...acting, ...SCREEN_KEYS];
}

function onPromptKey(state: UiState, prompt: Prompt, key: string): UiState {
  const isFilter = prompt.kind === 'filter';
  const typed = (text: string): UiState => ({ ...state, prompt: { ...prompt, text } });
  if (key === 'C-c') return { ...state, quit: true };
  if (key === 'escape') return { ...state, prompt: null, ...(isFilter ? { filter: '' } : {}) };
  if (key === 'enter') {
    const done = { ...state, prompt: null };
    return isFilter ? { ...done, filter: prompt.text.trim() } : runCommand(done, prompt.text);
  }
  if (key === 'backspace') return typed([...prompt.text].slice(0, -1).join(''));
  if (key === 'tab') return isFilter ? state : typed(completed(state, prompt.text));
  const character = key === 'space' ? ' ' : key;
  const fits = [...character].length === 1 && prompt.text.length < PROMPT_CHARACTERS_MAX;
  return fits ? typed(prompt.text + character) : state;
}

/** One key. It belongs to the dialog, else to what is being typed, else to help, which any key closes. */
export function onKey(state: UiState, key: string): UiState {
  if (state.dialog) {
    return key === 'C-c'
      ? quitting({ ...state, dialog: null })
      : onDialogKey(state, state.dialog, key);
  }
  if (state.prompt) return onPromptKey(state, state.prompt, key);
  const binding = keyBindings(state).find(({ keys }) => keys.includes(key));
  if (state.help)
    return binding?.keys.includes('q') ? binding.run(state) : { ...state, help: false };
  if (!binding) return state;
  return binding.run(binding.keys.includes('q') ? state : { ...state, quitAsked: false });
}
