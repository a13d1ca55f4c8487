// SPDX-License-Identifier: Apache-2.0
// The lease table against a model that keeps plain facts, over random histories with a clock of its own.
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { GbError } from '../../../proto/base/errors.js';
import {
  createId,
  type AttachmentId,
  type HostId,
  type LeaseId,
  type SessionId,
} from '../../../proto/base/ids.js';
import { LeaseTable, type Caller } from '../../../feeder/lease.js';

const TTL_MS = 1_000;
const REQUEST = {
  hostName: 'h',
  attachmentId: '0'.repeat(32) as AttachmentId,
  arenaBase: 0n,
  arenaBytes: 1n,
};

const caller = (host: number, session: number): Caller => ({
  hostId: `H-${host}` as HostId,
  sessionId: `S-${host}-${session}` as SessionId,
});

const codeOf = (act: () => unknown): string => {
  try {
    act();
    return 'OK';
  } catch (reason) {
    return reason instanceof GbError ? reason.code : String(reason);
  }
};

/** What the outside knows of a lease. */
interface Fact {
  readonly host: number;
  session: number | undefined;
  token: bigint;
  known: boolean;
  deadlineMs: number;
}

const step = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      t: fc.constant('acquire' as const),
      host: fc.nat(1),
      session: fc.nat(2),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      t: fc.constant('use' as const),
      host: fc.nat(1),
      session: fc.nat(2),
      pick: fc.nat(),
      behind: fc.nat(2),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      t: fc.constant('renew' as const),
      host: fc.nat(1),
      session: fc.nat(2),
      pick: fc.nat(),
      behind: fc.nat(2),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      t: fc.constant('sessionEnds' as const),
      host: fc.nat(1),
      session: fc.nat(2),
    }),
  },
  { weight: 2, arbitrary: fc.record({ t: fc.constant('release' as const), pick: fc.nat() }) },
  {
    weight: 4,
    arbitrary: fc.record({ t: fc.constant('wait' as const), ms: fc.integer({ min: 1, max: 700 }) }),
  },
);

test('every history: who may use a lease, and when it ends, is exactly what the model says', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      let nowMs = 0;
      let count = 0;
      const table = new LeaseTable(TTL_MS, () => `L-${count++}` as LeaseId);
      const facts = new Map<string, Fact>();
      const picked = (pick: number): [string, Fact] | undefined =>
        [...facts][pick % Math.max(1, facts.size)];
      for (const act of steps) {
        if (act.t === 'acquire') {
          const lease = table.acquire(caller(act.host, act.session), REQUEST, nowMs);
          facts.set(lease.id, {
            host: act.host,
            session: act.session,
            token: 1n,
            known: false,
            deadlineMs: nowMs + TTL_MS,
          });
        } else if (act.t === 'wait') {
          nowMs += act.ms;
          const ended = table
            .expire(nowMs)
            .map(({ id }) => id as string)
            .sort();
          const expected = [...facts]
            .filter(([, fact]) => fact.deadlineMs <= nowMs)
            .map(([id]) => id)
            .sort();
          expect(ended).toEqual(expected);
          for (const id of expected) facts.delete(id);
        } else if (act.t === 'sessionEnds') {
          table.orphan(caller(act.host, act.session).sessionId, nowMs);
          for (const fact of facts.values()) {
            if (fact.host !== act.host || fact.session !== act.session) continue;
            fact.session = undefined;
            fact.deadlineMs = nowMs + TTL_MS;
          }
        } else if (act.t === 'release') {
          const found = picked(act.pick);
          if (found) expect(table.remove(found[0] as LeaseId)).toBe(facts.delete(found[0]));
        } else {
          const found = picked(act.pick);
          if (!found) continue;
          const [id, fact] = found;
          const token = fact.token - BigInt(act.behind);
          const who = caller(act.host, act.session);
          const mine = fact.host === act.host;
          if (act.t === 'use') {
            const expected = !mine
              ? 'LEASE_EXPIRED'
              : act.behind > 0
                ? 'EPOCH_STALE'
                : fact.session === act.session
                  ? 'OK'
                  : 'WRONG_STATE';
            expect(codeOf(() => table.authorize(who, id, token, nowMs))).toBe(expected);
            fact.known ||= expected === 'OK';
          } else {
            const outcome = table.renew(who, id, token, nowMs);
            const answerLost = fact.session === undefined && !fact.known && token > 0n;
            const current = act.behind === 0 || (act.behind === 1 && answerLost);
            expect(outcome.t).toBe(!mine ? 'expired' : current ? 'ok' : 'fenced');
            if (outcome.t !== 'ok') continue;
            const adopts = fact.session !== act.session;
            expect(outcome.adopted).toBe(adopts);
            fact.session = act.session;
            fact.token += adopts ? 1n : 0n;
            fact.known = !adopts;
            fact.deadlineMs = nowMs + TTL_MS;
            expect(outcome.lease.fencingToken).toBe(fact.token);
          }
        }
        expect(table.size).toBe(facts.size);
      }
    }),
    { numRuns: 400 },
  );
});

