// SPDX-License-Identifier: Apache-2.0
// Everything about one feeder: who it is, how the link and its lanes are, what it lends, what runs there.
import { formatAge, formatBytes, formatRate } from '../../../proto/base/units.js';
import type { LinkJson } from '../../model/links.js';
import { linkIdentity, type Picture, type UiState } from '../../model/state.js';
import { countPerSecond } from '../dispatch.js';
import { barText, span, sparkText, type Glyphs, type Line } from '../lines.js';
import { seenAgeMs } from '../panels/feeders.js';
import { durationText, left, linkStateWord, right } from '../plain.js';
import { cleanText } from '../text.js';
import { percent, shortAge, shortMicros } from '../units.js';
import { eventsAbout, heading, labelled, tableOf } from './parts.js';

const BAR_CELLS = 24;
const SPARK_FLOOR_BYTES = 1 << 20;

function identity(link: LinkJson, { snapshot }: Picture, width: number): Line[] {
  const age =
    link.keyAddedUnixMs === null
      ? ''
      : `, here for ${formatAge(snapshot.unixMs - link.keyAddedUnixMs)}`;
  const why = [link.state === 'ready' ? '' : link.detail, link.laneDetail].filter(Boolean);
  return [
    ...labelled(
      'state',
      [linkStateWord(link), ...why].join('; '),
      width,
      link.state === 'ready' ? 'good' : 'warn',
    ),
    ...labelled('address', `${link.address}   id ${link.feederId}`, width),
    ...labelled('key', `${link.keyFingerprint}${age}`, width),
    ...labelled('session', `${link.sessionId || '-'}   ${link.cipher || '-'}`, width),
  ];
}

function health(link: LinkJson, picture: Picture, nowMs: number, width: number): Line[] {
  const seen = seenAgeMs(link, picture, nowMs);
  const clock =
    link.clockSkewMs === null
      ? 'clock not known'
      : `clock ${link.clockSkewMs >= 0 ? '+' : ''}${link.clockSkewMs} ms`;
  const parts = [
    `heard ${seen === null ? 'never' : `${shortAge(seen)} ago`}`,
    `round trip ${shortMicros(link.rttMicros)}`,
    clock,
    `${link.errorCount} errors since connect`,
  ];
  return labelled('health', parts.join('   '), width, link.errorCount > 0 ? 'warn' : 'plain');
}

function traffic(
  link: LinkJson,
  { rates, history }: Picture,
  width: number,
  glyphs: Glyphs,
): Line[] {
  const rate = rates?.links.get(linkIdentity(link));
  const { laneTraffic: lanes } = link;
  const now = rate
    ? `in ${formatRate(rate.inBytesPerSecond)}, out ${formatRate(rate.outBytesPerSecond)}`
    : 'not known';
  const lane =
    link.laneCount === 0
      ? 'none open'
      : `${link.laneCount} open over ${lanes.connectionCount} connections, ${link.laneCipher ?? '-'} by ` +
        `${lanes.provider ?? '-'}, oldest key ${formatAge(link.laneKeyAgeMs ?? 0)}; ` +
        `${formatBytes(lanes.sentBytes)} out, ${formatBytes(lanes.receivedBytes)} in, ` +
        `${formatBytes(lanes.cachedBytes)} not sent (cached), ${lanes.brokenCount} broken`;
  const spark = sparkText(
    history.links.get(linkIdentity(link)) ?? [],
    Math.max(10, Math.min(120, width - 12)),
    SPARK_FLOOR_BYTES,
    glyphs,
  );
  return [
    ...labelled(
      'measured',
      `up ${formatRate(link.uploadBytesPerSecond ?? 0)}, down ${formatRate(link.downloadBytesPerSecond ?? 0)}`,
      width,
    ),
    ...labelled('now', now, width),
    [span(''.padEnd(12)), span(spark, 'good')],
    ...labelled('lanes', lane, width),
    ...labelled(
      'calls',
      `${formatBytes(link.callSentBytes)} out, ${formatBytes(link.callReceivedBytes)} in (never application bytes)`,
      width,
    ),
    ...labelled(
      'in all',
      `${formatBytes(link.sentBytes)} out, ${formatBytes(link.receivedBytes)} in; ${link.leaseCount} leases`,
      width,
    ),
  ];
}

