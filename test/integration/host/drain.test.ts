// SPDX-License-Identifier: Apache-2.0
// drain, pause, resume and ping with real feeders and a scripted program that goes on writing.
import { describe, expect, test } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import * as abi from '../../../host/shim/abi.js';
import { MIB } from '../../../proto/base/units.js';
import {
  LinkState,
  type DrainStatus,
  type Link,
} from '../../../proto/gen/greenboost/v1/control_pb.js';
import { errorFromStatus } from '../../../proto/grpc.js';
import { openFeed } from '../../../tui/control/client.js';
import { useCluster } from './cluster.js';
import { killHard, spawnFeeder } from './feeders.js';
import { eventNames, eventually } from './harness.js';
import type { ShimPeer } from './shim-peer.js';
import { PATIENCE_MS } from '../../patience.js';

const { T2R } = abi.AbiTier;
const { OK, CAPACITY, UNREACHABLE } = abi.Status;

const cluster = useCluster();

async function placed(peer: ShimPeer, granted: number, used: number): Promise<Buffer> {
  expect((await peer.grant(T2R, granted)).status).toBe(OK);
  expect((await peer.place(0, used)).status).toBe(OK);
  const bytes = randomBytes(used);
  expect(await peer.store(0, bytes)).toBe(OK);
  return bytes;
}

async function linkTo(name: string): Promise<Link> {
  return (await cluster.host.status()).links.find(({ feederName }) => feederName === name)!;
}

/** Every message of a drain until it ends. @throws GbError as it ended. */
async function drained(feeder: string, signal?: AbortSignal): Promise<DrainStatus[]> {
  const seen: DrainStatus[] = [];
  try {
    const call = cluster.host.client().drain({ feeder }, signal ? { signal } : {});
    for await (const message of call) seen.push(message as DrainStatus);
  } catch (reason) {
    throw errorFromStatus(reason as never, 'AGENT_UNREACHABLE');
  }
  return seen;
}

describe('drain', () => {
  test('empties a feeder under a program, keeps it empty, and resume fills it again', async () => {
    await cluster.connected('alpha', 64 * MIB);
    const peer = await cluster.attach();
    const bytes = await placed(peer, 48 * MIB, 40 * MIB);
    await cluster.connected('beta', 64 * MIB);
    const progress = await drained('alpha');
    expect(progress.at(-1)).toMatchObject({ done: true, movedBytes: BigInt(40 * MIB) });
    expect(progress.slice(0, -1).every(({ done }) => !done)).toBe(true);
    expect(await linkTo('alpha')).toMatchObject({
      state: LinkState.READY,
      paused: true,
      leaseCount: 0,
    });
    expect((await peer.fetch(0, bytes.length)).bytes.equals(bytes)).toBe(true);
    expect(eventNames(await cluster.host.status())).toContain('feeder_drained');
    // 64 MiB of beta less the 48 that it holds now.
    expect((await peer.grant(T2R, 32 * MIB)).status).toBe(CAPACITY);
    await cluster.host.client().resume({ feeder: 'alpha' }, { timeoutMs: PATIENCE_MS });
    expect((await peer.grant(T2R, 32 * MIB)).status).toBe(OK);
    expect(peer.lost).toEqual([]);
  });

  test('a program that writes meanwhile loses nothing', async () => {
    await cluster.connected('alpha', 64 * MIB);
    const peer = await cluster.attach();
    const bytes = await placed(peer, 32 * MIB, 32 * MIB);
    await cluster.connected('beta', 64 * MIB);
    let writes = 0;
    peer.onMove = async (phase) => {
      if (phase !== abi.MovePhase.COMMIT || writes >= 2) return;
      writes++;
      const at = 5 * MIB + writes * 7;
      const fresh = randomBytes(3 * MIB);
      fresh.copy(bytes, at);
      expect(await peer.store(at, fresh)).toBe(OK);
    };
    expect((await drained('alpha')).at(-1)?.done).toBe(true);
    expect(peer.moves.filter((phase) => phase === 'commit').length).toBeGreaterThan(2);
    expect((await peer.fetch(0, bytes.length)).bytes.equals(bytes)).toBe(true);
  });

  test('given up in the middle: what moved stays moved, the feeder is as before', async () => {
    await cluster.connected('alpha', 64 * MIB);
    const peer = await cluster.attach();
    expect((await peer.grant(T2R, 32 * MIB)).status).toBe(OK);
    for (let at = 0; at < 32; at += 4) await peer.place(at * MIB, 4 * MIB);
    const bytes = randomBytes(32 * MIB);
    await peer.store(0, bytes);
    await cluster.connected('beta', 64 * MIB);
    const controller = new AbortController();
    let commits = 0;
    peer.onMove = (phase) => {
      // The first two are carried out; then nothing is answered, and the caller loses patience.
      if (phase !== abi.MovePhase.COMMIT || ++commits <= 2) return;
      controller.abort();
      return new Promise((resolve) => setTimeout(resolve, 300));
    };
    await expect(drained('alpha', controller.signal)).rejects.toMatchObject({ code: 'CANCELED' });
    await eventually('it takes placements again', PATIENCE_MS, async () => {
      const { state, paused, drain } = await linkTo('alpha');
      return state === LinkState.READY && !paused && drain === undefined;
    });
    peer.onMove = () => undefined;
    expect((await peer.fetch(0, bytes.length)).bytes.equals(bytes)).toBe(true);
    const { tiers } = await cluster.host.status();
    const used = tiers.filter(({ feederId }) => feederId !== '').map(({ usedBytes }) => usedBytes);
    expect(used.every((value) => value > 0n)).toBe(true);
    // It can be begun anew, and finished.
    expect((await drained('alpha')).at(-1)?.done).toBe(true);
    expect((await peer.fetch(0, bytes.length)).bytes.equals(bytes)).toBe(true);
    expect((await linkTo('alpha')).leaseCount).toBe(0);
  });

  test('without room elsewhere it is refused before anything moves', async () => {
    await cluster.connected('alpha', 64 * MIB);
    const peer = await cluster.attach();
    await placed(peer, 8 * MIB, 8 * MIB);
    await cluster.connected('beta', 4 * MIB);
    await expect(drained('alpha')).rejects.toMatchObject({ code: 'WRONG_STATE' });
    await expect(drained('nobody')).rejects.toMatchObject({ code: 'NOT_FOUND' });
    expect(peer.moves).toEqual([]);
    expect((await linkTo('alpha')).state).toBe(LinkState.READY);
  });
});

