// SPDX-License-Identifier: Apache-2.0
// The feeder's small parts: what it may lend, what it says about locking, who is told of changes, streams of bytes.
import { describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CU_ERROR_NAMES, errorFromCuResult } from '../../../driver/cuda/errors.js';
import { driverEnv, gpuDriverFromEnv } from '../../../driver/library.js';
import { ReplyReader } from '../../../driver/executor/abi.js';
import { GIB, MIB } from '../../../proto/base/units.js';
import { chooseRam, cleanName } from '../../../feeder/config.js';
import { memlockBytes } from '../../../driver/os/memlock.js';
import { lockNote } from '../../../feeder/lock-note.js';
import { defaultReserveBytes, MemoryGuard, parseMeminfo } from '../../../feeder/memory-guard.js';
import { StatsHub } from '../../../feeder/stats.js';
import { ROOT } from '../../arch/files.js';
import { FakeClock } from '../host/fake-clock.js';

describe('RAM', () => {
  const memory = { totalBytes: 64 * GIB, availableBytes: 40 * GIB };

  test('the default is half of what is available, and never into the reserve', () => {
    expect(chooseRam(undefined, memory, 6 * GIB)).toBe(20 * GIB);
    expect(chooseRam(undefined, { totalBytes: 8 * GIB, availableBytes: 3 * GIB }, 2 * GIB)).toBe(
      1 * GIB,
    );
    expect(chooseRam(undefined, { totalBytes: 8 * GIB, availableBytes: GIB }, 2 * GIB)).toBe(0);
  });

  test('what is asked for is refused beyond the reserve, with what can be lent in the message', () => {
    expect(chooseRam(34 * GIB, memory, 6 * GIB)).toBe(34 * GIB);
    expect(() => chooseRam(34 * GIB + 2 * MIB, memory, 6 * GIB)).toThrow(/at most 34.0 GiB/);
    expect(chooseRam(5 * MIB, memory, 6 * GIB)).toBe(4 * MIB); // whole chunks
    expect(chooseRam(0, memory, 6 * GIB)).toBe(0);
    expect(() => chooseRam(MIB, memory, 6 * GIB)).toThrow(/at least 2.00 MiB/);
  });

  test('the reserve is a tenth, at least 1 GiB', () => {
    expect(defaultReserveBytes({ totalBytes: 40 * GIB, availableBytes: 0 })).toBe(4 * GIB);
    expect(defaultReserveBytes({ totalBytes: 4 * GIB, availableBytes: 0 })).toBe(1 * GIB);
  });

  test('meminfo is read in bytes; a kernel without MemAvailable is told', () => {
    const text = 'MemTotal:       1024 kB\nMemFree:         1 kB\nMemAvailable:    512 kB\n';
    expect(parseMeminfo(text)).toEqual({ totalBytes: 1024 * 1024, availableBytes: 512 * 1024 });
    expect(() => parseMeminfo('MemTotal: 5 kB\n')).toThrow(/MemAvailable|MemTotal/);
  });

  test('the guard counts what is being mapped and refuses what would leave too little', async () => {
    const guard = new MemoryGuard(10, async () => ({ totalBytes: 200, availableBytes: 100 }));
    const done = await guard.admit(60);
    await expect(guard.admit(31)).rejects.toMatchObject({ code: 'CAPACITY_EXHAUSTED' });
    const second = await guard.admit(30);
    done();
    second();
    await expect(guard.admit(90)).resolves.toBeInstanceOf(Function);
    await expect(guard.admit(1)).rejects.toMatchObject({ code: 'CAPACITY_EXHAUSTED' });
  });
});

describe('locking', () => {
  const limits =
    'Limit Soft Limit Hard Limit Units\nMax locked memory         8388608              16777216             bytes\n';

  test('the hard limit counts, unless the capability lifts it', () => {
    expect(memlockBytes(limits, 'CapEff:\t0000000000000000\n')).toBe(16 * MIB);
    expect(memlockBytes(limits, 'CapEff:\t0000000000004000\n')).toBe(Number.POSITIVE_INFINITY);
    expect(memlockBytes(limits.replace('16777216 ', 'unlimited'), '')).toBe(
      Number.POSITIVE_INFINITY,
    );
  });

  test('it says so when lent RAM may be swapped out, and only then', () => {
    const swap = 'SwapTotal:       1000 kB\n';
    expect(lockNote(GIB, 8 * MIB, swap)).toMatch(/8.00 MiB .*memlock/);
    expect(lockNote(GIB, Number.POSITIVE_INFINITY, swap)).toBe('');
    expect(lockNote(GIB, 8 * MIB, 'SwapTotal:       0 kB\n')).toBe('');
    expect(lockNote(0, 8 * MIB, swap)).toBe('');
  });
});

