// SPDX-License-Identifier: Apache-2.0
// The page of a run: plots that say their numbers, no script, nothing of others' text as markup.
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { GIB } from '../../../proto/base/units.js';
import { programOfStats, type ProgramJson, type SampleJson } from '../../../tui/model/report.js';
import { escapeText, niceCeiling, plotSvg, rates } from '../../../tui/view/plot.js';
import { reportHtml } from '../../../tui/view/report-page.js';

function sample(atMs: number, over: Partial<SampleJson> = {}): SampleJson {
  return {
    atMs,
    vramBytes: GIB,
    ramBytes: 2 * GIB,
    feederBytes: 0,
    nvmeBytes: 0,
    fetchBytes: 0,
    evictBytes: 0,
    stagedInBytes: atMs * 1_000_000,
    stagedOutBytes: 0,
    stallMicros: atMs * 100,
    launchCount: atMs,
    ...over,
  };
}

const page = (program: Partial<ProgramJson>, simulated = false): string =>
  reportHtml({
    program: { ...(programOfStats('{"pid":5,"launchCount":9}') as ProgramJson), ...program },
    headlines: ['pid 5  python <serve> & "co"', 'staging: on'],
    table: {
      columns: [{ title: 'FIGURE' }, { title: 'MEASURED', align: 'right' }],
      rows: [['<b>', '1']],
    },
    software: 'greenboost 0.1.0',
    createdUnixMs: 0,
    simulated,
  });

describe('plots', () => {
  test('a scale ends at a round number that holds every value', () => {
    fc.assert(
      fc.property(fc.double({ min: 1e-3, max: 1e15, noNaN: true }), (value) => {
        const top = niceCeiling(value);
        expect(top).toBeGreaterThanOrEqual(value);
        expect(top).toBeLessThanOrEqual(2.5 * value);
      }),
    );
    expect([niceCeiling(0), niceCeiling(3), niceCeiling(20), niceCeiling(2.2)]).toEqual([
      1, 5, 20, 2.5,
    ]);
  });

  test('rates are changes per second; a counter that begins anew gives none', () => {
    expect(rates([0, 1, 3, 4], [5, 15, 35, 0])).toEqual([0, 10, 10, 0]);
  });

  test('areas stand on each other, inside the frame', () => {
    const svg = plotSvg({
      title: 'memory',
      times: [0, 10],
      stacked: true,
      format: String,
      series: [
        { name: 'a', color: 'c0', values: [4, 4] },
        { name: 'b', color: 'c1', values: [6, 6] },
      ],
    });
    const tops = [...svg.matchAll(/<polygon class="area c\d" points="[\d.]+,([\d.]+) /g)].map(
      ([, y]) => Number(y),
    );
    // 164 units are 10; the first ends 4 above the ground, the second at the top.
    expect(tops).toEqual([108.4, 10]);
    expect(svg).toContain('max 6');
  });

  test('nothing is drawn of a single moment', () => {
    const plot = { title: 't', times: [0], stacked: false, format: String, series: [] };
    expect(plotSvg(plot)).toBe('');
  });
});

describe('the page', () => {
  test('holds four plots and the table, no script, no address', () => {
    const html = page({ samples: [sample(0), sample(500), sample(1000)] });
    expect(html.match(/<svg /g)).toHaveLength(4);
    expect(html).not.toMatch(/<script|https?:|src=|@import/i);
    expect(html).toContain('max 1.00 GB/s'); // 1 MB each millisecond came into VRAM.
    expect(html).toContain('max 10 %');
    expect(html).not.toContain('simulated');
  });

  test('says that a simulated GPU is none, and that nothing is known where nothing is', () => {
    expect(page({}, true)).toContain('simulated GPU: no figure here');
    expect(page({})).toContain('Nothing is known of its course');
  });

  test('takes no text of others for markup', () => {
    const html = page({ samples: [] });
    expect(html).toContain('python &lt;serve&gt; &amp; &quot;co&quot;');
    expect(html).toContain('<td>&lt;b&gt;</td>');
    fc.assert(fc.property(fc.string(), (text) => expect(escapeText(text)).not.toMatch(/[<>"]/)));
  });
});
