// SPDX-License-Identifier: Apache-2.0
// The cluster screen on a real cluster: an agent, two feeders, a program, in tmux. Every size and kind of terminal;
// what an action says it would do, and does; a feeder with a hostile name; the forms without a screen.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { ROOT } from '../arch/files.js';
import { freePort, Home, LAUNCHER, until } from './cli-home.js';
import { clusterPids, Pane } from './pane.js';

const LONG_MS = 300_000;
const MIB = 1 << 20;
const SIZES = [
  [160, 45],
  [120, 35],
  [100, 30],
  [80, 24],
  [60, 12],
  [39, 9],
] as const;
const TERMS = ['screen', 'tmux-256color', 'xterm-256color', 'dumb', 'vt100'] as const;
/** Clears the screen, sets the title, says it is a tag, and is written from right to left. */
const HOSTILE = '\u001b[2J\u001b]0;owned\u0007{red-fg}kiln\u202e';

let host: Home;
let lenders: Home[];
let program: ChildProcess;
let pane: Pane;

async function lend(name: string): Promise<void> {
  const lender = new Home();
  lenders.push(lender);
  const port = await freePort();
  const address = ['--bind', '127.0.0.1', '--port', port, '--lane-port', '0'];
  lender.call(['feed', 'start', '--name', name, '--ram', '192MiB', '--gpu', 'none', ...address]);
  const key = lender.call(['key', 'show']).trim().split('\n').at(-1) as string;
  host.call(['connect', `127.0.0.1:${port}`], { GREENBOOST_KEY: key });
}

const held = (name: string): number =>
  host
    .status()
    .links.filter(({ feederName }) => feederName.includes(name))
    .flatMap(({ devices }) => devices)
    .reduce((sum, { usedBytes }) => sum + usedBytes, 0);

beforeAll(async () => {
  host = new Home();
  lenders = [];
  await lend('anvil');
  const load = ['--bytes', '96MiB', '--buffer-bytes', '8MiB', '--rounds', '1000000'];
  const limits = ['--vram-budget', '32MiB', '--ram-budget', '32MiB', '--overcommit', 'gated'];
  const workset = join(ROOT, 'build', 'bin', 'gb_workset');
  program = host.start(['run', '--gpu', 'sim', ...limits, '--', workset, ...load]);
  await until('the program has bytes on the feeder', () => held('anvil') >= 8 * MIB);
  await lend(HOSTILE);
  pane = new Pane(host);
}, LONG_MS);

afterAll(async () => {
  pane?.close();
  program?.kill('SIGTERM');
  await until('the program has ended', () => host.status().attachments.length === 0);
  for (const lender of lenders) lender.close();
  host.close();
}, LONG_MS);

afterEach(() => {
  for (const pid of clusterPids(host)) process.kill(pid, 'SIGKILL');
  pane.command('reset; clear');
});

async function start(args = '', before = ''): Promise<void> {
  pane.command('clear');
  pane.command(`${before} ${LAUNCHER} cluster ${args}`);
}

async function ended(): Promise<void> {
  pane.key('q');
  await until('the terminal is as it was', () => pane.flags() === '0 1 0');
}

describe('sizes', () => {
  test(
    'of six kinds show what they have room for, never wider or higher than the terminal',
    async () => {
      await start();
      await pane.shows(/1 Tiers/);
      for (const [cols, rows] of SIZES) {
        pane.resize(cols, rows);
        await pane.shows(cols < 40 ? `${cols}x${rows}` : /anvil/);
        const lines = pane.screen().replace(/\n$/, '').split('\n');
        expect(lines.length).toBeLessThanOrEqual(rows);
        for (const line of lines) expect([...line].length).toBeLessThanOrEqual(cols);
      }
      pane.resize(120, 35);
      await pane.shows('2 Throughput');
      await ended();
    },
    LONG_MS,
  );
});

