// SPDX-License-Identifier: Apache-2.0
// The .proto files against themselves (buf lint) and against what released versions promised (buf breaking with the
// image of each recording): nothing that was released is removed, renamed, renumbered or given another type.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { recordings } from '../vectors/protocol/recordings.js';
import { ROOT } from './files.js';

const BUF = join(ROOT, 'node_modules', '.bin', 'buf');

/** What buf says, a line for each finding; none: it is content. */
function buf(folder: string, ...args: readonly string[]): string[] {
  try {
    execFileSync(BUF, args, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8' });
    return [];
  } catch (reason) {
    const { stdout, stderr } = reason as { stdout: string; stderr: string };
    const lines = `${stdout}${stderr}`.split('\n').filter(Boolean);
    return lines.length > 0 ? lines : [String(reason)];
  }
}

test('the .proto files are written as everybody writes them', () => {
  expect(buf(join(ROOT, 'proto'), 'lint')).toEqual([]);
});

test('nothing that a released version promised is broken', () => {
  const broken = recordings().map((folder): [string, string[]] => {
    return [
      basename(folder),
      buf(join(ROOT, 'proto'), 'breaking', '--against', join(folder, 'image.binpb')),
    ];
  });
  expect(Object.fromEntries(broken)).toEqual(
    Object.fromEntries(broken.map(([version]) => [version, []])),
  );
});

describe('a promise that is broken is found', () => {
  let folder: string;
  let image: string;
  const path = (): string => join(folder, 'greenboost', 'v1', 'feeder.proto');
  let text: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'greenboost-breaking-'));
    image = join(folder, 'image.binpb');
    cpSync(join(ROOT, 'proto', 'buf.yaml'), join(folder, 'buf.yaml'));
    cpSync(join(ROOT, 'proto', 'greenboost'), join(folder, 'greenboost'), { recursive: true });
    expect(buf(folder, 'build', '-o', image)).toEqual([]);
    text = readFileSync(path(), 'utf8');
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  const against = (from: string | RegExp, to: string): string[] => {
    const changed = text.replace(from, to);
    expect(changed).not.toBe(text);
    writeFileSync(path(), changed);
    return buf(folder, 'breaking', '--against', image);
  };

  test.each([
    ['a field with another number', 'uint64 fencing_token = 2;', 'uint64 fencing_token = 3;'],
    ['a field with another type', 'uint64 fencing_token = 2;', 'string fencing_token = 2;'],
    ['a field with another name', 'uint64 fencing_token = 2;', 'uint64 token = 2;'],
    ['a field that is gone', /uint64 fencing_token = 2;.*/, ''],
    ['a value of an enum that is gone', 'DEVICE_KIND_GPU = 2;', ''],
    ['a call that is gone', /rpc StatLease\(.*/, ''],
    ['a call that streams', 'returns (AllocateResponse)', 'returns (stream AllocateResponse)'],
  ])('%s', (_what, from, to) => {
    expect(against(from, to)).not.toEqual([]);
  });

  test.each([
    ['a field more', 'uint64 fencing_token = 2;', 'uint64 fencing_token = 2; uint64 later = 3;'],
    ['a value more', 'DEVICE_KIND_GPU = 2;', 'DEVICE_KIND_GPU = 2; DEVICE_KIND_DISK = 3;'],
  ])('and %s is no breach', (_what, from, to) => {
    expect(against(from, to)).toEqual([]);
  });
});
