// SPDX-License-Identifier: Apache-2.0
// The whole screen as lines: (state, glyphs) -> exactly `rows` lines of exactly `cols` cells. Pure.
import { KEY_BINDINGS } from '../model/keys.js';
import { FEEDER_SORTS, PROCESS_SORTS, feederRows, processRows } from '../model/rows.js';
import {
  PANELS,
  isStale,
  pictureAgeMs,
  shownPicture,
  type PanelName,
  type UiState,
} from '../model/state.js';
import { boxLines, fitLine, restyled, span, splitLine, type Glyphs, type Line } from './lines.js';
import { FOOTER_LINES, HEADER_LINES, layoutKind, panelRects, type Rect } from './layout.js';
import { feedersBody, stateGlyph } from './panels/feeders.js';
import { eventsBody } from './panels/events.js';
import { processesBody } from './panels/processes.js';
import { throughputBody } from './panels/throughput.js';
import { tiersBody, tiersHint } from './panels/tiers.js';
import { clockText, eventLine, sortedTiers, tierWord, totalsOf } from './plain.js';
import { cleanText } from './text.js';
import { gib, gibPerSecond, percent, shortAge } from './units.js';

/** `1+ 1~ 1!`: how many feeders are in which state. */
function feederCounts(state: UiState): string {
  const counts = new Map<string, number>();
  for (const link of shownPicture(state)?.snapshot.links ?? []) {
    const glyph = stateGlyph(link.state);
    counts.set(glyph, (counts.get(glyph) ?? 0) + 1);
  }
  return counts.size === 0
    ? '0'
    : [...counts].map(([glyph, count]) => `${count}${glyph}`).join(' ');
}

function connectionWord(state: UiState): Line {
  const connection = state.connection;
  if (connection.t === 'connecting') return [span('asking the agent', 'warn')];
  if (connection.t === 'away') {
    const wait = Math.max(0, connection.retryAtMs - state.nowMs);
    const age = shortAge(state.nowMs - connection.sinceMs);
    const retry =
      wait > 0 ? `retry ${connection.tries} in ${Math.ceil(wait / 1000)} s` : 'retrying';
    return [span(`agent away ${age}, ${retry}`, 'bad')];
  }
  if (state.frozen) return [span(`FROZEN ${shortAge(pictureAgeMs(state))} ago`, 'warn')];
  const age = pictureAgeMs(state);
  return isStale(state) ? [span(`agent silent for ${shortAge(age)}`, 'bad')] : [];
}

function headerLines(state: UiState, glyphs: Glyphs): Line[] {
  const snapshot = shownPicture(state)?.snapshot;
  const clock: Line = [span(`${clockText(state.unixMs)} `)];
  const name = snapshot
    ? ` ${cleanText(snapshot.hostName)}  epoch ${snapshot.epoch}  feeders ${feederCounts(state)}  `
    : '  ';
  const first: Line = [span(' greenboost', 'bold'), span(name), ...connectionWord(state)];
  return [
    splitLine(first, clock, state.cols, glyphs),
    fitLine(totalsLine(state), state.cols, glyphs),
  ].map((line) => fitLine(line, state.cols, glyphs));
}

function totalsLine(state: UiState): Line {
  const picture = shownPicture(state);
  if (!picture) {
    const cause = state.connection.t === 'away' ? cleanText(state.connection.cause) : '';
    return [
      span(
        cause ? ` ${cause}; start it: greenboost agent` : ' waiting for the first answer',
        'stale',
      ),
    ];
  }
  const { usedBytes, capacityBytes } = totalsOf(picture.snapshot);
  const share = capacityBytes > 0 ? usedBytes / capacityBytes : 0;
  const last = (samples: readonly number[]): number | null => samples.at(-1) ?? null;
  const stall = last(picture.history.stall);
  const parts = [
    ` ${gib(usedBytes)} / ${gib(capacityBytes)} GiB (${percent(share)}) `,
    `fetch ${gibPerSecond(last(picture.history.fetch))}`,
    `evict ${gibPerSecond(last(picture.history.evict))} GiB/s `,
    `stall ${stall === null ? '-' : `${stall.toFixed(0)}%`}`,
  ];
  return [span(parts.join('  '), isStale(state) ? 'stale' : 'plain')];
}

function footerLines(state: UiState, glyphs: Glyphs): Line[] {
  const filter: Line =
    state.prompt !== null
      ? [span(` / ${state.prompt}_`, 'bold'), span('   Enter keeps, Esc clears', 'stale')]
      : state.filter !== ''
        ? [span(` filter: ${state.filter}`, 'warn'), span('   Esc clears', 'stale')]
        : [span(causeText(state), 'stale')];
  const keys: Line = [span(' ?help  1-5 Tab panel  j/k row  s sort  - reverse  /filter  f freeze')];
  const quit: Line = [span('q quit ')];
  const narrow: Line = [span(' ?help  1-5 panel  q quit')];
  const room = state.cols >= 78;
  return [
    fitLine(filter, state.cols, glyphs),
    fitLine(room ? splitLine(keys, quit, state.cols, glyphs) : narrow, state.cols, glyphs),
  ];
}

