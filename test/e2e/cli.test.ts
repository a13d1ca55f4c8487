// SPDX-License-Identifier: Apache-2.0
// The command as people type it: exit codes, words, JSON, signals, daemons in the background.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { endOf, freePort, Home, LAUNCHER, outputOf, until } from './cli-home.js';

const LONG_MS = 300_000;

describe('without any daemon', () => {
  const home = new Home();
  afterAll(() => home.close());

  test('reading commands say in two lines that nothing runs, with exit code 3', () => {
    for (const args of [
      ['status'],
      ['events'],
      ['cluster', '--once'],
      ['agent', 'status'],
      ['feed', 'status'],
    ]) {
      const { code, stdout, stderr } = home.run(args);
      expect(code).toBe(3);
      expect(stdout).toBe('');
      expect(stderr).toMatch(
        /^greenboost: no (agent|feeder) is running here\n {2}start one: .+\n$/,
      );
    }
  });

  test('a mistake on the command line is exit code 2 and names the help', () => {
    for (const args of [
      ['statsu'],
      ['feed', 'start', '--ram', 'lots'],
      ['run'],
      ['cluster', '--interval', '99'],
    ]) {
      const { code, stderr } = home.run(args);
      expect(code).toBe(2);
      expect(stderr).toMatch(/^greenboost: /);
    }
  });

  test('a key is made once, printed alone, imported from a pipe, and listed without its secret', () => {
    home.call(['key', 'generate']);
    const key = home.call(['key', 'show']);
    expect(key).toMatch(/^gb1-[a-z0-9-]+\n$/i);
    expect(home.run(['key', 'import'], {}, key).code).toBe(0);
    const listed = home.call(['key', 'list', '--json']);
    expect(listed).not.toContain(key.trim().slice(10, 40));
    const { keyring, own } = JSON.parse(listed) as Record<
      'keyring' | 'own',
      { fingerprint: string }[]
    >;
    expect(keyring?.[0]?.fingerprint).toBe(own?.[0]?.fingerprint);
  });

  test('a key file that others can read is refused with exit code 4', () => {
    const path = join(home.folder, 'key.txt');
    writeFileSync(path, home.call(['key', 'show']));
    chmodSync(path, 0o644);
    const { code, stderr } = home.run(['key', 'import', '--key-file', path]);
    expect(code).toBe(4);
    expect(stderr).toContain('can be read by others');
  });

  test('a damaged key is refused with exit code 2 and never repeated', () => {
    const key = home.call(['key', 'show']).trim();
    const damaged = key.slice(0, -1) + (key.endsWith('a') ? 'b' : 'a');
    const { code, stderr } = home.run(['key', 'import'], { GREENBOOST_KEY: damaged });
    expect(code).toBe(2);
    expect(stderr).not.toContain(damaged.slice(4, 20));
  });

  test('bash completes commands and options from the generated script', () => {
    const script = `source <("${LAUNCHER}" completion bash); COMP_WORDS=(greenboost feed st); COMP_CWORD=2; _greenboost
      echo "\${COMPREPLY[@]}"; COMP_WORDS=(greenboost run --vr); _greenboost; echo "\${COMPREPLY[@]}"`;
    const done = spawnSync('bash', ['--norc', '-c', script], { env: home.env, encoding: 'utf8' });
    expect(done.stdout).toBe('start stop status\n--vram-budget\n');
  });
});

describe('run', () => {
  const home = new Home();
  afterAll(() => home.close());
  const sim = ['run', '--gpu', 'sim'];

  test('gives the exit code of the program, and 127 and 126 for what cannot be run', () => {
    expect(home.run([...sim, '--', 'sh', '-c', 'exit 7']).code).toBe(7);
    expect(home.run([...sim, '--', '/no/such/program']).code).toBe(127);
    expect(home.run([...sim, '--', home.folder]).code).toBe(126);
  });

  test('gives 128 + n when a signal ended the program', () => {
    expect(home.run([...sim, '--', 'sh', '-c', 'kill -KILL $$']).code).toBe(137);
  });

  test('passes SIGTERM on and waits for the program', async () => {
    const child = home.start([
      ...sim,
      '--',
      'sh',
      '-c',
      'trap "echo got it; exit 3" TERM; echo ready; while :; do sleep 0.05; done',
    ]);
    const output = outputOf(child);
    await until('the program is ready', () => output().includes('ready'));
    child.kill('SIGTERM');
    expect((await endOf(child)).code).toBe(3);
    expect(output()).toContain('got it');
  });

  test('preloads the shim in front of what was there and tells it its budgets', () => {
    const { stdout } = home.run(
      [...sim, '--vram-budget', '64MiB', '--overcommit', 'gated', '--', 'env'],
      {
        LD_PRELOAD: 'libm.so.6',
      },
    );
    expect(stdout).toMatch(/^LD_PRELOAD=\S+libgreenboost_cuda\.so:libm\.so\.6$/m);
    expect(stdout).toMatch(/^GREENBOOST_VRAM_BUDGET=67108864$/m);
    expect(stdout).toMatch(/^GREENBOOST_OVERCOMMIT=gated$/m);
    expect(stdout).toMatch(/^LD_LIBRARY_PATH=\S+sim/m);
  });

  test(
    'starts the agent on demand and keeps it alive under the program',
    async () => {
      const child = home.start([...sim, '--', 'sleep', '6']);
      const output = outputOf(child);
      const first = await until(
        'an agent answers',
        () => home.run(['agent', 'status']).code === 0 && home.status(),
      );
      process.kill(first.agentPid, 'SIGKILL');
      const second = await until('another agent answers', () => {
        const { code, stdout } = home.run(['status', '--json']);
        return code === 0 && (JSON.parse(stdout) as { agentPid: number }).agentPid;
      });
      expect(second).not.toBe(first.agentPid);
      expect((await endOf(child)).code).toBe(0);
      expect(output()).toContain('the agent had ended; started it again');
    },
    LONG_MS,
  );

  test('runs the program with local memory when the agent cannot start, and says so once', () => {
    const file = join(home.folder, 'not-a-folder');
    writeFileSync(file, '');
    const { code, stdout, stderr } = home.run([...sim, '--', 'echo', 'hello'], {
      XDG_STATE_HOME: file,
      XDG_RUNTIME_DIR: file,
    });
    expect(code).toBe(0);
    expect(stdout).toBe('hello\n');
    expect(stderr.match(/this program gets local memory only/g)).toHaveLength(1);
  });
});

