// SPDX-License-Identifier: Apache-2.0
// A detail view as the box between header and footer: the right description, or the record itself, scrolled.
import { attachmentOf, linkOf, recordOf, tierOf } from '../../model/detail.js';
import { isStale, shownPicture, type Detail, type UiState } from '../../model/state.js';
import { boxLines, restyled, span, type Glyphs, type Line } from '../lines.js';
import { cleanText } from '../text.js';
import { feederDetail } from './feeder.js';
import { processDetail } from './process.js';
import { tierDetail } from './tier.js';

function described(state: UiState, { target }: Detail, width: number, glyphs: Glyphs): Line[] {
  const picture = shownPicture(state);
  if (!picture) return [];
  if (target.kind === 'feeder') {
    const link = linkOf(state, target.id);
    return link ? feederDetail(link, picture, state, width, glyphs) : [];
  }
  if (target.kind === 'process') {
    const from = attachmentOf(state, target.id);
    return from ? processDetail(from, picture, state, width, glyphs) : [];
  }
  const tier = tierOf(state, target.id);
  return tier ? tierDetail(tier, picture, width, glyphs) : [];
}

function bodyLines(state: UiState, detail: Detail, width: number, glyphs: Glyphs): Line[] {
  const record = recordOf(state, detail);
  if (record === undefined)
    return [[span(`${cleanText(detail.target.name)} has gone; Esc goes back`, 'warn')]];
  if (!detail.json) return described(state, detail, width, glyphs);
  return JSON.stringify(record, null, 2)
    .split('\n')
    .map((line) => [span(cleanText(line))]);
}

/** The view in `height` lines of `state.cols` cells. It never scrolls beyond its last line. */
export function detailLines(
  state: UiState,
  detail: Detail,
  height: number,
  glyphs: Glyphs,
): Line[] {
  const { target, json } = detail;
  const lines = bodyLines(state, detail, Math.max(1, state.cols - 4), glyphs);
  const room = Math.max(0, height - 2);
  const start = Math.min(detail.scroll, Math.max(0, lines.length - room));
  const shown = lines.slice(start, start + room);
  const kind = target.kind.charAt(0).toUpperCase() + target.kind.slice(1);
  const box = {
    title: `${kind} ${cleanText(target.name)}${json ? ' as JSON' : ''}`,
    hint:
      lines.length > room
        ? `lines ${start + 1}-${start + shown.length} of ${lines.length}`
        : 'Esc goes back',
    focused: true,
    width: state.cols,
    height,
  };
  const stale = isStale(state);
  return boxLines(box, stale ? shown.map((line) => restyled(line, 'stale')) : shown, glyphs);
}
