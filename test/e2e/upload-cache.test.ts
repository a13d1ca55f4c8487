// SPDX-License-Identifier: Apache-2.0
// The second load of the same model moves almost nothing: two programs, one after the other, store the same content on
// a feeder that keeps blocks. The wire itself is read: what the host's interface has sent and received.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import { readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CLI, Machine, MIB, PROGRAMS, waitFor } from './machine.js';
import { createNetwork, type Network } from './namespaces.js';

const CONTENT_BYTES = 96 * MIB;
const BUFFER_BYTES = 8 * MIB;
const VRAM_BYTES = 32 * MIB;
/** In which the program's small buffer lies. */
const SLAB_BYTES = 2 * MIB;
const SHARE_MAX = 0.01;
const PORT = '9740';

let network: Network;
let host: Machine;
let feeder: Machine;

beforeAll(async () => {
  network = await createNetwork(1);
  host = new Machine('host', network.host, {
    GREENBOOST_GPU: 'sim',
    GBSIM_GPU: `e2e-${randomBytes(4).toString('hex')}`,
    GBSIM_VRAM: '256MiB',
  });
  feeder = new Machine('feeder1', network.feeders[0]!);
  const lends = ['--ram', '256MiB', '--gpu', 'none', '--port', PORT, '--cache-bytes', '256MiB'];
  await feeder.startFeeder(lends);
  await host.connect(feeder, PORT);
});
afterAll(async () => {
  await (host as Machine | undefined)?.close();
  await (feeder as Machine | undefined)?.close();
  (network as Network | undefined)?.close();
});

/** Bytes that the host has sent and received, headers and control among them. */
async function wireBytes(): Promise<number> {
  const { stdout } = await host.start(['cat', '/proc/net/dev']).finished;
  const counts = stdout
    .split('\n')
    .map((line) => /^\s*(\S+):\s*(.*)$/.exec(line))
    .filter((match) => match !== null && match[1] !== 'lo')
    .map((match) => match![2]!.split(/\s+/).map(Number));
  expect(counts.length).toBeGreaterThan(0);
  return counts.reduce((sum, line) => sum + line[0]! + line[8]!, 0);
}

/** Blocks on the feeder's disk, in bytes. */
function keptBytes(): number {
  const folder = feeder.env['XDG_CACHE_HOME'] as string;
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, entry) => sum + statSync(join(entry.parentPath, entry.name)).size, 0);
}

interface Row {
  readonly wire: number;
  readonly written: number;
  readonly cached: number;
  readonly wrong: number;
}

/** Stores the content, all of it, and reads it back in the end. `meanwhile`: while it lies on the feeder. */
async function upload(name: string, meanwhile: () => Promise<unknown>): Promise<Row> {
  const before = await wireBytes();
  const told = join(host.folder, name);
  const stored = `echo fill 7; echo crowd ${VRAM_BYTES - SLAB_BYTES}`;
  const rest = `until [ -e ${told} ]; do sleep 0.1; done; echo leave; echo check 7`;
  const program = [join(PROGRAMS, 'gb_away'), '--bytes', String(CONTENT_BYTES)];
  const limits = ['--gpu', 'sim', '--vram-budget', String(VRAM_BYTES), '--ram-budget', '0'];
  const run = [process.execPath, CLI, 'run', ...limits, '--overcommit', 'gated', '--', ...program];
  run.push('--buffer-bytes', String(BUFFER_BYTES));
  const running = host.start(['sh', '-c', `{ ${stored}; ${rest}; } | exec "$@"`, 'sh', ...run]);
  await waitFor('it is stored', () => running.output().includes('"did":"crowd"'), 60_000);
  const wire = (await wireBytes()) - before;
  const lanes = (await feeder.feedStatus()).lanes.filter((lane) => lane.leaseId !== null);
  await meanwhile();
  writeFileSync(told, '');
  const done = await running.finished;
  expect({ code: done.code, stderr: done.code === 0 ? '' : done.stderr }).toEqual({
    code: 0,
    stderr: '',
  });
  return {
    wire,
    written: lanes.reduce((sum, lane) => sum + lane.writeBytes, 0),
    cached: lanes.reduce((sum, lane) => sum + lane.cachedBytes, 0),
    wrong: Number(/"wrong":(\d+)/.exec(done.stdout)?.[1]),
  };
}

test('the second load of the same content moves a hundredth of it at most', async () => {
  const first = await upload('first', () =>
    waitFor('all blocks are kept', () => keptBytes() >= CONTENT_BYTES, 60_000),
  );
  expect(first).toMatchObject({ cached: 0, wrong: 0 });
  expect(first.written).toBeGreaterThanOrEqual(CONTENT_BYTES);
  expect(first.wire).toBeGreaterThan(CONTENT_BYTES);
  const second = await upload('second', async () => {});
  expect(second).toMatchObject({ cached: CONTENT_BYTES, wrong: 0 });
  expect(second.written).toBeLessThan(CONTENT_BYTES * SHARE_MAX);
  expect(second.wire).toBeLessThan(CONTENT_BYTES * SHARE_MAX);
});
