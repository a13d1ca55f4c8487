// SPDX-License-Identifier: Apache-2.0
// `greenboost demo`: every check holds, and whatever ends it, nothing is left: no process, no folder.
import { afterAll, expect, test } from '@jest/globals';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { endOf, Home, outputOf, until } from './cli-home.js';
import { Validator } from '../commands/schemas.js';

const LONG_MS = 300_000;
const folder = mkdtempSync(join(tmpdir(), 'greenboost-cli-demo-'));
const home = new Home({ TMPDIR: folder });

/** Command lines of processes that live in the demo's folder. */
function leftovers(): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const inside = readFileSync(`/proc/${pid}/environ`, 'latin1').includes(
          `${folder}/greenboost-demo`,
        );
        return inside ? [readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')] : [];
      } catch {
        return [];
      }
    });
}

afterAll(() => {
  home.close();
  rmSync(folder, { recursive: true, force: true });
});

interface DemoJson {
  ok: boolean;
  workingSetBytes: number;
  checks: { name: string; ok: boolean; found: string }[];
}

test(
  'all checks hold, the figures are in the JSON, and nothing is left',
  async () => {
    const demo = home.start(['demo', '--vram', '32MiB', '--json']);
    const output = outputOf(demo);
    const { code } = await endOf(demo);
    const result = JSON.parse(output()) as DemoJson;
    new Validator().validate('demo', result);
    expect(result.checks.filter(({ ok }) => !ok)).toEqual([]);
    expect(result).toMatchObject({ ok: true, workingSetBytes: 96 * 2 ** 20 });
    expect(result.checks.length).toBeGreaterThanOrEqual(9);
    expect(code).toBe(0);
    expect(leftovers()).toEqual([]);
    expect(readdirSync(folder)).toEqual([]);
  },
  LONG_MS,
);

test.each([
  ['SIGINT', 130, /2\. An unmodified/],
  ['SIGTERM', 143, /the host connects to anvil/],
] as const)(
  '%s in the middle ends everything it started',
  async (signal, wanted, when) => {
    const demo = home.start(['demo', '--vram', '64MiB']);
    const output = outputOf(demo);
    await until('the demo is in the middle', () => when.test(output()), 60_000);
    expect(leftovers().length).toBeGreaterThan(0);
    demo.kill(signal);
    expect((await endOf(demo)).code).toBe(wanted);
    expect(output()).toContain('nothing is left running');
    expect(leftovers()).toEqual([]);
    expect(readdirSync(folder)).toEqual([]);
  },
  LONG_MS,
);
