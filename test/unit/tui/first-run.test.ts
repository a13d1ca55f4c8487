// SPDX-License-Identifier: Apache-2.0
// What a first run shows: QR codes, bars, found feeders, lines of logs.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { appendFileSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import decodeQR from 'qr/decode.js';
import { fingerprintOfTxt, serviceTxt } from '../../../proto/base/discovery.js';
import { LogFile } from '../../../tui/cli/log-file.js';
import { barText } from '../../../tui/cli/progress.js';
import { qrForTerminal, qrLines } from '../../../tui/cli/qr.js';
import { feederOf } from '../../../tui/control/discover.js';
import { logText, parseLogLine } from '../../../tui/view/log-line.js';
import { textWidth } from '../../../tui/view/text.js';

const LINE = 'greenboost connect 192.168.100.200:9740';
const PRINT = '0123-4567-89ab-cdef';

/** What a camera sees of the half blocks: eight pixels a module, light around it. */
function photograph(lines: readonly string[], drawnIsDark: boolean): string {
  const rows = lines.flatMap((line) => {
    const cells = [...line];
    return [
      cells.map((cell) => (cell === '█' || cell === '▀') === drawnIsDark),
      cells.map((cell) => (cell === '█' || cell === '▄') === drawnIsDark),
    ];
  });
  const [scale, margin] = [8, 32];
  const width = (rows[0]?.length ?? 0) * scale + 2 * margin;
  const height = rows.length * scale + 2 * margin;
  const data = new Uint8ClampedArray(width * height * 4).fill(255);
  for (const [y, row] of rows.entries()) {
    for (const [x, dark] of row.entries()) {
      if (!dark) continue;
      for (let pixel = 0; pixel < scale * scale; pixel++) {
        const at = (margin + y * scale + (pixel >> 3)) * width + margin + x * scale + (pixel & 7);
        data.fill(0, at * 4, at * 4 + 3);
      }
    }
  }
  return decodeQR({ width, height, data });
}

