// SPDX-License-Identifier: Apache-2.0
// Rows of the lists: filtered and sorted. Sorting is always stable and ends in the identity, so rows never dance.
import type { AttachmentJson } from './attachments.js';
import type { LinkJson } from './links.js';
import type { EventJson, TierJson } from './snapshot.js';
import { sortedTiers, tierIdentity, tiersOf } from './tiers.js';
import {
  attachmentIdentity,
  linkIdentity,
  shownPicture,
  type ListName,
  type Picture,
  type UiState,
} from './state.js';

type SortValue = number | string;

export interface SortColumn<Row> {
  readonly title: string;
  readonly value: (row: Row, picture: Picture) => SortValue;
}

function deviceBytes(link: LinkJson, kind: 'ram' | 'gpu'): number {
  return link.devices
    .filter((device) => device.kind === kind)
    .reduce((sum, device) => sum + device.usedBytes, 0);
}

export const FEEDER_SORTS: readonly SortColumn<LinkJson>[] = [
  { title: 'FEEDER', value: (link) => link.feederName },
  { title: 'STATE', value: (link) => link.state },
  { title: 'VRAM', value: (link) => deviceBytes(link, 'gpu') },
  { title: 'RAM', value: (link) => deviceBytes(link, 'ram') },
  { title: 'RTT', value: (link) => link.rttMicros ?? Number.POSITIVE_INFINITY },
  {
    title: 'IN',
    value: (link, picture) => picture.rates?.links.get(linkIdentity(link))?.inBytesPerSecond ?? -1,
  },
  {
    title: 'OUT',
    value: (link, picture) => picture.rates?.links.get(linkIdentity(link))?.outBytesPerSecond ?? -1,
  },
  {
    title: 'KERN/s',
    value: (link, picture) => picture.rates?.links.get(linkIdentity(link))?.launchesPerSecond ?? -1,
  },
  {
    title: 'CROSS/s',
    value: (link, picture) =>
      picture.rates?.links.get(linkIdentity(link))?.crossingsPerSecond ?? -1,
  },
  { title: 'ERR', value: (link) => link.errorCount },
];

export const PROCESS_SORTS: readonly SortColumn<AttachmentJson>[] = [
  { title: 'PID', value: (from) => from.pid },
  { title: 'COMMAND', value: (from) => from.command },
  { title: 'ALLOC', value: (from) => from.allocatedBytes },
  {
    title: 'STAGED',
    value: (from, picture) =>
      picture.rates?.processes.get(from.attachmentId)?.stageBytesPerSecond ?? -1,
  },
  {
    title: 'FETCH',
    value: (from, picture) =>
      picture.rates?.processes.get(from.attachmentId)?.fetchBytesPerSecond ?? -1,
  },
  {
    title: 'EVICT',
    value: (from, picture) =>
      picture.rates?.processes.get(from.attachmentId)?.evictBytesPerSecond ?? -1,
  },
  {
    title: 'STALL',
    value: (from, picture) => picture.rates?.processes.get(from.attachmentId)?.stallPercent ?? -1,
  },
  {
    title: 'LAUNCH/s',
    value: (from, picture) =>
      picture.rates?.processes.get(from.attachmentId)?.launchesPerSecond ?? -1,
  },
  {
    title: 'REMOTE',
    value: (from, picture) =>
      picture.rates?.processes.get(from.attachmentId)?.dispatchedPerSecond ?? -1,
  },
  {
    title: 'CROSS/s',
    value: (from, picture) =>
      picture.rates?.processes.get(from.attachmentId)?.crossingsPerSecond ?? -1,
  },
  { title: 'AGE', value: (from) => -from.startedUnixMs },
];

function compare(a: SortValue, b: SortValue): number {
  if (typeof a === 'number' && typeof b === 'number') return a === b ? 0 : a < b ? -1 : 1;
  return String(a).localeCompare(String(b));
}

