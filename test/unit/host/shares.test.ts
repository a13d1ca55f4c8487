// SPDX-License-Identifier: Apache-2.0
import { beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { VramArbiter } from '../../../host/attachments/arbiter.js';
import type { Attachment } from '../../../host/attachments/attachment.js';
import { EventLog } from '../../../host/control/events.js';
import {
  fairShares,
  nextShares,
  SHARE_GRANULE_BYTES,
  type ShareMember,
  type Shares,
} from '../../../host/placement/shares.js';
import { PHASES } from '../../../host/shim/abi.js';
import { createLogger } from '../../../proto/base/log.js';
import { GIB, MIB } from '../../../proto/base/units.js';
import { reportOf } from '../../integration/host/reports.js';
import { FakeClock } from './fake-clock.js';

const member = (
  key: string,
  demandBytes: number,
  over: Partial<ShareMember> = {},
): ShareMember => ({ key, demandBytes, ceilingBytes: undefined, idle: false, ...over });

const anyBytes = fc.integer({ min: 0, max: 64 * 1024 }).map((mib) => mib * MIB + 12_345);
const anyMembers = fc.uniqueArray(
  fc.record({
    key: fc.string({ minLength: 1, maxLength: 4 }),
    demandBytes: anyBytes,
    ceilingBytes: fc.option(anyBytes, { nil: undefined }),
    idle: fc.boolean(),
  }),
  { selector: ({ key }: ShareMember) => key, minLength: 1, maxLength: 12 },
);

const sumOf = (shares: Shares): number =>
  [...shares.values()].reduce((sum, bytes) => sum + bytes, 0);

describe('fairShares', () => {
  test('never gives out more than there is, nor more than a ceiling, in whole granules', () => {
    fc.assert(
      fc.property(anyBytes, anyMembers, (capacity, members) => {
        const shares = fairShares(capacity, members);
        expect(shares.size).toBe(members.length);
        expect(sumOf(shares)).toBeLessThanOrEqual(capacity);
        for (const { key, ceilingBytes } of members) {
          const share = shares.get(key) as number;
          expect(share % SHARE_GRANULE_BYTES).toBe(0);
          expect(share).toBeGreaterThanOrEqual(0);
          expect(share).toBeLessThanOrEqual(ceilingBytes ?? capacity);
        }
      }),
    );
  });

  test('is max-min fair: an active program that wants more has no active one far above it', () => {
    fc.assert(
      fc.property(anyBytes, anyMembers, (capacity, members) => {
        const shares = fairShares(capacity, members);
        const share = (m: ShareMember): number => shares.get(m.key) as number;
        const wants = (m: ShareMember): number =>
          Math.min(m.demandBytes, m.ceilingBytes ?? capacity);
        const hungry = members.filter((m) => !m.idle && share(m) + SHARE_GRANULE_BYTES <= wants(m));
        for (const poor of hungry) {
          for (const rich of members) {
            const floor = Math.max(256 * MIB, share(poor));
            expect(share(rich)).toBeLessThanOrEqual(floor + SHARE_GRANULE_BYTES);
          }
        }
      }),
    );
  });

  test('nothing is left over while somebody may have it', () => {
    fc.assert(
      fc.property(anyBytes, anyMembers, (capacity, members) => {
        const shares = fairShares(capacity, members);
        const left = capacity - sumOf(shares);
        for (const { key, ceilingBytes } of members) {
          const room = (ceilingBytes ?? capacity) - (shares.get(key) as number);
          expect(Math.min(left, room)).toBeLessThan(SHARE_GRANULE_BYTES);
        }
      }),
    );
  });

  test('does not depend on the order of the programs', () => {
    fc.assert(
      fc.property(anyBytes, anyMembers, (capacity, members) => {
        const reversed = fairShares(capacity, [...members].reverse());
        for (const [key, share] of fairShares(capacity, members))
          expect(reversed.get(key)).toBe(share);
      }),
    );
  });

  test('two that want it all have half each; a small one has what it wants', () => {
    expect(fairShares(24 * GIB, [member('a', 90 * GIB), member('b', 30 * GIB)])).toEqual(
      new Map([
        ['a', 12 * GIB],
        ['b', 12 * GIB],
      ]),
    );
    const small = fairShares(24 * GIB, [member('a', 90 * GIB), member('b', 4 * GIB)]);
    expect(small.get('a')).toBe(20 * GIB);
    expect(small.get('b')).toBe(4 * GIB);
  });

  test('an idle program falls to its floor when others want more, and not before', () => {
    const idle = member('a', 16 * GIB, { idle: true });
    expect(fairShares(24 * GIB, [idle, member('b', 40 * GIB)]).get('a')).toBe(256 * MIB);
    expect(fairShares(24 * GIB, [idle, member('b', 4 * GIB)]).get('a')).toBeGreaterThanOrEqual(
      16 * GIB,
    );
  });

  test('a budget of its own is never passed, and others have the rest', () => {
    const shares = fairShares(24 * GIB, [
      member('a', 90 * GIB, { ceilingBytes: 6 * GIB }),
      member('b', 90 * GIB),
    ]);
    expect([shares.get('a'), shares.get('b')]).toEqual([6 * GIB, 18 * GIB]);
  });
});

describe('nextShares', () => {
  test('holds everything that fairShares holds, whatever was before', () => {
    fc.assert(
      fc.property(anyBytes, anyMembers, anyBytes, anyMembers, (before, old, capacity, members) => {
        const shares = nextShares(fairShares(before, old), capacity, members);
        expect(sumOf(shares)).toBeLessThanOrEqual(capacity);
        for (const { key, ceilingBytes } of members)
          expect(shares.get(key)).toBeLessThanOrEqual(ceilingBytes ?? capacity);
      }),
    );
  });

  test('small changes of demand leave the limits as they are', () => {
    const before = fairShares(24 * GIB, [member('a', 14 * GIB), member('b', 14 * GIB)]);
    const wobble = fc.integer({ min: -200, max: 200 });
    fc.assert(
      fc.property(wobble, wobble, (a, b) => {
        const members = [member('a', 14 * GIB + a * MIB), member('b', 14 * GIB + b * MIB)];
        expect(nextShares(before, 24 * GIB, members)).toBe(before);
      }),
    );
  });
});

describe('VramArbiter', () => {
  const TOTAL = 24 * GIB;
  const RESERVE = 384 * MIB;
  const UUID = 'GPU-a';
  let clock: FakeClock;
  let events: EventLog;
  let running: Attachment[];
  let arbiter: VramArbiter;

  /** As much of an attachment as the arbiter reads. */
  function program(
    id: string,
    usedBytes: readonly number[],
    over: { budget?: number; phase?: (typeof PHASES)[number]; uuid?: string } = {},
  ): Attachment {
    return {
      id,
      facts: {
        identity: { pid: 1, startTicks: 1 },
        deviceUuid: over.uuid ?? UUID,
        deviceName: 'Test GPU',
        deviceTotalBytes: TOTAL,
        vramBudgetBytes: over.budget,
      },
      report: reportOf({
        used_bytes: [0, 1, 2, 3, 4].map((tier) => BigInt(usedBytes[tier] ?? 0)),
        phase: PHASES.indexOf(over.phase ?? 'steady'),
      }),
    } as unknown as Attachment;
  }

  const limit = (index: number): number | undefined =>
    arbiter.limitOf(running[index] as Attachment);
  const gpu = (usedBytes: number) => [
    {
      index: 0,
      name: 'Test GPU',
      uuid: UUID,
      totalBytes: TOTAL,
      usedBytes,
      load: undefined,
      simulated: true,
    },
  ];

  beforeEach(() => {
    process.env['GREENBOOST_LOG'] ??= 'silent';
    clock = new FakeClock();
    events = new EventLog(clock, createLogger({ name: 'test' }));
    running = [];
    arbiter = new VramArbiter({ clock, events, attachments: () => running });
  });

  test('one program alone has its own budget or no limit, also when it was two before', () => {
    running = [program('a', [GIB])];
    arbiter.update();
    expect(limit(0)).toBeUndefined();
    running = [program('a', [20 * GIB]), program('b', [GIB, 20 * GIB])];
    arbiter.update();
    expect(limit(0)).toBe((TOTAL - RESERVE) / 2);
    running = [program('a', [12 * GIB], { budget: 8 * GIB })];
    arbiter.update();
    expect(limit(0)).toBe(8 * GIB);
    expect(events.recent(10).map(({ name }) => name)).toEqual(['vram_shared', 'vram_shared']);
  });

  test('VRAM of others counts once it has been there for some readings', () => {
    running = [program('a', [10 * GIB, 10 * GIB]), program('b', [10 * GIB, 10 * GIB])];
    arbiter.observe(gpu(20 * GIB));
    arbiter.observe(gpu(24 * GIB));
    arbiter.update();
    expect((limit(0) as number) + (limit(1) as number)).toBe(TOTAL - RESERVE);
    arbiter.observe(gpu(24 * GIB));
    arbiter.observe(gpu(24 * GIB));
    arbiter.update();
    expect((limit(0) as number) + (limit(1) as number)).toBe(TOTAL - RESERVE - 4 * GIB);
  });

  test('an idle program gives way after its time, and has its share again when it works', async () => {
    running = [program('a', [12 * GIB], { phase: 'idle' }), program('b', [11 * GIB, 20 * GIB])];
    arbiter.update();
    const shared = limit(0) as number;
    expect(shared).toBeGreaterThan(11 * GIB);
    await clock.advance(9_000);
    arbiter.update();
    expect(limit(0)).toBe(shared);
    await clock.advance(2_000);
    arbiter.update();
    expect(limit(0)).toBe(256 * MIB);
    running = [program('a', [GIB / 4, 12 * GIB]), running[1] as Attachment];
    await clock.advance(3_000);
    arbiter.update();
    expect(limit(0)).toBe(shared);
  });

  test('limits of the same programs move at most every two seconds', async () => {
    running = [program('a', [20 * GIB]), program('b', [GIB])];
    arbiter.update();
    const before = limit(1);
    running = [program('a', [20 * GIB]), program('b', [2 * GIB, 18 * GIB])];
    await clock.advance(500);
    arbiter.update();
    expect(limit(1)).toBe(before);
    await clock.advance(2_000);
    arbiter.update();
    expect(limit(1)).toBe((TOTAL - RESERVE) / 2);
  });

  test('programs of different GPUs, or of none that is known, do not share', () => {
    running = [
      program('a', [20 * GIB]),
      program('b', [20 * GIB], { uuid: 'GPU-b' }),
      program('c', [GIB], { uuid: '' }),
      program('d', [GIB], { uuid: '' }),
    ];
    arbiter.update();
    expect(running.map((_, index) => limit(index))).toEqual([
      undefined,
      undefined,
      undefined,
      undefined,
    ]);
  });
});
