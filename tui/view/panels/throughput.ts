// SPDX-License-Identifier: Apache-2.0
// Panel 2: what moved between feeders and programs in the last two minutes, newest at the right.
import { GIB } from '../../../proto/base/units.js';
import { shownPicture, type UiState } from '../../model/state.js';
import { span, sparkText, type Glyphs, type Line } from '../lines.js';
import { padStartCells } from '../text.js';
import { gibPerSecond } from '../units.js';

/** The scale never goes below this, so that idle noise stays flat. */
const RATE_FLOOR = 0.1 * GIB;
const STALL_FLOOR_PERCENT = 5;

/** One line a series: fetch, evict, stall; last the top of the scale. */
export function throughputBody(state: UiState, width: number, glyphs: Glyphs): Line[] {
  const history = shownPicture(state)?.history;
  if (!history) return [];
  const graphWidth = Math.max(4, width - 8 - 12);
  const series = (name: string, samples: readonly number[], floor: number, value: string): Line => [
    span(name.padEnd(8)),
    span(sparkText(samples, graphWidth, floor, glyphs), 'good'),
    span(padStartCells(value, 12)),
  ];
  const last = (samples: readonly number[]): number | null => samples.at(-1) ?? null;
  const stall = last(history.stall);
  const top = Math.max(
    RATE_FLOOR,
    ...history.fetch.slice(-graphWidth),
    ...history.evict.slice(-graphWidth),
  );
  return [
    series('fetch', history.fetch, RATE_FLOOR, `${gibPerSecond(last(history.fetch))} GiB/s`),
    series('evict', history.evict, RATE_FLOOR, `${gibPerSecond(last(history.evict))} GiB/s`),
    series(
      'stall',
      history.stall,
      STALL_FLOOR_PERCENT,
      stall === null ? '-' : `${stall.toFixed(0)} %`,
    ),
    [span(`top of scale ${gibPerSecond(top)} GiB/s`, 'stale')],
  ];
}
