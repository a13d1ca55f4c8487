// SPDX-License-Identifier: Apache-2.0
// `greenboost cluster` and the key prompt in a real terminal (tmux): what is on the screen, resizing, an agent that is
// killed underneath, every way to end, and the terminal given back each time.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { Home, LAUNCHER, until } from './cli-home.js';
import { clusterPids, Pane } from './pane.js';

const LONG_MS = 300_000;

describe('greenboost cluster in a terminal', () => {
  const home = new Home();
  let pane: Pane;
  beforeAll(() => {
    home.call(['run', '--gpu', 'sim', '--', 'true']);
    pane = new Pane(home);
  }, LONG_MS);
  afterAll(() => {
    pane.close();
    home.close();
  });

  // A test that fails must not leave its screen to the next one.
  afterEach(() => {
    for (const pid of clusterPids(home)) process.kill(pid, 'SIGKILL');
    pane.command('reset; clear');
  });

  async function start(args = ''): Promise<void> {
    pane.command('clear');
    pane.command(`${LAUNCHER} cluster ${args}`);
    await pane.shows(/1 Tiers/);
  }

  async function ended(code: number): Promise<void> {
    // What is typed before the shell is back would be keys of the program.
    await until('the terminal is as it was', () => pane.flags() === '0 1 0');
    pane.command('echo "code=$?"');
    await pane.shows(`code=${code}\n`);
    expect(pane.flags()).toBe('0 1 0');
  }

  test(
    'draws tiers with their figures, follows a resize, and q gives the terminal back',
    async () => {
      await start();
      await pane.shows(/ram local/);
      expect(pane.flags()).toMatch(/^1 0 0/);
      expect(pane.screen()).toContain('┌─ 1 Tiers');
      pane.resize(80, 24);
      await pane.shows(/z freeze.* q quit/);
      expect(
        pane
          .screen()
          .split('\n')
          .every((line) => [...line].length <= 80),
      ).toBe(true);
      pane.resize(50, 12);
      await pane.shows(/^ \?help/m);
      pane.resize(120, 35);
      await pane.shows('2 Throughput');
      pane.key('q');
      await ended(0);
    },
    LONG_MS,
  );

  test.each([
    ['SIGTERM', 143],
    ['SIGHUP', 129],
    ['SIGINT', 130],
  ] as const)(
    '%s ends it with the terminal as it was',
    async (signal, code) => {
      await start();
      for (const pid of clusterPids(home)) process.kill(pid, signal);
      await ended(code);
    },
    LONG_MS,
  );

  test(
    'Ctrl-C ends it; help, filter and Escape do not',
    async () => {
      await start();
      pane.key('?');
      await pane.shows('any key closes');
      pane.key('Escape');
      // Escape and a character in one read are Alt and that character.
      await pane.shows(/\/filter.* z freeze/);
      pane.type('/nothing-like-it');
      await pane.shows('/ nothing-like-it_');
      pane.key('Escape');
      await pane.shows(/\?help/);
      expect(pane.flags()).toMatch(/^1/);
      pane.key('C-c');
      await ended(0);
    },
    LONG_MS,
  );

  test(
    'an agent killed underneath is named with its age, and the new one is found',
    async () => {
      await start();
      await pane.shows(/ram local/);
      process.kill(home.status().agentPid, 'SIGKILL');
      await pane.shows(/agent away \d/);
      expect(pane.screen()).toContain('ram local');
      home.call(['run', '--gpu', 'sim', '--', 'true']);
      await until('the view is live again', () => !/agent away/.test(pane.screen()));
      pane.key('q');
      await ended(0);
    },
    LONG_MS,
  );

  test(
    'an agent that hangs does not hang the view',
    async () => {
      await start();
      await pane.shows(/ram local/);
      const { agentPid } = home.status();
      process.kill(agentPid, 'SIGSTOP');
      try {
        await pane.shows(/agent (away|silent)/);
        pane.key('?');
        await pane.shows('any key closes');
        pane.key('q');
        await ended(0);
      } finally {
        process.kill(agentPid, 'SIGCONT');
      }
    },
    LONG_MS,
  );

  test(
    '--ascii and NO_COLOR draw without box characters and without colour',
    async () => {
      pane.command('export NO_COLOR=1');
      await start('--ascii');
      await pane.shows(/ram local/);
      const coloured = execFileSync('tmux', ['-L', pane.socket, 'capture-pane', '-p', '-e'], {
        encoding: 'utf8',
      });
      expect(coloured).not.toMatch(/\u001b\[[0-9;]*3[1-7]|\u001b\[[0-9;]*9[0-7]/);
      expect(pane.screen()).toMatch(/\+- 1 Tiers/);
      pane.key('q');
      await ended(0);
      pane.command('unset NO_COLOR');
    },
    LONG_MS,
  );
});

test(
  'the key prompt shows nothing of what is typed, and Ctrl-C gives up',
  async () => {
    const home = new Home();
    const pane = new Pane(home);
    try {
      const key = home.call(['key', 'generate']) && home.call(['key', 'show']).trim();
      pane.command(`${LAUNCHER} key import`);
      await pane.shows('Pairing key:');
      pane.type(key);
      pane.key('Enter');
      await pane.shows('added: F-');
      expect(pane.screen()).not.toContain(key.slice(4, 20));
      pane.command(`clear; ${LAUNCHER} key import`);
      await pane.shows('Pairing key:');
      pane.key('C-c');
      await pane.shows('no key was given');
      pane.command('stty -a | tr ";" "\\n"');
      await pane.shows(/ echo /);
    } finally {
      pane.close();
      home.close();
    }
  },
  LONG_MS,
);