test('pause keeps what lies there and places nothing new; it survives a restart of the agent', async () => {
  await cluster.connected('alpha', 64 * MIB);
  const peer = await cluster.attach();
  const bytes = await placed(peer, 16 * MIB, 8 * MIB);
  const { link } = await cluster.host
    .client()
    .pause({ feeder: 'alpha' }, { timeoutMs: PATIENCE_MS });
  expect(link).toMatchObject({ paused: true, state: LinkState.READY });
  expect((await peer.fetch(0, bytes.length)).bytes.equals(bytes)).toBe(true);
  // Granted there, but not to be placed there now.
  expect((await peer.place(16 * MIB, 2 * MIB)).status).toBe(UNREACHABLE);
  expect((await peer.grant(T2R, 2 * MIB)).status).toBe(CAPACITY);
  await cluster.host.stopAgent();
  await cluster.host.start();
  await eventually('it is back, and paused', PATIENCE_MS, async () => {
    const { state, paused } = await linkTo('alpha');
    return state === LinkState.READY && paused;
  });
  await cluster.host.client().resume({ feeder: 'alpha' }, { timeoutMs: PATIENCE_MS });
  const held = [0n, 0n, 0n, BigInt(16 * MIB), 0n];
  const again = await cluster.attach({ like: peer, hello: { held_bytes: held } });
  expect((await again.place(16 * MIB, 2 * MIB)).status).toBe(OK);
});

