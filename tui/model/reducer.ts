// SPDX-License-Identifier: Apache-2.0
// (state, message) -> state. Pure: no clock, no input or output; every time comes inside a message.
import { onBegun, onDone, onPlanned, onRefused } from './dialog.js';
import type { ExplainJson } from './dispatch.js';
import { onKey } from './keys.js';
import type { ActionPlanJson } from './plans.js';
import { keptInPlace } from './selection.js';
import type { AttachmentJson } from './attachments.js';
import type { SnapshotJson } from './snapshot.js';
import {
  HISTORY_LENGTH_MAX,
  attachmentIdentity,
  linkIdentity,
  type History,
  type LinkRate,
  type Picture,
  type ProcessRate,
  type Rates,
  type Residency,
  type UiState,
} from './state.js';

export type Message =
  | { readonly t: 'snapshot'; readonly snapshot: SnapshotJson; readonly atMs: number }
  | {
      readonly t: 'away';
      readonly cause: string;
      readonly atMs: number;
      readonly retryAtMs: number;
    }
  | { readonly t: 'tick'; readonly nowMs: number; readonly unixMs: number }
  | { readonly t: 'resize'; readonly cols: number; readonly rows: number }
  | { readonly t: 'key'; readonly key: string }
  | { readonly t: 'planned'; readonly id: number; readonly plan: ActionPlanJson }
  | { readonly t: 'begun'; readonly id: number }
  | { readonly t: 'done'; readonly id: number; readonly text: string }
  | { readonly t: 'refused'; readonly id: number; readonly code: string; readonly text: string }
  | { readonly t: 'explained'; readonly pid: number; readonly explain: ExplainJson | string };

/** A counter's growth per second; a counter that went backwards (a restart) counts as no growth. */
function rateOf(now: number, before: number, seconds: number): number {
  return Math.max(0, now - before) / seconds;
}

function crossingsOf({ dispatch }: AttachmentJson): number {
  return dispatch.owners.reduce((sum, { crossingCount }) => sum + crossingCount, 0);
}

type KernelRate = Pick<
  LinkRate,
  'launchesPerSecond' | 'crossingsPerSecond' | 'crossingBytesPerSecond'
>;
const NO_KERNELS: KernelRate = {
  launchesPerSecond: 0,
  crossingsPerSecond: 0,
  crossingBytesPerSecond: 0,
};

/** What programs did on each feeder; a program or an owner that is new has no rate yet. */
function kernelsByFeeder(
  now: SnapshotJson,
  earlier: ReadonlyMap<string, AttachmentJson>,
  seconds: number,
): Map<string, KernelRate> {
  const rates = new Map<string, KernelRate>();
  for (const from of now.attachments) {
    const before = earlier.get(attachmentIdentity(from));
    for (const owner of from.dispatch.owners) {
      const old = before?.dispatch.owners.find(({ lane }) => lane === owner.lane);
      if (!old) continue;
      const sum = rates.get(owner.feederId) ?? NO_KERNELS;
      const bytes = owner.crossingSentBytes + owner.crossingReceivedBytes;
      const oldBytes = old.crossingSentBytes + old.crossingReceivedBytes;
      rates.set(owner.feederId, {
        launchesPerSecond:
          sum.launchesPerSecond + rateOf(owner.launchCount, old.launchCount, seconds),
        crossingsPerSecond:
          sum.crossingsPerSecond + rateOf(owner.crossingCount, old.crossingCount, seconds),
        crossingBytesPerSecond: sum.crossingBytesPerSecond + rateOf(bytes, oldBytes, seconds),
      });
    }
  }
  return rates;
}

function ratesBetween(before: SnapshotJson, now: SnapshotJson, seconds: number): Rates {
  const processes = new Map<string, ProcessRate>();
  const earlier = new Map(before.attachments.map((from) => [attachmentIdentity(from), from]));
  for (const from of now.attachments) {
    const old = earlier.get(attachmentIdentity(from));
    if (!old) continue;
    processes.set(attachmentIdentity(from), {
      stageBytesPerSecond: rateOf(from.stagedInBytes, old.stagedInBytes, seconds),
      fetchBytesPerSecond: rateOf(from.fetchBytes, old.fetchBytes, seconds),
      evictBytesPerSecond: rateOf(from.evictBytes, old.evictBytes, seconds),
      stallPercent: Math.min(100, rateOf(from.stallMicros, old.stallMicros, seconds) / 1e4),
      launchesPerSecond: rateOf(from.launchCount, old.launchCount, seconds),
      dispatchedPerSecond: rateOf(
        from.dispatch.dispatchedCount,
        old.dispatch.dispatchedCount,
        seconds,
      ),
      crossingsPerSecond: rateOf(crossingsOf(from), crossingsOf(old), seconds),
    });
  }
  const links = new Map<string, LinkRate>();
  const kernels = kernelsByFeeder(now, earlier, seconds);
  const earlierLinks = new Map(before.links.map((link) => [linkIdentity(link), link]));
  for (const link of now.links) {
    const old = earlierLinks.get(linkIdentity(link));
    if (!old || link.state === 'stale' || link.state === 'lost') continue;
    links.set(linkIdentity(link), {
      inBytesPerSecond: rateOf(link.receivedBytes, old.receivedBytes, seconds),
      outBytesPerSecond: rateOf(link.sentBytes, old.sentBytes, seconds),
      ...(kernels.get(link.feederId) ?? NO_KERNELS),
    });
  }
  return { processes, links };
}