function causeText(state: UiState): string {
  if (state.connection.t !== 'away') return '';
  const picture = shownPicture(state);
  const when = picture ? ` (data of ${shortAge(pictureAgeMs(state))} ago, shown grey)` : '';
  return ` ${cleanText(state.connection.cause)}${when}; programs keep running; start it: greenboost agent`;
}

function titleOf(panel: PanelName, state: UiState): string {
  const number = PANELS.indexOf(panel) + 1;
  const name = panel.charAt(0).toUpperCase() + panel.slice(1);
  if (panel === 'feeders') return `${number} ${name} (${feederRows(state).length})`;
  if (panel === 'processes') return `${number} ${name} (${processRows(state).length})`;
  return `${number} ${name}`;
}

function hintOf(panel: PanelName, state: UiState, glyphs: Glyphs): string {
  if (panel === 'tiers') return tiersHint(state);
  if (panel === 'throughput') return '120 samples';
  if (panel === 'events') return 'newest first';
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
      return tiersBody(state, width, glyphs);
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

function boxScreen(state: UiState, glyphs: Glyphs): Line[] {
  const snapshot = shownPicture(state)?.snapshot;
  const rects = panelRects(state.cols, state.rows, {
    tiers: (snapshot?.tiers.length ?? 0) + 1,
    feeders: feederRows(state).length + 1,
    processes: processRows(state).length + 2,
  });
  const stale = isStale(state);
  const body: Line[] = Array.from({ length: state.rows - HEADER_LINES - FOOTER_LINES }, () => []);
  for (const rect of rects) {
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
  return [...headerLines(state, glyphs), ...body, ...footerLines(state, glyphs)];
}

function miniScreen(state: UiState, glyphs: Glyphs): Line[] {
  const picture = shownPicture(state);
  const lines: Line[] = [];
  const rule: Line = [span(glyphs.horizontal.repeat(state.cols), 'frame')];
  if (picture) {
    for (const tier of sortedTiers(picture.snapshot.tiers)) {
      lines.push([
        span(
          ` ${tierWord(tier.kind).padEnd(11)} ${gib(tier.usedBytes)}/${gib(tier.capacityBytes)} GiB`,
        ),
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
      ...picture.snapshot.events
        .slice(-3)
        .reverse()
        .map((event): Line => [span(` ${cleanText(eventLine(event))}`)]),
    );
  }
  const shown = isStale(state) ? lines.map((line) => restyled(line, 'stale')) : lines;
  const room = Math.max(0, state.rows - HEADER_LINES - FOOTER_LINES);
  const padding: Line[] = Array.from({ length: Math.max(0, room - shown.length) }, () => []);
  return [
    ...headerLines(state, glyphs),
    ...shown.slice(0, room),
    ...padding,
    ...footerLines(state, glyphs),
  ];
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

function helpScreen(state: UiState, glyphs: Glyphs): Line[] {
  // The five focus keys share one line.
  const labels = [...new Map(KEY_BINDINGS.map((binding) => [binding.label, binding])).values()];
  const body: Line[] = labels.map((binding) => [
    span(binding.label.padEnd(10), 'bold'),
    span(binding.help),
  ]);
  const states: Line = [
    span('feeders: + ready  . connecting  ~ draining  ! stale  x lost  o closed', 'stale'),
  ];
  const strip: Line = [
    span('residency: V local vram  r local ram  F feeder vram  f feeder ram', 'stale'),
  ];
  const box = {
    title: 'Keys',
    hint: 'any key closes',
    focused: true,
    width: state.cols,
    height: state.rows,
  };
  return boxLines(box, [...body, [], states, strip], glyphs);
}

/** The picture to draw. Shape: `state.rows` lines, each of `state.cols` cells. */
export function renderScreen(state: UiState, glyphs: Glyphs): Line[] {
  const kind = layoutKind(state.cols, state.rows);
  const lines =
    kind === 'line'
      ? lineScreen(state)
      : state.help
        ? helpScreen(state, glyphs)
        : kind === 'mini'
          ? miniScreen(state, glyphs)
          : boxScreen(state, glyphs);
  const padded = [
    ...lines,
    ...Array.from({ length: Math.max(0, state.rows - lines.length) }, (): Line => []),
  ];
  return padded.slice(0, state.rows).map((line) => fitLine(line, state.cols, glyphs));
}
