// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from '@jest/globals';
import { runEnvironment } from '../../../tui/cli/commands/run.js';
import { profileNamed } from '../../../tui/cli/profiles.js';

const environment = (nvme: string) => runEnvironment({ nvme }, {}, profileNamed('jax'));

describe('run --nvme', () => {
  test('a folder alone leaves the size to the store and lets ranges live there', () => {
    const env = environment('/mnt/nvme');
    expect(env['GREENBOOST_NVME_DIR']).toBe('/mnt/nvme');
    expect(env['GREENBOOST_OVERCOMMIT']).toBe('gated');
    expect(env['GREENBOOST_NVME_BUDGET']).toBeUndefined();
  });

  test('a size after the last colon is passed in bytes', () => {
    expect(environment('/mnt/nvme:1.5GiB')['GREENBOOST_NVME_BUDGET']).toBe('1610612736');
    const odd = environment('/mnt/a:b/c:64MiB');
    expect(odd['GREENBOOST_NVME_DIR']).toBe('/mnt/a:b/c');
    expect(odd['GREENBOOST_NVME_BUDGET']).toBe('67108864');
  });

  test('a colon in a folder is no size', () => {
    expect(environment('/mnt/a:b')['GREENBOOST_NVME_DIR']).toBe('/mnt/a:b');
    expect(environment('here')['GREENBOOST_NVME_DIR']).toMatch(/^\/.*here$/);
  });

  test('no folder, or a size that is none, is refused', () => {
    expect(() => environment(':64GiB')).toThrow('--nvme');
    expect(() => environment('/mnt/nvme:64parsecs')).toThrow('is not a size');
  });
});
