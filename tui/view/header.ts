// SPDX-License-Identifier: Apache-2.0
// The two lines above the panels and the two below: what this is, how it is, what can be pressed.
import { activeFilter } from '../model/rows.js';
import { isStale, pictureAgeMs, shownPicture, type UiState } from '../model/state.js';
import { fitLine, span, splitLine, type Glyphs, type Line } from './lines.js';
import { stateGlyph } from './panels/feeders.js';
import { clockText, totalsOf } from './plain.js';
import { cleanText } from './text.js';
import { gib, gibPerSecond, percent, shortAge } from './units.js';

/** From here on there is room for what is nice to know. */
const WIDE_COLS_MIN = 100;
/** Below this only the keys that lead somewhere are named. */
const KEYS_COLS_MIN = 78;

/** `1+ 1~ 1!`: how many feeders are in which state. */
export function feederCounts(state: UiState): string {
  const counts = new Map<string, number>();
  for (const link of shownPicture(state)?.snapshot.links ?? []) {
    const glyph = stateGlyph(link);
    counts.set(glyph, (counts.get(glyph) ?? 0) + 1);
  }
  return counts.size === 0
    ? '0'
    : [...counts].map(([glyph, count]) => `${count}${glyph}`).join(' ');
}

/** Why what is drawn is not the present; empty: it is. */
export function connectionWord(state: UiState): Line {
  const { connection } = state;
  if (connection.t === 'connecting') return [span('asking the agent', 'warn')];
  if (connection.t === 'away') {
    const wait = Math.max(0, connection.retryAtMs - state.nowMs);
    const age = shortAge(state.nowMs - connection.sinceMs);
    const retry =
      wait > 0 ? `retry ${connection.tries} in ${Math.ceil(wait / 1000)} s` : 'retrying';
    return [span(`agent away ${age}, ${retry}`, 'bad')];
  }
  if (isStale(state)) {
    const silentMs = state.nowMs - (state.latest?.atMs ?? state.nowMs);
    return [span(`agent silent for ${shortAge(silentMs)}`, 'bad')];
  }
  if (state.frozen) return [span(`FROZEN ${shortAge(pictureAgeMs(state))} ago`, 'warn')];
  return [];
}

export function headerLines(state: UiState, glyphs: Glyphs): Line[] {
  const snapshot = shownPicture(state)?.snapshot;
  const clock: Line = [span(`${clockText(state.unixMs)} `)];
  const up =
    snapshot && state.cols >= WIDE_COLS_MIN
      ? `  agent up ${shortAge(snapshot.unixMs - snapshot.startedUnixMs)}`
      : '';
  const name = snapshot
    ? ` ${cleanText(snapshot.hostName)}${up}  epoch ${snapshot.epoch}  feeders ${feederCounts(state)}  `
    : '  ';
  const marks = [
    state.readonly ? 'read-only  ' : '',
    state.follow ? '' : 'not following  ',
    state.marks.size === 0 ? '' : `${state.marks.size} marked  `,
  ];
  const first: Line = [
    span(' greenboost', 'bold'),
    span(name),
    span(marks.join(''), 'warn'),
    ...connectionWord(state),
  ];
  return [splitLine(first, clock, state.cols, glyphs), totalsLine(state)].map((line) =>
    fitLine(line, state.cols, glyphs),
  );
}

function totalsLine(state: UiState): Line {
  const picture = shownPicture(state);
  if (!picture) {
    const cause = state.connection.t === 'away' ? cleanText(state.connection.cause) : '';
    const text = cause ? ` ${cause}; start it: greenboost agent` : ' waiting for the first answer';
    return [span(text, 'stale')];
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

/** What is being typed, else what an action said, else the filter in force, else why there is no news. */
function saidLine(state: UiState): Line {
  const { prompt, flash } = state;
  if (prompt) {
    const [mark, more] =
      prompt.kind === 'filter'
        ? ['/', 'Enter keeps, Esc clears']
        : [':', 'Tab completes, Enter runs, Esc leaves'];
    return [span(` ${mark} ${prompt.text}_`, 'bold'), span(`   ${more}`, 'stale')];
  }
  if (flash) return [span(` ${cleanText(flash.text)}`, flash.bad ? 'bad' : 'good')];
  const filter = activeFilter(state);
  if (filter !== '') return [span(` filter: ${filter}`, 'warn'), span('   Esc clears', 'stale')];
  return [span(causeText(state), 'stale')];
}

function causeText(state: UiState): string {
  if (state.connection.t !== 'away') return '';
  const picture = shownPicture(state);
  const when = picture ? ` (data of ${shortAge(pictureAgeMs(state))} ago, shown grey)` : '';
  return ` ${cleanText(state.connection.cause)}${when}; programs keep running; start it: greenboost agent`;
}

function keysText(state: UiState): string {
  if (state.detail) {
    const acts = state.readonly ? '' : actsText(state);
    return ` Esc back  j/k scroll  y ${state.detail.json ? 'words' : 'JSON'}  l events${acts}`;
  }
  if (state.cols >= WIDE_COLS_MIN)
    return ` ?help  :cmd  /filter  </>sort  Enter detail  Space mark  z freeze${state.readonly ? '' : actsText(state)}`;
  return ` ?help :cmd /filter <>sort Enter z freeze${state.readonly ? '' : ' | D P E X act'}`;
}

function actsText({ detail }: UiState): string {
  if (detail?.target.kind === 'tier') return '';
  if (detail?.target.kind === 'process') return '  | E evict';
  const acts = '  | D drain  P pause';
  return detail ? `${acts}  X disconnect` : `${acts}  E evict  X disconnect`;
}

export function footerLines(state: UiState, glyphs: Glyphs): Line[] {
  const keys =
    state.cols >= KEYS_COLS_MIN
      ? splitLine([span(keysText(state))], [span('q quit ')], state.cols, glyphs)
      : [span(' ?help  1-5 panel  q quit')];
  return [fitLine(saidLine(state), state.cols, glyphs), fitLine(keys, state.cols, glyphs)];
}
