// SPDX-License-Identifier: Apache-2.0
// Real feeders, a real agent and a scripted shim: bytes go out and come back, accounts end at zero
// on both sides.
import { describe, expect, test } from '@jest/globals';
import { createHash, randomBytes } from 'node:crypto';
import * as abi from '../../../host/shim/abi.js';
import { parseId } from '../../../proto/base/ids.js';
import { MIB } from '../../../proto/base/units.js';
import { LinkState, type Snapshot } from '../../../proto/gen/greenboost/v1/control_pb.js';
import { importKey } from '../../../security/keyring.js';
import { createPairingKey } from '../../../security/pairing.js';
import { useCluster } from './cluster.js';
import { eventNames, eventually } from './harness.js';
import { CHUNK } from './shim-peer.js';
import { PATIENCE_MS } from '../../patience.js';

const { T2R } = abi.AbiTier;
const { OK, CAPACITY, DATA_LOSS } = abi.Status;

const cluster = useCluster();

const sum = (values: readonly bigint[]): bigint =>
  values.reduce((total, value) => total + value, 0n);

/** Granted and used bytes on feeders as the agent shows them, and leased and used as the feeders
 *  themselves do. */
function feederBytes(
  snapshot: Snapshot,
): Record<'granted' | 'used' | 'leased' | 'allocated', bigint> {
  const tiers = snapshot.tiers.filter(({ feederId }) => feederId !== '');
  const devices = snapshot.links.flatMap((link) => link.devices);
  return {
    granted: sum(tiers.map(({ grantedBytes }) => grantedBytes)),
    used: sum(tiers.map(({ usedBytes }) => usedBytes)),
    leased: sum(devices.map(({ leasedBytes }) => leasedBytes)),
    allocated: sum(devices.map(({ usedBytes }) => usedBytes)),
  };
}

async function untilFeederBytes(granted: number, used: number): Promise<void> {
  const wanted = {
    granted: BigInt(granted),
    used: BigInt(used),
    leased: BigInt(granted),
    allocated: BigInt(used),
  };
  await eventually(`feeder bytes ${granted} granted, ${used} used`, PATIENCE_MS, async () => {
    const seen = feederBytes(await cluster.host.status());
    return Object.entries(wanted).every(([key, value]) => seen[key as keyof typeof seen] === value);
  });
}

describe('connect', () => {
  test('answers when the link is ready and measured', async () => {
    const { link, tiers } = await cluster.connect(await cluster.feeder('alpha', 64 * MIB));
    expect(link).toMatchObject({
      feederName: 'alpha',
      state: LinkState.READY,
      cipher: 'TLS_AES_128_GCM_SHA256',
      detail: '',
    });
    expect(link?.sessionId).toMatch(/^S-[0-9a-f]{16}$/);
    expect(link!.rttMicros).toBeGreaterThan(0);
    expect(link!.uploadBytesPerSecond).toBeGreaterThan(1e6);
    expect(link!.downloadBytesPerSecond).toBeGreaterThan(1e6);
    expect(tiers).toHaveLength(1);
    expect(tiers[0]).toMatchObject({
      name: 'alpha: RAM',
      capacityBytes: BigInt(64 * MIB),
      grantedBytes: 0n,
    });
    const names = eventNames(await cluster.host.status());
    expect(names).toContain('feeder_ready');
  });

  test('connecting twice is one link; another address for the same feeder is refused', async () => {
    const alpha = await cluster.feeder('alpha', 64 * MIB);
    await cluster.connect(alpha);
    await cluster.connect(alpha);
    expect((await cluster.host.status()).links).toHaveLength(1);
    await expect(cluster.connect({ ...alpha, address: 'localhost:1' })).rejects.toMatchObject({
      code: 'ALREADY_EXISTS',
    });
  });

  test('without a key: NOT_FOUND; nobody there: FEEDER_UNREACHABLE; neither leaves a link', async () => {
    const id = parseId('feeder', 'F-00000000000000aa');
    await expect(cluster.connect({ address: '127.0.0.1:1', feederId: id })).rejects.toMatchObject({
      code: 'NOT_FOUND',
    });
    importKey(cluster.host.configDir, createPairingKey(id));
    const request = { address: '127.0.0.1:1', feederId: id, timeoutMs: 500 };
    await expect(
      cluster.host.client().connect(request, { timeoutMs: 5_000 }),
    ).rejects.toMatchObject({
      code: 'FEEDER_UNREACHABLE',
    });
    expect((await cluster.host.status()).links).toEqual([]);
  });

  test('a wrong key: UNAUTHENTICATED, in words, and nobody hammers', async () => {
    const alpha = await cluster.feeder('alpha', 64 * MIB);
    importKey(cluster.host.configDir, createPairingKey(parseId('feeder', alpha.feederId)));
    await expect(cluster.connect(alpha)).rejects.toMatchObject({
      code: 'UNAUTHENTICATED',
      message: expect.stringContaining('key'),
    });
    const snapshot = await cluster.host.status();
    expect(snapshot.links).toEqual([]);
    expect(eventNames(snapshot)).toContain('feeder_refused');
  });
});

