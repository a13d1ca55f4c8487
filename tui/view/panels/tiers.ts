// SPDX-License-Identifier: Apache-2.0
// Panel 1: one row per tier, by measured read bandwidth, with a bar of its use.
import type { TierJson } from '../../model/snapshot.js';
import { shownPicture, type UiState } from '../../model/state.js';
import { barText, span, type Glyphs, type Line, type StyleName } from '../lines.js';
import { panelTable, type PanelColumn } from '../columns.js';
import { sortedTiers, tierWord } from '../plain.js';
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

/** The device behind local VRAM, for the panel's title. */
export function tiersHint(state: UiState): string {
  const local = shownPicture(state)?.snapshot.tiers.find((tier) => tier.kind === 'local_vram');
  if (!local) return 'GiB, GiB/s';
  return `${cleanText(local.name)}${local.simulated ? ' (simulated)' : ''}  GiB, GiB/s`;
}

/** The body of the panel: header and rows. */
export function tiersBody(state: UiState, width: number, glyphs: Glyphs): Line[] {
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
      priority: 3,
      width: 8,
      grows: true,
      cell: (tier) => ({ text: cleanText(tier.name) }),
    },
    {
      title: 'USED',
      align: 'right',
      priority: 8,
      width: 7,
      cell: (tier) => ({ text: gib(tier.usedBytes) }),
    },
    {
      title: 'CAP',
      align: 'right',
      priority: 7,
      width: 7,
      cell: (tier) => ({ text: gib(tier.capacityBytes) }),
    },
    {
      title: '',
      align: 'left',
      priority: 4,
      width: 12,
      cell: (tier, cells) => ({
        text: isAway(tier) ? '/'.repeat(cells) : barText(share(tier), cells, glyphs),
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
      width: 7,
      cell: (tier) => ({ text: shortMicros(tier.latencyMicros) }),
    },
  ];
  const rows = sortedTiers(picture.snapshot.tiers);
  const table = panelTable(columns, rows, { width, glyphs, sort: null, isSelected: () => false });
  if (rows.length === 0) return [table.header, [span('  no tier is known yet', 'stale')]];
  return [table.header, ...table.lines];
}
