// SPDX-License-Identifier: Apache-2.0
// The shim socket with a scripted peer: who gets in, what is granted, and what happens to those who
// break the rules.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { statSync } from 'node:fs';
import * as abi from '../../../host/shim/abi.js';
import { startAgent } from '../../../host/main.js';
import { sleep } from '../../../proto/base/clock.js';
import { eventNames, eventually, TestHost } from './harness.js';
import { grant, startProgram } from './program.js';
import { ARENA_BYTES, CHUNK, ShimPeer } from './shim-peer.js';
import { PATIENCE_MS } from '../../patience.js';

const { T1, T2, T2R } = abi.AbiTier;
const { OK, CAPACITY, INVALID, NOT_FOUND, REFUSED, VERSION } = abi.Status;

let host: TestHost;
let peers: ShimPeer[];

beforeEach(async () => {
  host = new TestHost();
  peers = [];
  await host.start();
});

afterEach(async () => {
  for (const peer of peers) peer.socket.destroy();
  await host.stop();
});

async function attach(options: Parameters<typeof ShimPeer.attach>[1] = {}): Promise<ShimPeer> {
  const peer = await ShimPeer.attach(host.shimSocket, options);
  peers.push(peer);
  return peer;
}

async function open(options: Parameters<typeof ShimPeer.open>[1] = {}): Promise<ShimPeer> {
  const peer = await ShimPeer.open(host.shimSocket, options);
  peers.push(peer);
  return peer;
}

describe('one agent per user', () => {
  test('sockets are private; a second agent is refused, the next takes over stale sockets', async () => {
    for (const path of [host.shimSocket, host.agentSocket])
      expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(statSync(`${host.folder}/run/greenboost`).mode & 0o777).toBe(0o700);
    await expect(startAgent({ env: host.env })).rejects.toThrow(/ALREADY_EXISTS/);
    await attach();
    await host.stopAgent();
    await host.start();
    expect((await host.status()).agentPid).toBe(process.pid);
  });

  test('a bad option is named', async () => {
    const env = { ...host.env, GREENBOOST_AGENT_RAM_BUDGET: 'much' };
    await expect(startAgent({ env })).rejects.toThrow(
      /GREENBOOST_AGENT_RAM_BUDGET: "much" is not a size/,
    );
  });
});

describe('HELLO', () => {
  test('is answered with limits and what is in force', async () => {
    const peer = await open();
    const ack = await peer.hello();
    expect(ack).toMatchObject({
      status: OK,
      abi_major: 1,
      features: abi.FEATURE_GATED,
      agent_pid: process.pid,
    });
    expect(ack.limit_bytes).toEqual([abi.UINT64_MAX, BigInt(64 * 2 ** 20), 0n, 0n, abi.UINT64_MAX]);
    const [attachment] = (await host.status()).attachments;
    expect(attachment).toMatchObject({
      pid: process.pid,
      command: 'scripted shim',
      connected: true,
      gated: true,
    });
  });

  test.each([
    ['another major version', { abi_major: 2, abi_minor: 5 }, /ABI 2\.5.*agent 1\.\d/],
    [
      'a required feature nobody knows',
      { abi_minor: 9, features_required: 1n << 40n },
      /ABI 1\.9.*0x10000000000.*ABI 1\.\d/,
    ],
  ])('%s is refused with both versions in the message', async (_what, hello, words) => {
    const peer = await open();
    expect(await peer.hello(hello)).toMatchObject({
      status: VERSION,
      abi_major: abi.ABI_MAJOR,
      abi_minor: abi.ABI_MINOR,
    });
    const { recentEvents } = await host.status();
    expect(recentEvents.find(({ name }) => name === 'attachment_refused')?.text).toMatch(words);
  });

  test('HELLO of another major version may have another shape', async () => {
    const peer = await open();
    const head = abi.gbHelloHead.encode({ magic: abi.ABI_MAGIC, abi_major: 3, abi_minor: 0 });
    const ack = abi.gbHelloAck.decode(await peer.request(abi.Msg.HELLO, head));
    expect(ack).toMatchObject({ status: VERSION, abi_major: abi.ABI_MAJOR });
  });

  test('features nobody knows are ignored when they are offered', async () => {
    const peer = await open();
    const ack = await peer.hello({ features: abi.FEATURE_GATED | (1n << 40n), abi_minor: 9 });
    expect(ack).toMatchObject({ status: OK, features: abi.FEATURE_GATED });
  });

  test('text of a program cannot drive a terminal', async () => {
    await attach({ hello: { command: 'ls\u001b[2J\u0007\u009b31m' } });
    expect((await host.status()).attachments[0]?.command).toMatch(/^[\x20-\x7e]*$/);
  });

  test.each([
    ['another major version', { abi_major: 2 }, VERSION],
    ['a required feature nobody knows', { features_required: 1n << 40n }, VERSION],
    ['another pid', { pid: 1 }, REFUSED],
    ['an arena outside the window', { arena_base: 0x7f0000000000n }, REFUSED],
    ['an arena that wraps', { arena_bytes: abi.UINT64_MAX }, REFUSED],
    ['no arena and yet gated', { arena_base: 0n, arena_bytes: 0n }, REFUSED],
    ['a wrong magic', { magic: 1 }, INVALID],
  ] as const)('%s is refused, and leaves nothing behind', async (_what, hello, status) => {
    const peer = await open();
    expect((await peer.hello(hello)).status).toBe(status);
    await eventually('the socket is closed', PATIENCE_MS, () => peer.closed);
    const snapshot = await host.status();
    expect(snapshot.attachments).toEqual([]);
    expect(eventNames(snapshot)).toContain('attachment_refused');
  });

  test('a program without an arena may attach when it keeps nothing on feeders', async () => {
    const peer = await attach({ hello: { arena_base: 0n, arena_bytes: 0n, features: 0n } });
    expect((await peer.grant(T2, CHUNK)).status).toBe(OK);
    expect((await peer.grant(T2R, CHUNK)).status).toBe(REFUSED);
  });
});