test('ping tells the path, each round trip and the rates', async () => {
  await cluster.connected('alpha', 64 * MIB);
  const parts: { part: { case?: string; value?: unknown } }[] = [];
  const request = { feeder: 'alpha', count: 3, intervalMs: 10 };
  for await (const message of cluster.host.client().pingFeeder(request, { timeoutMs: PATIENCE_MS }))
    parts.push(message as never);
  expect(parts.map(({ part }) => part.case)).toEqual([
    'path',
    'roundTrip',
    'roundTrip',
    'roundTrip',
    'rate',
  ]);
  expect(parts[0]!.part.value).toMatchObject({
    feederName: 'alpha',
    address: '127.0.0.1',
    localAddress: '127.0.0.1',
    sessionCipher: 'TLS_AES_128_GCM_SHA256',
    laneConnections: 2,
  });
  for (const { part } of parts.slice(1, 4)) {
    const { callMicros, laneMicros } = part.value as { callMicros: number; laneMicros: number };
    expect(callMicros).toBeGreaterThan(0);
    expect(laneMicros).toBeGreaterThan(0);
  }
  const { uploadBytesPerSecond, downloadBytesPerSecond } = parts[4]!.part.value as Record<
    string,
    number
  >;
  expect(uploadBytesPerSecond).toBeGreaterThan(1e6);
  expect(downloadBytesPerSecond).toBeGreaterThan(1e6);
  const calls = cluster.host
    .client()
    .pingFeeder({ feeder: 'alpha', count: 5_000, intervalMs: 1 }, {});
  await expect(
    (async () => {
      for await (const _message of calls) continue;
    })(),
  ).rejects.toThrow(/too many/);
});

describe('two copies', () => {
  test('a feeder that is killed costs nothing, and a third one takes its place', async () => {
    const alpha = await cluster.connected('alpha', 32 * MIB);
    await cluster.connected('beta', 32 * MIB);
    const features = abi.FEATURE_GATED | abi.FEATURE_REPLICAS;
    const peer = await cluster.attach({ hello: { features } });
    expect((await peer.grant(T2R, 18 * MIB)).status).toBe(OK);
    expect((await peer.place(0, 16 * MIB)).status).toBe(OK);
    for (const { lanes } of peer.extents) expect(new Set(lanes).size).toBe(2);
    const bytes = randomBytes(16 * MIB);
    expect(await peer.store(0, bytes)).toBe(OK);
    await cluster.connected('gamma', 32 * MIB);
    await alpha.feeder.stop(0);
    await eventually('one copy is lost', PATIENCE_MS, async () =>
      eventNames(await cluster.host.status()).includes('replica_lost'),
    );
    expect((await peer.fetch(0, bytes.length)).bytes.equals(bytes)).toBe(true);
    await eventually('two copies again', PATIENCE_MS, async () =>
      eventNames(await cluster.host.status()).includes('replica_restored'),
    );
    expect(peer.lost).toEqual([]);
    const beta = cluster.feeders.find(({ feeder }) => feeder.feederId !== alpha.feederId)!;
    await beta.feeder.stop(0);
    const back = await eventually('the new copy answers', PATIENCE_MS, async () => {
      const fetched = await peer.fetch(0, bytes.length);
      return fetched.status === OK && fetched;
    });
    expect(back.bytes.equals(bytes)).toBe(true);
    expect(peer.lost).toEqual([]);
  });
});

test('a feeder whose owner wants its memory back is emptied, and takes nothing until it lends again', async () => {
  const alpha = await spawnFeeder(cluster.host, 'alpha', '64MiB', 0);
  const owner = openFeed({ XDG_RUNTIME_DIR: join(cluster.host.folder, 'alpha', 'run') });
  try {
    await cluster.connect(alpha);
    const peer = await cluster.attach();
    const bytes = await placed(peer, 24 * MIB, 16 * MIB);
    await cluster.connected('beta', 64 * MIB);
    await owner.pauseFeed({ drain: true }, { timeoutMs: PATIENCE_MS });
    await eventually(
      'it is empty',
      PATIENCE_MS,
      async () => (await linkTo('alpha')).leaseCount === 0,
    );
    expect(eventNames(await cluster.host.status())).toContain('feeder_asks');
    expect((await peer.fetch(0, bytes.length)).bytes.equals(bytes)).toBe(true);
    expect((await peer.grant(T2R, 60 * MIB)).status).toBe(CAPACITY);
    await owner.resumeFeed({}, { timeoutMs: PATIENCE_MS });
    await eventually('it lends again', PATIENCE_MS, async () => {
      return (await peer.grant(T2R, 60 * MIB)).status === OK;
    });
    expect(peer.lost).toEqual([]);
  } finally {
    owner.close();
    await killHard(alpha.child);
  }
});
