// SPDX-License-Identifier: Apache-2.0
// The metrics are what docs/metrics.md and the dashboard say they are, and come out of real messages.
import { describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { AGENT_METRICS, FEED_METRICS, type Metric } from '../../../tui/model/metrics.js';
import { ROOT } from '../../arch/files.js';
import { snapshot as sampleSnapshot } from './fixtures.js';

const all: readonly Omit<Metric<never>, 'samples'>[] = [...AGENT_METRICS, ...FEED_METRICS];
const manual = readFileSync(join(ROOT, 'docs', 'metrics.md'), 'utf8');

describe('every metric', () => {
  test('has a name of its own, in base units, and a counter ends in _total', () => {
    expect(new Set(all.map(({ name }) => name)).size).toBe(all.length);
    for (const { name, kind } of all) {
      expect(name).toMatch(/^greenboost_[a-z_]+$/);
      expect({ name, isTotal: name.endsWith('_total') }).toEqual({
        name,
        isTotal: kind === 'counter',
      });
      expect(name).not.toMatch(/_(mib|gib|kb|ms|us|micros|millis|percent)(_|$)/);
    }
  });

  test('is in the manual with kind, labels and meaning, and the manual names no other', () => {
    const rows = all.map(
      ({ name, kind, labels, help }) =>
        `| \`${name}\` | ${kind} | ${labels.map((label) => `\`${label}\``).join(', ')} | ${help} |`,
    );
    expect(manual.split('\n').filter((line) => line.startsWith('| `greenboost_'))).toEqual(rows);
  });

  test('that the dashboard asks for exists', () => {
    const dashboard = JSON.parse(
      readFileSync(join(ROOT, 'docs', 'grafana-dashboard.json'), 'utf8'),
    ) as { panels: { targets: { expr: string }[] }[] };
    const asked = dashboard.panels
      .flatMap(({ targets }) => targets)
      .flatMap(({ expr }) => expr.match(/greenboost_\w+/g) ?? []);
    expect(asked.length).toBeGreaterThan(12);
    const names = all.map(({ name }) => name);
    expect(asked.filter((name) => !names.includes(name))).toEqual([]);
  });
});

test('samples bear exactly their labels; what is not known is left out', () => {
  const snapshot = sampleSnapshot();
  expect(snapshot.links.length).toBeGreaterThan(0);
  for (const { name, labels, samples } of AGENT_METRICS) {
    for (const [values, value] of samples(snapshot)) {
      expect({ name, labels: Object.keys(values) }).toEqual({ name, labels: [...labels] });
      expect(Number.isFinite(value)).toBe(true);
    }
  }
  const trips = AGENT_METRICS.find(({ name }) => name === 'greenboost_feeder_round_trip_seconds')!;
  const known = snapshot.links.filter(({ rttMicros }) => rttMicros !== null);
  expect(trips.samples(snapshot).map(([, value]) => value)).toEqual(
    known.map(({ rttMicros }) => (rttMicros as number) * 1e-6),
  );
});