describe('one lease', () => {
  const owner = caller(1, 1);

  test('adopted -> orphaned -> adopted: a fresh TTL at each change, a larger token once', () => {
    const table = new LeaseTable(TTL_MS);
    const lease = table.acquire(owner, REQUEST, 0);
    expect(lease.state).toEqual({ t: 'adopted', sessionId: owner.sessionId, deadlineMs: TTL_MS });
    const [orphan] = table.orphan(owner.sessionId, 900);
    expect(orphan?.state).toEqual({ t: 'orphaned', deadlineMs: 900 + TTL_MS });
    const back = table.renew(caller(1, 2), lease.id, 1n, 1_800);
    expect(back).toMatchObject({
      t: 'ok',
      adopted: true,
      lease: { fencingToken: 2n, state: { t: 'adopted', deadlineMs: 2_800 } },
    });
    expect(table.renew(caller(1, 2), lease.id, 2n, 1_900)).toMatchObject({
      t: 'ok',
      adopted: false,
      lease: { fencingToken: 2n },
    });
  });

  test('at its deadline it is over, even before anybody swept', () => {
    const table = new LeaseTable(TTL_MS);
    const lease = table.acquire(owner, REQUEST, 0);
    expect(codeOf(() => table.authorize(owner, lease.id, 1n, TTL_MS - 1))).toBe('OK');
    expect(codeOf(() => table.authorize(owner, lease.id, 1n, TTL_MS))).toBe('LEASE_EXPIRED');
    expect(table.renew(owner, lease.id, 1n, TTL_MS).t).toBe('expired');
  });

  test('a lost answer to an adoption does not lose the lease, a used token fences for good', () => {
    const table = new LeaseTable(TTL_MS);
    const lease = table.acquire(owner, REQUEST, 0);
    table.orphan(owner.sessionId, 0);
    expect(table.renew(caller(1, 2), lease.id, 1n, 0).t).toBe('ok'); // token 2, never heard of
    expect(table.renew(caller(1, 3), lease.id, 1n, 0).t).toBe('fenced'); // its session still lives
    table.orphan(caller(1, 2).sessionId, 0);
    expect(table.renew(caller(1, 3), lease.id, 1n, 0)).toMatchObject({
      lease: { fencingToken: 3n },
    });
    expect(codeOf(() => table.authorize(caller(1, 3), lease.id, 3n, 0))).toBe('OK');
    table.orphan(caller(1, 3).sessionId, 0);
    expect(table.renew(caller(1, 4), lease.id, 2n, 0).t).toBe('fenced');
  });

  test('a token from the future is a lie, not a newer session', () => {
    const table = new LeaseTable(TTL_MS);
    const lease = table.acquire(owner, REQUEST, 0);
    expect(codeOf(() => table.authorize(owner, lease.id, 2n, 0))).toBe('PROTOCOL_VIOLATION');
    expect(table.renew(owner, lease.id, 2n, 0).t).toBe('fenced');
  });

  test('ids are made by createId and differ', () => {
    const table = new LeaseTable(TTL_MS);
    const ids = Array.from({ length: 50 }, () => table.acquire(owner, REQUEST, 0).id);
    expect(new Set(ids).size).toBe(50);
    expect(ids[0]).toMatch(/^L-[0-9a-f]{16}$/);
    expect(table.countOf(owner.hostId)).toBe(50);
    expect(table.countOf(createId('host'))).toBe(0);
  });
});