describe('bytes on feeders', () => {
  test('store and fetch over one feeder, many at once; everything is given back at the end', async () => {
    await cluster.connect(await cluster.feeder('alpha', 256 * MIB));
    const peer = await cluster.attach();
    expect(await peer.grant(T2R, 96 * MIB)).toMatchObject({ status: OK, heldBytes: 96 * MIB });
    expect(await peer.place(8 * MIB, 96 * MIB)).toMatchObject({
      status: OK,
      tier: T2R,
      feeder: 'alpha',
    });
    await untilFeederBytes(96 * MIB, 96 * MIB);
    const fresh = await peer.fetch(8 * MIB, 3 * MIB);
    expect(fresh.status).toBe(OK);
    expect(fresh.bytes.every((byte) => byte === 0)).toBe(true);
    const pieces = Array.from({ length: 12 }, () => randomBytes(5 * MIB - 13));
    const offsetOf = (index: number): number => 8 * MIB + 77 + index * 8 * MIB;
    const stored = await Promise.all(
      pieces.map((piece, index) => peer.store(offsetOf(index), piece)),
    );
    expect(stored).toEqual(pieces.map(() => OK));
    const again = await Promise.all(
      pieces.map((piece, index) => peer.fetch(offsetOf(index), piece.length)),
    );
    const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
    expect(again.map(({ bytes }) => digest(bytes))).toEqual(pieces.map(digest));
    expect((await cluster.host.status()).links[0]).toMatchObject({
      leaseCount: 1,
      receivedBytes: 0n,
    });
    peer.reportLane(1);
    const bytes = BigInt(pieces.length * (5 * MIB - 13));
    const told = await eventually('it is counted', PATIENCE_MS, async () => {
      const [link] = (await cluster.host.status()).links;
      return link!.sentBytes === bytes && link;
    });
    expect(told.receivedBytes).toBe(bytes + BigInt(3 * MIB));
    expect(told).toMatchObject({ laneCount: 1, laneDetail: '' });
    expect(told.laneCipher).toMatch(/AES-256-GCM|ChaCha20-Poly1305/i);
    expect(told.laneTraffic).toMatchObject({
      connectionCount: 2,
      sentBytes: bytes,
      brokenCount: 0,
    });
    expect(told.laneTraffic!.wireSentBytes).toBeGreaterThan(bytes);
    expect((await peer.drop(8 * MIB, 96 * MIB)).status).toBe(OK);
    await untilFeederBytes(96 * MIB, 0);
    expect(await peer.giveBack(T2R, 96 * MIB)).toMatchObject({ status: OK, heldBytes: 0 });
    await untilFeederBytes(0, 0);
    expect((await cluster.host.status()).links[0]!.leaseCount).toBe(0);
  });

  test('what one feeder cannot hold goes to the next; beyond both it is CAPACITY', async () => {
    await cluster.connect(await cluster.feeder('alpha', 16 * MIB));
    await cluster.connect(await cluster.feeder('beta', 16 * MIB));
    const peer = await cluster.attach();
    expect(await peer.grant(T2R, 34 * MIB)).toMatchObject({
      status: CAPACITY,
      heldBytes: 0,
      limitBytes: BigInt(32 * MIB),
    });
    await untilFeederBytes(0, 0);
    expect((await peer.grant(T2R, 28 * MIB)).status).toBe(OK);
    expect((await peer.place(0, 28 * MIB)).status).toBe(OK);
    const used = (await cluster.host.status()).tiers
      .filter(({ feederId }) => feederId !== '')
      .map(({ usedBytes }) => Number(usedBytes));
    expect(used.sort((a, b) => a - b)).toEqual([12 * MIB, 16 * MIB]);
    const bytes = randomBytes(28 * MIB);
    expect(await peer.store(0, bytes)).toBe(OK);
    expect((await peer.fetch(0, bytes.length)).bytes.equals(bytes)).toBe(true);
    expect((await peer.place(28 * MIB, CHUNK)).status).toBe(CAPACITY);
  });

  test("two programs do not see each other's bytes and share what there is", async () => {
    await cluster.connect(await cluster.feeder('alpha', 16 * MIB));
    const [a, b] = [await cluster.attach(), await cluster.attach()];
    expect((await a.grant(T2R, 12 * MIB)).status).toBe(OK);
    expect((await b.grant(T2R, 6 * MIB)).status).toBe(CAPACITY);
    expect((await b.grant(T2R, 4 * MIB)).status).toBe(OK);
    await Promise.all([a.place(0, 4 * MIB), b.place(0, 4 * MIB)]);
    expect(
      await Promise.all([a.store(0, Buffer.alloc(MIB, 1)), b.store(0, Buffer.alloc(MIB, 2))]),
    ).toEqual([OK, OK]);
    expect((await a.fetch(0, MIB)).bytes.equals(Buffer.alloc(MIB, 1))).toBe(true);
    expect((await b.fetch(0, MIB)).bytes.equals(Buffer.alloc(MIB, 2))).toBe(true);
  });
});

