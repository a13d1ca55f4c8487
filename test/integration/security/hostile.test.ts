// SPDX-License-Identifier: Apache-2.0
// Peers that cut, replay, flip, flood and dawdle: closed, counted, logged once, and nothing is allocated for them.
import { afterEach, describe, expect, test } from '@jest/globals';
import { randomBytes, randomInt } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { HANDSHAKE_BYTES_MAX } from '../../../proto/base/limits.js';
import { keyFingerprint } from '../../../security/pairing.js';
import { openFaultyWire } from './faulty-wire.js';
import {
  knock,
  openClient,
  openFrontDoor,
  until,
  type EchoClient,
  type FrontDoor,
} from './harness.js';

let door: FrontDoor;
const sockets: Socket[] = [];

afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await door.stop();
});

/** The bytes a true host sends until its first call is answered: ClientHello, ChangeCipherSpec, Finished, HTTP/2. */
async function recordFlight(): Promise<Buffer> {
  const wire = await openFaultyWire(door);
  const client = openClient(wire, { key: door.key });
  await client.echo('x');
  client.close();
  await until(() => door.ended.length === door.opened.length);
  const flight = wire.sent();
  await wire.stop();
  return flight;
}

const helloLength = (flight: Buffer): number => 5 + flight.readUInt16BE(3);
/** ClientHello, ChangeCipherSpec (6 bytes), Finished (5 + 32 + 4 + 1 + 16). */
const handshakeLength = (flight: Buffer): number => helloLength(flight) + 6 + 58;

function expectNothingLeft(): void {
  expect(door.listener.stats()).toMatchObject({ handshakeCount: 0, sessionCount: 0 });
  const lines = door.logLines().filter(({ event }) => event === 'auth_failure');
  expect(lines).toHaveLength(door.failures.length > 0 ? 1 : 0);
}

async function failedCall(client: EchoClient): Promise<void> {
  await expect(client.echo('x', 1_000)).rejects.toBeDefined();
  client.close();
}

/** An idle connection. */
async function dial(port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => undefined);
  sockets.push(socket);
  await new Promise((resolve) => socket.once('connect', resolve));
  return socket;
}

describe('a handshake', () => {
  test('cut at every 50 bytes opens no session', async () => {
    door = await openFrontDoor();
    const flight = await recordFlight();
    const whole = handshakeLength(flight);
    const sessions = door.opened.length;
    let cuts = 0;
    for (let cutAfter = 1; cutAfter < whole; cutAfter += 50) {
      const wire = await openFaultyWire(door, { side: 'client', cutAfter });
      await failedCall(openClient(wire, { key: door.key }));
      await wire.stop();
      cuts += 1;
      await until(() => door.failures.length === cuts);
    }
    expect(cuts).toBeGreaterThan(6);
    expect(door.opened).toHaveLength(sessions);
    expect(new Set(door.failures.map(({ reason }) => reason))).toEqual(new Set(['cut']));
    expect(door.listener.stats().failures).toEqual({ cut: cuts });
    expectNothingLeft();
  });

  test('with one bit flipped at every 20 bytes opens no session', async () => {
    door = await openFrontDoor();
    const flight = await recordFlight();
    const whole = handshakeLength(flight);
    const hello = helloLength(flight);
    let flips = 0;
    for (let flipAt = 0; flipAt < whole; flipAt += 20) {
      // OpenSSL ignores a ChangeCipherSpec's record version; everything else is covered by the binder or the AEAD.
      if (flipAt >= hello && flipAt < hello + 6) continue;
      const wire = await openFaultyWire(door, { side: 'client', flipAt });
      await failedCall(openClient(wire, { key: door.key }));
      await wire.stop();
      flips += 1;
    }
    await until(() => door.listener.stats().handshakeCount === 0);
    // A flip in the record header of the ClientHello is not authenticated by TLS: it may fail or do nothing.
    expect(door.opened.length).toBeLessThanOrEqual(2);
    expect(door.failures.length).toBeGreaterThanOrEqual(flips - 1);
    await until(() => door.ended.length === door.opened.length);
    expectNothingLeft();
  });

  test('whose answer has one bit flipped is given up by the host', async () => {
    door = await openFrontDoor();
    for (let flipAt = 10; flipAt < 220; flipAt += 30) {
      const wire = await openFaultyWire(door, { side: 'server', flipAt });
      await failedCall(openClient(wire, { key: door.key }));
      await wire.stop();
    }
    await until(
      () => door.listener.stats().handshakeCount === 0 && door.ended.length === door.opened.length,
    );
    expectNothingLeft();
  });

  test('that is a copy of an earlier one is closed without a byte', async () => {
    door = await openFrontDoor();
    const flight = await recordFlight();
    const sessions = door.opened.length;
    for (const copy of [flight, flight.subarray(0, helloLength(flight))]) {
      expect(await knock(door, [copy])).toEqual({ received: Buffer.alloc(0), closed: true });
    }
    expect(door.failures.map(({ reason }) => reason)).toEqual(['replayed', 'replayed']);
    expect(door.opened).toHaveLength(sessions);
    expectNothingLeft();
  });

  test('that is a copy of one made with another feeder process still cannot be finished', async () => {
    door = await openFrontDoor();
    const flight = await recordFlight();
    const { key } = door;
    await door.stop();
    door = await openFrontDoor(); // Has seen nothing yet.
    door.keys.splice(0, 1, key);
    const { closed } = await knock(door, [flight]);
    expect(closed).toBe(true);
    expect(door.failures).toEqual([
      { address: '127.0.0.1', reason: 'tls', keyFingerprint: keyFingerprint(key) },
    ]);
    expect(door.opened).toEqual([]);
    expectNothingLeft();
  });
});

