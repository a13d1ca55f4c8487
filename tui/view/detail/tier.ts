// SPDX-License-Identifier: Apache-2.0
// Everything about one tier: what was measured, and whose bytes are in it.
import { formatBytes, formatMicros, formatRate } from '../../../proto/base/units.js';
import type { AttachmentJson } from '../../model/attachments.js';
import type { TierJson } from '../../model/snapshot.js';
import type { Picture } from '../../model/state.js';
import { barText, span, type Glyphs, type Line } from '../lines.js';
import { left, right, tierWord } from '../plain.js';
import { percent } from '../units.js';
import { heading, labelled, tableOf } from './parts.js';

const BAR_CELLS = 40;

/** A program's bytes in tiers of that kind. Of feeders only the sum over all of them is told. */
const USED_BY: Readonly<Record<TierJson['kind'], (from: AttachmentJson) => number>> = {
  local_vram: (from) => from.vramUsedBytes,
  local_ram: (from) => from.ramUsedBytes,
  feeder_vram: (from) => from.feederVramUsedBytes,
  feeder_ram: (from) => from.feederRamUsedBytes,
  local_nvme: (from) => from.nvmeUsedBytes,
  unknown: () => 0,
};

function users(tier: TierJson, { snapshot }: Picture): Line[] {
  const bytesOf = USED_BY[tier.kind];
  const rows = snapshot.attachments
    .map((from) => ({ from, bytes: bytesOf(from) }))
    .filter(({ bytes }) => bytes > 0)
    .sort((a, b) => b.bytes - a.bytes)
    .map(({ from, bytes }) => [String(from.pid), formatBytes(bytes), from.phase, from.command]);
  const where = tier.feederId === null ? 'in it' : 'on all feeders, in memory of this kind';
  const columns = [right('PID'), right('BYTES'), left('PHASE'), left('COMMAND')];
  return [
    ...heading(`Programs with bytes ${where}`),
    ...(rows.length > 0 ? tableOf({ columns, rows }) : [[span('none', 'stale')] as Line]),
  ];
}

export function tierDetail(
  tier: TierJson,
  picture: Picture,
  width: number,
  glyphs: Glyphs,
): Line[] {
  const share = tier.capacityBytes > 0 ? tier.usedBytes / tier.capacityBytes : 0;
  const capacity = tier.capacityBytes > 0 ? formatBytes(tier.capacityBytes) : 'not known';
  const link = picture.snapshot.links.find(({ feederId }) => feederId === tier.feederId);
  return [
    ...labelled('kind', `${tierWord(tier.kind)}${tier.simulated ? ' (simulated)' : ''}`, width),
    ...labelled('device', tier.name, width),
    ...(link
      ? labelled('feeder', `${link.feederName}   ${link.address}   ${link.state}`, width)
      : []),
    ...labelled(
      'bytes',
      `${formatBytes(tier.usedBytes)} used, ${formatBytes(tier.grantedBytes)} promised to programs, of ${capacity}`,
      width,
    ),
    ...(tier.capacityBytes > 0
      ? [
          [
            span(''.padEnd(12)),
            span(barText(share, BAR_CELLS, glyphs)),
            span(` ${percent(share)}`),
          ] as Line,
        ]
      : []),
    ...labelled(
      'measured',
      `read ${formatRate(tier.readBytesPerSecond ?? 0)}, write ${formatRate(tier.writeBytesPerSecond ?? 0)}, ` +
        `latency ${formatMicros(tier.latencyMicros ?? 0)}`,
      width,
    ),
    ...(tier.note === '' ? [] : labelled('note', tier.note, width, 'warn')),
    ...users(tier, picture),
  ];
}
