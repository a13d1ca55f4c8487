// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { pino } from 'pino';
import {
  AUDIT_FILE_BYTES_MAX,
  AUDIT_FILES_MAX,
  AUDIT_LINE_BYTES_MAX,
  AUDIT_REFUSALS_MAX,
  AUDIT_REFUSAL_INTERVAL_MS,
} from '../../../proto/base/limits.js';
import { packageRoot } from '../../../proto/base/paths.js';
import { auditPath, openAudit, type AuditLog } from '../../../security/audit.js';
import { AuditReader, parseAuditLine, type AuditLine } from '../../../security/audit-reader.js';
import { FakeClock } from '../host/fake-clock.js';
import { temporaryFolder } from './temporary.js';

const folder = temporaryFolder();

function open(clock = new FakeClock()): AuditLog {
  return openAudit({ stateDir: folder(), by: 'feeder', clock });
}
const all = (): AuditLine[] => new AuditReader(folder()).next();
const sizeOf = (path: string): number => statSync(path, { throwIfNoEntry: false })?.size ?? 0;

describe('lines', () => {
  test('are JSON objects with time, writer, event and facts, in a file of mode 0600', () => {
    open().record('session_opened', {
      session: 'S-1',
      address: '10.0.0.1:5',
      fingerprint: 'ab-cd',
    });
    expect(readFileSync(auditPath(folder()), 'utf8')).toBe(
      '{"time":"2025-10-09T09:10:00.000Z","by":"feeder","event":"session_opened",' +
        '"session":"S-1","address":"10.0.0.1:5","fingerprint":"ab-cd"}\n',
    );
    expect(statSync(auditPath(folder())).mode & 0o777).toBe(0o600);
  });

  test('are never longer than one atomic write', () => {
    const audit = open();
    audit.record('session_opened', { hostName: '"'.repeat(10_000) });
    audit.record('session_closed', {});
    expect(all()).toMatchObject([
      { event: 'session_opened', cut: true },
      { event: 'session_closed' },
    ]);
    expect(sizeOf(auditPath(folder()))).toBeLessThan(AUDIT_LINE_BYTES_MAX);
  });

  test('that are none of ours are counted, not shown', () => {
    const audit = open();
    audit.record('key_added', {});
    appendFileSync(auditPath(folder()), '{"time":"half a li\n[]\n\n"text"\n');
    audit.record('key_removed', {});
    const reader = new AuditReader(folder());
    expect(reader.next().map(({ event }) => event)).toEqual(['key_added', 'key_removed']);
    expect(reader.brokenCount).toBe(3);
    expect(parseAuditLine('null')).toBeUndefined();
  });

  test('of several processes never mix', () => {
    const script = `
      import { openAudit } from ${JSON.stringify(join(packageRoot(), 'build/js/security/audit.js'))};
      const audit = openAudit({ stateDir: process.argv[1], by: 'command' });
      for (let i = 0; i < 300; i++) audit.record('key_added', { writer: process.argv[2], i, text: 'x'.repeat(500) });`;
    const node = JSON.stringify(process.execPath);
    const one = (name: string): string =>
      `${node} --input-type=module -e "$SCRIPT" "$FOLDER" ${name}`;
    execFileSync('sh', ['-c', `${one('a')} & ${one('b')} & ${one('c')} & wait`], {
      env: { ...process.env, NODE_OPTIONS: '', SCRIPT: script, FOLDER: folder() },
    });
    const reader = new AuditReader(folder());
    const seen = reader.next().map(({ writer, i }) => `${String(writer)}${String(i)}`);
    const expected = ['a', 'b', 'c'].flatMap((name) =>
      Array.from({ length: 300 }, (_, i) => `${name}${i}`),
    );
    expect(seen.sort()).toEqual(expected.sort());
    expect(reader.brokenCount).toBe(0);
  }, 30_000);
});

