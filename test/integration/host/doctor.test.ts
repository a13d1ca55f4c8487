// SPDX-License-Identifier: Apache-2.0
// `greenboost doctor` on the simulated driver with one fault planted at a time: it finds it, says what to do, and its
// verdict and exit code follow. A machine without faults is Ready.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { diagnose, type DaemonFacts, type Diagnosis } from '../../../host/doctor/doctor.js';
import { tryPort, type FeederFacts } from '../../../host/doctor/feeders.js';
import { checkMemlock, checkMemoryGroup } from '../../../host/doctor/machine.js';
import { createId } from '../../../proto/base/ids.js';
import { nativePath, packageRoot } from '../../../proto/base/paths.js';
import { importKey, keyringPath } from '../../../security/keyring.js';
import { createPairingKey } from '../../../security/pairing.js';

const MIB = 1 << 20;
let folder: string;
let server: Server;
let openPort = 0;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'greenboost-doctor-'));
  server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  openPort = (server.address() as { port: number }).port;
});
afterAll(async () => {
  await new Promise((resolve) => server.close(resolve));
  rmSync(folder, { recursive: true });
});

/** A host's folders with one feeder's key, of its own for each name. */
function hostEnv(name: string, withKey = true): Record<string, string> {
  const config = join(folder, name, 'config');
  mkdirSync(join(config, 'greenboost'), { recursive: true, mode: 0o700 });
  if (withKey) importKey(join(config, 'greenboost'), createPairingKey(createId('feeder')));
  return {
    PATH: process.env['PATH'] ?? '',
    XDG_CONFIG_HOME: config,
    XDG_STATE_HOME: join(folder, name, 'state'),
    XDG_CACHE_HOME: join(folder, name, 'cache'),
    XDG_RUNTIME_DIR: join(folder, name),
    GREENBOOST_GPU: 'sim',
    GBSIM_GPU: `doctor-${process.pid}-${name}`,
  };
}

const feeder = (facts: Partial<FeederFacts> = {}): FeederFacts => ({
  name: 'anvil',
  address: '127.0.0.1:1',
  state: 'ready',
  detail: '',
  laneDetail: '',
  paused: false,
  clockSkewMs: 3,
  ...facts,
});

const agentWith = (...feeders: FeederFacts[]): DaemonFacts => ({
  agent: { software: 'greenboost 0.1.0', feeders },
  feed: undefined,
});

async function look(
  name: string,
  planted: { env?: Record<string, string>; daemons?: DaemonFacts; withKey?: boolean } = {},
): Promise<Diagnosis> {
  return diagnose({
    env: { ...hostEnv(name, planted.withKey), ...planted.env },
    roles: new Set(['host']),
    daemons: planted.daemons ?? agentWith(feeder()),
  });
}

/** The findings that are not fine, as `check: fix`. */
const faults = ({ findings }: Diagnosis): string[] =>
  findings.filter(({ outcome }) => outcome !== 'ok').map(({ check, fix }) => `${check}: ${fix}`);

test('a machine without faults is Ready', async () => {
  const healthy = await look('healthy');
  expect(faults(healthy)).toEqual([]);
  expect(healthy.verdict).toBe('Ready');
  expect(healthy.findings.map(({ check }) => check)).toEqual(
    expect.arrayContaining([
      'shim',
      'driver',
      'gpu',
      'host_numa',
      'arena',
      'keyring',
      'feeder',
      'disk',
    ]),
  );
});

