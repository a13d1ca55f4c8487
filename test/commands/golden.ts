// SPDX-License-Identifier: Apache-2.0
// Golden files: text that a program writes, kept beside the test and compared whole. `make golden` writes them anew;
// what changed is then looked at in the diff.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect } from '@jest/globals';
import { ROOT } from '../arch/files.js';

/** Files are written, not compared. */
export const UPDATE = (process.env['GB_GOLDEN_UPDATE'] ?? '') !== '';

/** Holds `text` against the file at `path`, relative to the root of the repository; writes it when updating. */
export function expectGolden(path: string, text: string): void {
  const file = join(ROOT, path);
  if (UPDATE) {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
    return;
  }
  const kept = existsSync(file) ? readFileSync(file, 'utf8') : '';
  expect({ path, hint: 'make golden writes it anew', text }).toEqual({
    path,
    hint: 'make golden writes it anew',
    text: kept,
  });
}

/** Nothing but `names` lies in `folder`: a golden file that no test reads says nothing. */
export function expectNoOthers(folder: string, names: readonly string[]): void {
  const path = join(ROOT, folder);
  const others = readdirSync(path).filter((name) => !names.includes(name));
  if (UPDATE) for (const name of others) rmSync(join(path, name));
  else expect(others).toEqual([]);
}
