// SPDX-License-Identifier: Apache-2.0
// (state, message) -> state. Pure: no clock, no input or output; every time comes inside a message.
import { onKey } from './keys.js';
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
  | { readonly t: 'key'; readonly key: string };

/** A counter's growth per second; a counter that went backwards (a restart) counts as no growth. */
function rateOf(now: number, before: number, seconds: number): number {
  return Math.max(0, now - before) / seconds;
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
    });
  }
  const links = new Map<string, LinkRate>();
  const earlierLinks = new Map(before.links.map((link) => [linkIdentity(link), link]));
  for (const link of now.links) {
    const old = earlierLinks.get(linkIdentity(link));
    if (!old || link.state === 'stale' || link.state === 'lost') continue;
    links.set(linkIdentity(link), {
      inBytesPerSecond: rateOf(link.receivedBytes, old.receivedBytes, seconds),
      outBytesPerSecond: rateOf(link.sentBytes, old.sentBytes, seconds),
    });
  }
  return { processes, links };
}

function pushed(series: readonly number[], value: number): number[] {
  return [...series, value].slice(-HISTORY_LENGTH_MAX);
}

/** Two snapshots closer than this give no honest rate: the newer one keeps the rates of before. */
const RATE_WINDOW_MS_MIN = 200;

function nextPicture(before: Picture | null, snapshot: SnapshotJson, atMs: number): Picture {
  const empty: History = { fetch: [], evict: [], stall: [] };
  const rateBase = { snapshot, atMs };
  if (!before || before.snapshot.agentPid !== snapshot.agentPid) {
    return { snapshot, atMs, rateBase, rates: null, history: before?.history ?? empty };
  }
  const elapsedMs = atMs - before.rateBase.atMs;
  if (elapsedMs < RATE_WINDOW_MS_MIN) return { ...before, snapshot, atMs };
  const rates = ratesBetween(before.rateBase.snapshot, snapshot, elapsedMs / 1000);
  const sum = (field: keyof ProcessRate): number =>
    [...rates.processes.values()].reduce((total, rate) => total + rate[field], 0);
  const stall = [...rates.processes.values()].reduce(
    (worst, rate) => Math.max(worst, rate.stallPercent),
    0,
  );
  const history: History = {
    fetch: pushed(before.history.fetch, sum('fetchBytesPerSecond')),
    evict: pushed(before.history.evict, sum('evictBytesPerSecond')),
    stall: pushed(before.history.stall, stall),
  };
  return { snapshot, atMs, rateBase, rates, history };
}

/** The next state. Unknown keys and late messages leave it as it is. */
export function reduce(state: UiState, message: Message): UiState {
  switch (message.t) {
    case 'snapshot':
      return {
        ...state,
        nowMs: Math.max(state.nowMs, message.atMs),
        connection: { t: 'live' },
        latest: nextPicture(state.latest, message.snapshot, message.atMs),
      };
    case 'away': {
      const before = state.connection;
      const sinceMs = before.t === 'away' ? before.sinceMs : (state.latest?.atMs ?? message.atMs);
      const tries = before.t === 'away' ? before.tries + 1 : 1;
      const { cause, retryAtMs } = message;
      return { ...state, connection: { t: 'away', sinceMs, cause, retryAtMs, tries } };
    }
    case 'tick':
      return { ...state, nowMs: message.nowMs, unixMs: message.unixMs };
    case 'resize':
      return { ...state, cols: message.cols, rows: message.rows };
    case 'key':
      return onKey(state, message.key);
  }
}