test('names from other machines are made harmless for terminals', () => {
  expect(cleanName('wörk-station_2.lan')).toBe('wörk-station_2.lan');
  expect(cleanName('\u001b[31mred\u0007\n')).toBe('31mred');
  expect(cleanName('\u001b')).toBe('feeder');
  expect(cleanName('x'.repeat(500))).toHaveLength(64);
});

describe('drivers', () => {
  test('error names are those of errors.def', () => {
    const rows = readFileSync(join(ROOT, 'driver/include/gb_cuda/errors.def'), 'utf8').matchAll(
      /GB_CU_ERROR\((\w+), (\d+)\)/g,
    );
    expect(CU_ERROR_NAMES).toEqual(
      Object.fromEntries([...rows].map(([, name, value]) => [value, name])),
    );
    expect(errorFromCuResult('cuMemCreate', 2)).toMatchObject({
      code: 'CAPACITY_EXHAUSTED',
      rawMessage: 'cuMemCreate: CUDA_ERROR_OUT_OF_MEMORY',
    });
    expect(errorFromCuResult('cuInit', 4242).rawMessage).toContain('4242');
  });

  test('GREENBOOST_GPU chooses, and nonsense is refused', () => {
    expect(gpuDriverFromEnv({}, 'none')).toBe('none');
    expect(gpuDriverFromEnv({ GREENBOOST_GPU: 'sim' }, 'none')).toBe('sim');
    expect(() => gpuDriverFromEnv({ GREENBOOST_GPU: 'nvidia' }, 'none')).toThrow(
      /cuda, sim or none/,
    );
  });

  test('children get few variables: no shim, no secrets', () => {
    const env = driverEnv('none', {
      PATH: '/bin',
      LD_PRELOAD: 'x.so',
      GREENBOOST_KEY: 'gb1-secret',
      GBSIM_VRAM: '1GiB',
      CUDA_VISIBLE_DEVICES: '0',
    });
    expect(env).toEqual({ PATH: '/bin', GBSIM_VRAM: '1GiB', CUDA_VISIBLE_DEVICES: '0' });
  });
});

describe('replies of an executor', () => {
  const frame = (bytes: number, flags: number): Buffer => {
    const head = Buffer.alloc(16);
    head.writeUInt32LE(bytes, 0);
    head.writeUInt16LE(6, 4);
    head.writeUInt16LE(flags, 6);
    head.writeBigUInt64LE(9n, 8);
    return Buffer.concat([head, Buffer.alloc(Math.min(bytes, 64), 7)]);
  };

  test('arrive whole, whatever the pieces', () => {
    const stream = Buffer.concat([frame(8, 1), frame(0, 1), frame(64, 1)]);
    for (const size of [1, 2, 7, 16, 1000]) {
      const reader = new ReplyReader();
      const sizes: number[] = [];
      for (let at = 0; at < stream.length; at += size) {
        for (const reply of reader.push(stream.subarray(at, at + size)))
          sizes.push(reply.payload.length);
      }
      expect(sizes).toEqual([8, 0, 64]);
    }
  });

  test('are refused when they are too long or no replies', () => {
    expect(() => new ReplyReader().push(frame(4097, 1))).toThrow(/broken/);
    expect(() => new ReplyReader().push(frame(0, 0))).toThrow(/broken/);
  });
});

describe('StatsHub', () => {
  test('tells at once, at every interval, and soon after changes, all of them together', async () => {
    const clock = new FakeClock();
    const hub = new StatsHub(clock);
    let told = 0;
    const end = hub.watch({ send: () => ((told += 1), true), resume: () => undefined }, 1_000);
    expect(told).toBe(1);
    for (let change = 0; change < 100; change++) hub.changed();
    expect(told).toBe(1);
    await clock.advance(60);
    expect(told).toBe(2);
    await clock.advance(1_000);
    expect(told).toBe(3);
    end();
    await clock.advance(10_000);
    hub.changed();
    await clock.advance(100);
    expect(told).toBe(3);
    expect(clock.armed).toBe(0);
  });

  test('a slow watcher is left alone until it has caught up', async () => {
    const clock = new FakeClock();
    const hub = new StatsHub(clock);
    let told = 0;
    let resume: () => void = () => undefined;
    hub.watch({ send: () => ((told += 1), false), resume: (callback) => (resume = callback) }, 100);
    await clock.advance(1_000);
    expect(told).toBe(1);
    resume();
    await clock.advance(100);
    expect(told).toBe(2);
  });
});