describe('grants of T2', () => {
  test('are byte-exact, shared by all programs, and end at the budget', async () => {
    const a = await attach();
    const b = await attach();
    expect(await a.grant(T2, 40 * 2 ** 20)).toMatchObject({ status: OK, heldBytes: 40 * 2 ** 20 });
    expect(await b.grant(T2, 30 * 2 ** 20)).toMatchObject({
      status: CAPACITY,
      heldBytes: 0,
      limitBytes: BigInt(24 * 2 ** 20),
    });
    expect(await b.grant(T2, 24 * 2 ** 20)).toMatchObject({ status: OK });
    expect(await a.giveBack(T2, 10 * 2 ** 20)).toMatchObject({
      status: OK,
      heldBytes: 30 * 2 ** 20,
    });
    expect(await b.grant(T2, 10 * 2 ** 20 + 1)).toMatchObject({ status: CAPACITY });
    const ram = (await host.status()).tiers[0];
    expect(ram).toMatchObject({
      capacityBytes: BigInt(64 * 2 ** 20),
      grantedBytes: BigInt(54 * 2 ** 20),
    });
  });

  test("a program's own RAM budget is kept", async () => {
    const peer = await attach({ hello: { ram_budget_bytes: BigInt(CHUNK) } });
    expect((await peer.grant(T2, CHUNK + 1)).status).toBe(CAPACITY);
    expect((await peer.grant(T2, CHUNK)).status).toBe(OK);
  });

  test('T1 is accounted and never refused; other tiers are a mistake', async () => {
    const peer = await attach();
    expect(await peer.grant(T1, 5)).toMatchObject({ status: OK, heldBytes: 5 });
    expect((await peer.grant(abi.AbiTier.T1R, CHUNK)).status).toBe(INVALID);
    expect((await peer.grant(77, CHUNK)).status).toBe(INVALID);
    expect((await peer.grant(T2R, CHUNK + 1)).status).toBe(INVALID);
    expect((await peer.grant(T2R, CHUNK)).status).toBe(CAPACITY);
  });

  test('limits that fall are told to the others', async () => {
    const a = await attach();
    const b = await attach();
    await a.grant(T2, 60 * 2 ** 20);
    await eventually('b hears of it', PATIENCE_MS, () =>
      b.limits.some(([, t2]) => t2 === BigInt(4 * 2 ** 20)),
    );
  });

  test('a broken socket keeps the grant while the process lives, and the same id gets it back', async () => {
    const peer = await attach();
    await peer.grant(T2, CHUNK);
    peer.close();
    await eventually(
      'it is seen',
      PATIENCE_MS,
      async () => (await host.status()).attachments[0]?.connected === false,
    );
    await sleep(700);
    expect((await host.status()).attachments[0]?.ramGrantedBytes).toBe(BigInt(CHUNK));
    const again = await attach({
      like: peer,
      hello: { held_bytes: [0n, BigInt(CHUNK), 0n, 0n, 0n] },
    });
    expect(await again.giveBack(T2, CHUNK)).toMatchObject({ heldBytes: 0 });
    expect(eventNames(await host.status())).toEqual(
      expect.arrayContaining(['attachment_started', 'attachment_returned']),
    );
  });
});