describe('a flood', () => {
  test.each([
    [
      'random megabytes',
      () => Buffer.concat([Buffer.of(randomInt(23, 256)), randomBytes(4 << 20)]),
      'not_tls',
    ],
    [
      'a TLS record too long',
      () => Buffer.concat([Buffer.of(22, 3, 1, 255, 255), randomBytes(4 << 20)]),
      'oversized',
    ],
    ['a record that is no ClientHello', () => Buffer.of(22, 3, 1, 0, 200, 2), 'not_tls'],
    [
      'a ClientHello of noise',
      () => Buffer.concat([Buffer.of(22, 3, 1, 0, 200, 1), randomBytes(199)]),
      'malformed',
    ],
    ['an HTTP/1 request', () => Buffer.from('GET / HTTP/1.1\r\nHost: feeder\r\n\r\n'), 'not_tls'],
  ])('of %s is closed without a byte', async (_, make, reason) => {
    door = await openFrontDoor();
    const { received, closed } = await knock(door, [make()]);
    expect({ bytes: received.length, closed }).toEqual({ bytes: 0, closed: true });
    await until(() => door.failures.length === 1);
    expect(door.failures).toEqual([{ address: '127.0.0.1', reason }]);
    expectNothingLeft();
  });

  test('of 300 connections with megabytes leaves no memory behind and one line in the log', async () => {
    door = await openFrontDoor();
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const used = (): number => {
      collect();
      const { heapUsed, external, arrayBuffers } = process.memoryUsage();
      return heapUsed + external + arrayBuffers;
    };
    const block = Buffer.concat([
      Buffer.of(22, 3, 1, (HANDSHAKE_BYTES_MAX - 5) >> 8, 0, 1),
      randomBytes(1 << 20),
    ]);
    await knock(door, [block]);
    const before = used();
    for (let round = 0; round < 60; round += 1) {
      await Promise.all(Array.from({ length: 5 }, () => knock(door, [block])));
    }
    await until(() => door.listener.stats().handshakeCount === 0);
    await until(() => used() - before < 4 << 20); // 300 MiB were sent; what the sockets held goes in a moment.
    expect(door.failures).toHaveLength(301);
    expect(door.opened).toEqual([]);
    expectNothingLeft();
  });
});