function memory({ devices }: LinkJson, glyphs: Glyphs): Line[] {
  const lines = devices.map((device): Line => {
    const name = device.kind === 'gpu' ? `vram ${device.index}` : 'ram';
    const share = device.capacityBytes > 0 ? device.usedBytes / device.capacityBytes : 0;
    const notes = [
      `${formatBytes(device.usedBytes)} used, ${formatBytes(device.leasedBytes)} leased of ` +
        formatBytes(device.capacityBytes),
      device.compute ? 'runs kernels' : '',
      device.simulated ? 'simulated' : '',
      cleanText(device.name),
    ];
    return [
      span(name.padEnd(8), 'bold'),
      span(barText(share, BAR_CELLS, glyphs)),
      span(` ${percent(share).padStart(4)}  ${notes.filter(Boolean).join('; ')}`),
    ];
  });
  return [...heading('Memory it lends'), ...lines];
}

function kernels({ feederId }: LinkJson, { snapshot, rates }: Picture): Line[] {
  const rows = snapshot.attachments.flatMap((from) =>
    from.dispatch.owners
      .filter((owner) => owner.feederId === feederId)
      .map((owner) => [
        String(from.pid),
        owner.launchCount.toLocaleString('en-US'),
        owner.crossingCount.toLocaleString('en-US'),
        formatBytes(owner.crossingSentBytes),
        formatBytes(owner.crossingReceivedBytes),
        formatBytes(owner.replicaBytes),
        from.command,
      ]),
  );
  if (rows.length === 0) return [];
  const rate = rates?.links.get(feederId);
  const columns = [
    right('PID'),
    right('LAUNCHES'),
    right('CROSSINGS'),
    right('OUT'),
    right('IN'),
    right('COPIES'),
    left('COMMAND'),
  ];
  const now =
    `now ${countPerSecond(rate?.launchesPerSecond)} launches/s, ${countPerSecond(rate?.crossingsPerSecond)} ` +
    `crossings/s with ${formatRate(rate?.crossingBytesPerSecond ?? 0)}`;
  return [...heading('Kernels that ran there'), ...tableOf({ columns, rows }), [span(now)]];
}

function drain({ drain: running }: LinkJson, width: number, glyphs: Glyphs): Line[] {
  if (!running) return [];
  const share = running.totalBytes > 0 ? running.movedBytes / running.totalBytes : 1;
  const eta = running.etaMs === null ? '' : `, ${durationText(running.etaMs)} left`;
  const waits = running.waitsFor === null ? '' : `; waits for ${running.waitsFor}`;
  const text =
    `${formatBytes(running.movedBytes)} of ${formatBytes(running.totalBytes)} moved at ` +
    `${formatRate(running.bytesPerSecond)}${eta}${waits}`;
  return [
    ...heading('Drain'),
    [span(barText(share, BAR_CELLS, glyphs), 'warn'), span(` ${percent(share)}`)],
    ...labelled('', text, width),
  ];
}

export function feederDetail(
  link: LinkJson,
  picture: Picture,
  state: UiState,
  width: number,
  glyphs: Glyphs,
): Line[] {
  return [
    ...identity(link, picture, width),
    ...health(link, picture, state.nowMs, width),
    ...traffic(link, picture, width, glyphs),
    ...drain(link, width, glyphs),
    ...memory(link, glyphs),
    ...kernels(link, picture),
    ...eventsAbout(picture.snapshot, [link.feederName, link.feederId]),
  ];
}
