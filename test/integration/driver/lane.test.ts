// SPDX-License-Identifier: Apache-2.0
// Lanes as the daemons have them: a door, a server behind it, clients; all of it native, JavaScript only opens, counts
// and closes.
import { afterEach, describe, expect, test } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import { closeSync } from 'node:fs';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { LaneRights } from '../../../driver/lane/abi.js';
import { LaneClient } from '../../../driver/lane/client.js';
import { Door } from '../../../driver/lane/door.js';
import { laneCiphers, nativeNames } from '../../../driver/lane/library.js';
import { laneRefusalName, laneStatusName } from '../../../driver/lane/names.js';
import { LaneServer, type LaneGrant, type LaneTicket } from '../../../driver/lane/server.js';
import { seqpacketPair } from '../../../driver/os/unix.js';
import { PATIENCE_MS } from '../../patience.js';

const MIB = 1 << 20;
const REGION_BYTES = 16 * MIB;

interface Place {
  readonly door: Door;
  readonly server: LaneServer;
  readonly port: number;
  readonly grant: (more?: Partial<LaneGrant>) => LaneTicket;
  readonly open: (ticket: LaneTicket, connections?: number) => Promise<LaneClient>;
}

const ends: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function place(): Promise<Place> {
  const door = Door.open({ lanOnly: true, strangerMs: 200 });
  ends.push(() => door.close());
  door.listen('127.0.0.1', 0);
  const port = door.port as number;
  const [ours, theirs] = seqpacketPair();
  const server = await LaneServer.open({ adoptFd: theirs });
  ends.push(() => server.close());
  ends.push(async () => closeSync(ours));
  const memory = await server.memory(REGION_BYTES);
  const grant = (more: Partial<LaneGrant> = {}): LaneTicket => {
    const ticket = { id: randomBytes(16), secret: randomBytes(32) };
    server.grant({ ticket, memory, tag: 7n, connections: 2, ...more });
    door.route(ticket.id, ours);
    return ticket;
  };
  const open = async (ticket: LaneTicket, connections = 2): Promise<LaneClient> => {
    const lane = await LaneClient.open({ address: '127.0.0.1', port, ticket, connections });
    ends.push(() => lane.close());
    return lane;
  };
  return { door, server, port, grant, open };
}

const refusal = (code: string): object => expect.objectContaining({ code }) as object;

async function until(condition: () => boolean): Promise<void> {
  for (let waited = 0; !condition() && waited < PATIENCE_MS; waited += 5) await sleep(5);
  expect(condition()).toBe(true);
}

