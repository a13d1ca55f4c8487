// SPDX-License-Identifier: Apache-2.0
// The question before an action: the agent's plan, and buttons of which the first is Cancel and has the focus. A plan
// holds in one epoch; when the agent refuses it for another, the dialog is built anew and starts on Cancel again.
import { actionNamed, beginAction, beginNext } from './actions.js';
import { asking, flashed, type Dialog, type UiState } from './state.js';

export type Button = 'Cancel' | 'Close' | 'Act' | 'Drain' | 'Force';

/** What can be pressed. Losing bytes is never the first thing offered. */
export function buttonsOf({ phase, plan, action, typed }: Dialog): readonly Button[] {
  if (phase === 'sent' || phase === 'failed') return ['Close'];
  if (phase === 'planning' || !plan || typed !== null) return ['Cancel'];
  if (plan.refusal === null) return ['Cancel', 'Act'];
  return action === 'disconnect' ? ['Cancel', 'Drain', 'Force'] : ['Cancel'];
}

/** As it stands on the button. */
export function buttonLabel(button: Button, { action }: Dialog): string {
  return button === 'Act' ? actionNamed(action).verb : button;
}

function closed(state: UiState): UiState {
  return { ...state, dialog: null };
}

function act(state: UiState, dialog: Dialog, force: boolean): UiState {
  const { action, target, bytes, plan } = dialog;
  if (!plan) return state;
  const id = state.nextRequestId;
  const sent: UiState = {
    ...state,
    marks: new Set([...state.marks].filter((mark) => mark !== target.id)),
    dialog: { ...dialog, phase: 'sent', requestId: id, typed: null, button: 0, note: '' },
    nextRequestId: id + 1,
    jobs: new Map([...state.jobs, [id, { action, target }]]),
  };
  return asking(sent, { t: 'act', id, action, target, bytes, epoch: plan.epoch, force });
}

function press(state: UiState, dialog: Dialog): UiState {
  switch (buttonsOf(dialog)[dialog.button]) {
    case 'Act':
      return act(state, dialog, false);
    case 'Drain':
      return beginAction(closed(state), 'drain', dialog.target, { rest: dialog.rest });
    case 'Force':
      return { ...state, dialog: { ...dialog, typed: '', button: 0 } };
    default:
      return closed(state);
  }
}

/** While bytes would be lost: the feeder's name has to be typed, whole. */
function onTyping(state: UiState, dialog: Dialog, typed: string, key: string): UiState {
  const withTyped = (text: string | null, note = ''): UiState => ({
    ...state,
    dialog: { ...dialog, typed: text, note },
  });
  if (key === 'escape') return withTyped(null);
  if (key === 'backspace') return withTyped([...typed].slice(0, -1).join(''));
  if (key === 'enter') {
    if (typed === dialog.target.name) return act(state, dialog, true);
    return withTyped(typed, `that is not ${dialog.target.name}`);
  }
  const character = key === 'space' ? ' ' : key;
  const fits = [...character].length === 1 && typed.length <= dialog.target.name.length;
  return fits ? withTyped(typed + character) : state;
}

/** More or less of what a process has in VRAM, in quarters of it; the plan is asked for again. */
function withAmount(state: UiState, dialog: Dialog, step: number): UiState {
  const held = dialog.plan?.programs[0]?.bytes ?? 0;
  if (dialog.action !== 'evict' || held === 0) return state;
  const quarter = Math.min(4, Math.max(1, Math.round((dialog.bytes * 4) / held) + step));
  const bytes = quarter === 4 ? held : Math.ceil((held * quarter) / 4);
  return beginAction(closed(state), 'evict', dialog.target, { bytes, rest: dialog.rest });
}

/** One key of a dialog; none reaches what lies behind it. */
export function onDialogKey(state: UiState, dialog: Dialog, key: string): UiState {
  if (dialog.typed !== null) return onTyping(state, dialog, dialog.typed, key);
  const count = buttonsOf(dialog).length;
  const move = (step: number): UiState => ({
    ...state,
    dialog: { ...dialog, button: (dialog.button + step + count) % count },
  });
  switch (key) {
    case 'escape':
    case 'q':
      return closed(state);
    case 'enter':
      return press(state, dialog);
    case 'tab':
    case 'right':
      return move(1);
    case 'S-tab':
    case 'left':
      return move(-1);
    case '+':
      return withAmount(state, dialog, 1);
    case '-':
      return withAmount(state, dialog, -1);
    default:
      return state;
  }
}

function withoutJob(state: UiState, id: number): UiState {
  const jobs = new Map([...state.jobs].filter(([known]) => known !== id));
  return { ...state, jobs };
}

/** The agent's plan. One that is not waited for any more changes nothing. */
export function onPlanned(state: UiState, id: number, plan: NonNullable<Dialog['plan']>): UiState {
  const { dialog } = state;
  if (dialog?.requestId !== id || dialog.phase !== 'planning') return state;
  return { ...state, dialog: { ...dialog, phase: 'ready', plan, button: 0 } };
}

/** The action has begun and takes its time: its row tells the rest. */
export function onBegun(state: UiState, id: number): UiState {
  const job = state.jobs.get(id);
  if (!job) return state;
  const text = `${job.target.name}: ${job.action} is under way`;
  return flashed(withoutDialog(state, id), text);
}

/** The dialog has done its work: the next marked row's comes. */
function withoutDialog(state: UiState, id: number): UiState {
  const { dialog } = state;
  return dialog?.requestId === id ? beginNext(closed(state), dialog) : state;
}

/** The action is done. */
export function onDone(state: UiState, id: number, text: string): UiState {
  return flashed(withoutJob(withoutDialog(state, id), id), text);
}

/** A plan or an action was refused. One for another epoch is planned again; the target stays the same. */
export function onRefused(state: UiState, id: number, code: string, text: string): UiState {
  const job = state.jobs.get(id);
  const rest = withoutJob(state, id);
  const { dialog } = rest;
  if (dialog?.requestId !== id) {
    return job ? flashed(rest, `${job.target.name}: ${text}`, code !== 'CANCELED') : rest;
  }
  if (code === 'EPOCH_STALE' && dialog.phase === 'sent') {
    const note = 'the cluster has changed meanwhile: this is the plan now';
    const again = beginAction(closed(rest), dialog.action, dialog.target, {
      bytes: dialog.bytes,
      note,
      rest: dialog.rest,
    });
    return again.dialog
      ? { ...again, dialog: { ...again.dialog, picture: dialog.picture } }
      : again;
  }
  return { ...rest, dialog: { ...dialog, phase: 'failed', note: text, button: 0 } };
}
