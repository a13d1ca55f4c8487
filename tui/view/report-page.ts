// SPDX-License-Identifier: Apache-2.0
// A run as one HTML page: plots of its course and the table of `report`. Self-contained, without script: it can be sent
// to somebody, and shows what was measured, nothing else.
import { formatBytes, formatRate } from '../../proto/base/units.js';
import type { ProgramJson, SampleJson } from '../model/report.js';
import type { Table } from './plain.js';
import { escapeText, plotSvg, rates, type Plot } from './plot.js';

export interface ReportPage {
  readonly program: ProgramJson;
  readonly headlines: readonly string[];
  readonly table: Table;
  readonly software: string;
  readonly createdUnixMs: number;
  /** A figure of a simulated GPU is said to be one. */
  readonly simulated: boolean;
}

/** Colours of Okabe and Ito, which people with any colour vision tell apart. */
const STYLE = `
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6570;--paper:#fbfbf9;--line:#d8dcdf}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#9aa5b1;--paper:#14171a;--line:#31373d}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}
body{max-width:900px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.3rem;overflow-wrap:anywhere}p.soft,figcaption,.axis{color:var(--soft)}
figure{margin:1.6rem 0}figcaption{font-weight:600}svg{width:100%;height:auto}
.axis{font-size:11px;fill:var(--soft)}.grid{stroke:var(--line)}
.line{fill:none;stroke-width:1.6}.area{opacity:.85}
.legend span{margin-right:1.2rem;white-space:nowrap}
.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.4em}
.legend b{font-weight:400;color:var(--soft)}
table{border-collapse:collapse;width:100%}
td,th{padding:.25rem .6rem;text-align:left;border-bottom:1px solid var(--line)}
.num{text-align:right;font-variant-numeric:tabular-nums}.warn{border-left:4px solid #d55e00;padding-left:.8rem}
${['#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00']
  .map(
    (hex, index) =>
      `.c${index}{stroke:${hex};background:${hex}}.area.c${index}{fill:${hex};stroke:none}`,
  )
  .join('')}`;

type Figure = Exclude<keyof SampleJson, 'atMs'>;

function plots(samples: readonly SampleJson[]): Plot[] {
  const times = samples.map(({ atMs }) => atMs / 1000);
  const column = (name: Figure): number[] => samples.map((sample) => sample[name]);
  const rate = (name: Figure): number[] => rates(times, column(name));
  const named = (
    names: readonly (readonly [Figure, string])[],
    values: (name: Figure) => number[],
  ) => names.map(([figure, name], index) => ({ name, color: `c${index}`, values: values(figure) }));
  return [
    {
      title: 'Where its memory lies',
      times,
      stacked: true,
      binary: true,
      format: formatBytes,
      series: named(
        [
          ['vramBytes', 'VRAM'],
          ['ramBytes', 'RAM'],
          ['feederBytes', 'feeders'],
          ['nvmeBytes', 'NVMe'],
        ],
        column,
      ),
    },
    {
      title: 'What moves',
      times,
      stacked: false,
      format: (value) => (value > 0 ? formatRate(value) : '0'),
      series: named(
        [
          ['stagedInBytes', 'RAM to VRAM'],
          ['stagedOutBytes', 'VRAM to RAM'],
          ['fetchBytes', 'from feeders'],
          ['evictBytes', 'to feeders'],
        ],
        rate,
      ),
    },
    {
      title: 'Share of time its calls waited',
      times,
      stacked: false,
      format: (value) => `${(value * 100).toFixed(0)} %`,
      series: [
        { name: 'waited', color: 'c5', values: rate('stallMicros').map((each) => each / 1e6) },
      ],
    },
    {
      title: 'Launches a second',
      times,
      stacked: false,
      format: (value) => `${Math.round(value)}`,
      series: [{ name: 'launches', color: 'c0', values: rate('launchCount') }],
    },
  ];
}

function tableHtml({ columns, rows }: Table): string {
  const cell = (tag: 'th' | 'td', text: string, index: number): string =>
    `<${tag}${columns[index]?.align === 'right' ? ' class="num"' : ''}>${escapeText(text)}</${tag}>`;
  const head = columns.map(({ title }, index) => cell('th', title, index)).join('');
  const body = rows.map(
    (row) => `<tr>${row.map((text, index) => cell('td', text, index)).join('')}</tr>`,
  );
  return `<table><thead><tr>${head}</tr></thead><tbody>${body.join('')}</tbody></table>`;
}

/** The whole page. Everything that others wrote (commands, names) is escaped. */
export function reportHtml(page: ReportPage): string {
  const [title = '', ...facts] = page.headlines;
  const figures = plots(page.program.samples).map(plotSvg).filter(Boolean);
  const parts = [
    `<h1>${escapeText(title)}</h1>`,
    ...facts.map((fact) => `<p>${escapeText(fact)}</p>`),
    page.simulated
      ? '<p class="warn">This was a simulated GPU: no figure here says anything about a real one.</p>'
      : '',
    ...(figures.length > 0
      ? figures
      : [
          '<p class="soft">Nothing is known of its course: the agent has ended since, or it ran too shortly.</p>',
        ]),
    tableHtml(page.table),
    `<p class="soft">${escapeText(page.software)}, ${new Date(page.createdUnixMs).toISOString()}</p>`,
  ];
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">' +
    '<meta name="viewport" content="width=device-width,initial-scale=1">' +
    `<title>${escapeText(title)}</title><style>${STYLE}</style></head>\n<body>\n` +
    `${parts.filter(Boolean).join('\n')}\n</body></html>\n`
  );
}