describe('terminals', () => {
  test.each(TERMS)(
    '%s: draws, or prints tables where nothing can be drawn; and gives the terminal back',
    async (term) => {
      await start('', `TERM=${term}`);
      if (term === 'dumb') {
        await pane.shows(/Programs \(1\)/);
        expect(pane.flags()).toBe('0 1 0');
        return;
      }
      await pane.shows(/anvil .* ready/);
      expect(pane.screen()).toMatch(/[┌+][─-] 1 Tiers/);
      await ended();
    },
    LONG_MS,
  );

  test(
    'LANG=C draws with ASCII, --no-color without a colour',
    async () => {
      await start('--no-color', 'LANG=C LC_ALL=C');
      await pane.shows(/\+- 1 Tiers/);
      expect(pane.coloured()).not.toMatch(/\u001b\[[0-9;]*(3[1-7]|9[0-7])m/);
      await ended();
    },
    LONG_MS,
  );
});

describe('actions', () => {
  test(
    'a drain is planned, does nothing on Cancel, and moves what the plan said',
    async () => {
      await start();
      await pane.shows(/anvil .* ready/);
      const before = held('anvil');
      pane.type(':drain anvil');
      await pane.shows(': drain anvil_');
      pane.key('Enter');
      await pane.shows(/plan: .* MiB in \d+ ranges/);
      await pane.shows('[ Cancel ]');
      pane.key('Enter');
      await until('the dialog is closed', () => !pane.screen().includes('[ Cancel ]'));
      expect(held('anvil')).toBeGreaterThan(0);
      expect(before).toBeGreaterThan(0);
      // Programs may move bytes between plan and button: then the new plan is shown, on Cancel again.
      await until('anvil is empty', () => {
        if (held('anvil') === 0) return true;
        const screen = pane.screen();
        if (screen.includes('[ Drain ]')) pane.key('Enter');
        else if (screen.includes('[ Cancel ]')) pane.key('Tab');
        else if (!/draining|under way|sent;/.test(screen)) {
          pane.type(':drain anvil');
          pane.key('Enter');
        }
        return false;
      });
      await pane.shows(/= anvil .* paused/);
      await ended();
      host.call(['resume', 'anvil']);
    },
    LONG_MS,
  );

  test(
    'read-only has none, by flag and by environment',
    async () => {
      for (const [args, before] of [
        ['--readonly', ''],
        ['', 'GREENBOOST_READONLY=1'],
      ] as const) {
        await start(args, before);
        await pane.shows(/read-only/);
        await pane.shows(/anvil .* ready/);
        pane.key('3');
        pane.key('j');
        pane.key('D');
        pane.type(':drain anvil');
        pane.key('Enter');
        await pane.shows('no command :drain');
        expect(pane.screen()).not.toContain('[ Cancel ]');
        await ended();
      }
    },
    LONG_MS,
  );
});

describe('hostile data', () => {
  test(
    'a feeder whose name steers terminals is only text, on the screen and in tables',
    async () => {
      await start();
      // The agent has taken out what steers a terminal; what is left is only text.
      await pane.shows(/2J0owned/);
      expect(pane.screen()).toMatch(/anvil .* ready/);
      await ended();
      for (const form of [['status'], ['cluster', '--once'], ['events']]) {
        const text = host.call(form);
        expect(text).toContain('2J0ownedred-fgkiln');
        expect(text).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u202e]/);
      }
    },
    LONG_MS,
  );
});

describe('without a screen', () => {
  test('a pipe gets tables without an escape, with rates of two samples', () => {
    const text = host.call(['cluster']);
    expect(text).toMatch(/Rates, measured over 1\.00 s/);
    expect(text).toMatch(/^anvil /m);
    expect(text).not.toContain('\u001b');
    expect(host.call(['cluster', '--once', '--no-rates'])).not.toContain('Rates');
  });

  test('--json is one document, --watch --json one a line', async () => {
    const one = JSON.parse(host.call(['cluster', '--json'])) as { schemaVersion: number };
    expect(one.schemaVersion).toBe(1);
    const child = host.start(['cluster', '--watch', '--json', '--interval', '0.25']);
    let text = '';
    child.stdout?.on('data', (chunk: Buffer) => (text += String(chunk)));
    await new Promise<void>((resolve) => {
      child.stdout?.on('data', () => text.split('\n').length > 3 && resolve());
    });
    child.kill('SIGTERM');
    const lines = text.split('\n').slice(0, 3);
    for (const line of lines) expect(JSON.parse(line)).toMatchObject({ schemaVersion: 1 });
  });

  test('--dry-run prints the plan and its epoch; a stale epoch is exit 7, a bad one exit 2', () => {
    const plan = JSON.parse(host.call(['pause', 'anvil', '--dry-run', '--json'])) as {
      epoch: number;
      refusal: string | null;
    };
    expect(plan.refusal).toBeNull();
    expect(host.run(['pause', 'anvil', '--epoch', String(plan.epoch + 1000)]).code).toBe(7);
    expect(host.run(['pause', 'anvil', '--epoch', 'now']).code).toBe(2);
    expect(host.status().links.some(({ paused }) => paused)).toBe(false);
  });

  test('evict takes VRAM from a program that runs, once', async () => {
    const [from] = host.status().attachments;
    expect(host.run(['evict', '1']).code).toBe(5);
    expect(host.run(['evict', 'me']).code).toBe(2);
    const full = host.run(['evict', String(from?.pid), '--bytes', '8MiB']);
    expect({ code: full.code, said: full.stderr }).toMatchObject({ code: 6 });
    const roomy = host.start([
      'run',
      '--gpu',
      'sim',
      '--vram-budget',
      '64MiB',
      '--',
      join(ROOT, 'build', 'bin', 'gb_workset'),
      ...['--bytes', '48MiB', '--buffer-bytes', '8MiB', '--rounds', '2', '--pause-seconds', '600'],
    ]);
    try {
      const pid = await until('it idles with bytes in VRAM', () => {
        const found = host
          .status()
          .attachments.find(({ allocatedBytes }) => allocatedBytes === 48 * MIB);
        return found && found.vramUsedBytes >= 48 * MIB ? found.pid : undefined;
      });
      const answer = host.call(['evict', String(pid), '--bytes', '16MiB', '--json']);
      const { evictedBytes } = JSON.parse(answer) as { evictedBytes: number };
      expect(evictedBytes).toBeGreaterThanOrEqual(16 * MIB);
    } finally {
      roomy.kill('SIGTERM');
    }
  });
});
