// SPDX-License-Identifier: Apache-2.0
// kill -9 of the agent and of a feeder, as processes of their own, while a program holds bytes. The
// program here is a scripted shim that lives on; nothing hangs, and the event log says what
// happened.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import * as abi from '../../../host/shim/abi.js';
import { sleep } from '../../../proto/base/clock.js';
import { MIB } from '../../../proto/base/units.js';
import { LinkState, type Snapshot } from '../../../proto/gen/greenboost/v1/control_pb.js';
import { childrenOf, CLI, killHard, spawnFeeder, type FeederProcess } from './feeders.js';
import { eventNames, eventually, TestHost } from './harness.js';
import { grant, place, startProgram } from './program.js';
import { ShimPeer } from './shim-peer.js';
import { PATIENCE_MS } from '../../patience.js';

const { T2, T2R } = abi.AbiTier;
const { OK, DATA_LOSS, UNREACHABLE } = abi.Status;

let host: TestHost;
let agent: ChildProcess | undefined;
let feeders: FeederProcess[];
let peers: ShimPeer[];

beforeEach(async () => {
  host = new TestHost({ GREENBOOST_LOG: 'info' });
  feeders = [];
  peers = [];
  agent = await startAgentProcess();
});

afterEach(async () => {
  for (const peer of peers) await peer.end();
  if (agent) await killHard(agent);
  for (const { child } of feeders) await killHard(child);
  await host.stop();
});

