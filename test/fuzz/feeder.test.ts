// SPDX-License-Identifier: Apache-2.0
// Bytes and messages from outside a feeder: an executor's replies in any shape, and whole histories
// of calls with wild numbers against a real feeder. No bug surfaces, and the account is exact
// throughout.
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { ReplyReader } from '../../driver/executor/abi.js';
import { GbError } from '../../proto/base/errors.js';
import { systemClock } from '../../proto/base/clock.js';
import { createId, type SessionId } from '../../proto/base/ids.js';
import { createLogger } from '../../proto/base/log.js';
import type { FeederService } from '../../proto/gen/greenboost/v1/feeder_pb.js';
import type { ServiceHandlers } from '../../proto/grpc.js';
import type { AuthenticatedSession } from '../../security/listener.js';
import { FeederAudit } from '../../feeder/audit.js';
import { FeederDoor } from '../../feeder/door.js';
import { Feeder } from '../../feeder/feeder.js';
import { Lanes } from '../../feeder/lanes.js';
import { ProbeLanes } from '../../feeder/probe-lanes.js';
import { feederHandlers } from '../../feeder/server.js';
import { Sessions } from '../../feeder/sessions.js';
import { fuzz, FUZZ_SECONDS, FUZZ_TIMEOUT_MS } from './run.js';

const MIB = 2 ** 20;

async function fuzzAsync<T>(property: fc.IAsyncProperty<T>): Promise<void> {
  const details = await fc.check(property, {
    numRuns: Number.MAX_SAFE_INTEGER,
    interruptAfterTimeLimit: FUZZ_SECONDS * 1000,
    markInterruptAsFailure: false,
  });
  if (details.failed)
    throw new Error(fc.defaultReportMessage(details as fc.RunDetailsFailureProperty<T>));
  if (details.numRuns === 0) throw new Error('no input was tried');
}

test(
  'replies of an executor: any bytes in any pieces give the same frames or the same refusal',
  () => {
    const plausible = fc
      .record({ bytes: fc.nat(80), flags: fc.constantFrom(1, 1, 1, 0), fill: fc.nat(255) })
      .map(({ bytes, flags, fill }) => {
        const frame = Buffer.alloc(16 + bytes, fill);
        frame.writeUInt32LE(bytes, 0);
        frame.writeUInt16LE(flags, 6);
        return frame;
      });
    const stream = fc
      .array(fc.oneof(plausible, fc.uint8Array({ maxLength: 40 })), { maxLength: 8 })
      .map((parts) => Buffer.concat(parts.map((part) => Buffer.from(part))));
    const read = (bytes: Buffer, size: number): unknown => {
      const reader = new ReplyReader();
      const replies: string[] = [];
      try {
        for (let at = 0; at < bytes.length; at += size) {
          for (const reply of reader.push(bytes.subarray(at, at + size)))
            replies.push(reply.payload.toString('hex'));
        }
        return replies;
      } catch (reason) {
        expect(reason).toBeInstanceOf(GbError);
        return 'refused';
      }
    };
    fuzz(
      fc.property(stream, fc.integer({ min: 1, max: 50 }), (bytes, size) => {
        expect(read(bytes, size)).toEqual(read(bytes, 1));
      }),
    );
  },
  FUZZ_TIMEOUT_MS,
);

/** A server stream whose peer reads everything and never leaves. */
function streamOf(request: unknown) {
  const on = (): unknown => stream;
  const stream = { request, getPeer: () => 'p', cancelled: false, on, once: on, write: () => true };
  return stream as never;
}

