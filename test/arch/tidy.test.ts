// SPDX-License-Identifier: Apache-2.0
// The habits that a machine can check: licence lines, length of lines and files, leftovers, paths
// of somebody's machine.
import { expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { filesOf, ROOT } from './files.js';

const CODE = ['.ts', '.c', '.h', '.S', '.def', '.proto', '.mjs', '.sh', '.py', '.mk'];
const FILE_LINES_MAX = 500;
const LINE_COLUMNS_MAX = 120;

const code = filesOf([], ...CODE).filter((file) => !file.startsWith('proto/gen/'));
const lines = (file: string): string[] =>
  readFileSync(join(ROOT, file), 'utf8').replace(/\n$/, '').split('\n');

function offenders(check: (line: string, file: string) => boolean, files = code): string[] {
  return files.flatMap((file) =>
    lines(file).flatMap((line, index) =>
      check(line, file) ? [`${file}:${index + 1}: ${line.trim().slice(0, 100)}`] : [],
    ),
  );
}

test('every source file names its licence in the first three lines', () => {
  const without = code.filter(
    (file) => !lines(file).slice(0, 3).join('\n').includes('SPDX-License-Identifier:'),
  );
  expect(without).toEqual([]);
});

test('no line is wider than a reader wants', () => {
  expect(offenders((line) => line.length > LINE_COLUMNS_MAX)).toEqual([]);
});

test('no file has grown past one concern', () => {
  // A .def is one list, as long as the API it lists.
  const long = code.filter(
    (file) =>
      !file.startsWith('test/') && !file.endsWith('.def') && lines(file).length > FILE_LINES_MAX,
  );
  expect(long).toEqual([]);
});

test('nothing is left over', () => {
  const words = new RegExp(
    ['TO' + 'DO', 'FIX' + 'ME', 'XX' + 'X'].map((word) => `\\b${word}\\b`).join('|'),
  );
  expect(offenders((line) => words.test(line))).toEqual([]);
  expect(
    offenders(
      (line, file) => file.startsWith('test/') && /\b(test|it|describe)\.(only|skip)\(/.test(line),
    ),
  ).toEqual([]);
  expect(offenders((line, file) => file.endsWith('.ts') && /\bconsole\.\w+\(/.test(line))).toEqual(
    [],
  );
});

test('no file holds a path of the machine it was written on', () => {
  const text = filesOf(
    [],
    '.ts',
    '.c',
    '.h',
    '.md',
    '.json',
    '.mjs',
    '.sh',
    '.py',
    '.mk',
    'Makefile',
  );
  const paths = new RegExp(`/${'work'}/(main|shared)|/${'root'}/|/home/[a-z]+/`);
  expect(offenders((line) => paths.test(line), text)).toEqual([]);
});

test('generated code is what the generator makes today', () => {
  const before = execFileSync('git', ['status', '--porcelain', 'proto/gen'], {
    cwd: ROOT,
    encoding: 'utf8',
  });
  execFileSync('../node_modules/.bin/buf', ['generate'], { cwd: join(ROOT, 'proto') });
  const after = execFileSync('git', ['status', '--porcelain', 'proto/gen'], {
    cwd: ROOT,
    encoding: 'utf8',
  });
  expect(after).toBe(before);
});