async function startAgentProcess(): Promise<ChildProcess> {
  if (!existsSync(CLI)) throw new Error('not built: run make first');
  const child = spawn(process.execPath, [CLI, 'agent'], {
    env: { ...process.env, ...host.env },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  agent = child; // Ended with the test, also when it never answers.
  let log = '';
  child.stderr.on('data', (chunk: Buffer) => (log += chunk.toString()));
  await eventually('the agent answers', PATIENCE_MS, async () => {
    if (child.exitCode !== null) throw new Error(`the agent ended: ${log}`);
    const snapshot = await host.status().catch(() => undefined);
    return snapshot?.agentPid === child.pid;
  });
  return child;
}

async function feeder(name: string, ram: string, port = 0): Promise<FeederProcess> {
  const started = await spawnFeeder(host, name, ram, port);
  feeders.push(started);
  return started;
}

async function connect({ address, feederId }: FeederProcess): Promise<void> {
  await host
    .client()
    .connect({ address, feederId, timeoutMs: PATIENCE_MS }, { timeoutMs: 2 * PATIENCE_MS });
}

async function attach(options: Parameters<typeof ShimPeer.attach>[1] = {}): Promise<ShimPeer> {
  const peer = await ShimPeer.attach(host.shimSocket, options);
  peers.push(peer);
  return peer;
}

function feederUse(snapshot: Snapshot): [granted: number, used: number] {
  const tiers = snapshot.tiers.filter(({ feederId }) => feederId !== '');
  return [
    tiers.reduce((sum, { grantedBytes }) => sum + Number(grantedBytes), 0),
    tiers.reduce((sum, { usedBytes }) => sum + Number(usedBytes), 0),
  ];
}

/** What the feeders themselves say is leased and allocated. */
function lentBytes(snapshot: Snapshot): [leased: number, allocated: number] {
  const devices = snapshot.links.flatMap((link) => link.devices);
  return [
    devices.reduce((sum, { leasedBytes }) => sum + Number(leasedBytes), 0),
    devices.reduce((sum, { usedBytes }) => sum + Number(usedBytes), 0),
  ];
}

test('the agent killed amid transfers comes back and takes leases, ranges and programs over', async () => {
  await connect(await feeder('alpha', '48MiB'));
  await connect(await feeder('beta', '48MiB'));
  const peer = await attach();
  await peer.grant(T2, 4 * MIB);
  expect((await peer.grant(T2R, 64 * MIB)).status).toBe(OK);
  expect((await peer.place(0, 60 * MIB)).status).toBe(OK);
  const bytes = randomBytes(60 * MIB);
  expect(await peer.store(0, bytes)).toBe(OK);

  const busy = Promise.allSettled(Array.from({ length: 8 }, () => peer.fetch(0, 60 * MIB)));
  await sleep(30);
  await killHard(agent!);
  // Lanes outlive the agent that brought the tickets.
  for (const result of await busy)
    expect(result).toMatchObject({ status: 'fulfilled', value: { status: OK } });
  expect((await peer.fetch(0, bytes.length)).bytes.equals(bytes)).toBe(true);
  await eventually('the program loses its agent', PATIENCE_MS, () => peer.closed);
  await peer.closeLanes();

  agent = await startAgentProcess();
  const held = [0n, BigInt(4 * MIB), 0n, BigInt(64 * MIB), 0n];
  const again = await attach({ like: peer, hello: { held_bytes: held } });
  // Until its feeders are back the answer is "retry", never "lost".
  const back = await eventually('the bytes are back', PATIENCE_MS, async () => {
    const fetched = await again.fetch(0, bytes.length);
    expect([OK, UNREACHABLE]).toContain(fetched.status);
    return fetched.status === OK && fetched;
  });
  expect(back.bytes.equals(bytes)).toBe(true);
  const snapshot = await host.status();
  expect(feederUse(snapshot)).toEqual([64 * MIB, 60 * MIB]);
  expect(snapshot.attachments[0]).toMatchObject({
    ramGrantedBytes: BigInt(4 * MIB),
    feederGrantedBytes: BigInt(64 * MIB),
  });
  const names = eventNames(snapshot);
  expect(names.filter((name) => name === 'lease_adopted')).toHaveLength(2);
  expect(names).toContain('attachment_returned');
  expect(names).not.toContain('data_lost');

  expect((await again.drop(0, 60 * MIB)).status).toBe(OK);
  expect(await again.giveBack(T2R, 64 * MIB)).toMatchObject({ status: OK, heldBytes: 0 });
  await eventually('everything is zero', 5_000, async () => {
    const now = await host.status();
    return [...feederUse(now), ...lentBytes(now)].every((value) => value === 0);
  });
});

test('a program that does not come back to the next agent is released when the window is over', async () => {
  await connect(await feeder('alpha', '32MiB'));
  const peer = await attach();
  await peer.grant(T2R, 8 * MIB);
  await peer.place(0, 8 * MIB);
  await killHard(agent!);
  // The state file names this process; it lives, but never says HELLO again, so the window ends it.
  peer.close();
  agent = await startAgentProcess();
  await eventually('the lease is adopted', PATIENCE_MS, async () =>
    eventNames(await host.status()).includes('lease_adopted'),
  );
  expect(lentBytes(await host.status())).toEqual([8 * MIB, 8 * MIB]);
  await eventually(
    'the window is over',
    PATIENCE_MS,
    async () => (await host.status()).attachments.length === 0,
  );
  await eventually(
    'the feeder has it back',
    PATIENCE_MS,
    async () => lentBytes(await host.status())[0] === 0,
  );
});

test('a program killed with and without an agent: its feeder memory is free again within 5 s', async () => {
  await connect(await feeder('alpha', '32MiB'));
  const first = await startProgram(host.shimSocket, [grant(T2R, 8 * MIB), place(0, 8 * MIB)]);
  await eventually(
    'it is lent',
    PATIENCE_MS,
    async () => lentBytes(await host.status())[1] === 8 * MIB,
  );
  await killHard(first);
  await eventually('it is free', 5_000, async () => lentBytes(await host.status())[0] === 0);

  const second = await startProgram(host.shimSocket, [grant(T2R, 8 * MIB), place(0, 8 * MIB)]);
  await killHard(agent!);
  await killHard(second);
  agent = await startAgentProcess();
  await eventually('it is free', 5_000, async () => {
    const snapshot = await host.status();
    return snapshot.links[0]?.state === LinkState.READY && lentBytes(snapshot)[0] === 0;
  });
  expect((await host.status()).attachments).toEqual([]);
});

test('a feeder killed with sole copies: those ranges are lost, the rest stays, and it can come back', async () => {
  const alpha = await feeder('alpha', '16MiB');
  await connect(alpha);
  const peer = await attach();
  await peer.grant(T2R, 16 * MIB);
  await peer.place(4 * MIB, 16 * MIB);
  await connect(await feeder('beta', '32MiB'));
  await peer.grant(T2R, 8 * MIB);
  await peer.place(32 * MIB, 8 * MIB);
  const kept = randomBytes(8 * MIB);
  expect(await peer.store(32 * MIB, kept)).toBe(OK);

  const port = Number(alpha.address.split(':')[1]);
  await killHard(alpha.child);
  await eventually('the program hears of it', PATIENCE_MS, () => peer.lost.length > 0);
  expect((await host.status()).links[0]!.state).toBe(LinkState.LOST);
  const reborn = await feeder('alpha', '16MiB', port);
  expect(reborn.feederId).toBe(alpha.feederId);
  expect(peer.lost).toEqual([{ offset: 4 * MIB, length: 16 * MIB, feeder: 'alpha' }]);
  expect(await peer.fetch(4 * MIB, 1000)).toMatchObject({ status: DATA_LOSS, feeder: 'alpha' });
  expect((await peer.fetch(32 * MIB, kept.length)).bytes.equals(kept)).toBe(true);
  const snapshot = await host.status();
  expect(eventNames(snapshot)).toEqual(
    expect.arrayContaining(['feeder_stale', 'feeder_lost', 'data_lost']),
  );
  const told = snapshot.recentEvents.find(({ name }) => name === 'data_lost');
  expect(told?.text).toMatch(/16\.0 MiB at 0x500000400000 are gone with feeder alpha/);

  expect((await peer.drop(4 * MIB, 16 * MIB)).status).toBe(OK);
  expect((await peer.giveBack(T2R, 16 * MIB)).heldBytes).toBe(8 * MIB);
  await eventually('it is ready again', PATIENCE_MS, async () => {
    return (await host.status()).links.every(({ state }) => state === LinkState.READY);
  });
  expect((await peer.grant(T2R, 16 * MIB)).status).toBe(OK);
});

test('a feeder that is silent for good is lost when its time to live is over', async () => {
  const alpha = await feeder('alpha', '16MiB');
  await connect(alpha);
  const peer = await attach();
  await peer.grant(T2R, 4 * MIB);
  await peer.place(0, 4 * MIB);
  alpha.child.kill('SIGSTOP');
  await sleep(20_000);
  expect((await peer.fetch(0, 1000)).status).toBe(UNREACHABLE);
  await eventually('it is lost', 15_000, () => peer.lost.length === 1);
  expect((await peer.fetch(0, 1000)).status).toBe(DATA_LOSS);
  expect((await host.status()).links[0]!.state).toBe(LinkState.LOST);
  await killHard(alpha.child);
});

test("what an executor held is lost when it dies, the link goes on and the room is somebody else's", async () => {
  const alpha = await feeder('alpha', '16MiB');
  await connect(alpha);
  const peer = await attach();
  await peer.grant(T2R, 4 * MIB);
  await peer.place(0, 4 * MIB);
  const executors = childrenOf(alpha.child.pid!);
  expect(executors).toHaveLength(1);
  process.kill(executors[0]!, 'SIGKILL');
  await eventually('it is lost', PATIENCE_MS, () => peer.lost.length === 1);
  expect(peer.lost[0]).toMatchObject({ offset: 0, length: 4 * MIB, feeder: 'alpha' });
  expect((await peer.fetch(0, 1000)).status).toBe(DATA_LOSS);
  expect((await host.status()).links[0]!.state).toBe(LinkState.READY);
  expect((await peer.drop(0, 4 * MIB)).status).toBe(OK);
  await peer.giveBack(T2R, 4 * MIB);
  expect((await peer.grant(T2R, 16 * MIB)).status).toBe(OK);
  expect((await peer.place(0, 4 * MIB)).status).toBe(OK);
});

test('a feeder that is stopped in its tracks is stale within 3 s, and ready when it goes on', async () => {
  const alpha = await feeder('alpha', '16MiB');
  await connect(alpha);
  const peer = await attach();
  await peer.grant(T2R, 4 * MIB);
  await peer.place(0, 4 * MIB);
  await peer.store(0, Buffer.alloc(MIB, 9));
  const other = await startProgram(host.shimSocket, [grant(T2R, 8 * MIB), place(0, 8 * MIB)]);
  alpha.child.kill('SIGSTOP');
  await eventually(
    'stale',
    3_500,
    async () => (await host.status()).links[0]!.state === LinkState.STALE,
  );
  await killHard(other);
  await eventually(
    'the other program has gone',
    PATIENCE_MS,
    async () => (await host.status()).attachments.length === 1,
  );
  alpha.child.kill('SIGCONT');
  await eventually(
    'ready',
    PATIENCE_MS,
    async () => (await host.status()).links[0]!.state === LinkState.READY,
  );
  expect((await peer.fetch(0, MIB)).bytes.equals(Buffer.alloc(MIB, 9))).toBe(true);
  expect(peer.lost).toEqual([]);
  // What the other one had could not be released in that time: it is now, long before its TTL.
  await eventually('it is free', 5_000, async () => lentBytes(await host.status())[0] === 4 * MIB);
});

test('shutdown is refused while programs run, and done in order when they do not', async () => {
  const peer = await attach();
  await expect(host.client().shutdown({ force: false })).rejects.toMatchObject({
    code: 'WRONG_STATE',
  });
  await host.client().shutdown({ force: true });
  await eventually('it is gone', PATIENCE_MS, () => agent!.exitCode === 0);
  expect(existsSync(host.agentSocket)).toBe(false);
  expect(existsSync(host.shimSocket)).toBe(false);
  await eventually('the program sees it', PATIENCE_MS, () => peer.closed);
});
