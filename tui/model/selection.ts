// SPDX-License-Identifier: Apache-2.0
// Which row is meant: selections are identities, so that an action never hits the row that has just moved there.
import { feederRows, processRows, rowIdentities, tierRows } from './rows.js';
import {
  attachmentIdentity,
  linkIdentity,
  type ListName,
  type PanelName,
  type Target,
  type UiState,
} from './state.js';
import { tierIdentity } from './tiers.js';

export function isList(panel: PanelName): panel is ListName {
  return panel !== 'throughput';
}

function feederTargets(state: UiState): Target[] {
  return feederRows(state).map((link) => ({
    kind: 'feeder',
    id: linkIdentity(link),
    name: link.feederName || link.feederId,
  }));
}

function processTargets(state: UiState): Target[] {
  return processRows(state).map((from) => ({
    kind: 'process',
    id: attachmentIdentity(from),
    pid: from.pid,
    name: `pid ${from.pid}`,
  }));
}

/** The marked rows of the focused list that are there and pass the filter, in their order. */
export function markedRows(state: UiState): Target[] {
  const { focus, marks, detail } = state;
  if (detail || marks.size === 0) return [];
  const targets =
    focus === 'feeders' ? feederTargets(state) : focus === 'processes' ? processTargets(state) : [];
  return targets.filter(({ id }) => marks.has(id));
}

/** Marks the selected row, or takes its mark back, and goes on to the next. */
export function toggleMark(state: UiState): UiState {
  const target = activeRow(state);
  if (!target || target.kind === 'tier') return state;
  const marks = new Set(state.marks);
  if (!marks.delete(target.id)) marks.add(target.id);
  return moveSelection({ ...state, marks }, 1);
}

/** What an action or Enter is about: the open detail view's subject, else the selected row; null: none. */
export function activeRow(state: UiState): Target | null {
  if (state.detail) return state.detail.target;
  const { focus } = state;
  const id = isList(focus) ? state.selected[focus] : null;
  if (id === null) return null;
  if (focus === 'feeders') return feederTargets(state).find((target) => target.id === id) ?? null;
  if (focus === 'processes')
    return processTargets(state).find((target) => target.id === id) ?? null;
  if (focus === 'tiers') {
    const tier = tierRows(state).find((row) => tierIdentity(row) === id);
    return tier ? { kind: 'tier', id, name: tier.name } : null;
  }
  return null;
}

/** Moves the selection of the focused list by `step` rows; it stops at both ends. */
export function moveSelection(state: UiState, step: number): UiState {
  const { focus } = state;
  if (!isList(focus)) return state;
  const rows = rowIdentities(state, focus);
  if (rows.length === 0) return state;
  const current = rows.indexOf(state.selected[focus] ?? '');
  // Without a selection, down begins above the first row and up below the last.
  const from = current >= 0 ? current : step > 0 ? -1 : rows.length;
  const index = Math.min(rows.length - 1, Math.max(0, from + step));
  return { ...state, selected: { ...state.selected, [focus]: rows[index] ?? null } };
}

/** With `follow` off the selection keeps its place on the screen: the row that is there now is selected. */
export function keptInPlace(before: UiState, after: UiState): UiState {
  const { focus } = before;
  if (before.follow || !isList(focus)) return after;
  const index = rowIdentities(before, focus).indexOf(before.selected[focus] ?? '');
  if (index < 0) return after;
  const rows = rowIdentities(after, focus);
  const id = rows[Math.min(index, rows.length - 1)] ?? null;
  return { ...after, selected: { ...after.selected, [focus]: id } };
}
