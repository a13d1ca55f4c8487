// SPDX-License-Identifier: Apache-2.0
// Panel 3: the feeders of this host. A silent one keeps its last figures, grey, with its age.
import type { LinkJson, LinkStateJson } from '../../model/links.js';
import { FEEDER_SORTS, feederRows } from '../../model/rows.js';
import {
  linkIdentity,
  shownPicture,
  type LinkRate,
  type Picture,
  type UiState,
} from '../../model/state.js';
import { GIB } from '../../../proto/base/units.js';
import { countPerSecond, hasKernels } from '../dispatch.js';
import { isWide, panelTable, WIDE_PRIORITY, windowStart, type PanelColumn } from '../columns.js';
import { barText, span, sparkText, type Glyphs, type Line, type StyleName } from '../lines.js';
import { durationText, linkStateWord } from '../plain.js';
import { cleanText } from '../text.js';
import { gib, gibPerSecond, percent, shortAge, shortMicros } from '../units.js';

/** One character a state, so that it reads without colour. */
const STATE_GLYPHS: Readonly<Record<LinkStateJson, string>> = {
  ready: '+',
  connecting: '.',
  handshaking: '.',
  draining: '~',
  stale: '!',
  lost: 'x',
  closed: 'o',
  unknown: '?',
};

const STATE_STYLES: Readonly<Record<LinkStateJson, StyleName>> = {
  ready: 'good',
  connecting: 'warn',
  handshaking: 'warn',
  draining: 'warn',
  stale: 'stale',
  lost: 'bad',
  closed: 'stale',
  unknown: 'warn',
};

export function stateGlyph({ state, paused }: Pick<LinkJson, 'state' | 'paused'>): string {
  return paused && state === 'ready' ? '=' : STATE_GLYPHS[state];
}

/** Milliseconds since the feeder was heard, at the moment that is drawn; null when never. */
export function seenAgeMs(link: LinkJson, picture: Picture, nowMs: number): number | null {
  if (link.lastSeenUnixMs === null) return null;
  return (
    Math.max(0, picture.snapshot.unixMs - link.lastSeenUnixMs) + Math.max(0, nowMs - picture.atMs)
  );
}

function memory(link: LinkJson, kind: 'ram' | 'gpu'): string {
  const devices = link.devices.filter((device) => device.kind === kind);
  const capacity = devices.reduce((sum, device) => sum + device.capacityBytes, 0);
  if (capacity === 0) return '-';
  return `${gib(devices.reduce((sum, device) => sum + device.usedBytes, 0))}/${gib(capacity)}`;
}

function stateText(link: LinkJson, ageMs: number | null): string {
  const away = link.state === 'stale' || link.state === 'lost';
  return away && ageMs !== null ? `${link.state} ${shortAge(ageMs)}` : linkStateWord(link);
}

const SPARK_CELLS = 10;
/** Traffic of the last minute; noise below this stays flat. */
const SPARK_SAMPLES = 60;
const SPARK_FLOOR = 0.01 * GIB;

function identityColumns(
  column: (
    title: string,
    width: number,
    priority: number,
    text: (link: LinkJson) => string,
    extra?: Partial<PanelColumn<LinkJson>>,
  ) => PanelColumn<LinkJson>,
): PanelColumn<LinkJson>[] {
  const clock = ({ clockSkewMs }: LinkJson): string =>
    clockSkewMs === null ? '-' : `${clockSkewMs}ms`;
  return [
    column('LEASES', 6, WIDE_PRIORITY, (link) => String(link.leaseCount)),
    column('LANES', 5, WIDE_PRIORITY, (link) => String(link.laneCount)),
    column('CLOCK', 7, WIDE_PRIORITY, clock),
    column('KEY', 19, WIDE_PRIORITY, (link) => cleanText(link.keyFingerprint), { align: 'left' }),
  ];
}

function kernelColumns(
  column: (title: string, text: (link: LinkJson) => string) => PanelColumn<LinkJson>,
  rate: (link: LinkJson) => LinkRate | undefined,
): PanelColumn<LinkJson>[] {
  return [
    column('KERN/s', (link) => countPerSecond(rate(link)?.launchesPerSecond)),
    column('CROSS/s', (link) => countPerSecond(rate(link)?.crossingsPerSecond)),
  ];
}

/** `  forge drain  15% ███░░░  2.3 GiB moved, 12.6 left, 26s at 0.48 GiB/s`. */
function drainLine({ feederName, drain }: LinkJson, width: number, glyphs: Glyphs): Line {
  if (!drain) return [];
  const { totalBytes, movedBytes, bytesPerSecond, etaMs, waitsFor } = drain;
  const share = totalBytes > 0 ? movedBytes / totalBytes : 1;
  const left = gib(Math.max(0, totalBytes - movedBytes));
  const eta = etaMs === null ? '' : `, ${durationText(etaMs)}`;
  const waits = waitsFor === null ? '' : `, waits for ${cleanText(waitsFor)}`;
  const text = `${gib(movedBytes)} GiB moved, ${left} left${eta} at ${gibPerSecond(bytesPerSecond)} GiB/s${waits}`;
  return [
    span(`    ${cleanText(feederName)} drain ${percent(share).padStart(4)} `, 'warn'),
    span(barText(share, Math.max(4, Math.min(20, width - 70)), glyphs), 'warn'),
    span(`  ${text}`),
  ];
}

