// SPDX-License-Identifier: Apache-2.0
// Two programs on one simulated GPU, each larger than all of it: both right, neither starved, and
// VRAM shared fairly, also when the second comes after the first has taken everything.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { join } from 'node:path';
import type { AttachmentJson } from '../../tui/model/attachments.js';
import type { SnapshotJson } from '../../tui/model/snapshot.js';
import { ROOT } from '../arch/files.js';
import { endOf, Home, outputOf, until } from './cli-home.js';

const MIB = 1 << 20;
const VRAM = 256 * MIB;
const FAIR = 0.8;
const LONG_MS = 300_000;

let home: Home;
beforeAll(() => {
  home = new Home({ GBSIM_VRAM: String(VRAM), GREENBOOST_AGENT_RAM_BUDGET: '2GiB' });
});
afterAll(() => home.close());

function start(rounds: number, more: readonly string[] = ['--bytes', '320MiB']) {
  const program = join(ROOT, 'build', 'bin', 'gb_workset');
  const options = ['--buffer-bytes', '8MiB', '--rounds', String(rounds), ...more];
  const child = home.start(['run', '--gpu', 'sim', '--', program, ...options, '--json']);
  return { child, output: outputOf(child), end: endOf(child) };
}

/** Oldest first; none before the agent answers. */
function programs(): AttachmentJson[] {
  const { code, stdout } = home.run(['status', '--json']);
  if (code !== 0) return [];
  const { attachments } = JSON.parse(stdout) as SnapshotJson;
  return attachments.sort((a, b) => a.startedUnixMs - b.startedUnixMs);
}
const ratio = (a: number, b: number): number => Math.min(a, b) / Math.max(a, b);

test(
  'two programs that overflow share the VRAM fairly and end right',
  async () => {
    const first = start(60);
    await until(
      'the first has all of the VRAM',
      () => (programs()[0]?.vramUsedBytes ?? 0) > 0.8 * VRAM,
    );
    expect(programs()[0]?.vramLimitBytes).toBeNull();
    const second = start(60);
    const [a, b] = await until('VRAM is shared, by limit and in use', () => {
      const now = programs();
      const [one, two] = now;
      if (!one || !two) return undefined;
      const fair =
        ratio(one.vramLimitBytes ?? 0, two.vramLimitBytes ?? 0) >= FAIR &&
        ratio(one.vramUsedBytes, two.vramUsedBytes) >= FAIR;
      return fair ? [one, two] : undefined;
    });
    const limits = (a?.vramLimitBytes ?? 0) + (b?.vramLimitBytes ?? 0);
    expect(limits).toBeLessThanOrEqual(VRAM);
    expect(limits).toBeGreaterThan(0.8 * VRAM);
    await until('both go on', () => {
      const [one, two] = programs();
      return (
        (one?.launchCount ?? 0) > (a?.launchCount ?? 0) &&
        (two?.launchCount ?? 0) > (b?.launchCount ?? 0)
      );
    });
    for (const { end, output } of [first, second]) {
      expect({ ...(await end), output: output() }).toMatchObject({ code: 0 });
      expect(output()).toMatch(/"ok":true/);
    }
    expect(programs()).toEqual([]);
  },
  LONG_MS,
);

test(
  'a program that idles gives its VRAM to one that works, and still has every byte',
  async () => {
    const idle = start(2, ['--bytes', '160MiB', '--pause-seconds', '30']);
    await until('it idles, all of it in VRAM', () => {
      const [only] = programs();
      return only?.phase === 'idle' && only.vramUsedBytes >= 160 * MIB && only.staging === 'off';
    });
    const busy = start(100);
    await until('the idle one has given way', () => {
      const [one, two] = programs();
      return (
        (one?.vramLimitBytes ?? VRAM) <= 64 * MIB &&
        (one?.vramUsedBytes ?? VRAM) <= 64 * MIB &&
        (two?.vramUsedBytes ?? 0) > 0.6 * VRAM
      );
    });
    for (const { end, output } of [idle, busy]) {
      expect({ ...(await end), output: output() }).toMatchObject({ code: 0 });
      expect(output()).toMatch(/"ok":true/);
    }
  },
  LONG_MS,
);
