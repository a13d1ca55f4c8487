// SPDX-License-Identifier: Apache-2.0
// The whole screen as lines: (state, glyphs) -> exactly `rows` lines of exactly `cols` cells. Pure.
import {
  FEEDER_SORTS,
  PROCESS_SORTS,
  eventRows,
  feederRows,
  processRows,
  tierRows,
} from '../model/rows.js';
import { PANELS, isStale, shownPicture, type PanelName, type UiState } from '../model/state.js';
import { detailLines } from './detail/screen.js';
import { dialogBox } from './dialog.js';
import { connectionWord, feederCounts, footerLines, headerLines } from './header.js';
import { helpScreen } from './help.js';
import { boxLines, fitLine, restyled, span, type Glyphs, type Line } from './lines.js';
import { FOOTER_LINES, HEADER_LINES, layoutKind, panelRects, type Rect } from './layout.js';
import { overlaid } from './overlay.js';
import { feedersBody } from './panels/feeders.js';
import { eventsBody } from './panels/events.js';
import { processesBody } from './panels/processes.js';
import { throughputBody } from './panels/throughput.js';
import { tiersBody, tiersHints } from './panels/tiers.js';
import { eventLine, tierWord, totalsOf } from './plain.js';
import { cleanText } from './text.js';
import { gib } from './units.js';

/** However many feeders there are, their tiers leave room for the other panels. */
const TIER_LINES_MAX = 9;

function titleOf(panel: PanelName, state: UiState): string {
  const number = PANELS.indexOf(panel) + 1;
  const name = panel.charAt(0).toUpperCase() + panel.slice(1);
  if (panel === 'feeders') return `${number} ${name} (${feederRows(state).length})`;
  if (panel === 'processes') return `${number} ${name} (${processRows(state).length})`;
  return `${number} ${name}`;
}

function hintOf(panel: PanelName, state: UiState, glyphs: Glyphs): string | string[] {
  if (panel === 'tiers') return tiersHints(state);
  if (panel === 'throughput') return '120 samples';
  if (panel === 'events') return `newest first${state.follow ? '' : '   follow off'}`;
  const order = state.sort[panel];
  const sorts: readonly { readonly title: string }[] =
    panel === 'feeders' ? FEEDER_SORTS : PROCESS_SORTS;
  return `sort ${sorts[order.column]?.title ?? ''}${order.reverse ? glyphs.down : glyphs.up}`;
}

function bodyOf(rect: Rect, state: UiState, glyphs: Glyphs): Line[] {
  const width = rect.width - 4;
  const height = rect.height - 2;
  switch (rect.panel) {
    case 'tiers':
      return tiersBody(state, width, height, glyphs);
    case 'throughput':
      return throughputBody(state, width, glyphs);
    case 'feeders':
      return feedersBody(state, width, height, glyphs);
    case 'processes':
      return processesBody(state, width, height, glyphs);
    case 'events':
      return eventsBody(state, height);
  }
}

function rectsOf(state: UiState): Rect[] {
  const { cols, rows, focus } = state;
  if (state.zoom) {
    const height = rows - HEADER_LINES - FOOTER_LINES;
    return [{ panel: focus, x: 0, y: HEADER_LINES, width: cols, height }];
  }
  const drains = feederRows(state).filter(({ drain }) => drain !== null).length;
  return panelRects(cols, rows, {
    tiers: Math.min(TIER_LINES_MAX, tierRows(state).length + 1),
    feeders: feederRows(state).length + 1 + drains,
    processes: processRows(state).length + 2,
  });
}

function panelLines(state: UiState, glyphs: Glyphs): Line[] {
  const stale = isStale(state);
  const body: Line[] = Array.from({ length: state.rows - HEADER_LINES - FOOTER_LINES }, () => []);
  for (const rect of rectsOf(state)) {
    const content = bodyOf(rect, state, glyphs).map((line) =>
      stale ? restyled(line, 'stale') : line,
    );
    const box = {
      ...rect,
      title: titleOf(rect.panel, state),
      hint: hintOf(rect.panel, state, glyphs),
      focused: state.focus === rect.panel,
    };
    boxLines(box, content, glyphs).forEach((line, index) => {
      const row = rect.y - HEADER_LINES + index;
      // Rectangles come from left to right, so a line grows at its end.
      body[row] = [...(body[row] ?? []), ...line];
    });
  }
  return body;
}