describe('a peer that dawdles', () => {
  test('byte by byte is closed when its time is over', async () => {
    door = await openFrontDoor({ limits: { handshakeTimeoutMs: 300 } });
    const hello = Buffer.concat([Buffer.of(22, 3, 1, 2, 0, 1), Buffer.alloc(600)]);
    const socket = await dial(door.port);
    let offset = 0;
    const drip = setInterval(() => socket.write(hello.subarray(offset, (offset += 1))), 20);
    const startedMs = performance.now();
    await new Promise((resolve) => socket.once('close', resolve));
    clearInterval(drip);
    expect(performance.now() - startedMs).toBeLessThan(1_500);
    expect(door.failures).toEqual([{ address: '127.0.0.1', reason: 'timeout' }]);
    expectNothingLeft();
  });

  test('after its hello is closed too', async () => {
    door = await openFrontDoor({ limits: { handshakeTimeoutMs: 300 } });
    const flight = await recordFlight();
    const { key } = door;
    await door.stop();
    door = await openFrontDoor({ limits: { handshakeTimeoutMs: 300 } });
    door.keys.splice(0, 1, key);
    const { received, closed } = await knock(door, [flight.subarray(0, helloLength(flight))]);
    expect(closed).toBe(true);
    expect(received[0]).toBe(22); // It answers the ServerHello to a true first message, and nothing after.
    expect(door.failures).toEqual([
      { address: '127.0.0.1', reason: 'timeout', keyFingerprint: keyFingerprint(key) },
    ]);
    expectNothingLeft();
  });

  test('many times at once has the rest of its connections closed at once', async () => {
    door = await openFrontDoor({ limits: { handshakesPerAddressMax: 3 } });
    for (let index = 0; index < 3; index += 1) await dial(door.port);
    await until(() => door.listener.stats().handshakeCount === 3);
    expect(await knock(door, [])).toMatchObject({ closed: true });
    expect(door.failures).toEqual([{ address: '127.0.0.1', reason: 'address_busy' }]);
    expect(door.listener.stats().handshakeCount).toBe(3);
  });

  test('cannot keep a true host out by filling every place', async () => {
    door = await openFrontDoor({ limits: { handshakesTotalMax: 3 } });
    for (let index = 0; index < 5; index += 1) await dial(door.port);
    await until(() => door.failures.length === 2);
    const client = openClient(door, { key: door.key });
    await client.echo('x');
    client.close();
    expect(new Set(door.failures.map(({ reason }) => reason))).toEqual(new Set(['crowded_out']));
    expect(door.opened).toHaveLength(1);
  });
});

test('a true host beyond the number of sessions is closed and counted', async () => {
  door = await openFrontDoor({ limits: { sessionsMax: 1 } });
  const first = openClient(door, { key: door.key });
  await first.echo('x');
  const second = openClient(door, { key: door.key });
  await expect(second.echo('x', 1_000)).rejects.toBeDefined();
  expect(second.credentials.refusal).toBeUndefined(); // Not the key's fault: it may try again.
  expect(door.failures[0]).toEqual({
    address: '127.0.0.1',
    reason: 'sessions_full',
    keyFingerprint: keyFingerprint(door.key),
  });
  await first.echo('still served');
  first.close();
  second.close();
});

test('failures are logged again, with their count, after the interval', async () => {
  door = await openFrontDoor({ limits: { failureLogIntervalMs: 200 } });
  for (let index = 0; index < 3; index += 1) await knock(door, [Buffer.from('x')]);
  await new Promise((resolve) => setTimeout(resolve, 250));
  await knock(door, [Buffer.from('x')]);
  await until(() => door.failures.length === 4);
  const lines = door.logLines().filter(({ event }) => event === 'auth_failure');
  expect(lines.map(({ failureCount }) => failureCount)).toEqual([1, 3]);
  expect(lines[0]).toMatchObject({ level: 40, address: '127.0.0.1', reason: 'not_tls' });
});

test('no log line holds an identity, a key or a psk', async () => {
  door = await openFrontDoor();
  const client = openClient(door, { key: door.key });
  await client.echo('x');
  client.close();
  await knock(door, [Buffer.from('x')]);
  const secret = Buffer.from(door.key.secret);
  expect(door.logText().length).toBeGreaterThan(100);
  for (const encoding of ['hex', 'base64', 'latin1'] as const) {
    expect(door.logText()).not.toContain(secret.toString(encoding).slice(0, 12));
  }
  expect(door.logText()).not.toContain('gb1');
});
