// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  mkdirSync,
  readdirSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { PRIVATE_FILE_BYTES_MAX, PRIVATE_FILE_LOCK_STALE_MS } from '../../../proto/base/limits.js';
import {
  privateFileVersion,
  readPrivateFile,
  withPrivateFileLock,
} from '../../../security/private-file.js';
import { writePrivateFile } from '../../../security/private-file.js';
import { temporaryFolder } from './temporary.js';

const folder = temporaryFolder();
const path = (): string => join(folder(), 'config', 'keys.json');

describe('a private file', () => {
  test('is written 0600 in a folder 0700, whatever the umask, and read back', () => {
    const before = process.umask(0);
    writePrivateFile(path(), 'secret');
    process.umask(0o777);
    writePrivateFile(path(), 'secret 2');
    process.umask(before);
    expect(statSync(path()).mode & 0o777).toBe(0o600);
    expect(statSync(join(folder(), 'config')).mode & 0o777).toBe(0o700);
    expect(readPrivateFile(path())).toBe('secret 2');
    expect(readdirSync(join(folder(), 'config'))).toEqual(['keys.json']);
  });

  test('that is not there reads as undefined', () => {
    expect(readPrivateFile(path())).toBeUndefined();
    expect(privateFileVersion(path())).toBeUndefined();
  });

  test.each([0o640, 0o604, 0o620, 0o602, 0o601, 0o777])(
    'with mode %o is refused with the command that helps',
    (mode) => {
      writePrivateFile(path(), 'secret');
      chmodSync(path(), mode);
      expect(() => readPrivateFile(path())).toThrow(
        /PERMISSION_DENIED.*can be read by others.*chmod 600/,
      );
    },
  );

  test('of another user is refused', () => {
    writePrivateFile(path(), 'secret');
    if (process.getuid?.() === 0) {
      chownSync(path(), 12345, 12345);
      expect(() => readPrivateFile(path())).toThrow(/belongs to user 12345/);
    } else {
      // Without root no file can be given away: /proc/1/environ is the nearest thing, and it must
      // not be opened either.
      expect(() => readPrivateFile('/proc/1/environ')).toThrow('PERMISSION_DENIED');
    }
  });

  test('that is a link is refused, also to a good file', () => {
    writePrivateFile(path(), 'secret');
    const link = join(folder(), 'link');
    symlinkSync(path(), link);
    expect(() => readPrivateFile(link)).toThrow(/PERMISSION_DENIED.*is a link/);
  });

  test('that is a folder or a pipe is refused without hanging', async () => {
    mkdirSync(path(), { recursive: true, mode: 0o700 });
    expect(() => readPrivateFile(path())).toThrow('is not a plain file');
    const pipe = join(folder(), 'pipe');
    await new Promise((resolve) => spawn('mkfifo', ['-m', '600', pipe]).on('close', resolve));
    expect(() => readPrivateFile(pipe)).toThrow('is not a plain file');
  });

  test('larger than any of ours is refused', () => {
    writePrivateFile(path(), 'x'.repeat(PRIVATE_FILE_BYTES_MAX));
    expect(readPrivateFile(path())).toHaveLength(PRIVATE_FILE_BYTES_MAX);
    writePrivateFile(path(), 'x'.repeat(PRIVATE_FILE_BYTES_MAX + 1));
    expect(() => readPrivateFile(path())).toThrow('DATA_LOSS');
  });

  test('has a new version each time it is replaced', () => {
    writePrivateFile(path(), 'a');
    const first = privateFileVersion(path());
    expect(privateFileVersion(path())).toBe(first);
    writePrivateFile(path(), 'b');
    expect(privateFileVersion(path())).not.toBe(first);
  });

  test('is never seen half written by a reader', async () => {
    writePrivateFile(path(), 'a'.repeat(100_000));
    const script = `const fs=require('fs');let bad=0;const end=Date.now()+700;while(Date.now()<end){
      const t=fs.readFileSync(${JSON.stringify(path())},'utf8');
      if(t.length!==100000||new Set(t).size!==1)bad++}process.exit(bad?1:0)`;
    const reader = spawn(process.execPath, ['-e', script], {
      env: { ...process.env, NODE_OPTIONS: '' },
    });
    const done = new Promise((resolve) => reader.on('close', resolve));
    for (let round = 0; reader.exitCode === null && round < 2_000; round += 1) {
      writePrivateFile(path(), 'ab'[round % 2]?.repeat(100_000) as string);
      if (round % 20 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    }
    expect(await done).toBe(0);
  });
});

describe('the lock', () => {
  test('is given back, also when the change throws', () => {
    expect(withPrivateFileLock(path(), () => 7)).toBe(7);
    expect(() =>
      withPrivateFileLock(path(), () => {
        throw new Error('no');
      }),
    ).toThrow('no');
    expect(readdirSync(join(folder(), 'config'))).toEqual([]);
  });

  test('held by another makes the second wait and then give up with WRONG_STATE', () => {
    withPrivateFileLock(path(), () => {
      expect(() => withPrivateFileLock(path(), () => 1)).toThrow(/WRONG_STATE.*another greenboost/);
    });
  });

  test('left behind by a dead process is taken over', () => {
    withPrivateFileLock(path(), () => undefined);
    writeFileSync(`${path()}.lock`, '');
    const old = (Date.now() - PRIVATE_FILE_LOCK_STALE_MS - 1_000) / 1000;
    utimesSync(`${path()}.lock`, old, old);
    expect(withPrivateFileLock(path(), () => 'mine')).toBe('mine');
  });
});