describe('a lane through a door', () => {
  test('bytes come back as they were written, and are counted', async () => {
    const { door, server, grant, open } = await place();
    const ticket = grant();
    const lane = await open(ticket);
    expect(lane.state).toBe('OK');
    const sent = randomBytes(5 * MIB + 3);
    await lane.write(0, 4097, sent);
    const back = Buffer.alloc(sent.length);
    await Promise.all([
      lane.read(0, 4097, back.subarray(0, 2 * MIB)),
      lane.read(0, 4097n + BigInt(2 * MIB), back.subarray(2 * MIB)),
    ]);
    expect(back.equals(sent)).toBe(true);
    expect(await lane.ping()).toBeGreaterThan(0);
    const counters = lane.counters();
    expect(counters).toMatchObject({
      bytesRead: sent.length,
      bytesWritten: sent.length,
      connections: 3,
      requestsFailed: 0,
      state: 'OK',
    });
    expect(counters.wireBytesIn).toBeGreaterThan(sent.length);
    expect(counters.cipher).toMatch(/AES-256-GCM|ChaCha20-Poly1305/);
    expect(server.laneCounters(ticket.id)).toMatchObject({
      bytesRead: sent.length,
      bytesWritten: sent.length,
      state: 'OK',
    });
    expect(door.counters()).toMatchObject({ accepted: 3, passed: 3, refused: {}, routes: 1 });
    await lane.close();
    expect(lane.state).toBe('CLOSED');
    await expect(lane.ping()).rejects.toEqual(refusal('WRONG_STATE'));
    await until(() => server.counters().closed === 1);
    expect(server.events().map(({ kind, status, tag }) => [kind, status, tag])).toEqual([
      ['opened', 'OK', 7n],
      ['closed', 'CLOSED', 7n],
    ]);
  });

  test('the event loop goes on while bytes move', async () => {
    const { grant, open } = await place();
    const lane = await open(grant());
    const into = Buffer.alloc(REGION_BYTES);
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    for (let i = 0; i < 12; i++) await lane.read(0, 0, into);
    clearInterval(timer);
    expect(turns).toBeGreaterThan(5);
  });

  test('a limit is kept', async () => {
    const { grant, open } = await place();
    const lane = await open(grant({ bytesPerSecond: 20 * MIB, connections: 1 }), 1);
    const start = performance.now();
    await lane.read(0, 0, Buffer.alloc(8 * MIB));
    expect(performance.now() - start).toBeGreaterThan(330); // 400, less what one record and a late start may gain
  });

  test('rights, ranges and used or revoked tickets are told by their codes', async () => {
    const { door, server, port, grant, open } = await place();
    const ticket = grant({ rights: LaneRights.READ });
    const lane = await open(ticket);
    const byte = Buffer.alloc(1);
    await expect(lane.write(0, 0, byte)).rejects.toEqual(refusal('PERMISSION_DENIED'));
    await expect(lane.read(0, REGION_BYTES, byte)).rejects.toEqual(refusal('INVALID_ARGUMENT'));
    await expect(lane.read(3, 0, byte)).rejects.toEqual(refusal('NOT_FOUND'));
    const again = LaneClient.open({ address: '127.0.0.1', port, ticket });
    await expect(again).rejects.toMatchObject({
      code: 'PERMISSION_DENIED',
      details: { lane: 'REFUSED' },
    });
    expect(await server.revoke(ticket.id)).toBe(true);
    expect(await server.revoke(ticket.id)).toBe(false);
    await until(() => lane.state === 'REVOKED');
    await expect(lane.read(0, 0, byte)).rejects.toEqual(refusal('LEASE_EXPIRED'));
    expect(server.laneCounters(randomBytes(16))).toBeUndefined();
    expect(door.forget(ticket.id)).toBe(true);
    expect(door.forget(ticket.id)).toBe(false);
    const wrong = { id: ticket.id.subarray(1), secret: ticket.secret };
    await expect(LaneClient.open({ address: '127.0.0.1', port, ticket: wrong })).rejects.toEqual(
      refusal('INVALID_ARGUMENT'),
    );
    expect(() => door.route(wrong.id, 0)).toThrow('16 bytes');
    const memory = { address: 4096n, bytes: 0 };
    const before = server.counters().grants;
    expect(() => grant({ memory })).toThrow(refusal('INVALID_ARGUMENT') as Error);
    expect(server.counters().grants).toBe(before);
  });

  test('closing ends what is under way', async () => {
    const { grant, open } = await place();
    const lane = await open(grant({ connections: 1 }), 1);
    const into = Buffer.alloc(REGION_BYTES);
    const reads = Array.from({ length: 8 }, () => lane.read(0, 0, into));
    const results = Promise.allSettled(reads);
    await lane.close();
    for (const result of await results) {
      if (result.status === 'rejected')
        expect(result.reason).toEqual(refusal('FEEDER_UNREACHABLE'));
    }
    expect((await results).some(({ status }) => status === 'rejected')).toBe(true);
  });

  test('strangers are closed without a byte, counted and told', async () => {
    const { door, port } = await place();
    const heard: Buffer[] = [];
    const socket = connect(port, '127.0.0.1');
    socket.on('data', (chunk) => heard.push(chunk));
    socket.on('error', () => undefined);
    const closed = new Promise((resolve) => socket.on('close', resolve));
    socket.write('GET / HTTP/1.1\r\nHost: somewhere\r\nAccept: */*\r\n'.padEnd(112, 'x'));
    await closed;
    expect(heard).toEqual([]);
    expect(door.counters().refused).toEqual({ FORMAT: 1 });
    const [event] = door.events();
    expect(event).toMatchObject({ kind: 'refused', reason: 'FORMAT' });
    expect(event?.address).toMatch(/^127\.0\.0\.1:\d+$/);
    expect(door.events()).toEqual([]);
  });

  test('a port that is taken, and no peer at all, say so', async () => {
    const { door, port, grant } = await place();
    expect(() => door.listen('127.0.0.1', port)).toThrow(refusal('ALREADY_EXISTS') as Error);
    expect(() => door.listen('nowhere', 0)).toThrow(refusal('INVALID_ARGUMENT') as Error);
    const ticket = grant();
    await door.close();
    expect(() => door.counters()).toThrow('closed');
    const nobody = LaneClient.open({ address: '127.0.0.1', port, ticket, timeoutMs: 1000 });
    await expect(nobody).rejects.toEqual(refusal('FEEDER_UNREACHABLE'));
  });

  test('statuses and refusals have the names that the library gives them', () => {
    for (let i = 0; i < 40; i++) {
      const own = [laneStatusName(i), laneRefusalName(i)];
      expect(own).toEqual(nativeNames(i, i));
    }
    expect(laneStatusName(21)).toBe('LIMIT');
    expect(laneRefusalName(11)).toBe('GONE');
  });

  test('ciphers are measured, the choice first', async () => {
    const ciphers = await laneCiphers();
    expect(ciphers[0]?.chosen).toBe(true);
    expect(ciphers[0]?.megabytesPerSecond).toBeGreaterThan(10);
    expect(ciphers.filter(({ chosen }) => chosen)).toHaveLength(1);
  });
});