describe('ranges without a feeder', () => {
  test('are not there, do not fit, or are no ranges', async () => {
    const peer = await attach();
    expect((await peer.place(0, CHUNK)).status).toBe(CAPACITY);
    expect((await peer.place(1, CHUNK)).status).toBe(INVALID);
    expect((await peer.place(0, CHUNK + 1)).status).toBe(INVALID);
    expect((await peer.place(0, 0)).status).toBe(INVALID);
    expect((await peer.place(Number(ARENA_BYTES), CHUNK)).status).toBe(INVALID);
    expect((await peer.drop(0, CHUNK)).status).toBe(NOT_FOUND);
    expect((await peer.ticket(1)).status).toBe(NOT_FOUND);
  });
});

describe('peers that break the rules are closed and told of once', () => {
  const violations: readonly (readonly [string, (peer: ShimPeer) => void])[] = [
    [
      'an oversized frame',
      (peer) =>
        peer.socket.write(
          abi.gbFrame.encode({ payload_bytes: 1 << 20, type: 1, flags: 0, request_id: 1n }),
        ),
    ],
    [
      'a request before HELLO',
      (peer) => peer.socket.write(abi.encodeFrame(abi.Msg.GRANT, 0, 1n, Buffer.alloc(16))),
    ],
    [
      'a short HELLO',
      (peer) => peer.socket.write(abi.encodeFrame(abi.Msg.HELLO, 0, 1n, Buffer.alloc(8))),
    ],
    ['noise', (peer) => peer.socket.write(Buffer.alloc(4096, 0xa5))],
  ];

  test.each(violations)('%s', async (_what, violate) => {
    for (let count = 0; count < 3; count++) {
      const peer = await open();
      violate(peer);
      await eventually('it is closed', PATIENCE_MS, () => peer.closed);
    }
    const told = eventNames(await host.status()).filter(
      (name) => name === 'shim_peer_closed' || name === 'attachment_refused',
    );
    expect(told.length).toBeGreaterThan(0);
    expect((await host.status()).attachments).toEqual([]);
  });

  const attached: readonly (readonly [string, (peer: ShimPeer) => void])[] = [
    [
      'a type that there is not',
      (peer) => peer.socket.write(abi.encodeFrame(77, 0, 50n, Buffer.alloc(24))),
    ],
    [
      'an outcome of a move that there is not',
      (peer) =>
        peer.socket.write(
          abi.encodeFrame(
            abi.Msg.MOVED,
            0,
            50n,
            abi.gbMoveReply.encode({ sequence: 1n, phase: 1, outcome: 9 }),
          ),
        ),
    ],
    ['an unknown type', (peer) => peer.socket.write(abi.encodeFrame(99, 0, 50n, Buffer.alloc(0)))],
    [
      'a request id of 0',
      (peer) => peer.socket.write(abi.encodeFrame(abi.Msg.GRANT, 0, 0n, Buffer.alloc(16))),
    ],
    [
      'a reply',
      (peer) =>
        peer.socket.write(abi.encodeFrame(abi.Msg.GRANT, abi.FRAME_REPLY, 50n, Buffer.alloc(16))),
    ],
    [
      'a truncated payload',
      (peer) => peer.socket.write(abi.encodeFrame(abi.Msg.PLACE, 0, 50n, Buffer.alloc(15))),
    ],
    [
      'a second HELLO',
      (peer) => peer.socket.write(abi.encodeFrame(abi.Msg.HELLO, 0, 50n, Buffer.alloc(328))),
    ],
    [
      'a byte count above 2^53',
      (peer) => peer.socket.write(abi.encodeFrame(abi.Msg.GRANT, 0, 50n, Buffer.alloc(16, 0xff))),
    ],
  ];

  test.each(attached)('%s after HELLO', async (_what, violate) => {
    const peer = await attach();
    violate(peer);
    await eventually('it is closed', PATIENCE_MS, () => peer.closed);
    expect(eventNames(await host.status())).toContain('shim_peer_closed');
  });

  test('an optional message of a newer shim is ignored', async () => {
    const peer = await attach();
    peer.socket.write(abi.encodeFrame(99, abi.FRAME_OPTIONAL, 0n, Buffer.alloc(100)));
    expect((await peer.grant(T1, 1)).status).toBe(OK);
  });

  test('a stranger that says nothing is closed in time', async () => {
    const peer = await open();
    peer.socket.write(Buffer.alloc(5));
    await eventually('it is closed', 7_000, () => peer.closed);
  });

  test('a flood of events is cut, reports are shown', async () => {
    const peer = await attach();
    const event = abi.gbEvent.encode({
      severity: 1,
      cuda_error: 2,
      name: 'launch_refused',
      text: 'too big\u001b[0m',
    });
    for (let count = 0; count < 200; count++) peer.notice(abi.Msg.EVENT, event);
    peer.report({
      used_bytes: [1n, 2n, 0n, 0n, 3n],
      peak_bytes: [5n, 6n, 0n, 0n, 4n],
      launch_count: 9n,
      stage_in_bytes: 20n,
      stage_out_bytes: 21n,
      stage_clean_bytes: 22n,
      remap_count: 23n,
      switch_count: 24n,
      switch_abandoned_count: 25n,
      switch_micros: 26n,
      frame_bytes: 27n,
      graph_split_count: 28n,
      nvme_read_bytes: 29n,
      nvme_write_bytes: 30n,
      staging: 2,
      order_percent: 98,
      phase: 2,
    });
    await peer.grant(T1, 1);
    const snapshot = await host.status();
    const refused = snapshot.recentEvents.filter(({ name }) => name === 'launch_refused');
    expect(refused.length).toBeGreaterThan(0);
    expect(refused.length).toBeLessThanOrEqual(40);
    expect(refused[0]).toMatchObject({ severity: 1, text: 'too big [0m (CUDA error 2)' });
    expect(snapshot.attachments[0]).toMatchObject({
      vramUsedBytes: 1n,
      ramPeakBytes: 6n,
      nvmeUsedBytes: 3n,
      nvmePeakBytes: 4n,
      launchCount: 9n,
      stageInBytes: 20n,
      stageOutBytes: 21n,
      stageCleanBytes: 22n,
      remapCount: 23n,
      switchCount: 24n,
      switchAbandonedCount: 25n,
      switchMicros: 26n,
      frameBytes: 27n,
      graphSplitCount: 28n,
      nvmeReadBytes: 29n,
      nvmeWriteBytes: 30n,
      staging: 'on',
      orderPercent: 98,
      phase: 'inference',
    });
  });
});

