// SPDX-License-Identifier: Apache-2.0
// Plots over time as SVG text: stacked areas and lines, with a scale that says its numbers. Pure; no script.

export interface Series {
  readonly name: string;
  /** A CSS class: c0 to c5. */
  readonly color: string;
  /** One for each time. */
  readonly values: readonly number[];
}

export interface Plot {
  readonly title: string;
  /** Seconds, ascending, one for each value. */
  readonly times: readonly number[];
  readonly series: readonly Series[];
  readonly stacked: boolean;
  /** Units go by 1024: round numbers are round in them. */
  readonly binary?: boolean;
  readonly format: (value: number) => string;
}

const WIDTH = 860;
const HEIGHT = 200;
const LEFT = 76;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 26;
const LINES = 4;

/** Text inside HTML and SVG. */
export function escapeText(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');
}

/** The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `value`; 1 for nothing. */
export function niceCeiling(value: number): number {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  for (const step of [1, 2, 2.5, 5]) if (step * power >= value) return step * power;
  return 10 * power;
}

/** The same in units of 1024: 500 MiB, not 500 MB. */
function binaryCeiling(value: number): number {
  const unit = 1024 ** Math.floor(Math.log(Math.max(1, value)) / Math.log(1024));
  return niceCeiling(value / unit) * unit;
}

function sums(series: readonly Series[], stacked: boolean): number[][] {
  const tops: number[][] = [];
  for (const { values } of series) {
    const below = stacked ? tops.at(-1) : undefined;
    tops.push(values.map((value, index) => value + (below?.[index] ?? 0)));
  }
  return tops;
}

function timeText(seconds: number): string {
  if (seconds < 120) return `${Number(seconds.toFixed(1))} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function axisText(x: number, y: number, text: string): string {
  return `<text class="axis" x="${x}" y="${y}" text-anchor="end">${escapeText(text)}</text>`;
}

function grid(plot: Plot, top: number, y: (value: number) => number, lastTime: number): string {
  const rows = Array.from({ length: LINES + 1 }, (_, index) => (top * index) / LINES).map(
    (value) =>
      `<line class="grid" x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(value)}" y2="${y(value)}"/>` +
      axisText(LEFT - 8, y(value) + 4, plot.format(value)),
  );
  const ends = [
    `<text class="axis" x="${LEFT}" y="${HEIGHT - 6}">0 s</text>`,
    axisText(WIDTH - RIGHT, HEIGHT - 6, timeText(lastTime)),
  ];
  return [...rows, ...ends].join('');
}

/** One figure with a title and a legend that names the largest value of each series. Empty text without two times. */
export function plotSvg(plot: Plot): string {
  const { times, stacked, format, title } = plot;
  // What was never there needs no colour; something is drawn all the same.
  const there = plot.series.filter(({ values }) => Math.max(...values) > 0);
  const series = there.length > 0 ? there : plot.series.slice(0, 1);
  const last = times.at(-1) ?? 0;
  if (times.length < 2 || last <= 0) return '';
  const tops = sums(series, stacked);
  const top = (plot.binary ? binaryCeiling : niceCeiling)(Math.max(0, ...tops.flat()));
  const x = (time: number): number => round(LEFT + ((WIDTH - LEFT - RIGHT) * time) / last);
  const y = (value: number): number => round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top));
  const points = (values: readonly number[]): string[] =>
    values.map((value, index) => `${x(times[index] ?? 0)},${y(value)}`);
  const shapes = series.map(({ color }, index) => {
    const upper = points(tops[index] ?? []);
    if (!stacked) return `<polyline class="line ${color}" points="${upper.join(' ')}"/>`;
    const below = tops[index - 1] ?? times.map(() => 0);
    return `<polygon class="area ${color}" points="${[...upper, ...points(below).reverse()].join(' ')}"/>`;
  });
  const legend = series.map(({ name, color, values }) => {
    const most = escapeText(format(Math.max(0, ...values)));
    return `<span><i class="${color}"></i>${escapeText(name)} <b>max ${most}</b></span>`;
  });
  return (
    `<figure><figcaption>${escapeText(title)}</figcaption><p class="legend">${legend.join('')}</p>` +
    `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escapeText(title)}">` +
    `${grid(plot, top, y, last)}${shapes.join('')}</svg></figure>`
  );
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

/** Change per second between neighbours of a counter; the first is 0. A counter that fell began anew. */
export function rates(times: readonly number[], counter: readonly number[]): number[] {
  return counter.map((value, index) => {
    const seconds = (times[index] ?? 0) - (times[index - 1] ?? 0);
    const change = value - (counter[index - 1] ?? value);
    return index === 0 || seconds <= 0 ? 0 : Math.max(0, change) / seconds;
  });
}
