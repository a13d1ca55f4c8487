// SPDX-License-Identifier: Apache-2.0
// Everything about one program: where its bytes are and were, what moves, where its kernels ran, and why.
import { formatBytes, formatRate } from '../../../proto/base/units.js';
import type { AttachmentJson } from '../../model/attachments.js';
import type { ExplainJson } from '../../model/dispatch.js';
import type { Detail, Picture, Residency, UiState } from '../../model/state.js';
import { dispatchLines, explainTable } from '../dispatch.js';
import { barText, span, sparkText, type Glyphs, type Line } from '../lines.js';
import { left, right, stagingText } from '../plain.js';
import { percent, shortAge } from '../units.js';
import { eventsAbout, heading, labelled, tableOf } from './parts.js';

const BAR_CELLS = 24;
const NAME_CELLS = 12;

function identity(from: AttachmentJson, { snapshot }: Picture, width: number): Line[] {
  const facts = [
    from.connected ? from.phase : 'gone',
    `staging ${stagingText(from)}`,
    from.gated ? 'feeders allowed (gated)' : 'local only',
    from.dispatch.on ? 'kernels on feeders (merged)' : '',
    `age ${shortAge(snapshot.unixMs - from.startedUnixMs)}`,
  ];
  const limits = [
    `${formatBytes(from.allocatedBytes)} in ${from.allocationCount.toLocaleString('en-US')} allocations`,
    from.vramBudgetBytes === null ? '' : `VRAM budget ${formatBytes(from.vramBudgetBytes)}`,
    from.vramLimitBytes === null ? '' : `VRAM limit now ${formatBytes(from.vramLimitBytes)}`,
    `granted ${formatBytes(from.ramGrantedBytes)} RAM, ${formatBytes(from.feederGrantedBytes)} feeders`,
  ];
  const sticky =
    from.stickyCudaError === 0
      ? []
      : labelled('CUDA', `every call returns error ${from.stickyCudaError}`, width, 'bad');
  return [
    ...labelled('command', from.command, width),
    ...labelled('device', `${from.deviceName}   ${from.deviceUuid ?? ''}`, width),
    ...labelled('state', facts.filter(Boolean).join('   '), width),
    ...labelled('memory', limits.filter(Boolean).join('   '), width),
    ...sticky,
  ];
}

interface Place {
  readonly name: string;
  readonly bytes: number;
  readonly peakBytes: number;
  readonly series: (sample: Residency) => number;
}

function placesOf(from: AttachmentJson): Place[] {
  const feederBytes = from.feederVramUsedBytes + from.feederRamUsedBytes;
  return [
    {
      name: 'V local vram',
      bytes: from.vramUsedBytes,
      peakBytes: from.vramPeakBytes,
      series: (s) => s.vramBytes,
    },
    {
      name: 'r local ram',
      bytes: from.ramUsedBytes,
      peakBytes: from.ramPeakBytes,
      series: (s) => s.ramBytes,
    },
    {
      name: 'Ff feeders',
      bytes: feederBytes,
      peakBytes: from.feederVramPeakBytes + from.feederRamPeakBytes,
      series: (s) => s.feederBytes,
    },
    {
      name: 'n nvme',
      bytes: from.nvmeUsedBytes,
      peakBytes: from.nvmePeakBytes,
      series: (s) => s.nvmeBytes,
    },
  ];
}

/** A bar and the course of each place, on one scale. */
function residency(
  from: AttachmentJson,
  { history }: Picture,
  width: number,
  glyphs: Glyphs,
): Line[] {
  const samples = history.processes.get(from.attachmentId) ?? [];
  const places = placesOf(from);
  const all = places.reduce((sum, { bytes }) => sum + bytes, 0);
  const graph = Math.max(4, Math.min(120, width - NAME_CELLS - BAR_CELLS - 34));
  const lines = places.map(({ name, bytes, peakBytes, series }): Line => {
    const share = all > 0 ? bytes / all : 0;
    const size = (value: number): string => formatBytes(value).padStart(9);
    const figures = `${size(bytes)} ${percent(share).padStart(4)} peak ${size(peakBytes)}`;
    return [
      span(name.padEnd(NAME_CELLS + 1), 'bold'),
      span(barText(share, BAR_CELLS, glyphs)),
      span(` ${figures} `),
      span(sparkText(samples.map(series), graph, Math.max(1, all), glyphs), 'good'),
    ];
  });
  return [...heading('Where its bytes are, and were in the last samples'), ...lines];
}