describe('disconnect', () => {
  test('drains what live programs hold to another feeder, and the bytes are the same', async () => {
    const alpha = await cluster.feeder('alpha', 32 * MIB);
    await cluster.connect(alpha);
    const peer = await cluster.attach();
    await peer.grant(T2R, 24 * MIB);
    await peer.place(0, 20 * MIB);
    const bytes = randomBytes(20 * MIB);
    await peer.store(0, bytes);
    await expect(
      cluster.host.client().disconnect({ feeder: 'alpha', force: false }),
    ).rejects.toMatchObject({ code: 'WRONG_STATE' });
    expect((await cluster.host.status()).links[0]!.state).toBe(LinkState.READY);
    await cluster.connect(await cluster.feeder('beta', 32 * MIB));
    const { movedBytes, lostBytes } = await cluster.host
      .client()
      .disconnect({ feeder: alpha.feederId, force: false });
    expect([movedBytes, lostBytes]).toEqual([BigInt(20 * MIB), 0n]);
    expect((await cluster.host.status()).links.map(({ feederName }) => feederName)).toEqual([
      'beta',
    ]);
    expect((await peer.fetch(0, bytes.length)).bytes.equals(bytes)).toBe(true);
    await untilFeederBytes(24 * MIB, 20 * MIB);
    expect(peer.lost).toEqual([]);
  });

  test('with force what cannot move is lost, by name', async () => {
    await cluster.connect(await cluster.feeder('alpha', 32 * MIB));
    const peer = await cluster.attach();
    await peer.grant(T2R, 8 * MIB);
    await peer.place(2 * MIB, 4 * MIB);
    await peer.place(10 * MIB, 2 * MIB);
    const { movedBytes, lostBytes } = await cluster.host
      .client()
      .disconnect({ feeder: 'alpha', force: true });
    expect([movedBytes, lostBytes]).toEqual([0n, BigInt(6 * MIB)]);
    await eventually('the program hears of it', PATIENCE_MS, () => peer.lost.length === 2);
    expect(peer.lost).toEqual([
      { offset: 2 * MIB, length: 4 * MIB, feeder: 'alpha' },
      { offset: 10 * MIB, length: 2 * MIB, feeder: 'alpha' },
    ]);
    expect(await peer.fetch(2 * MIB, 100)).toMatchObject({ status: DATA_LOSS, feeder: 'alpha' });
    expect((await peer.drop(2 * MIB, 4 * MIB)).status).toBe(OK);
    expect(await peer.giveBack(T2R, 4 * MIB)).toMatchObject({ heldBytes: 4 * MIB });
  });

  test('an unknown feeder is NOT_FOUND', async () => {
    await expect(
      cluster.host.client().disconnect({ feeder: 'nobody', force: true }),
    ).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });
});