function framed(state: UiState, body: readonly Line[], glyphs: Glyphs): Line[] {
  return [...headerLines(state, glyphs), ...body, ...footerLines(state, glyphs)];
}

function detailScreen(state: UiState, glyphs: Glyphs): Line[] {
  const height = Math.max(0, state.rows - HEADER_LINES - FOOTER_LINES);
  return framed(
    state,
    state.detail ? detailLines(state, state.detail, height, glyphs) : [],
    glyphs,
  );
}

function miniScreen(state: UiState, glyphs: Glyphs): Line[] {
  const picture = shownPicture(state);
  const lines: Line[] = [];
  const rule: Line = [span(glyphs.horizontal.repeat(state.cols), 'frame')];
  if (picture) {
    for (const tier of tierRows(state).slice(0, TIER_LINES_MAX)) {
      const capacity = tier.capacityBytes > 0 ? gib(tier.capacityBytes) : '-';
      lines.push([
        span(` ${tierWord(tier.kind).padEnd(11)} ${gib(tier.usedBytes)}/${capacity} GiB`),
      ]);
    }
    lines.push(
      rule,
      ...feedersBody(state, state.cols - 2, Math.max(2, feederRows(state).length + 1), glyphs),
    );
    lines.push(
      rule,
      ...processesBody(state, state.cols - 2, Math.max(2, processRows(state).length + 1), glyphs),
    );
    lines.push(
      rule,
      ...eventRows(state)
        .slice(0, 3)
        .map((event): Line => [span(` ${cleanText(eventLine(event))}`)]),
    );
  }
  const shown = isStale(state) ? lines.map((line) => restyled(line, 'stale')) : lines;
  const room = Math.max(0, state.rows - HEADER_LINES - FOOTER_LINES);
  const padding: Line[] = Array.from({ length: Math.max(0, room - shown.length) }, () => []);
  return framed(state, [...shown.slice(0, room), ...padding], glyphs);
}

function lineScreen(state: UiState): Line[] {
  const snapshot = shownPicture(state)?.snapshot;
  const totals = snapshot ? totalsOf(snapshot) : undefined;
  const figures = totals ? `${gib(totals.usedBytes)}/${gib(totals.capacityBytes)} GiB` : '-';
  return [
    [span(`${figures} feeders ${feederCounts(state)}`), ...connectionWord(state)],
    [span(`${state.cols}x${state.rows}`)],
  ];
}

/** The picture to draw. Shape: `state.rows` lines, each of `state.cols` cells. */
export function renderScreen(state: UiState, glyphs: Glyphs): Line[] {
  const lines = baseScreen(state, glyphs);
  const padded = [
    ...lines,
    ...Array.from({ length: Math.max(0, state.rows - lines.length) }, (): Line => []),
  ];
  const fitted = padded.slice(0, state.rows).map((line) => fitLine(line, state.cols, glyphs));
  if (!state.dialog) return fitted;
  const box = dialogBox(state.dialog, state, glyphs);
  return overlaid(fitted, box.lines, state.cols, box.width).map((line) =>
    fitLine(line, state.cols, glyphs),
  );
}

function baseScreen(state: UiState, glyphs: Glyphs): Line[] {
  const kind = layoutKind(state.cols, state.rows);
  if (kind === 'line') return lineScreen(state);
  if (state.help) return helpScreen(state, glyphs);
  if (state.detail) return detailScreen(state, glyphs);
  return kind === 'mini' && !state.zoom
    ? miniScreen(state, glyphs)
    : framed(state, panelLines(state, glyphs), glyphs);
}