describe('size', () => {
  test('is bounded: full files are kept under numbers and the oldest goes', () => {
    const audit = open();
    const text = 'x'.repeat(3_000);
    const count = Math.ceil((AUDIT_FILES_MAX + 1.5) * (AUDIT_FILE_BYTES_MAX / 3_000));
    for (let number = 0; number < count; number++) audit.record('key_added', { number, text });
    const path = auditPath(folder());
    const sizes = [path, `${path}.1`, `${path}.2`, `${path}.3`, `${path}.4`].map(sizeOf);
    for (const size of sizes.slice(0, AUDIT_FILES_MAX)) expect(size).toBeGreaterThan(0);
    for (const size of sizes)
      expect(size).toBeLessThan(AUDIT_FILE_BYTES_MAX + AUDIT_LINE_BYTES_MAX);
    expect(sizes[AUDIT_FILES_MAX]).toBe(0);
    const numbers = all().map(({ number }) => number as number);
    expect(numbers.at(-1)).toBe(count - 1);
    expect(numbers).toEqual(numbers.map((_, index) => (numbers[0] as number) + index));
    expect(numbers[0]).toBeGreaterThan(0);
  });

  test('a reader that follows loses nothing at the turn of a file', () => {
    const audit = open();
    const reader = new AuditReader(folder());
    const seen: unknown[] = [];
    const text = 'x'.repeat(3_900);
    const count = Math.ceil(2.5 * (AUDIT_FILE_BYTES_MAX / 3_900));
    for (let number = 0; number < count; number++) {
      audit.record('key_added', { number, text });
      if (number % 7 === 0) seen.push(...reader.next().map((line) => line['number']));
    }
    seen.push(...reader.next().map((line) => line['number']));
    expect(seen).toEqual(Array.from({ length: count }, (_, index) => index));
  });
});

describe('refusals', () => {
  const refused = (audit: AuditLog, address: string, reason = 'wrong_key'): void =>
    audit.refused('session_refused', { address, reason });

  test('the first is written at once, those that follow within a minute are one line', async () => {
    const clock = new FakeClock();
    const audit = open(clock);
    for (let i = 0; i < 50; i++) refused(audit, '10.0.0.9');
    refused(audit, '10.0.0.9', 'replayed');
    expect(all().map(({ reason, count }) => [reason, count])).toEqual([
      ['wrong_key', 1],
      ['replayed', 1],
    ]);
    await clock.advance(AUDIT_REFUSAL_INTERVAL_MS);
    expect(
      all()
        .slice(2)
        .map(({ address, reason, count }) => [address, reason, count]),
    ).toEqual([['10.0.0.9', 'wrong_key', 49]]);
    refused(audit, '10.0.0.9');
    expect(all()).toHaveLength(4);
    expect(clock.armed).toBe(1);
    audit.close();
    expect(clock.armed).toBe(0);
  });

  test('of a flood from everywhere are bounded, and every one is counted', () => {
    const audit = open();
    const count = 5_000;
    for (let i = 0; i < count; i++) refused(audit, `10.0.${i >> 8}.${i & 255}`);
    audit.close();
    const lines = all();
    expect(lines.length).toBeLessThanOrEqual(AUDIT_REFUSALS_MAX + 1);
    expect(lines.reduce((sum, line) => sum + (line['count'] as number), 0)).toBe(count);
    expect(lines.at(-1)).toMatchObject({ address: '*', reason: 'flood' });
  });
});

describe('a file that is not as we left it', () => {
  const spoiled = (spoil: (path: string) => void): string => {
    spoil(auditPath(folder()));
    let log = '';
    const sink = { write: (text: string) => void (log += text) };
    const audit = openAudit({ stateDir: folder(), by: 'feeder', log: pino({}, sink) });
    audit.record('key_added', { fingerprint: 'ab-cd' });
    audit.record('key_added', { fingerprint: 'ab-cd' });
    return log;
  };

  test.each([
    ['open to others', (path: string) => (writeFileSync(path, ''), chmodSync(path, 0o644))],
    ['a link', (path: string) => symlinkSync('/dev/null', path)],
    [
      'a pipe that nobody reads',
      (path: string) => void execFileSync('mkfifo', ['-m', '600', path]),
    ],
    ['a folder', (path: string) => void execFileSync('mkdir', [path])],
  ])('%s is not written to, is told once, and stops nobody', (_what, spoil) => {
    const log = spoiled(spoil);
    expect(log.match(/audit_unwritable/g)).toHaveLength(1);
    expect(all()).toEqual([]);
  });
});