function sorted<Row>(
  rows: readonly Row[],
  column: SortColumn<Row> | undefined,
  reverse: boolean,
  picture: Picture,
  identity: (row: Row) => string,
): Row[] {
  const sign = reverse ? -1 : 1;
  return [...rows].sort((a, b) => {
    const order = column ? compare(column.value(a, picture), column.value(b, picture)) * sign : 0;
    return order || identity(a).localeCompare(identity(b));
  });
}

/** True when every word of `filter` is met: `word`, `!word`, `state:word`, `tier:word`. Case does not matter. `tiers`:
 *  where the row has or lends bytes. */
export function matchesFilter(
  filter: string,
  text: string,
  state: string,
  tiers: readonly string[] = [],
): boolean {
  const haystack = text.toLowerCase();
  return filter
    .toLowerCase()
    .split(/\s+/)
    .filter((word) => word !== '')
    .every((word) => {
      if (word.startsWith('state:')) return state.toLowerCase().startsWith(word.slice(6));
      if (word.startsWith('tier:')) return tiers.some((tier) => tier.startsWith(word.slice(5)));
      if (word.startsWith('!')) return word.length === 1 || !haystack.includes(word.slice(1));
      return haystack.includes(word);
    });
}

/** The filter in force: the one being typed counts at once. */
export function activeFilter(state: UiState): string {
  return state.prompt?.kind === 'filter' ? state.prompt.text : state.filter;
}

export function feederRows(state: UiState): LinkJson[] {
  const picture = shownPicture(state);
  if (!picture) return [];
  const { column, reverse } = state.sort.feeders;
  const filter = activeFilter(state);
  const rows = picture.snapshot.links.filter((link) =>
    matchesFilter(
      filter,
      `${link.feederName} ${link.feederId} ${link.address} ${link.state}`,
      link.state,
      link.devices.map(({ kind }) => (kind === 'gpu' ? 'vram' : kind)),
    ),
  );
  return sorted(rows, FEEDER_SORTS[column], reverse, picture, linkIdentity);
}

function residentIn(from: AttachmentJson): string[] {
  const tiers: [string, number][] = [
    ['vram', from.vramUsedBytes],
    ['ram', from.ramUsedBytes],
    ['feeder', from.feederVramUsedBytes + from.feederRamUsedBytes],
    ['nvme', from.nvmeUsedBytes],
  ];
  return tiers.filter(([, bytes]) => bytes > 0).map(([tier]) => tier);
}

/** By measured bandwidth; a filter does not hide tiers. */
export function tierRows(state: UiState): TierJson[] {
  const picture = shownPicture(state);
  return picture ? sortedTiers(tiersOf(picture.snapshot)) : [];
}

export function processRows(state: UiState): AttachmentJson[] {
  const picture = shownPicture(state);
  if (!picture) return [];
  const { column, reverse } = state.sort.processes;
  const filter = activeFilter(state);
  const rows = picture.snapshot.attachments.filter((from) =>
    matchesFilter(
      filter,
      `${from.pid} ${from.command} ${from.deviceName} ${from.phase} ${from.staging}`,
      from.phase,
      residentIn(from),
    ),
  );
  return sorted(rows, PROCESS_SORTS[column], reverse, picture, attachmentIdentity);
}

/** Newest first, as people read them. */
export function eventRows(state: UiState): EventJson[] {
  const picture = shownPicture(state);
  if (!picture) return [];
  const filter = activeFilter(state);
  return picture.snapshot.events
    .filter((event) =>
      matchesFilter(
        filter,
        `${event.severity} ${event.name} ${event.subject} ${event.text}`,
        event.severity,
      ),
    )
    .reverse();
}

/** Identities of a list's rows, in the order they are drawn. */
export function rowIdentities(state: UiState, list: ListName): string[] {
  if (list === 'tiers') return tierRows(state).map(tierIdentity);
  if (list === 'feeders') return feederRows(state).map(linkIdentity);
  if (list === 'processes') return processRows(state).map(attachmentIdentity);
  return eventRows(state).map((event) => String(event.sequence));
}