function feederColumns(state: UiState, picture: Picture, glyphs: Glyphs): PanelColumn<LinkJson>[] {
  const isAway = (link: LinkJson): boolean => link.state === 'stale' || link.state === 'lost';
  const quiet = (link: LinkJson): StyleName => (isAway(link) ? 'stale' : 'plain');
  const age = (link: LinkJson): number | null => seenAgeMs(link, picture, state.nowMs);
  const rate = (link: LinkJson) =>
    isAway(link) ? undefined : picture.rates?.links.get(linkIdentity(link));
  const column = (
    title: string,
    width: number,
    priority: number,
    text: (link: LinkJson) => string,
    extra: Partial<PanelColumn<LinkJson>> = {},
  ): PanelColumn<LinkJson> => ({
    title,
    width,
    priority,
    align: 'right',
    cell: (link) => ({ text: text(link), style: quiet(link) }),
    ...extra,
  });
  return [
    {
      title: '',
      width: 1,
      priority: 10,
      align: 'left',
      cell: (link) => ({ text: stateGlyph(link), style: STATE_STYLES[link.state] }),
    },
    column('FEEDER', 9, 10, (link) => cleanText(link.feederName || link.feederId), {
      align: 'left',
      grows: true,
    }),
    column('ADDRESS', 20, 3, (link) => cleanText(link.address), { align: 'left' }),
    {
      title: 'STATE',
      width: 13,
      priority: 9,
      align: 'left',
      cell: (link) => ({
        text: stateText(link, age(link)),
        style: link.paused && link.state === 'ready' ? 'warn' : STATE_STYLES[link.state],
      }),
    },
    column('VRAM', 11, 6, (link) => memory(link, 'gpu')),
    column('RAM', 11, 7, (link) => memory(link, 'ram')),
    column('RTT', 7, 5, (link) => (isAway(link) ? '-' : shortMicros(link.rttMicros))),
    column('IN', 5, 4, (link) => gibPerSecond(rate(link)?.inBytesPerSecond)),
    column('OUT', 5, 4, (link) => gibPerSecond(rate(link)?.outBytesPerSecond)),
    ...(hasKernels(picture)
      ? kernelColumns((title, text) => column(title, title.length, 4, text), rate)
      : []),
    column(
      'LAST 60',
      SPARK_CELLS,
      1,
      (link) => {
        const samples = picture.history.links.get(linkIdentity(link)) ?? [];
        return sparkText(samples.slice(-SPARK_SAMPLES), SPARK_CELLS, SPARK_FLOOR, glyphs);
      },
      { align: 'left' },
    ),
    column('ERR', 4, 2, (link) => String(link.errorCount)),
    column('SEEN', 6, 8, (link) => {
      const ms = age(link);
      return ms === null ? '-' : shortAge(ms);
    }),
    ...(isWide(state) ? identityColumns(column) : []),
  ];
}

/** The body of the panel: header, then the window of rows with the selected one in it, `height` lines at most. */
export function feedersBody(state: UiState, width: number, height: number, glyphs: Glyphs): Line[] {
  const picture = shownPicture(state);
  if (!picture) return [];
  const rows = feederRows(state);
  if (rows.length === 0) {
    const none = picture.snapshot.links.length === 0;
    const text = none
      ? 'none yet; on another machine: greenboost feed start, then: greenboost connect HOST'
      : 'none fits the filter';
    return [[span(text, 'stale')]];
  }
  const { column, reverse } = state.sort.feeders;
  const selected = rows.findIndex((link) => linkIdentity(link) === state.selected.feeders);
  const start = windowStart(rows.length, height - 1, selected);
  const table = panelTable(
    feederColumns(state, picture, glyphs),
    rows.slice(start, start + Math.max(0, height - 1)),
    {
      width,
      glyphs,
      sort: { title: FEEDER_SORTS[column]?.title ?? '', reverse },
      isSelected: (link) => linkIdentity(link) === state.selected.feeders,
      isMarked: (link) => state.marks.has(linkIdentity(link)),
    },
  );
  const shown = rows.slice(start, start + Math.max(0, height - 1));
  const lines = table.lines.flatMap((line, index) => {
    const link = shown[index];
    return link?.drain ? [line, drainLine(link, width, glyphs)] : [line];
  });
  return [table.header, ...lines].slice(0, Math.max(0, height));
}