describe('a feeder and a host', () => {
  const lender = new Home({ GREENBOOST_GPU: 'none' });
  const host = new Home();
  let address = '';
  beforeAll(async () => {
    const port = await freePort();
    address = `127.0.0.1:${port}`;
    const args = [
      'feed',
      'start',
      '--name',
      'lender',
      '--ram',
      '64MiB',
      '--bind',
      '127.0.0.1',
      '--port',
      port,
    ];
    const said = lender.call(args);
    expect(said).toContain('lending 64.0 MiB of RAM as "lender"');
    expect(said).toContain(`greenboost connect ${address}`);
  }, LONG_MS);
  afterAll(() => {
    host.close();
    lender.close();
  });

  test('a second feeder of the same user is refused with exit code 5', () => {
    expect(lender.run(['feed', 'start', '--ram', '64MiB']).code).toBe(5);
  });

  test(
    'a wrong key is exit code 4 or 3 and does not stay in the keyring',
    () => {
      const stranger = new Home();
      stranger.call(['key', 'generate']);
      const key = stranger.call(['key', 'show']).trim();
      stranger.close();
      const { code } = host.run(['connect', address, '--timeout', '5'], { GREENBOOST_KEY: key });
      expect([3, 4]).toContain(code);
      expect(lender.feedStatus().authFailureCount).toBeGreaterThan(0);
    },
    LONG_MS,
  );

  test(
    'connect prints what the feeder adds and the measured link; the key is kept',
    () => {
      const key = lender.call(['key', 'show']).trim();
      const said = host.call(['connect', address], { GREENBOOST_KEY: key });
      expect(said).toMatch(/connected lender 127\.0\.0\.1:\d+ +TLS_/);
      expect(said).toContain('adds 64.0 MiB of RAM');
      expect(said).toMatch(/link: .+ round trip, .+B\/s up, .+B\/s down \(measured\)/);
      const snapshot = host.status();
      expect(snapshot.links).toMatchObject([{ feederName: 'lender', state: 'ready' }]);
      const tier = snapshot.tiers.find(({ kind }) => kind === 'feeder_ram');
      expect(tier?.capacityBytes).toBe(64 * 2 ** 20);
      expect(tier?.readBytesPerSecond).toBeGreaterThan(0);
      const everything =
        readFileSync(join(host.folder, 'state/greenboost/agent.log'), 'utf8') + said;
      expect(everything).not.toContain(key.slice(10, 40));
    },
    LONG_MS,
  );

  test(
    'without a screen, cluster prints plain text and one JSON document a line',
    async () => {
      const plain = host.call(['cluster']);
      expect(plain).toContain('lender');
      expect(plain).not.toContain('\u001b');
      const watch = host.start(['cluster', '--watch', '--json', '--interval', '0.25']);
      const output = outputOf(watch);
      const [line] = await until(
        'a line arrives',
        () => output().includes('\n') && output().split('\n'),
      );
      watch.kill('SIGTERM');
      await endOf(watch);
      expect((JSON.parse(line ?? '') as { schemaVersion: number }).schemaVersion).toBe(1);
    },
    LONG_MS,
  );

  test(
    'a reader that goes away ends a stream in silence',
    () => {
      const script = `"${LAUNCHER}" events --json --follow | head -n 1`;
      const done = spawnSync('bash', ['-c', script], {
        env: host.env,
        encoding: 'utf8',
        timeout: 10_000,
      });
      expect(done.stderr).toBe('');
      expect(JSON.parse(done.stdout)).toHaveProperty('sequence');
    },
    LONG_MS,
  );

  test(
    'disconnect and stop leave nothing running and no socket',
    () => {
      const pids = [host.status().agentPid, lender.feedStatus().pid];
      expect(host.call(['disconnect', 'lender'])).toContain('disconnected lender');
      expect(host.status().links.filter(({ state }) => state === 'ready')).toEqual([]);
      host.call(['agent', 'stop']);
      lender.call(['feed', 'stop', '--grace', '0']);
      for (const pid of pids) expect(existsSync(`/proc/${pid}`)).toBe(false);
      expect(existsSync(join(lender.folder, 'run/greenboost/feed.sock'))).toBe(false);
      expect(existsSync(join(host.folder, 'run/greenboost/agent.sock'))).toBe(false);
    },
    LONG_MS,
  );
});