describe('a feeder that is stopped', () => {
  test('hands its bytes over while it says goodbye', async () => {
    const alpha = await cluster.feeder('alpha', 32 * MIB);
    await cluster.connect(alpha);
    const peer = await cluster.attach();
    await peer.grant(T2R, 8 * MIB);
    await peer.place(0, 8 * MIB);
    const bytes = randomBytes(8 * MIB);
    await peer.store(0, bytes);
    await cluster.connect(await cluster.feeder('beta', 32 * MIB));
    await alpha.feeder.stop(5_000);
    expect((await peer.fetch(0, bytes.length)).bytes.equals(bytes)).toBe(true);
    expect(peer.lost).toEqual([]);
    await eventually('it is seen', PATIENCE_MS, async () =>
      eventNames(await cluster.host.status()).includes('feeder_lost'),
    );
  });

  test('takes with it what finds no room, by name and at once', async () => {
    const alpha = await cluster.feeder('alpha', 32 * MIB);
    await cluster.connect(alpha);
    const peer = await cluster.attach();
    await peer.grant(T2R, 8 * MIB);
    await peer.place(4 * MIB, 8 * MIB);
    await alpha.feeder.stop(0);
    await eventually('the program hears of it', PATIENCE_MS, () => peer.lost.length === 1);
    expect(peer.lost).toEqual([{ offset: 4 * MIB, length: 8 * MIB, feeder: 'alpha' }]);
    expect(await peer.fetch(4 * MIB, 100)).toMatchObject({ status: DATA_LOSS, feeder: 'alpha' });
    expect(eventNames(await cluster.host.status())).toEqual(
      expect.arrayContaining(['feeder_lost', 'data_lost']),
    );
  });
});

test('watchers get the newest state, and one that never reads does not hold up the others', async () => {
  const slow = cluster.host.client().watch({ intervalMs: 100 });
  slow.pause();
  const stream = cluster.host.client().watch({ intervalMs: 100 });
  const seen: Snapshot[] = [];
  stream.on('data', (snapshot: Snapshot) => seen.push(snapshot));
  await cluster.connect(await cluster.feeder('alpha', 32 * MIB));
  await eventually(
    'the link is seen ready',
    PATIENCE_MS,
    () => seen.at(-1)?.links[0]?.state === LinkState.READY,
  );
  expect(seen.length).toBeGreaterThan(1);
  stream.cancel();
  slow.cancel();
});

test('events are kept and followed', async () => {
  const stream = cluster.host.client().events({ follow: true, afterSequence: 0n });
  const names: string[] = [];
  stream.on('data', ({ name }: { name: string }) => names.push(name));
  await cluster.attach();
  await eventually(
    'both are there',
    PATIENCE_MS,
    () => names.includes('agent_started') && names.includes('attachment_started'),
  );
  stream.cancel();
  const once = cluster.host.client().events({ follow: false, afterSequence: 1n });
  const later: string[] = [];
  for await (const { name } of once as AsyncIterable<{ name: string }>) later.push(name);
  expect(later).not.toContain('agent_started');
  expect(later).toContain('attachment_started');
});