describe('calls', () => {
  const slot = fc.oneof(
    { weight: 8, arbitrary: fc.nat(12).map((slots) => BigInt(slots * 2 * MIB)) },
    { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }) },
  );
  const device = fc.oneof(
    { weight: 8, arbitrary: fc.constant({ kind: 1, index: 0 }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.nat(3), index: fc.nat(2) }) },
  );
  const range = fc.option(
    fc.record({
      device: fc.option(device, { nil: undefined, freq: 12 }),
      offset: slot,
      length: slot,
    }),
    { nil: undefined, freq: 12 },
  );
  const devices = fc.array(fc.record({ device, bytes: slot }), { maxLength: 2 });
  const act = fc.oneof(
    { weight: 6, arbitrary: fc.record({ call: fc.constant('allocate'), range }) },
    { weight: 4, arbitrary: fc.record({ call: fc.constant('free'), range }) },
    { weight: 1, arbitrary: fc.record({ call: fc.constant('resizeLease'), devices }) },
    {
      weight: 1,
      arbitrary: fc.record({ call: fc.constantFrom('statLease', 'releaseLease', 'renewLeases') }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        call: fc.constant('acquireLease'),
        attachmentId: fc.string(),
        arenaBase: slot,
        arenaBytes: slot,
        devices,
      }),
    },
  );
  const bytes = (length: number) =>
    fc.oneof(
      { weight: 6, arbitrary: fc.uint8Array({ minLength: length, maxLength: length }) },
      { weight: 1, arbitrary: fc.uint8Array({ maxLength: 40 }) },
    );
  const openLane = fc.record({
    call: fc.constant('openLane'),
    offset: slot,
    length: slot,
    rights: fc.oneof({ weight: 8, arbitrary: fc.constantFrom(1, 2, 3) }, fc.nat(9)),
    connections: fc.nat(9),
    brokeredSecret: fc.oneof(fc.constant(new Uint8Array()), bytes(32)),
    probe: fc.constantFrom(false, false, false, false, false, false, false, true),
  });
  const closeLane = fc.record({ call: fc.constant('closeLane'), ticketId: bytes(16) });
  const pull = fc.record({
    call: fc.constant('pull'),
    offset: slot,
    length: slot,
    address: fc.constantFrom('127.0.0.1', '::1', '8.8.8.8', 'box', '', '127.0.0.1%'),
    port: fc.constantFrom(1, 0, 65_536),
    ticketId: bytes(16),
    secret: bytes(32),
    sourceOffset: slot,
  });
  const calls = fc.oneof(
    { weight: 6, arbitrary: act },
    { weight: 3, arbitrary: openLane },
    { weight: 1, arbitrary: closeLane },
    { weight: 1, arbitrary: pull },
  );
  const ref = fc.record({ known: fc.boolean(), token: fc.constantFrom(1n, 1n, 1n, 0n, 9n) });

  test(
    'any history of calls throws nothing but named errors and keeps the account exact',
    async () => {
      const log = createLogger({ name: 'feeder', level: 'silent' });
      const clock = systemClock;
      const audit = new FeederAudit({ record() {}, refused() {}, close() {} }, clock);
      const door = new FeederDoor({ allowWan: false, clock, log, onStranger: () => undefined });
      await door.open([{ host: '127.0.0.1', port: 0 }], 0);
      const keys = () => undefined;
      const lanes = new Lanes({ door, keys, hostRate: 50e6, clock, log, audit });
      const feeder = new Feeder(
        {
          ramBytes: 32 * MIB,
          ramReserveBytes: 64 * MIB,
          gpus: [],
          gpu: 'none',
          leaseTtlMs: 600_000,
          hostBytesMax: undefined,
          compute: false,
        },
        clock,
        log,
        lanes,
      );
      const probes = new ProbeLanes({ lanes, guard: feeder.guard, clock, log });
      const sessions = new Sessions();
      sessions.add({
        peer: 'p',
        sessionId: createId('session') as SessionId,
        keyFingerprint: 'k',
        exporter: (_label: string, length: number) => new Uint8Array(length),
      } as AuthenticatedSession);
      const options = {
        feeder,
        sessions,
        feederId: 'F',
        feederName: 'f',
        incarnation: 'i',
        authFailureCount: () => 0,
        unixMs: Date.now,
        audit,
        lanes,
        probes,
        allowWan: false,
        cache: undefined,
        keys: () => [],
        goodbye: new AbortController().signal,
      };
      const handlers = feederHandlers(options) as ServiceHandlers<typeof FeederService>;
      const info = { peer: 'p', signal: new AbortController().signal };
      await handlers.hello(
        {
          version: { major: 1, minor: 0 },
          hostId: createId('host'),
          hostName: 'h',
          featuresRequired: 0n,
          featuresOffered: 0n,
        } as never,
        info,
      );
      const acquire = async (): Promise<string> => {
        const request = {
          attachmentId: '0'.repeat(32),
          arenaBase: 0x520000000000n,
          arenaBytes: BigInt(24 * MIB),
          devices: [{ device: { kind: 1, index: 0 }, bytes: BigInt(16 * MIB) }],
        };
        const { lease } = await handlers.acquireLease(request as never, info);
        return lease!.leaseId as string;
      };
      try {
        await fuzzAsync(
          fc.asyncProperty(fc.array(fc.tuple(calls, ref), { maxLength: 20 }), async (acts) => {
            const leaseId = await acquire();
            for (const [{ call, ...fields }, { known, token }] of acts) {
              const lease = { leaseId: known ? leaseId : createId('lease'), fencingToken: token };
              const probe = 'probe' in fields && fields.probe === true;
              const request = { ...fields, leases: [lease], ...(probe ? {} : { lease }) };
              const asked =
                call === 'pull'
                  ? handlers.pull(streamOf(request))
                  : handlers[call as 'allocate'](request as never, info);
              const error = await asked.then(
                () => undefined,
                (reason: unknown) => reason,
              );
              if (error !== undefined) expect(error).toBeInstanceOf(GbError);
              expect(feeder.pool.isValid()).toBe(true);
            }
            for (const { lease } of feeder.leaseFacts()) {
              await handlers.releaseLease(
                { lease: { leaseId: lease.id, fencingToken: lease.fencingToken } } as never,
                info,
              );
            }
            expect(lanes.facts().filter(({ leaseId }) => leaseId !== undefined)).toEqual([]);
            expect(feeder.pool.account('ram:0')).toEqual({
              capacityBytes: 32 * MIB,
              leasedBytes: 0,
              usedBytes: 0,
            });
          }),
        );
      } finally {
        await feeder.stop();
        await lanes.stop();
        await probes.stop();
        await door.close();
      }
    },
    FUZZ_TIMEOUT_MS,
  );
});
