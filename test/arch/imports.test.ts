// SPDX-License-Identifier: Apache-2.0
// Who may import whom (docs/architecture.md). A forbidden edge fails with the reason it is
// forbidden for.
import { describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { filesOf, ROOT } from './files.js';

const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  proto: [],
  security: ['proto'],
  driver: ['proto'],
  feeder: ['security', 'driver', 'proto'],
  host: ['security', 'driver', 'proto'],
  tui: ['proto'],
};

/** Edges beyond the table: [importer prefix, imported prefix, why it is right]. */
const EXCEPTIONS: readonly (readonly [string, string, string])[] = [
  ['tui/cli/', 'security/', 'the key commands read and write key files themselves'],
  ['tui/cli/', 'feeder/main', 'feed start is the feeder daemon'],
  ['tui/cli/', 'host/main', 'agent is the host agent'],
  ['tui/cli/', 'host/plan/', 'plan reads model files and measures this machine, without an agent'],
  ['tui/cli/', 'host/bench/', 'bench measures this machine, without an agent too'],
  ['tui/cli/', 'host/doctor/', 'doctor looks at this machine, without an agent too'],
];

/** npm packages that only some folders may touch: [package, prefixes, why]. */
const PACKAGES: readonly (readonly [string, readonly string[], string])[] = [
  ['koffi', ['driver/'], 'native calls live in driver/, so that one folder owns every ABI'],
  ['blessed', ['tui/term/'], 'blessed can be replaced in one folder'],
  [
    '@grpc/grpc-js',
    ['host/', 'feeder/', 'proto/grpc.ts', 'security/', 'tui/control/'],
    'transport stays at the edges',
  ],
  ['commander', ['tui/cli/'], 'only the CLI parses arguments'],
  [
    'multicast-dns',
    ['feeder/announce', 'tui/control/discover'],
    'one file answers on the LAN, and one asks',
  ],
  ['qr', ['tui/cli/qr'], 'the CLI alone draws QR codes'],
  ['toml-eslint-parser', ['proto/settings/'], 'one file reads TOML'],
  [
    'prom-client',
    ['tui/cli/commands/metrics'],
    'the exporter is a process of its own, without keys',
  ],
];

interface Edge {
  readonly from: string;
  readonly to: string;
}

function edges(): Edge[] {
  const found: Edge[] = [];
  for (const file of filesOf(['proto', 'security', 'driver', 'feeder', 'host', 'tui'], '.ts')) {
    const text = readFileSync(join(ROOT, file), 'utf8');
    for (const match of text.matchAll(/(?:from|import)\s*\(?\s*['"]([^'"]+)['"]/g)) {
      const target = match[1] as string;
      const to = target.startsWith('.')
        ? relative(ROOT, join(ROOT, dirname(file), target)).replace(/\.js$/, '.ts')
        : target;
      found.push({ from: file, to });
    }
  }
  return found;
}

const folderOf = (path: string): string => path.split('/')[0] as string;

describe('import directions', () => {
  const all = edges();

  test('there is something to check', () => {
    expect(all.length).toBeGreaterThan(20);
  });

  test('folders import only what the table allows', () => {
    const wrong = all.filter(({ from, to }) => {
      const allowed = MAY_IMPORT[folderOf(from)];
      const target = folderOf(to);
      if (!allowed || !Object.hasOwn(MAY_IMPORT, target) || target === folderOf(from)) return false;
      if (allowed.includes(target)) return false;
      return !EXCEPTIONS.some(([f, t]) => from.startsWith(f) && to.startsWith(t));
    });
    expect(wrong.map(({ from, to }) => `${from} imports ${to}`)).toEqual([]);
  });

  test('security and driver see only the leaf vocabulary of proto', () => {
    const wrong = all.filter(
      ({ from, to }) =>
        ['security', 'driver'].includes(folderOf(from)) &&
        folderOf(to) === 'proto' &&
        !to.startsWith('proto/base/'),
    );
    expect(wrong.map(({ from, to }) => `${from} imports ${to}`)).toEqual([]);
  });

  test.each(PACKAGES)('%s is imported only where it belongs', (name, prefixes, why) => {
    const wrong = all.filter(
      ({ from, to }) =>
        (to === name || to.startsWith(`${name}/`)) && !prefixes.some((p) => from.startsWith(p)),
    );
    expect({ why, wrong: wrong.map(({ from }) => from) }).toEqual({ why, wrong: [] });
  });
});
