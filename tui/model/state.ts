// SPDX-License-Identifier: Apache-2.0
// What the full-screen view knows. Plain data: the reducer makes the next state, the view draws it,
// nothing else holds any.
import type { AttachmentJson } from './attachments.js';
import type { ExplainJson } from './dispatch.js';
import type { LinkJson } from './links.js';
import type { ActionName, ActionPlanJson } from './plans.js';
import type { SnapshotJson } from './snapshot.js';

export const PANELS = ['tiers', 'throughput', 'feeders', 'processes', 'events'] as const;
export type PanelName = (typeof PANELS)[number];
export type ListName = Exclude<PanelName, 'throughput'>;

/** Samples kept per series: two minutes at one a second. A ring by cutting at the front. */
export const HISTORY_LENGTH_MAX = 120;
/** What is typed after `/` and `:`. */
export const PROMPT_CHARACTERS_MAX = 60;
/** Actions under way that were begun here. */
export const JOBS_MAX = 16;
/** How long a sentence about an action stays. */
export const FLASH_MS = 10_000;
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

/** Growth a second, measured between the last two snapshots; null until there are two. */
export interface ProcessRate {
  readonly stageBytesPerSecond: number;
  readonly fetchBytesPerSecond: number;
  readonly evictBytesPerSecond: number;
  readonly stallPercent: number;
  readonly launchesPerSecond: number;
  /** Of them, on feeders. */
  readonly dispatchedPerSecond: number;
  readonly crossingsPerSecond: number;
}

export interface LinkRate {
  readonly inBytesPerSecond: number;
  readonly outBytesPerSecond: number;
  /** Kernels of programs here that ran there. */
  readonly launchesPerSecond: number;
  readonly crossingsPerSecond: number;
  readonly crossingBytesPerSecond: number;
}

export interface Rates {
  readonly processes: ReadonlyMap<string, ProcessRate>;
  readonly links: ReadonlyMap<string, LinkRate>;
}

/** Where the bytes of a program were at one moment. */
export interface Residency {
  readonly vramBytes: number;
  readonly ramBytes: number;
  readonly feederBytes: number;
  readonly nvmeBytes: number;
}

