// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { REPORT } from '../../../proto/settings/kinds.js';
import { runEnvironment } from '../../../tui/cli/commands/run.js';
import { profileFor, profileNamed, PROFILES } from '../../../tui/cli/profiles.js';

describe('profileFor', () => {
  test.each([
    ['vllm serve some/model', 'vllm'],
    ['python -m vllm.entrypoints.openai.api_server --model x', 'vllm'],
    ['/opt/venv/bin/python3.12 -u /opt/venv/bin/vllm serve x', 'vllm'],
    ['uv run vllm serve x', 'vllm'],
    ['/usr/local/bin/llama-server -m x.gguf', 'llama.cpp'],
    ['ollama serve', 'ollama'],
    ['torchrun --nproc-per-node 1 train.py', 'pytorch'],
    ['python -m torch.distributed.run train.py', 'pytorch'],
    ['python train.py --module vllm', 'python'],
    ['python -W ignore -X dev train.py', 'python'],
    ['python -c "import vllm" vllm', 'python'],
    ['python3', 'python'],
    ['env A=1 CUDA_VISIBLE_DEVICES=0 nice -n 5 python3.11 train.py', 'python'],
    ['timeout 30 ./train', 'default'],
    ['./vllm-like', 'default'],
    ['env', 'default'],
  ])('%s', (line, name) => {
    expect(profileFor(line.split(' ')).name).toBe(name);
  });

  test('every command line has a profile', () => {
    fc.assert(
      fc.property(fc.array(fc.string({ maxLength: 12 }), { maxLength: 8 }), (argv) => {
        expect(PROFILES).toContain(profileFor(argv));
      }),
    );
  });

  test('a name that is none is refused', () => {
    expect(profileNamed('jax').env['XLA_PYTHON_CLIENT_PREALLOCATE']).toBe('false');
    expect(() => profileNamed('jaxx')).toThrow(/no profile is called "jaxx"/);
  });

  test('the name of each profile is its own, and its report is one that the shim reads', () => {
    expect(new Set(PROFILES.map(({ name }) => name)).size).toBe(PROFILES.length);
    for (const { report } of PROFILES) expect(REPORT.read([report], undefined)).toBe(report);
  });
});

test('reports bring sizes to bytes, and name what is wrong', () => {
  const read = (text: string) => REPORT.read([text], undefined);
  expect(read('honest')).toBe('honest');
  expect(read('extend=1.5GiB')).toBe(`extend=${1.5 * 2 ** 30}`);
  for (const text of ['', 'more', 'extend=', 'extend=lots', 'honest=1'])
    expect(() => read(text)).toThrow(/INVALID_ARGUMENT/);
});

describe('runEnvironment', () => {
  const jax = profileNamed('jax');
  const vllm = profileNamed('vllm');

  test('a profile sets what the user has not', () => {
    const set = runEnvironment({}, {}, jax);
    expect(set['XLA_PYTHON_CLIENT_PREALLOCATE']).toBe('false');
    expect(set['GREENBOOST_REPORT']).toBe('extend');
    const kept = runEnvironment({}, { XLA_PYTHON_CLIENT_PREALLOCATE: 'true' }, jax);
    expect(kept['XLA_PYTHON_CLIENT_PREALLOCATE']).toBe('true');
  });

  test('--report goes before the variable, the variable before the profile', () => {
    expect(runEnvironment({}, {}, vllm)['GREENBOOST_REPORT']).toBe('honest');
    const base = { GREENBOOST_REPORT: 'extend' };
    expect(runEnvironment({}, base, vllm)['GREENBOOST_REPORT']).toBe('extend');
    const both = runEnvironment({ report: 'extend=2GiB' }, base, vllm);
    expect(both['GREENBOOST_REPORT']).toBe(`extend=${2 ** 31}`);
  });

  test('the Python module is found behind what the user has', () => {
    expect(runEnvironment({}, { PYTHONPATH: '/mine' }, jax)['PYTHONPATH']).toMatch(
      /^\/mine:.*\/shim\/python$/,
    );
    expect(runEnvironment({}, {}, jax)['PYTHONPATH']).toMatch(/^[^:]+\/shim\/python$/);
  });
});
