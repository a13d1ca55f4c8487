// SPDX-License-Identifier: Apache-2.0
// Panel 1: one row per tier, by measured read bandwidth, with a bar of its use.
import type { TierJson } from '../../model/snapshot.js';
import { tierRows } from '../../model/rows.js';
import { tierIdentity } from '../../model/tiers.js';
import { shownPicture, type UiState } from '../../model/state.js';
import { barText, span, type Glyphs, type Line, type StyleName } from '../lines.js';
import { panelTable, windowStart, type PanelColumn } from '../columns.js';
import { tierWord } from '../plain.js';
import { cleanText } from '../text.js';
import { gib, gibPerSecond, shortMicros } from '../units.js';

const WARN_SHARE = 0.8;
const BAD_SHARE = 0.95;

export function useStyle(share: number): StyleName {
  if (share >= BAD_SHARE) return 'bad';
  return share >= WARN_SHARE ? 'warn' : 'plain';
}

function share(tier: TierJson): number {
  return tier.capacityBytes > 0 ? tier.usedBytes / tier.capacityBytes : 0;
}

function useText(tier: TierJson, cells: number, glyphs: Glyphs): string {
  return tier.capacityBytes > 0 ? barText(share(tier), cells, glyphs) : '';
}

/** The device behind local VRAM, for the panel's title: the longest first. */
export function tiersHints(state: UiState): string[] {
  const local = shownPicture(state)?.snapshot.tiers.find((tier) => tier.kind === 'local_vram');
  if (!local) return ['GiB, GiB/s'];
  const name = `${cleanText(local.name)}${local.simulated ? ' (simulated)' : ''}`;
  const device = [name, loadText(local)].filter(Boolean).join(' ');
  return [`${device}  GiB, GiB/s`, device, name];
}

/** `97% 61C 318W`, as far as the GPU tells. */
function loadText({ load }: TierJson): string {
  if (!load) return '';
  const { percent, temperatureCelsius, powerMilliwatts } = load;
  return [
    percent === null ? '' : `${percent}%`,
    temperatureCelsius === null ? '' : `${temperatureCelsius}C`,
    powerMilliwatts === null ? '' : `${Math.round(powerMilliwatts / 1000)}W`,
  ]
    .filter(Boolean)
    .join(' ');
}

/** The body of the panel: header and the window of rows with the selected one in it, `height` lines at most. */
export function tiersBody(state: UiState, width: number, height: number, glyphs: Glyphs): Line[] {
  const picture = shownPicture(state);
  if (!picture) return [];
  const away = new Set(
    picture.snapshot.links
      .filter((link) => link.state === 'stale' || link.state === 'lost')
      .map((link) => link.feederId),
  );
  const isAway = (tier: TierJson): boolean => tier.feederId !== null && away.has(tier.feederId);
  const columns: PanelColumn<TierJson>[] = [
    {
      title: 'TIER',
      align: 'left',
      priority: 9,
      width: 11,
      cell: (tier) => ({ text: tierWord(tier.kind), style: isAway(tier) ? 'stale' : 'plain' }),
    },
    {
      title: 'NAME',
      align: 'left',
      priority: 6,
      width: 8,
      grows: true,
      cell: (tier) => ({ text: cleanText(tier.name) }),
    },
    {
      title: 'USED',
      align: 'right',
      priority: 8,
      width: 6,
      cell: (tier) => ({ text: gib(tier.usedBytes) }),
    },
    {
      title: 'CAP',
      align: 'right',
      priority: 7,
      width: 6,
      cell: (tier) => ({ text: tier.capacityBytes > 0 ? gib(tier.capacityBytes) : '-' }),
    },
    {
      title: '',
      align: 'left',
      priority: 4,
      width: 10,
      cell: (tier, cells) => ({
        text: isAway(tier) ? '/'.repeat(cells) : useText(tier, cells, glyphs),
        style: isAway(tier) ? 'stale' : useStyle(share(tier)),
      }),
    },
    {
      title: 'READ',
      align: 'right',
      priority: 6,
      width: 6,
      cell: (tier) => ({ text: gibPerSecond(tier.readBytesPerSecond) }),
    },
    {
      title: 'LAT',
      align: 'right',
      priority: 5,
      width: 6,
      cell: (tier) => ({ text: shortMicros(tier.latencyMicros) }),
    },
  ];
  const rows = tierRows(state);
  const isSelected = (tier: TierJson): boolean => tierIdentity(tier) === state.selected.tiers;
  const start = windowStart(rows.length, height - 1, rows.findIndex(isSelected));
  const shown = rows.slice(start, start + Math.max(0, height - 1));
  const table = panelTable(columns, shown, { width, glyphs, sort: null, isSelected });
  if (rows.length === 0) return [table.header, [span('  no tier is known yet', 'stale')]];
  return [table.header, ...table.lines];
}
