// SPDX-License-Identifier: Apache-2.0
// Enter opens a row, Esc closes it. What is shown is found by identity in the newest picture; a subject that has gone
// stays named.
import { activeRow } from './selection.js';
import { asking, linkIdentity, shownPicture, type Detail, type UiState } from './state.js';
import type { AttachmentJson } from './attachments.js';
import type { LinkJson } from './links.js';
import type { TierJson } from './snapshot.js';
import { tierIdentity, tiersOf } from './tiers.js';

const SCROLL_MAX = 10_000;

/** Opens the selected row; `json`: as the record that `--json` prints. Events and plots have no more to tell. */
export function openDetail(state: UiState, json = false): UiState {
  const target = activeRow(state);
  if (!target) return state;
  const detail: Detail = { target, scroll: 0, json, explain: null };
  return askedAgain({ ...state, detail });
}

/** Of an open process, its ranges too. */
export function askedAgain(state: UiState): UiState {
  const target = state.detail?.target;
  return target?.kind === 'process' ? asking(state, { t: 'explain', pid: target.pid }) : state;
}

/** Moves what is shown by `step` lines; the view stops at the last one. */
export function scrollDetail(state: UiState, detail: Detail, step: number): UiState {
  const scroll = Math.min(SCROLL_MAX, Math.max(0, detail.scroll + step));
  return { ...state, detail: { ...detail, scroll } };
}

/** Switches between description and record. */
export function toggleJson(state: UiState): UiState {
  const { detail } = state;
  if (!detail) return openDetail(state, true);
  return { ...state, detail: { ...detail, json: !detail.json, scroll: 0 } };
}

export function linkOf(state: UiState, id: string): LinkJson | undefined {
  return shownPicture(state)?.snapshot.links.find((link) => linkIdentity(link) === id);
}

export function attachmentOf(state: UiState, id: string): AttachmentJson | undefined {
  return shownPicture(state)?.snapshot.attachments.find((from) => from.attachmentId === id);
}

export function tierOf(state: UiState, id: string): TierJson | undefined {
  const snapshot = shownPicture(state)?.snapshot;
  return snapshot && tiersOf(snapshot).find((tier) => tierIdentity(tier) === id);
}

/** The record behind a detail view; undefined: it has gone. */
export function recordOf(state: UiState, { target }: Detail): unknown {
  if (target.kind === 'feeder') return linkOf(state, target.id);
  if (target.kind === 'process') return attachmentOf(state, target.id);
  return tierOf(state, target.id);
}
