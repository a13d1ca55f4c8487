// SPDX-License-Identifier: Apache-2.0
// What a program is told of its GPU's size, and hints from C and Python, under the real command on
// the simulated GPU.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { join } from 'node:path';
import { ROOT } from '../arch/files.js';
import { Home } from './cli-home.js';

const MIB = 1 << 20;
const VRAM = 128 * MIB;
const RAM = 96 * MIB;
const PROGRAMS = join(ROOT, 'build', 'bin');
const LONG_MS = 300_000;

let home: Home;
/** The first `run` has started it. */
let agentRuns = false;
beforeAll(() => {
  home = new Home({ GREENBOOST_AGENT_RAM_BUDGET: String(RAM) });
});
afterAll(() => home.close());

/** The last line of a program that prints one JSON object. */
function lastJson(text: string): Record<string, unknown> {
  return JSON.parse(text.trim().split('\n').at(-1) ?? '') as Record<string, unknown>;
}

/** Programs that have ended hold their share until the agent knows; what is measured is one program alone. */
function untilNobodyRuns(): void {
  const deadline = Date.now() + LONG_MS / 10;
  for (;;) {
    const status = JSON.parse(home.call(['status', '--json'])) as { attachments: unknown[] };
    if (status.attachments.length === 0) return;
    if (Date.now() > deadline) throw new Error('a program that has ended is still attached');
  }
}

function sizes(options: readonly string[], env: Record<string, string> = {}) {
  const program = [join(PROGRAMS, 'gb_capacity'), '16MiB'];
  if (agentRuns) untilNobodyRuns();
  agentRuns = true;
  const { free_bytes, total_bytes, bytes } = lastJson(
    home.call(['run', '--gpu', 'sim', ...options, '--', ...program], env),
  );
  return { free: Number(free_bytes), total: Number(total_bytes), held: Number(bytes) };
}

describe('the size that is told', () => {
  test(
    'extend: VRAM and RAM; honest: VRAM alone; extend=SIZE: VRAM and so much more',
    () => {
      expect(sizes(['--report', 'extend']).total).toBe(VRAM + RAM);
      expect(sizes(['--report', 'honest']).total).toBe(VRAM);
      expect(sizes(['--report', 'extend=32MiB']).total).toBe(VRAM + 32 * MIB);
      expect(sizes(['--report', 'extend=9GiB']).total).toBe(VRAM + RAM);
      expect(sizes([], { GREENBOOST_REPORT: 'extend=16MiB' }).total).toBe(VRAM + 16 * MIB);
    },
    LONG_MS,
  );

  test(
    'free never passes total, and what may be held is not less for a smaller report',
    () => {
      for (const report of ['extend', 'honest', 'extend=32MiB']) {
        const { free, total, held } = sizes(['--report', report]);
        expect(free).toBeLessThanOrEqual(total);
        expect(held).toBeGreaterThan(VRAM);
      }
    },
    LONG_MS,
  );

  test(
    "a profile decides, by name or by --profile, and says when the size is the GPU's own",
    () => {
      expect(sizes(['--profile', 'vllm']).total).toBe(VRAM);
      expect(sizes(['--profile', 'vllm', '--report', 'extend=16MiB']).total).toBe(VRAM + 16 * MIB);
      const told = home.run(['run', '--gpu', 'sim', '--profile', 'vllm', '--', 'true']);
      expect(told.stderr).toContain('profile vllm');
      const other = home.run(['run', '--profile', 'nothing', '--', 'true']);
      expect(other.code).toBe(2);
      expect(other.stderr).toContain('greenboost profiles');
    },
    LONG_MS,
  );

  test('profiles are listed for people and for scripts', () => {
    const listed = JSON.parse(home.call(['profiles', '--json'])) as {
      profiles: { name: string }[];
    };
    const names = listed.profiles.map(({ name }) => name);
    expect(names).toEqual(
      expect.arrayContaining(['pytorch', 'jax', 'vllm', 'llama.cpp', 'ollama', 'default']),
    );
    const text = home.call(['profiles']);
    for (const name of names) expect(text).toContain(name);
  });
});

describe('hints', () => {
  test(
    'from C: taken inside an allocation, refused elsewhere, nothing without GreenBoost',
    () => {
      const program = join(PROGRAMS, 'gb_hints');
      expect(lastJson(home.call(['run', '--gpu', 'sim', '--', program]))).toMatchObject({
        ok: true,
        before: 1,
        inside: [0, 0, 0, 0],
        part: 0,
        beyond: 1,
        empty: 1,
        unknown: 1,
        host: 1,
      });
      const bare = home.run(['run', '--gpu', 'sim', '--', 'env', '-u', 'LD_PRELOAD', program]);
      expect(lastJson(bare.stdout)).toMatchObject({
        ok: true,
        before: -1,
        inside: [-1, -1, -1, -1],
      });
    },
    LONG_MS,
  );

  const SCRIPT = `
import ctypes, greenboost, sys
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *args):
    code = getattr(cuda, name)(*args)
    assert code == 0, (name, code)
device, context, pointer = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
call("cuInit", 0)
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
call("cuCtxSetCurrent", context)
call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(8 << 20))
class Array:
    __cuda_array_interface__ = {
        "data": (pointer.value, False), "shape": (4, 16), "strides": (1024, 8), "typestr": "<f8"}
class Outside:
    __cuda_array_interface__ = {"data": (4096, False), "shape": (4,), "typestr": "<f4"}
print(greenboost.present(),
      greenboost.hot((pointer.value, 8 << 20)), greenboost.cold(Array()), greenboost.pinned(Array()),
      greenboost.forget(Array()), greenboost.hot(Outside()), greenboost.hot((pointer.value, 0)))
try:
    greenboost.hot("text")
except TypeError as error:
    print(error)
`;

  test(
    'from Python: the module is there under run, and steers the same memory',
    () => {
      const run = (wrap: readonly string[]): string[] =>
        home
          .call(['run', '--gpu', 'sim', '--', ...wrap, 'python3', '-c', SCRIPT])
          .trim()
          .split('\n');
      const refusal = 'str is no tensor, module, array or (address, bytes)';
      expect(run([])).toEqual(['True True True True True False False', refusal]);
      expect(run(['env', '-u', 'LD_PRELOAD'])).toEqual([
        'False False False False False False False',
        refusal,
      ]);
    },
    LONG_MS,
  );
});