function moved(from: AttachmentJson, { rates }: Picture, width: number): Line[] {
  const rate = rates?.processes.get(from.attachmentId);
  const now = rate
    ? `fetch ${formatRate(rate.fetchBytesPerSecond)}, evict ${formatRate(rate.evictBytesPerSecond)}, ` +
      `staged ${formatRate(rate.stageBytesPerSecond)}, stall ${rate.stallPercent.toFixed(1)}%`
    : 'not known yet';
  const count = (value: number): string => value.toLocaleString('en-US');
  return [
    ...heading('What moves'),
    ...labelled('now', now, width),
    ...labelled(
      'since start',
      `fetched ${formatBytes(from.fetchBytes)}, evicted ${formatBytes(from.evictBytes)}, dropped clean ` +
        `${formatBytes(from.cleanDropBytes)}, staged in ${formatBytes(from.stagedInBytes)} and out ` +
        `${formatBytes(from.stageOutBytes)}, NVMe ${formatBytes(from.nvmeReadBytes)} read and ` +
        `${formatBytes(from.nvmeWriteBytes)} written`,
      width,
    ),
    ...labelled(
      'launches',
      `${count(from.launchCount)}, ${count(from.refusedLaunchCount)} refused, ${count(from.unaccountedLaunchCount)} ` +
        `not accounted for, ${count(from.graphSplitCount)} graphs split; ${count(from.copyCount)} copies`,
      width,
      from.refusedLaunchCount > 0 ? 'warn' : 'plain',
    ),
    ...labelled(
      'switches',
      `${count(from.switchCount)}, ${count(from.switchAbandonedCount)} given up, ${count(from.remapCount)} remaps`,
      width,
    ),
  ];
}

function kernels(from: AttachmentJson, explain: Detail['explain'], width: number): Line[] {
  const lines = dispatchLines(from);
  if (lines.length === 0) return [];
  const reasons = typeof explain === 'object' && explain !== null ? explain.reasons : [];
  const rows = reasons.map(({ name, count, text }) => [name, count.toLocaleString('en-US'), text]);
  const columns = [left('REASON'), right('LAUNCHES'), left('WHY THEY RAN HERE')];
  return [
    ...heading('Where its kernels ran'),
    ...lines.flatMap((line) => labelled('', line, width)),
    ...(rows.length > 0 ? tableOf({ columns, rows }) : []),
  ];
}

function ranges(explain: Detail['explain'], width: number): Line[] {
  if (explain === null) return [];
  const title = heading('Ranges on feeders, as it was opened (r asks again)');
  if (typeof explain === 'string') return [...title, ...labelled('', explain, width, 'warn')];
  return [...title, ...rangeLines(explain)];
}

function rangeLines(explain: ExplainJson): Line[] {
  if (explain.ranges.length === 0) return [[span('none', 'stale')]];
  const more = explain.rangeCount - explain.ranges.length;
  return [
    ...tableOf(explainTable(explain)),
    ...(more > 0 ? [[span(`and ${more} more`, 'stale')]] : []),
  ] as Line[];
}

export function processDetail(
  from: AttachmentJson,
  picture: Picture,
  { detail }: UiState,
  width: number,
  glyphs: Glyphs,
): Line[] {
  const explain = detail?.explain ?? null;
  return [
    ...identity(from, picture, width),
    ...residency(from, picture, width, glyphs),
    ...moved(from, picture, width),
    ...kernels(from, explain, width),
    ...ranges(explain, width),
    ...eventsAbout(picture.snapshot, [String(from.pid), `pid ${from.pid}`]),
  ];
}