describe('a QR code', () => {
  test('is read back from its half blocks, with and without colours', () => {
    expect(photograph(qrLines(LINE, false), false)).toBe(LINE);
    const colored = qrLines(LINE, true).map((line) => line.replace(/\u001b\[[0-9;]*m/g, ''));
    expect(photograph(colored, true)).toBe(LINE);
  });

  test('is shown only where it fits a terminal', () => {
    const stream = (rows: number, columns: number, isTTY = true): NodeJS.WriteStream =>
      ({ isTTY, rows, columns }) as NodeJS.WriteStream;
    const before = { ...process.env };
    process.env['LC_ALL'] = 'C.UTF-8';
    process.env['TERM'] = 'xterm';
    expect(qrForTerminal(LINE, stream(50, 100))).not.toEqual([]);
    expect(qrForTerminal(LINE, stream(50, 20))).toEqual([]);
    expect(qrForTerminal(LINE, stream(20, 100))).toEqual([]);
    expect(qrForTerminal(LINE, stream(50, 100, false))).toEqual([]);
    process.env['LC_ALL'] = 'C';
    expect(qrForTerminal(LINE, stream(50, 100))).toEqual([]);
    process.env = before;
  });
});

test.each([-1, 0, 0.001, 0.49, 0.5, 0.999, 1, 2])('a bar of %d has its width', (share) => {
  expect(textWidth(barText(share, false))).toBe(26);
  expect(textWidth(barText(share, true))).toBe(26);
  expect(barText(share, true).includes('#')).toBe(share >= 1 / 24);
});

describe('an answer by mDNS', () => {
  const instance = `${PRINT}._greenboost._tcp.local`;
  const pointer = { name: '_greenboost._tcp.local', type: 'PTR', ttl: 120, data: instance };
  const service = {
    name: instance,
    type: 'SRV',
    ttl: 120,
    data: { port: 9740, target: 'x.local' },
  };
  const about = { name: instance, type: 'TXT', ttl: 120, data: [Buffer.from(serviceTxt(PRINT))] };
  const packet = (answers: unknown[], additionals: unknown[] = []) =>
    ({ type: 'response', answers, additionals }) as unknown as Parameters<typeof feederOf>[0];

  test('names the address it came from, whatever it says', () => {
    const found = feederOf(packet([pointer], [service, about]), '10.0.0.7');
    expect(found).toEqual({ address: '10.0.0.7:9740', keyFingerprint: PRINT });
  });

  test.each([
    ['of another service', packet([{ ...pointer, name: '_http._tcp.local' }], [service, about])],
    ['without a port', packet([pointer], [about])],
    ['of port 0', packet([pointer], [{ ...service, data: { port: 0, target: 'x' } }, about])],
    ['without a fingerprint', packet([pointer], [service])],
    ['that says goodbye', packet([pointer], [{ ...service, ttl: 0 }, about])],
    ['with nothing in it', packet([])],
  ])('%s is nobody’s', (_what, answer) => {
    expect(feederOf(answer, '10.0.0.7')).toBeUndefined();
  });

  test('a fingerprint that is none is not believed', () => {
    for (const text of ['', 'key=', 'key=\u001b[31m', `key=${'0123-'.repeat(40)}`, 'key=0123'])
      expect(fingerprintOfTxt([text])).toBeUndefined();
    expect(fingerprintOfTxt(['v=1', serviceTxt(PRINT)])).toBe(PRINT);
  });
});

describe('lines of a log', () => {
  test('become words, and control characters go', () => {
    const raw = JSON.stringify({
      level: 40,
      time: '2026-01-02T10:11:12.345Z',
      pid: 7,
      hostname: 'secret-name',
      name: 'feeder',
      event: 'lane_ended',
      err: { type: 'Error', message: 'gone\u001b[2J', stack: 'x' },
      ports: [1, 2],
      msg: 'a lane has ended',
    });
    const line = parseLogLine(raw);
    expect(line).toMatchObject({ level: 'warn', daemon: 'feeder', event: 'lane_ended' });
    const text = logText(line!);
    expect(text).toMatch(/^2026-01-02 \d\d:11:12 feeder warn {3}lane_ended {2}a lane has ended/);
    expect(text).toContain('ports=1,2');
    expect(text).not.toMatch(/\u001b|secret-name/);
  });

  test.each(['', 'no JSON', '7', 'null', '{"level":30}', '{"time":1,"level":30,"name":"x"}'])(
    '%p was written by no logger',
    (raw) => {
      expect(parseLogLine(raw)).toBeUndefined();
    },
  );
});

describe('a log that somebody writes', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'greenboost-log-'));
  });
  afterAll(() => {
    rmSync(folder, { recursive: true, force: true });
  });

  test('is read to its end, then as it grows, whole lines only, also in a new file', () => {
    const path = join(folder, 'agent.log');
    const file = new LogFile(path);
    expect(file.last(10)).toEqual([]);
    writeFileSync(path, 'one\ntwo\nthree\nfo');
    expect(file.last(2)).toEqual(['two', 'three']);
    expect(file.next()).toEqual([]);
    appendFileSync(path, 'ur\nfive');
    expect(file.next()).toEqual(['four']);
    renameSync(path, `${path}.1`);
    expect(file.next()).toEqual([]);
    writeFileSync(path, 'new\n');
    expect(file.next()).toEqual(['new']);
    writeFileSync(path, '');
    appendFileSync(path, 'b\n');
    expect(file.next()).toEqual(['b']);
  });

  test('a line without an end is cut, not kept for ever', () => {
    const path = join(folder, 'long.log');
    writeFileSync(path, 'x'.repeat(200_000));
    const lines = new LogFile(path).last(10);
    expect(lines.length).toBe(3);
    expect(lines.every((line) => line.length === 65_536)).toBe(true);
  });
});
