// SPDX-License-Identifier: Apache-2.0
// Plans against what the actions then do, with real feeders and scripted programs; actions bound to an epoch.
import { describe, expect, test } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import * as abi from '../../../host/shim/abi.js';
import { MIB } from '../../../proto/base/units.js';
import { Action, type PlanResponse } from '../../../proto/gen/greenboost/v1/control_pb.js';
import { PATIENCE_MS } from '../../patience.js';
import { useCluster } from './cluster.js';
import type { ShimPeer } from './shim-peer.js';

const { T2R } = abi.AbiTier;
const { OK } = abi.Status;

const cluster = useCluster();

async function placed(granted: number, used: number): Promise<ShimPeer> {
  const peer = await cluster.attach();
  expect((await peer.grant(T2R, granted)).status).toBe(OK);
  expect((await peer.place(0, used)).status).toBe(OK);
  expect(await peer.store(0, randomBytes(used))).toBe(OK);
  return peer;
}

function planned(action: Action, feeder: string): Promise<PlanResponse> {
  return cluster.host.client().plan({ action, feeder }, { timeoutMs: PATIENCE_MS });
}

describe('a plan', () => {
  test('of a drain names what the drain then moves, and changes nothing', async () => {
    await cluster.connected('alpha', 64 * MIB);
    await placed(48 * MIB, 40 * MIB);
    await cluster.connected('beta', 64 * MIB);
    const plan = await planned(Action.DRAIN, 'alpha');
    expect(plan).toMatchObject({
      feederName: 'alpha',
      moveBytes: BigInt(40 * MIB),
      missingBytes: 0n,
      lostBytes: 0n,
      refusal: '',
      leaseCount: 1,
    });
    expect(plan.moves).toMatchObject([{ feederName: 'beta', bytes: BigInt(40 * MIB) }]);
    expect(plan.programs).toMatchObject([{ bytes: BigInt(40 * MIB) }]);
    expect((await cluster.host.status()).epoch).toBe(plan.epoch);
    let movedBytes = 0n;
    const drain = cluster.host.client().drain({ feeder: 'alpha', epoch: plan.epoch });
    for await (const status of drain) movedBytes = (status as { movedBytes: bigint }).movedBytes;
    expect(movedBytes).toBe(plan.moveBytes);
    expect((await planned(Action.DRAIN, 'alpha')).moveBytes).toBe(0n);
  });

  test('says what finds no room, what force would lose, and why it would be refused', async () => {
    await cluster.connected('alpha', 64 * MIB);
    await placed(48 * MIB, 40 * MIB);
    const drain = await planned(Action.DRAIN, 'alpha');
    expect(drain).toMatchObject({ moveBytes: 0n, missingBytes: BigInt(40 * MIB), lostBytes: 0n });
    expect(drain.refusal).toContain('no room for 40.0 MiB');
    const leave = await planned(Action.DISCONNECT, 'alpha');
    expect(leave.lostBytes).toBe(BigInt(40 * MIB));
    await expect(cluster.host.client().disconnect({ feeder: 'alpha' })).rejects.toMatchObject({
      code: 'WRONG_STATE',
    });
    const forced = await cluster.host.client().disconnect({ feeder: 'alpha', force: true });
    expect(forced.lostBytes).toBe(leave.lostBytes);
  });

  test('of something that is not there is NOT_FOUND', async () => {
    await expect(planned(Action.PAUSE, 'nobody')).rejects.toMatchObject({ code: 'NOT_FOUND' });
    const evict = cluster.host.client().plan({ action: Action.EVICT, pid: 1 });
    await expect(evict).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });
});

describe('an epoch', () => {
  test('that is over refuses every action with EPOCH_STALE, and nothing has happened', async () => {
    await cluster.connected('alpha', 64 * MIB);
    const { epoch } = await planned(Action.PAUSE, 'alpha');
    await cluster.connected('beta', 64 * MIB);
    const client = cluster.host.client();
    const stale = { code: 'EPOCH_STALE' };
    await expect(client.pause({ feeder: 'alpha', epoch })).rejects.toMatchObject(stale);
    await expect(client.resume({ feeder: 'alpha', epoch })).rejects.toMatchObject(stale);
    await expect(client.disconnect({ feeder: 'alpha', epoch })).rejects.toMatchObject(stale);
    await expect(client.evict({ pid: 1, epoch })).rejects.toMatchObject(stale);
    const status = await cluster.host.status();
    expect(status.links.map(({ paused }) => paused)).toEqual([false, false]);
    const now = await planned(Action.PAUSE, 'alpha');
    const paused = await client.pause({ feeder: 'alpha', epoch: now.epoch });
    expect(paused.link?.paused).toBe(true);
  });
});
