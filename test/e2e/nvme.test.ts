// SPDX-License-Identifier: Apache-2.0
// T3 under the real command on the simulated GPU: a program three times its VRAM with too little RAM
// and no feeder, what it is told, what remains of it, and a file that somebody spoils.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '../arch/files.js';
import { endOf, Home, outputOf, until } from './cli-home.js';

const MIB = 1 << 20;
const VRAM = 64 * MIB;
const RAM = 64 * MIB;
const PROGRAMS = join(ROOT, 'build', 'bin');
const LONG_MS = 300_000;
const LIMITS = ['--gpu', 'sim', '--vram-budget', '64MiB', '--ram-budget', '64MiB'];
const WORK = [join(PROGRAMS, 'gb_workset'), '--bytes', '240MiB', '--buffer-bytes', '12MiB'];

let home: Home;
let drive: string;
beforeAll(() => {
  home = new Home();
  // The temporary folder may lie in memory, where there is no direct I/O.
  mkdirSync(join(ROOT, 'build', 'test'), { recursive: true });
  drive = mkdtempSync(join(ROOT, 'build', 'test', 'nvme-'));
});
afterAll(() => {
  home.close();
  rmSync(drive, { recursive: true, force: true });
});

function lastJson(text: string): Record<string, unknown> {
  return JSON.parse(text.trim().split('\n').at(-1) ?? '') as Record<string, unknown>;
}

/** What lies in the folder beside the account of the day's writes. */
const left = () => readdirSync(drive).filter((name) => !name.startsWith('.greenboost-writes-'));

/** The process that has a nameless file in our folder, and the way to that file. */
function holder(): { pid: number; path: string } | undefined {
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      for (const descriptor of readdirSync(`/proc/${pid}/fd`)) {
        const path = `/proc/${pid}/fd/${descriptor}`;
        if (readlinkSync(path).startsWith(`${drive}/#`)) return { pid: Number(pid), path };
      }
    } catch {
      continue; // It has ended meanwhile.
    }
  }
  return undefined;
}

describe('run --nvme', () => {
  test(
    'runs a program of three times its VRAM to the right end, and leaves nothing behind',
    () => {
      const stats = join(home.folder, 'stats.json');
      const options = [...LIMITS, '--nvme', `${drive}:512MiB`, '--stats-file', stats];
      const done = lastJson(home.call(['run', ...options, '--', ...WORK, '--json']));
      expect(done).toMatchObject({ ok: true, mismatches: 0 });
      const figures = JSON.parse(readFileSync(stats, 'utf8')) as Record<string, number>;
      expect(figures['vramPeakBytes']).toBeLessThanOrEqual(VRAM);
      expect(figures['ramPeakBytes']).toBeLessThanOrEqual(RAM);
      expect(figures['nvmePeakBytes']).toBeGreaterThanOrEqual(240 * MIB - VRAM - RAM);
      expect(figures['nvmeReadBytes']).toBeGreaterThan(0);
      expect(figures['nvmeWriteBytes']).toBeGreaterThan(0);
      expect(figures['cleanDropBytes']).toBeGreaterThan(0); // Verifying reads: no second write.
      expect(figures['feederRamPeakBytes']).toBe(0);
      expect(figures['nvmeUsedBytes']).toBe(0);
      expect(left()).toEqual([]);
    },
    LONG_MS,
  );

  test(
    'the file is part of the size that is told, and only then',
    () => {
      const told = (nvme: string[]) => {
        const program = ['--', join(PROGRAMS, 'gb_capacity'), '16MiB'];
        return lastJson(home.call(['run', '--report', 'extend', ...LIMITS, ...nvme, ...program]));
      };
      expect(told(['--nvme', `${drive}:128MiB`])['total_bytes']).toBe(VRAM + RAM + 128 * MIB);
      expect(told([])['total_bytes']).toBe(VRAM + RAM);
    },
    LONG_MS,
  );

  test(
    'a folder that is unfit is refused with the reason, and the program runs without',
    () => {
      const log = { GREENBOOST_LOG: 'error' };
      const program = ['--', join(PROGRAMS, 'gb_capacity'), '16MiB'];
      const done = home.run(['run', ...LIMITS, '--nvme', '/dev/shm', ...program], log);
      expect(done.code).toBe(0);
      expect(done.stderr).toMatch(/tmpfs.*local drive/);
      expect(lastJson(done.stdout)['bytes']).toBeLessThanOrEqual(VRAM + RAM);
    },
    LONG_MS,
  );

  test(
    'spoiled bytes end the program with a named error, never with wrong bytes',
    async () => {
      const work = [...WORK, '--rounds', '40'];
      const child = home.start(['run', ...LIMITS, '--nvme', `${drive}:512MiB`, '--', ...work]);
      const output = outputOf(child);
      const ended = endOf(child);
      const { path } = await until('the file', holder);
      await until('the first round', () => output().includes('round 1'));
      const file = openSync(path, 'r+');
      const noise = Buffer.alloc(16 * MIB, 0xa5);
      // Again and again: what was read ahead before is still right.
      for (let at = 0; child.exitCode === null; at = (at + noise.length) % (256 * MIB)) {
        writeSync(file, noise, 0, noise.length, at);
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
      closeSync(file);
      expect((await ended).code).not.toBe(0);
      expect(output()).not.toContain('WRONG');
      expect(home.call(['events'])).toContain('does not give back');
      expect(left()).toEqual([]);
    },
    LONG_MS,
  );

  test(
    'kill -9 leaves nothing in the folder',
    async () => {
      const work = [...WORK, '--rounds', '40'];
      const child = home.start(['run', ...LIMITS, '--nvme', `${drive}:512MiB`, '--', ...work]);
      const output = outputOf(child);
      const ended = endOf(child);
      const { pid } = await until('the file', holder);
      await until('the first round', () => output().includes('round 1'));
      expect(left()).toEqual([]); // Not even while it runs.
      process.kill(pid, 'SIGKILL');
      await ended;
      expect(left()).toEqual([]);
      expect(holder()).toBeUndefined();
    },
    LONG_MS,
  );
});
