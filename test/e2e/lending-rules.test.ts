// SPDX-License-Identifier: Apache-2.0
// The owner goes first, with real daemons: what his host sees while he uses his GPU, and outside of his hours.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { nativePath } from '../../proto/base/paths.js';
import { freePort, Home, until } from './cli-home.js';

const PATIENT_MS = 300_000;

let home: Home;
/** The agent looks at no GPU: on the simulated driver whoever does counts as computing there. */
const noGpu = { GREENBOOST_GPU: 'none' };

beforeAll(() => {
  home = new Home();
});
afterAll(() => home.close());

async function lend(...rules: string[]): Promise<string> {
  const [port, lanePort] = [await freePort(), await freePort()];
  const where = [
    '--port',
    port,
    '--lane-port',
    lanePort,
    '--bind',
    '127.0.0.1',
    '--cache-bytes',
    '0',
  ];
  home.call(['feed', 'start', '--ram', '8MiB', '--name', 'oven', ...where, ...rules]);
  return `127.0.0.1:${port}`;
}

const eventNames = (): string[] =>
  home
    .call(['events', '--json'])
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => (JSON.parse(line) as { name: string }).name);

test(
  'a host sees that a GPU is in use, and when it is lent again; the owner sees by whom',
  async () => {
    const address = await lend('--vram', '0=16MiB', '--idle-only', '--idle-seconds', '1');
    const key = home.call(['key', 'show']).trim();
    home.call(['connect', address], { ...noGpu, GREENBOOST_KEY: key });
    const causes = () => home.status().links[0]?.feederPauses.map(({ cause }) => cause);
    await until(
      'it lends',
      () => home.status().links[0]?.state === 'ready' && causes()?.length === 0,
    );

    const library = join(nativePath('lib', 'sim', 'libcuda.so.1'), '..');
    const words = [
      '--bytes',
      '4MiB',
      '--buffer-bytes',
      '2MiB',
      '--rounds',
      '1',
      '--hold-seconds',
      '600',
    ];
    const program = spawn(nativePath('bin', 'gb_workset'), words, {
      stdio: 'ignore',
      env: { ...home.env, LD_LIBRARY_PATH: library },
    });
    try {
      await until('it is in use', () => causes()?.[0] === 'local_use');
      expect(home.feedStatus()).toMatchObject({
        state: 'draining',
        pauses: [{ cause: 'local_use', drain: true, untilUnixMs: null }],
      });
      expect(home.call(['feed', 'status'])).toContain(
        `gb_workset (pid ${program.pid}) computes on it`,
      );
      expect(home.call(['status'])).toMatch(/oven .* in use /);
      expect(home.call(['feed', 'resume'])).toMatch(
        /^no longer paused by you, but: its GPU is in use/,
      );
      // What the owner runs is his own affair.
      expect(JSON.stringify(home.status())).not.toContain('gb_workset');
    } finally {
      program.kill('SIGKILL');
    }
    await until('it lends again', () => causes()?.length === 0);
    const names = eventNames();
    expect(names.indexOf('feeder_lends')).toBeGreaterThan(names.indexOf('feeder_lends_nothing'));
    expect(home.feedStatus().state).toBe('lending');
    home.call(['disconnect', 'oven']);
    home.call(['feed', 'stop', '--grace', '0']);
  },
  PATIENT_MS,
);

test(
  'outside of its hours a feeder is connected and lends nothing, and says until when',
  async () => {
    const hour = (ahead: number): string =>
      `${String((new Date().getHours() + ahead) % 24).padStart(2, '0')}:00`;
    const address = await lend('--hours', `${hour(3)}-${hour(4)}`);
    const status = home.feedStatus();
    expect(status.pauses).toMatchObject([{ cause: 'hours', drain: true }]);
    expect(status.pauses[0]?.untilUnixMs).toBeGreaterThan(Date.now());
    const key = home.call(['key', 'show']).trim();
    home.call(['connect', address], { ...noGpu, GREENBOOST_KEY: key });
    await until('it is told', () => /oven .* off hours /.test(home.call(['status'])));
    home.call(['feed', 'stop', '--grace', '0']);
    const wrong = home.run(['feed', 'start', '--hours', 'late']);
    expect(wrong.code).toBe(2);
    expect(wrong.stderr).toContain('--hours: "late": write hours such as 22:00-07:00');
  },
  PATIENT_MS,
);
