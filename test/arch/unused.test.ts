// SPDX-License-Identifier: Apache-2.0
// Nothing is exported that nobody uses, no file lies about, no package is asked for in vain: knip, by its settings in
// package.json.
import { expect, test } from '@jest/globals';
import { spawnSync } from 'node:child_process';
import { ROOT } from './files.js';

test('knip finds nothing that nobody uses', () => {
  const done = spawnSync('node_modules/.bin/knip', ['--reporter', 'compact', '--no-progress'], {
    cwd: ROOT,
    encoding: 'utf8',
  });
  expect({ status: done.status, found: done.stdout + done.stderr }).toEqual({
    status: 0,
    found: '',
  });
});