function pushed<T>(series: readonly T[], value: T): T[] {
  return [...series, value].slice(-HISTORY_LENGTH_MAX);
}

function residencyOf(from: AttachmentJson): Residency {
  return {
    vramBytes: from.vramUsedBytes,
    ramBytes: from.ramUsedBytes,
    feederBytes: from.feederVramUsedBytes + from.feederRamUsedBytes,
    nvmeBytes: from.nvmeUsedBytes,
  };
}

/** Series of what is there now; what has gone is forgotten. */
function historyAfter(before: History, snapshot: SnapshotJson, rates: Rates): History {
  const all = [...rates.processes.values()];
  const sum = (field: keyof ProcessRate): number =>
    all.reduce((total, rate) => total + rate[field], 0);
  return {
    fetch: pushed(before.fetch, sum('fetchBytesPerSecond')),
    evict: pushed(before.evict, sum('evictBytesPerSecond')),
    stall: pushed(
      before.stall,
      all.reduce((worst, rate) => Math.max(worst, rate.stallPercent), 0),
    ),
    links: new Map(
      snapshot.links.map((link) => {
        const id = linkIdentity(link);
        const rate = rates.links.get(id);
        const bytes = rate ? rate.inBytesPerSecond + rate.outBytesPerSecond : 0;
        return [id, pushed(before.links.get(id) ?? [], bytes)];
      }),
    ),
    processes: new Map(
      snapshot.attachments.map((from) => {
        const id = attachmentIdentity(from);
        return [id, pushed(before.processes.get(id) ?? [], residencyOf(from))];
      }),
    ),
  };
}

const NO_HISTORY: History = {
  fetch: [],
  evict: [],
  stall: [],
  links: new Map(),
  processes: new Map(),
};

/** Two snapshots closer than this give no honest rate: the newer one keeps the rates of before. */
const RATE_WINDOW_MS_MIN = 200;

function nextPicture(before: Picture | null, snapshot: SnapshotJson, atMs: number): Picture {
  const rateBase = { snapshot, atMs };
  if (!before || before.snapshot.agentPid !== snapshot.agentPid) {
    return { snapshot, atMs, rateBase, rates: null, history: before?.history ?? NO_HISTORY };
  }
  const elapsedMs = atMs - before.rateBase.atMs;
  if (elapsedMs < RATE_WINDOW_MS_MIN) return { ...before, snapshot, atMs };
  const rates = ratesBetween(before.rateBase.snapshot, snapshot, elapsedMs / 1000);
  const history = historyAfter(before.history, snapshot, rates);
  return { snapshot, atMs, rateBase, rates, history };
}

function marksOfWhatIsThere(
  marks: UiState['marks'],
  { links, attachments }: SnapshotJson,
): UiState['marks'] {
  if (marks.size === 0) return marks;
  const there = [...links.map(linkIdentity), ...attachments.map(attachmentIdentity)];
  return new Set(there.filter((id) => marks.has(id)));
}

function onSnapshot(state: UiState, snapshot: SnapshotJson, atMs: number): UiState {
  const next: UiState = {
    ...state,
    nowMs: Math.max(state.nowMs, atMs),
    connection: { t: 'live' },
    latest: nextPicture(state.latest, snapshot, atMs),
    marks: marksOfWhatIsThere(state.marks, snapshot),
  };
  return keptInPlace(state, next);
}

function onAway(state: UiState, message: Extract<Message, { t: 'away' }>): UiState {
  const before = state.connection;
  const sinceMs = before.t === 'away' ? before.sinceMs : (state.latest?.atMs ?? message.atMs);
  const tries = before.t === 'away' ? before.tries + 1 : 1;
  const { cause, retryAtMs } = message;
  return { ...state, connection: { t: 'away', sinceMs, cause, retryAtMs, tries } };
}

function onTick(state: UiState, nowMs: number, unixMs: number): UiState {
  const over = state.flash !== null && nowMs >= state.flash.untilMs;
  return { ...state, nowMs, unixMs, ...(over ? { flash: null, quitAsked: false } : {}) };
}

function onExplained(state: UiState, pid: number, explain: ExplainJson | string): UiState {
  const { detail } = state;
  if (detail?.target.kind !== 'process' || detail.target.pid !== pid) return state;
  return { ...state, detail: { ...detail, explain } };
}

/** The next state. Unknown keys and late messages leave it as it is. */
export function reduce(state: UiState, message: Message): UiState {
  switch (message.t) {
    case 'snapshot':
      return onSnapshot(state, message.snapshot, message.atMs);
    case 'away':
      return onAway(state, message);
    case 'tick':
      return onTick(state, message.nowMs, message.unixMs);
    case 'resize':
      return { ...state, cols: message.cols, rows: message.rows };
    case 'key':
      return onKey(state, message.key);
    case 'planned':
      return onPlanned(state, message.id, message.plan);
    case 'begun':
      return onBegun(state, message.id);
    case 'done':
      return onDone(state, message.id, message.text);
    case 'refused':
      return onRefused(state, message.id, message.code, message.text);
    case 'explained':
      return onExplained(state, message.pid, message.explain);
  }
}