export interface History {
  readonly fetch: readonly number[];
  readonly evict: readonly number[];
  readonly stall: readonly number[];
  /** Bytes a second in both directions, by link. */
  readonly links: ReadonlyMap<string, readonly number[]>;
  readonly processes: ReadonlyMap<string, readonly Residency[]>;
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

/** What an action or a detail view is about: an identity, never a row. */
export type Target =
  | { readonly kind: 'feeder'; readonly id: string; readonly name: string }
  | { readonly kind: 'process'; readonly id: string; readonly name: string; readonly pid: number }
  | { readonly kind: 'tier'; readonly id: string; readonly name: string };

export interface Detail {
  readonly target: Target;
  readonly scroll: number;
  /** The record itself instead of its description. */
  readonly json: boolean;
  /** Of a process, once the agent has told; a sentence when it would not. */
  readonly explain: ExplainJson | string | null;
}

export interface Prompt {
  readonly kind: 'filter' | 'command';
  readonly text: string;
}

export interface Flash {
  readonly text: string;
  readonly bad: boolean;
  readonly untilMs: number;
}

/** A question about one action. `sent`: the agent was asked to act and has not said anything yet. */
export interface Dialog {
  readonly action: ActionName;
  readonly target: Target;
  readonly phase: 'planning' | 'ready' | 'sent' | 'failed';
  /** Of the plan or the action that is waited for. */
  readonly requestId: number;
  readonly plan: ActionPlanJson | null;
  /** Which button Enter acts on; 0 is Cancel. */
  readonly button: number;
  /** Of an eviction; 0: all. */
  readonly bytes: number;
  /** The name as far as it is typed, to lose bytes; null: that is not asked. */
  readonly typed: string | null;
  readonly note: string;
  /** Marked rows whose turn comes after this one; each has a plan of its own. */
  readonly rest: readonly Target[];
  /** The rows behind the dialog do not move. */
  readonly picture: Picture | null;
}

export interface Job {
  readonly action: ActionName;
  readonly target: Target;
}

/** What the agent is to be asked. The program sends it and empties the list. */
export type Request =
  | {
      readonly t: 'plan';
      readonly id: number;
      readonly action: ActionName;
      readonly target: Target;
      readonly bytes: number;
    }
  | {
      readonly t: 'act';
      readonly id: number;
      readonly action: ActionName;
      readonly target: Target;
      readonly bytes: number;
      readonly epoch: number;
      readonly force: boolean;
    }
  | { readonly t: 'cancel'; readonly id: number }
  | { readonly t: 'explain'; readonly pid: number }
  | { readonly t: 'refresh' };

export interface UiState {
  readonly cols: number;
  readonly rows: number;
  readonly nowMs: number;
  readonly unixMs: number;
  /** No action exists, not as a key, not as a command. */
  readonly readonly: boolean;
  readonly connection: Connection;
  /** Newest data; null before the first snapshot. */
  readonly latest: Picture | null;
  /** What is drawn while the picture is frozen, else null. */
  readonly frozen: Picture | null;
  readonly focus: PanelName;
  /** The focused panel has the whole screen. */
  readonly zoom: boolean;
  /** The selection stays with its row; else it stays where it is on the screen. */
  readonly follow: boolean;
  /** Identity of the selected row per list. */
  readonly selected: Readonly<Record<ListName, string | null>>;
  /** Identities of marked feeders and processes: an action is about these, where there are any. */
  readonly marks: ReadonlySet<string>;
  /** Columns that only large screens have are shown, others go instead. */
  readonly wide: boolean;
  readonly sort: Readonly<Record<'feeders' | 'processes', SortOrder>>;
  readonly filter: string;
  readonly prompt: Prompt | null;
  readonly detail: Detail | null;
  readonly dialog: Dialog | null;
  readonly flash: Flash | null;
  readonly help: boolean;
  readonly jobs: ReadonlyMap<number, Job>;
  readonly requests: readonly Request[];
  readonly nextRequestId: number;
  /** q was pressed while a drain of this screen is under way; once more ends both. */
  readonly quitAsked: boolean;
  readonly quit: boolean;
}

/** The state before anything was heard. */
export function initialState(
  size: { cols: number; rows: number; readonly?: boolean },
  nowMs: number,
  unixMs: number,
): UiState {
  return {
    cols: size.cols,
    rows: size.rows,
    nowMs,
    unixMs,
    readonly: size.readonly ?? false,
    connection: { t: 'connecting', sinceMs: nowMs },
    latest: null,
    frozen: null,
    focus: 'processes',
    zoom: false,
    follow: true,
    selected: { tiers: null, feeders: null, processes: null, events: null },
    marks: new Set(),
    wide: false,
    sort: { feeders: { column: 0, reverse: false }, processes: { column: 2, reverse: true } },
    filter: '',
    prompt: null,
    detail: null,
    dialog: null,
    flash: null,
    help: false,
    jobs: new Map(),
    requests: [],
    nextRequestId: 1,
    quitAsked: false,
    quit: false,
  };
}

/** What is to be drawn: rows behind a dialog do not move, a frozen picture stays, else the newest. */
export function shownPicture(state: UiState): Picture | null {
  return state.dialog?.picture ?? state.frozen ?? state.latest;
}

/** Age of what is drawn, milliseconds. */
export function pictureAgeMs(state: UiState): number {
  const picture = shownPicture(state);
  return picture ? Math.max(0, state.nowMs - picture.atMs) : 0;
}

/** True when the data is too old to be taken for the present. */
export function isStale(state: UiState): boolean {
  if (state.connection.t === 'away') return true;
  if (state.frozen !== null || state.latest === null) return false;
  return state.nowMs - state.latest.atMs > STALE_AFTER_MS;
}

export function linkIdentity(link: LinkJson): string {
  return link.feederId || link.address;
}

export function attachmentIdentity(attachment: AttachmentJson): string {
  return attachment.attachmentId;
}

/** Says something about an action, for a while. */
export function flashed(state: UiState, text: string, bad = false): UiState {
  return { ...state, flash: { text, bad, untilMs: state.nowMs + FLASH_MS } };
}

/** `state` with one more request for the agent. */
export function asking(state: UiState, request: Request): UiState {
  return { ...state, requests: [...state.requests, request] };
}
