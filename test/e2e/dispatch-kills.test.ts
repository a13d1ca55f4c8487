// SPDX-License-Identifier: Apache-2.0
// A feeder killed in the middle of decoding, GB_DISPATCH_KILLS times in a row (2; `make test-dispatch-kills`: 20): each
// time the program whose kernels ran there gets 911 with the feeder's name; a program on the host alone and one on the
// other feeder work through all of it and end right; the feeder that is back is used by the next load.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  createDispatchCluster,
  decoded,
  untilToken,
  type DispatchCluster,
} from './dispatch-cluster.js';
import { attachmentOf, leasedBytes, lentUsedBytes, MIB, waitFor, type Running } from './machine.js';

const KILLS = Number(process.env['GB_DISPATCH_KILLS'] ?? '2');
/** From the kill to the program's end with its error, and to the event. */
const NOTICED_MS = 2_000;
/** Of each feeder: room for a program beside the one that only the first has. */
const LENT_BYTES = 72 * MIB;
const VICTIM = 1;
const VICTIM_NAME = 'feeder2';
/** Tokens that bystanders may take: they end when they are told to, and repeat each on the CPU then. */
const MANY = 100_000;

let cluster: DispatchCluster;

beforeAll(async () => {
  cluster = await createDispatchCluster(2, { lentBytes: LENT_BYTES });
}, 90_000);
afterAll(async () => (cluster as DispatchCluster | undefined)?.close(), 60_000);

interface Bystander {
  readonly run: Running;
  readonly pid: number;
  readonly untilFile: string;
}

/** A program that decodes until it is told to end, and compares everything then. */
async function bystander(remote: string, layers: number): Promise<Bystander> {
  const untilFile = join(cluster.host.folder, `until-${remote}`);
  const before = (await cluster.host.status()).attachments.map(({ pid }) => pid);
  const program = ['--layers', String(layers), '--tokens', String(MANY), '--token-ms', '1000'];
  const run = cluster.start({
    run: ['--remote', remote],
    program: [...program, '--until-file', untilFile],
  });
  await untilToken(run, 3);
  const attached = await waitFor('the bystander is attached', async () =>
    attachmentOf(await cluster.host.status(), ({ pid }) => !before.includes(pid)),
  );
  return { run, pid: attached.pid, untilFile };
}

const lastToken = ({ run }: Bystander): number =>
  Number([...run.output().matchAll(/token (\d+)\n/g)].at(-1)?.[1] ?? 0);

/** Feeders on which kernels of a program have run: of the bystander with that pid, or of who is none. */
async function owners(wanted: (pid: number) => boolean): Promise<string[]> {
  const { dispatch } = await waitFor('kernels run on feeders', async () =>
    attachmentOf(
      await cluster.host.status(),
      (a) => wanted(a.pid) && a.dispatch.owners.some(({ launchCount }) => launchCount > 0),
    ),
  );
  return dispatch.owners
    .filter(({ launchCount }) => launchCount > 0)
    .map(({ feederName }) => feederName);
}

async function linksReady(): Promise<void> {
  await waitFor('the links are ready', async () =>
    (await cluster.host.status()).links.every(({ state }) => state === 'ready'),
  );
}

/** Bytes leased and used, and leases, of a feeder. */
async function lent(index: number): Promise<{ bytes: number; leases: number }> {
  const status = await cluster.feeders[index]!.feedStatus();
  return { bytes: lentUsedBytes(status) + leasedBytes(status), leases: status.leaseCount };
}

/** One load, killed at its `token`-th step. */
async function killOnce(round: number, bystanders: readonly Bystander[]): Promise<void> {
  const others = bystanders.map(({ pid }) => pid);
  const running = cluster.start({
    run: ['--remote', 'merged'],
    program: ['--tokens', String(MANY), '--token-ms', '20'],
  });
  await untilToken(running, 3 + ((round * 7) % 20));
  expect(await owners((pid) => !others.includes(pid))).toContain(VICTIM_NAME);
  const tokens = bystanders.map(lastToken);
  const killed = Date.now();
  for (const pid of cluster.network.feeders[VICTIM]!.pids()) process.kill(pid, 'SIGKILL');
  const done = await running.finished;
  const endedMs = Date.now() - killed;
  expect(done.stderr).toContain('911 CUDA_ERROR_EXTERNAL_DEVICE');
  expect(done.stderr).toContain(VICTIM_NAME);
  expect([done.code, done.signal]).toEqual([3, null]);
  const told = await waitFor('an event names the feeder', async () =>
    (await cluster.host.events()).find(
      ({ severity, subject, text, unixMs }) =>
        severity === 'error' && unixMs >= killed && `${subject} ${text}`.includes(VICTIM_NAME),
    ),
  );
  process.stdout.write(
    `kill ${round}: 911 after ${endedMs} ms, the event after ${told.unixMs - killed} ms\n`,
  );
  // Late: what it said says what it waited for.
  expect([endedMs < NOTICED_MS, endedMs < NOTICED_MS ? '' : done.stderr]).toEqual([true, '']);
  expect(told.unixMs - killed).toBeLessThan(NOTICED_MS);
  await waitFor(
    'the other feeder has the bystander only',
    async () => (await lent(0)).leases === 1,
  );
  await cluster.startFeeder(VICTIM);
  await linksReady();
  await waitFor('the bystanders work on', () =>
    bystanders.every((one, index) => lastToken(one) > tokens[index]!),
  );
}

test(
  `a feeder killed ${KILLS} times: 911 with its name each time, and nobody else is harmed`,
  async () => {
    const { agentPid } = await cluster.host.status();
    await cluster.host.call(['pause', VICTIM_NAME]);
    const bystanders = [await bystander('off', 2), await bystander('merged', 8)];
    const onOther = bystanders[1]!.pid;
    expect(await owners((pid) => pid === onOther)).toEqual(['feeder1']);
    await cluster.host.call(['resume', VICTIM_NAME]);
    for (let round = 1; round <= KILLS; round++) await killOnce(round, bystanders);

    // What is back is used, and right.
    const others = bystanders.map(({ pid }) => pid);
    const next = cluster.start({
      run: ['--remote', 'merged'],
      program: ['--tokens', '60', '--token-ms', '30'],
    });
    await untilToken(next, 20);
    expect(await owners((pid) => !others.includes(pid))).toContain(VICTIM_NAME);
    expect((await decoded(next)).mismatches).toBe(0);
    expect(await owners((pid) => pid === onOther)).toEqual(['feeder1']);
    for (const { run, untilFile } of bystanders) {
      writeFileSync(untilFile, '');
      expect((await decoded(run)).mismatches).toBe(0);
    }
    expect((await cluster.host.status()).agentPid).toBe(agentPid);
    const hurt = (await cluster.host.events()).filter(
      ({ severity, subject }) => severity !== 'info' && subject === 'feeder1',
    );
    expect(hurt).toEqual([]);
    await waitFor('feeders are empty', async () =>
      (await Promise.all([lent(0), lent(VICTIM)])).every(({ bytes }) => bytes === 0),
    );
  },
  240_000 + KILLS * 60_000,
);
