// SPDX-License-Identifier: Apache-2.0
import { expect, test } from '@jest/globals';
import { pino } from 'pino';
import type { Clock } from '../../../proto/base/clock.js';
import { AUTH_FAILURE_ADDRESSES_MAX, REPLAY_RECORDS_MAX } from '../../../proto/base/limits.js';
import { FailureLog, ReplayGuard } from '../../../security/admission.js';

function setUp(intervalMs: number): {
  failures: FailureLog;
  lines: Record<string, unknown>[];
  advance(ms: number): void;
} {
  let nowMs = 0;
  const lines: Record<string, unknown>[] = [];
  const clock = { nowMs: () => nowMs } as Clock;
  const log = pino(
    {},
    { write: (line: string) => void lines.push(JSON.parse(line) as Record<string, unknown>) },
  );
  return {
    failures: new FailureLog(log, clock, intervalMs),
    lines,
    advance: (ms) => void (nowMs += ms),
  };
}

test('failures are all counted, and logged once per address and interval', () => {
  const { failures, lines, advance } = setUp(1_000);
  for (let count = 0; count < 5; count += 1) failures.record('10.0.0.1', 'wrong_key');
  failures.record('10.0.0.2', 'timeout');
  expect(lines.map(({ address }) => address)).toEqual(['10.0.0.1', '10.0.0.2']);
  advance(999);
  failures.record('10.0.0.1', 'cut');
  expect(lines).toHaveLength(2);
  advance(1);
  failures.record('10.0.0.1', 'cut');
  expect(lines[2]).toMatchObject({
    event: 'auth_failure',
    address: '10.0.0.1',
    reason: 'cut',
    failureCount: 6,
  });
  expect(failures.counts()).toEqual({ wrong_key: 5, timeout: 1, cut: 2 });
});

test('an address that keeps failing stays quiet however many others fail', () => {
  const { failures, lines } = setUp(1_000);
  for (let other = 0; other < 3 * AUTH_FAILURE_ADDRESSES_MAX; other += 1) {
    failures.record('10.0.0.1', 'timeout');
    failures.record(`10.1.${other >> 8}.${other & 255}`, 'timeout');
  }
  expect(lines.filter(({ address }) => address === '10.0.0.1')).toHaveLength(1);
  expect(failures.counts()).toEqual({ timeout: 6 * AUTH_FAILURE_ADDRESSES_MAX });
});

test('a first message is admitted once, as long as it is among the newest', () => {
  const guard = new ReplayGuard();
  const random = (index: number): Uint8Array => {
    const bytes = Buffer.alloc(32);
    bytes.writeUInt32BE(index, 28);
    return bytes;
  };
  expect(guard.admit(random(0))).toBe(true);
  expect(guard.admit(random(0))).toBe(false);
  for (let index = 1; index < REPLAY_RECORDS_MAX; index += 1)
    expect(guard.admit(random(index))).toBe(true);
  expect(guard.admit(random(0))).toBe(false);
  expect(guard.admit(random(REPLAY_RECORDS_MAX))).toBe(true); // Pushes 0 out.
  expect(guard.admit(random(1))).toBe(false);
  expect(guard.admit(random(0))).toBe(true);
});
