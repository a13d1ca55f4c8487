// SPDX-License-Identifier: Apache-2.0
// What the full-screen view knows. Plain data: the reducer makes the next state, the view draws it,
// nothing else holds any.
import type { AttachmentJson } from './attachments.js';
import type { LinkJson } from './links.js';
import type { SnapshotJson } from './snapshot.js';

export const PANELS = ['tiers', 'throughput', 'feeders', 'processes', 'events'] as const;
export type PanelName = (typeof PANELS)[number];
export type ListName = 'feeders' | 'processes' | 'events';

/** Samples kept per series: two minutes at one a second. A ring by cutting at the front. */
export const HISTORY_LENGTH_MAX = 120;
export const FILTER_CHARACTERS_MAX = 60;
/** Older data than this is shown as stale. */
export const STALE_AFTER_MS = 3_000;

/** How the connection to the agent is. Times are monotonic milliseconds of this process. */
export type Connection =
  | { readonly t: 'connecting'; readonly sinceMs: number }
  | { readonly t: 'live' }
  | {
      readonly t: 'away';
      readonly sinceMs: number;
      readonly cause: string;
      readonly retryAtMs: number;
      readonly tries: number;
    };

/** Bytes a second, measured between the last two snapshots; null until there are two. */
export interface ProcessRate {
  readonly stageBytesPerSecond: number;
  readonly fetchBytesPerSecond: number;
  readonly evictBytesPerSecond: number;
  readonly stallPercent: number;
}

export interface LinkRate {
  readonly inBytesPerSecond: number;
  readonly outBytesPerSecond: number;
}

export interface Rates {
  readonly processes: ReadonlyMap<string, ProcessRate>;
  readonly links: ReadonlyMap<string, LinkRate>;
}

export interface History {
  readonly fetch: readonly number[];
  readonly evict: readonly number[];
  readonly stall: readonly number[];
}

/** A snapshot with what was computed from it and the ones before. */
export interface Picture {
  readonly snapshot: SnapshotJson;
  readonly atMs: number;
  /** The snapshot that the next rates are measured from. */
  readonly rateBase: { readonly snapshot: SnapshotJson; readonly atMs: number };
  readonly rates: Rates | null;
  readonly history: History;
}

export interface SortOrder {
  readonly column: number;
  readonly reverse: boolean;
}

export interface UiState {
  readonly cols: number;
  readonly rows: number;
  readonly nowMs: number;
  readonly unixMs: number;
  readonly connection: Connection;
  /** Newest data; null before the first snapshot. */
  readonly latest: Picture | null;
  /** What is drawn while the picture is frozen, else null. */
  readonly frozen: Picture | null;
  readonly focus: PanelName;
  /** Identity of the selected row per list; rows may move, the selection stays on its row. */
  readonly selected: Readonly<Record<ListName, string | null>>;
  readonly sort: Readonly<Record<'feeders' | 'processes', SortOrder>>;
  readonly filter: string;
  /** The filter as it is being typed, or null. */
  readonly prompt: string | null;
  readonly help: boolean;
  readonly quit: boolean;
}

/** The state before anything was heard. */
export function initialState(
  size: { cols: number; rows: number },
  nowMs: number,
  unixMs: number,
): UiState {
  return {
    cols: size.cols,
    rows: size.rows,
    nowMs,
    unixMs,
    connection: { t: 'connecting', sinceMs: nowMs },
    latest: null,
    frozen: null,
    focus: 'processes',
    selected: { feeders: null, processes: null, events: null },
    sort: { feeders: { column: 0, reverse: false }, processes: { column: 2, reverse: true } },
    filter: '',
    prompt: null,
    help: false,
    quit: false,
  };
}

/** What is to be drawn: the frozen picture, else the newest. */
export function shownPicture(state: UiState): Picture | null {
  return state.frozen ?? state.latest;
}

/** Age of what is drawn, milliseconds. */
export function pictureAgeMs(state: UiState): number {
  const picture = shownPicture(state);
  return picture ? Math.max(0, state.nowMs - picture.atMs) : 0;
}

/** True when the data is too old to be taken for the present. */
export function isStale(state: UiState): boolean {
  return (
    state.connection.t === 'away' || (state.frozen === null && pictureAgeMs(state) > STALE_AFTER_MS)
  );
}

export function linkIdentity(link: LinkJson): string {
  return link.feederId || link.address;
}

export function attachmentIdentity(attachment: AttachmentJson): string {
  return attachment.attachmentId;
}
