// SPDX-License-Identifier: Apache-2.0
// Tickets over time and at bad moments: a real executor and a real door, a clock of the test.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { Executor } from '../../../driver/executor/client.js';
import { LaneClient } from '../../../driver/lane/client.js';
import { systemClock } from '../../../proto/base/clock.js';
import { createId } from '../../../proto/base/ids.js';
import {
  KEY_SWEEP_INTERVAL_MS,
  LANE_TICKET_MARGIN_MS,
  LANE_TICKET_MS,
} from '../../../proto/base/limits.js';
import { createLogger } from '../../../proto/base/log.js';
import { deriveLaneSecret } from '../../../security/derive.js';
import { FeederAudit } from '../../../feeder/audit.js';
import { FeederDoor } from '../../../feeder/door.js';
import { Lanes, type LaneWish } from '../../../feeder/lanes.js';
import type { Session } from '../../../feeder/sessions.js';
import { FakeClock } from '../../unit/host/fake-clock.js';
import { codeOf, MIB, until } from './harness.js';

const log = createLogger({ name: 'feeder', level: 'silent' });
const audit = new FeederAudit({ record() {}, refused() {}, close() {} }, systemClock);
const exporter = (): Uint8Array => new Uint8Array(32).fill(9);
const leaseId = createId('lease');
const session = {
  hostId: createId('host'),
  hostName: 'h',
  sessionId: createId('session'),
  features: 0n,
  auth: { keyFingerprint: 'k', exporter },
} as unknown as Session;

let clock: FakeClock;
let door: FeederDoor;
let lanes: Lanes;
let executor: Executor;
let keys: ReadonlySet<string> | undefined;

beforeEach(async () => {
  clock = new FakeClock();
  keys = new Set(['k']);
  door = new FeederDoor({ allowWan: false, clock: systemClock, log, onStranger: () => undefined });
  await door.open([{ host: '127.0.0.1', port: 0 }], 0);
  lanes = new Lanes({ door, keys: () => keys, hostRate: undefined, clock, log, audit });
  executor = await Executor.start({
    arenaBase: 0x500000000000n,
    arenaBytes: BigInt(8 * MIB),
    gpuOrdinals: [],
    gpu: 'none',
    clock: systemClock,
    log,
    onLaneEvent: (event) => lanes.onEvent(leaseId, event),
  });
  await executor.allocate({ offset: 0n, length: BigInt(8 * MIB) });
});
afterEach(async () => {
  await lanes.stop();
  await door.close();
  await executor.stop();
});

const wish = (): LaneWish => ({
  holder: executor,
  leaseId,
  offset: 0n,
  length: BigInt(8 * MIB),
  rights: { read: true, write: true },
  connections: 1,
  brokeredSecret: undefined,
});
const grant = (signal = new AbortController().signal): Promise<Buffer> =>
  lanes.open(session, wish(), signal);

function openLane(id: Uint8Array): Promise<LaneClient> {
  const ticket = { id, secret: deriveLaneSecret(exporter, id) };
  return LaneClient.open({ address: '127.0.0.1', port: door.port, ticket });
}

/** No ticket, no route, and an executor that knows none of `ids`. */
async function expectNothingLeft(...ids: Uint8Array[]): Promise<void> {
  expect(lanes.size).toBe(0);
  for (const id of ids) {
    expect(await codeOf(executor.lane(id))).toBe('NOT_FOUND');
    expect(await codeOf(openLane(id))).toBe('PERMISSION_DENIED');
  }
}

test('a ticket that nobody uses is forgotten when its time is over, an open lane is not', async () => {
  const unused = await grant();
  const used = await grant();
  const lane = await openLane(used);
  await until('it is known to be open', () => lanes.hasOpen(leaseId));
  await clock.advance(LANE_TICKET_MS);
  expect(lanes.size).toBe(2);
  await clock.advance(LANE_TICKET_MARGIN_MS);
  await until('one is forgotten', () => lanes.size === 1);
  expect(await codeOf(openLane(unused))).toBe('PERMISSION_DENIED');
  await clock.advance(10 * LANE_TICKET_MS);
  await lane.write(0, 0, Buffer.alloc(MIB, 1));
  await lane.close();
  await until('nothing is left', () => lanes.size === 0);
  await expectNothingLeft(unused, used);
});

test('a caller that went away leaves no ticket', async () => {
  const controller = new AbortController();
  const asked = grant(controller.signal);
  controller.abort();
  expect(await codeOf(asked)).toBe('CANCELED');
  await expectNothingLeft();
});

test('a lease that ends while a ticket is made leaves none, and says so', async () => {
  const asked = codeOf(grant()); // It may say so before its end is over.
  const ended = lanes.endLease(leaseId);
  await clock.advance(1_000);
  await ended;
  expect(await asked).toBe('LEASE_EXPIRED');
  await expectNothingLeft();
});

test('an executor that dies while a ticket is made leaves none', async () => {
  const asked = codeOf(grant());
  process.kill(executor.pid, 'SIGKILL');
  expect(await asked).toMatch(/DATA_LOSS|OK/);
  await executor.ended;
  lanes.loseLease(leaseId);
  await until('nothing is left', () => lanes.size === 0);
});

test('keys that cannot be read end nothing; a key that is gone ends its lanes', async () => {
  const lane = await openLane(await grant());
  await until('it is known to be open', () => lanes.hasOpen(leaseId));
  keys = undefined;
  await clock.advance(KEY_SWEEP_INTERVAL_MS);
  await lane.write(0, 0, Buffer.alloc(MIB, 1));
  keys = new Set(['another']);
  await clock.advance(KEY_SWEEP_INTERVAL_MS);
  await until('the lane knows', () => lane.state !== 'OK');
  await lane.close();
  await until('nothing is left', () => lanes.size === 0);
});

test('after stop none is given out', async () => {
  const id = await grant();
  await lanes.stop();
  expect(await codeOf(grant())).toBe('WRONG_STATE');
  await expectNothingLeft(id);
});
