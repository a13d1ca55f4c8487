// SPDX-License-Identifier: Apache-2.0
// The one table of what the screen can do to the cluster. Keys, commands, help and dialogs are made from it; with
// `readonly` it is empty.
import type { ActionName } from './plans.js';
import { activeRow, markedRows } from './selection.js';
import {
  flashed,
  JOBS_MAX,
  shownPicture,
  type Dialog,
  type Target,
  type UiState,
} from './state.js';

export interface UiAction {
  readonly id: ActionName;
  /** Upper case acts; null: reached by the key of its opposite. */
  readonly key: string | null;
  readonly appliesTo: 'feeder' | 'process';
  /** On the button and in sentences. */
  readonly verb: string;
  readonly help: string;
}

export const ACTIONS: readonly UiAction[] = [
  {
    id: 'drain',
    key: 'D',
    appliesTo: 'feeder',
    verb: 'Drain',
    help: 'move what a feeder holds to others (again: give it up)',
  },
  {
    id: 'pause',
    key: 'P',
    appliesTo: 'feeder',
    verb: 'Pause',
    help: 'place nothing new on a feeder (again: resume)',
  },
  {
    id: 'resume',
    key: null,
    appliesTo: 'feeder',
    verb: 'Resume',
    help: 'place on a feeder again',
  },
  {
    id: 'evict',
    key: 'E',
    appliesTo: 'process',
    verb: 'Evict',
    help: 'move VRAM of a process to RAM',
  },
  {
    id: 'disconnect',
    key: 'X',
    appliesTo: 'feeder',
    verb: 'Disconnect',
    help: 'empty a feeder and leave it',
  },
];

/** What may be done here. */
export function actionsOf(state: Pick<UiState, 'readonly'>): readonly UiAction[] {
  return state.readonly ? [] : ACTIONS;
}

export function actionNamed(id: ActionName): UiAction {
  return ACTIONS.find((action) => action.id === id) as UiAction;
}

/** Why no action can begin now; null: one can. */
export function actionsOff(state: UiState): string | null {
  if (state.connection.t === 'connecting') return 'the agent has not answered yet';
  if (state.connection.t === 'away') return 'no agent answers: actions are off';
  return state.jobs.size >= JOBS_MAX ? `${JOBS_MAX} actions are under way` : null;
}

/** Sets out to do `id`: asks the agent for its plan and opens the dialog, which starts on Cancel. */
export function beginAction(
  state: UiState,
  id: ActionName,
  target: Target | null,
  options: {
    readonly bytes?: number;
    readonly note?: string;
    readonly rest?: readonly Target[];
  } = {},
): UiState {
  const action = actionsOf(state).find((candidate) => candidate.id === id);
  if (!action) return state;
  const off = actionsOff(state);
  if (off) return flashed(state, off, true);
  if (target?.kind !== action.appliesTo)
    return flashed(state, `${action.verb}: select a ${action.appliesTo} first`, true);
  const bytes = options.bytes ?? 0;
  const dialog: Dialog = {
    action: id,
    target,
    phase: 'planning',
    requestId: state.nextRequestId,
    plan: null,
    button: 0,
    bytes,
    typed: null,
    note: options.note ?? '',
    rest: options.rest ?? [],
    picture: shownPicture(state),
  };
  return {
    ...state,
    dialog,
    help: false,
    prompt: null,
    nextRequestId: state.nextRequestId + 1,
    requests: [
      ...state.requests,
      { t: 'plan', id: dialog.requestId, action: id, target, bytes: dialog.bytes },
    ],
  };
}

/** Gives up a drain that was begun here. */
function giveUp(state: UiState, jobId: number, target: Target): UiState {
  const said = flashed(state, `${target.name}: giving the drain up; what has moved stays moved`);
  return { ...said, requests: [...said.requests, { t: 'cancel', id: jobId }] };
}

/** A key of the table, on the marked rows, one after the other, or on the selected one. */
export function actByKey(state: UiState, action: UiAction): UiState {
  const [marked, ...rest] = markedRows(state);
  return actOn(state, action, marked ?? activeRow(state), rest);
}

/** Pausing again resumes, draining again gives up. */
function actOn(
  state: UiState,
  action: UiAction,
  target: Target | null,
  rest: readonly Target[],
): UiState {
  if (target?.kind !== 'feeder' || action.appliesTo !== 'feeder')
    return beginAction(state, action.id, target, { bytes: firstAmount(state, target), rest });
  const link = shownPicture(state)?.snapshot.links.find(
    ({ feederId, address }) => (feederId || address) === target.id,
  );
  const own = [...state.jobs].find(
    ([, job]) => job.action === 'drain' && job.target.id === target.id,
  );
  if (action.id === 'drain' && own) return giveUp(state, own[0], target);
  if (action.id === 'drain' && link?.drain)
    return flashed(
      state,
      `${target.name}: somebody else drains it; Ctrl-C there gives it up`,
      true,
    );
  const id = action.id === 'pause' && link?.paused ? 'resume' : action.id;
  return beginAction(state, id, target, { rest });
}

/** The next of the marked rows has its turn, with a plan and a dialog of its own. */
export function beginNext(state: UiState, { action, rest }: Dialog): UiState {
  const [target, ...others] = rest;
  const same = actionNamed(action === 'resume' ? 'pause' : action);
  return target ? actOn(state, same, target, others) : state;
}

/** An eviction begins with half of what the process has in VRAM. */
function firstAmount(state: UiState, target: Target | null): number {
  const from = shownPicture(state)?.snapshot.attachments.find(
    ({ attachmentId }) => attachmentId === target?.id,
  );
  return from ? Math.ceil(from.vramUsedBytes / 2) : 0;
}