describe('one GPU and several programs', () => {
  const GIB = 2 ** 30;
  const hello = { device_uuid: Buffer.alloc(16, 7), device_total_bytes: BigInt(8 * GIB) };
  const usable = 8 * GIB - 384 * 2 ** 20;
  const limitOf = (peer: ShimPeer): bigint | undefined => peer.limits.at(-1)?.[T1];
  const uses = (vram: number, ram: number): { used_bytes: bigint[] } => ({
    used_bytes: [BigInt(vram * GIB), BigInt(ram * GIB), 0n, 0n, 0n],
  });

  test('limits of VRAM are shared fairly and told to each', async () => {
    const a = await attach({ hello });
    a.report(uses(7, 3));
    await a.grant(T1, 1);
    const b = await open();
    const ack = await b.hello(hello);
    expect(ack.limit_bytes[T1]).toBe(BigInt(256 * 2 ** 20));
    await eventually('the first gives way', PATIENCE_MS, () => limitOf(a) !== undefined);
    expect(limitOf(a)).toBe(BigInt(usable - 256 * 2 ** 20));
    b.report(uses(0, 9));
    await eventually('halves', PATIENCE_MS, () => limitOf(b) === BigInt(usable / 2));
    expect(limitOf(a)).toBe(BigInt(usable / 2));
    const [first] = (await host.status()).attachments;
    expect(first).toMatchObject({
      deviceUuid: 'GPU-07070707-0707-0707-0707-070707070707',
      vramLimitBytes: BigInt(usable / 2),
    });
    expect(eventNames(await host.status())).toContain('vram_shared');
  });

  test('a budget of its own stays the limit', async () => {
    await attach({ hello });
    const b = await attach({ hello: { ...hello, vram_budget_bytes: BigInt(GIB) } });
    b.report(uses(1, 9));
    await sleep(1_200);
    expect((await b.grant(T1, 1)).limitBytes).toBe(BigInt(GIB));
  });
});

test('the grant of a program that was killed is free again within 5 s', async () => {
  const child = await startProgram(host.shimSocket, [grant(T2, CHUNK)]);
  expect((await host.status()).attachments[0]).toMatchObject({
    pid: child.pid,
    ramGrantedBytes: BigInt(CHUNK),
  });
  child.kill('SIGKILL');
  await eventually(
    'it is gone',
    PATIENCE_MS,
    async () => (await host.status()).attachments.length === 0,
  );
  expect((await host.status()).tiers[0]?.grantedBytes).toBe(0n);
  await eventually('it is told', PATIENCE_MS, async () =>
    eventNames(await host.status()).includes('attachment_ended'),
  );
});