describe('a fault that was planted is found, with its fix', () => {
  test.each([
    [
      'no key',
      { withKey: false },
      'ShimOnly',
      /^keyring: on a spare machine: greenboost feed start/,
    ],
    [
      'no HOST_NUMA memory',
      { env: { GBSIM_HOST_NUMA: '0' } },
      'Degraded',
      /^host_numa: update the NVIDIA driver/,
    ],
    [
      'the address slot is taken',
      { env: { GBSIM_FAIL: 'cuMemAddressReserve@1=2' } },
      'Degraded',
      /^arena: .*LD_PRELOAD.*GREENBOOST_ARENA_BASE/,
    ],
    [
      'a full disk',
      { env: { XDG_STATE_HOME: '/proc' } },
      'Degraded',
      /^disk: make room on that disk/,
    ],
    [
      'a dead feeder',
      { daemons: agentWith(feeder({ state: 'lost', detail: 'silent for 31 s' })) },
      'ShimOnly',
      /^feeder: nothing listens there: on the feeder run greenboost feed start/,
    ],
    [
      'a closed lane port',
      { daemons: agentWith(feeder({ laneDetail: 'TCP 9741 is silent' })) },
      'ShimOnly',
      /^feeder: allow the lane port/,
    ],
    [
      'a clock ten minutes off',
      { daemons: agentWith(feeder({ clockSkewMs: -600_000 })) },
      'Ready',
      /^clock: turn on time synchronisation/,
    ],
    [
      'an agent of another version',
      {
        daemons: { agent: { software: 'greenboost 0.0.9', feeders: [feeder()] }, feed: undefined },
      },
      'Ready',
      /^versions: greenboost agent stop/,
    ],
    [
      'no agent',
      { daemons: { agent: undefined, feed: undefined } },
      'Ready',
      /^feeder: greenboost connect/,
    ],
  ] as const)('%s', async (name, planted, verdict, fix) => {
    const diagnosis = await look(name.replaceAll(' ', '-'), planted as Parameters<typeof look>[1]);
    expect(faults(diagnosis).filter((line) => fix.test(line))).toHaveLength(1);
    expect(diagnosis.verdict).toBe(verdict);
  });

  test('a key file that others may read', async () => {
    const env = hostEnv('mode');
    const path = keyringPath(join(env['XDG_CONFIG_HOME'] as string, 'greenboost'));
    chmodSync(path, 0o644);
    const diagnosis = await diagnose({
      env,
      roles: new Set(['host']),
      daemons: agentWith(feeder()),
    });
    expect(faults(diagnosis)).toEqual([`keyring: chmod 600 ${path}`]);
  });

  test('another library that intercepts CUDA', async () => {
    const other = nativePath('lib', 'sim', 'libcuda.so.1');
    const diagnosis = await look('interposer', { env: { LD_PRELOAD: `/nowhere.so:${other}` } });
    expect(faults(diagnosis)).toEqual([
      expect.stringMatching(/^interposer: take it out of LD_PRELOAD/),
    ]);
    expect(diagnosis.verdict).toBe('Failed');
  });

  test('little memory that may be locked, and a control group that gives less than the machine has', () => {
    const [locked] = checkMemlock(8 * MIB);
    expect(locked).toMatchObject({
      outcome: 'warning',
      fix: expect.stringContaining('LimitMEMLOCK'),
    });
    mkdirSync(join(folder, 'group', 'a', 'b'), { recursive: true });
    writeFileSync(join(folder, 'group', 'a', 'memory.max'), `${64 * MIB}\n`);
    writeFileSync(join(folder, 'group', 'a', 'b', 'memory.max'), 'max\n');
    const [group] = checkMemoryGroup(join(folder, 'group'), '0::/a/b\n', 'MemTotal: 1048576 kB\n');
    expect(group).toMatchObject({
      outcome: 'warning',
      detail: expect.stringContaining('64.0 MiB of 1.00 GiB'),
    });
    const [none] = checkMemoryGroup(join(folder, 'group'), '0::/\n', 'MemTotal: 1048576 kB\n');
    expect(none).toMatchObject({ outcome: 'ok' });
  });

  test('a port of this machine’s own feeder that does not accept', async () => {
    const feed = {
      software: 'greenboost 0.1.0',
      addresses: [`127.0.0.1:${openPort}`],
      lanePort: 1,
    };
    const { findings, verdict } = await diagnose({
      env: hostEnv('lender'),
      roles: new Set(['feeder']),
      daemons: { agent: undefined, feed },
    });
    const ports = findings.filter(({ check }) => check === 'own_port');
    expect(ports.map(({ outcome }) => outcome)).toEqual(['ok', 'failure']);
    expect(verdict).toBe('Failed');
  });
});

test('a feeder that works is enough; one that does not is a warning beside it', async () => {
  const diagnosis = await look('two', {
    daemons: agentWith(feeder(), feeder({ name: 'kiln', state: 'stale' })),
  });
  expect(diagnosis.verdict).toBe('Ready');
  expect(faults(diagnosis)).toHaveLength(1);
});

test('a port is open, refused, or silent', async () => {
  expect(await tryPort('127.0.0.1', openPort)).toBe('open');
  expect(await tryPort('127.0.0.1', 1)).toBe('refused');
});

test('the command prints it, as text and as JSON, and ends with the exit code of its verdict', async () => {
  const cli = join(packageRoot(), 'build', 'js', 'tui', 'cli', 'main.js');
  const call = (args: string[], env: Record<string, string>) =>
    new Promise<{ code: number; stdout: string }>((resolve) => {
      execFile(process.execPath, [cli, 'doctor', ...args], { env }, (error, stdout) =>
        resolve({ code: Number(error?.code ?? 0), stdout }),
      );
    });
  const text = await call(['--host'], hostEnv('text', false));
  expect(text.code).toBe(3);
  expect(text.stdout).toMatch(/✗ no key of any feeder\n {4}on a spare machine.*\n[^]*\nShimOnly: /);
  // No GPU, planted in the driver of that process.
  const json = await call(['--host', '--json'], { ...hostEnv('json'), GBSIM_FAIL: 'cuInit=100' });
  expect(json.code).toBe(10);
  const { verdict, findings } = JSON.parse(json.stdout) as Diagnosis;
  expect(verdict).toBe('Failed');
  expect(findings).toContainEqual(
    expect.objectContaining({
      check: 'driver',
      outcome: 'failure',
      fix: expect.stringContaining('nvidia-smi'),
    }),
  );
  const fix = await call(['--fix'], hostEnv('fix'));
  expect(fix.code).toBe(0);
  expect(fix.stdout).toContain('transparent_hugepage');
});
