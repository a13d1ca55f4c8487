// SPDX-License-Identifier: Apache-2.0
// Predict, run, compare: plan, run --plan and report as people use them, on the simulated GPU.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '../arch/files.js';
import { ggufFile, LLAMA_META, LLAMA_TENSORS } from '../unit/host/model-files.js';
import { endOf, Home, until } from './cli-home.js';

const MIB = 1 << 20;
const LONG_MS = 300_000;
const WORKSET = join(ROOT, 'build', 'bin', 'gb_workset');

let home: Home;
let model: string;
beforeAll(() => {
  home = new Home({ GBSIM_VRAM: '512MiB', GREENBOOST_AGENT_RAM_BUDGET: '1GiB' });
  model = join(home.folder, 'small.gguf');
  writeFileSync(model, ggufFile(LLAMA_META, LLAMA_TENSORS));
});
afterAll(() => home.close());

interface PlanShape {
  placement: { fits: boolean; ramBytes: number; weightBytes: number; kvBytes: number };
  decode: { perSecond: number; crossingBytes: number; formula: string };
  machine: Record<'ramRead' | 'hostToDevice' | 'gpuFlops', { value: number; source: string }>;
  ways: { name: string }[];
}
const plan = (args: readonly string[]): PlanShape =>
  JSON.parse(home.call(['plan', '--json', ...args])) as PlanShape;

interface ReportShape {
  program: { pid: number; endedUnixMs: number | null; launchCount: number; phaseMs: object | null };
  plan: { model: { name: string } } | null;
  comparison: { name: string; predicted: number | null; measured: number | null }[];
}
const report = (args: readonly string[]): ReportShape =>
  JSON.parse(home.call(['report', '--json', ...args])) as ReportShape;

describe('plan', () => {
  test(
    'of a file and of a size, without an agent; figures are measured or said to be assumed',
    () => {
      const small = plan([model, '--context', '1000']);
      expect(small.placement).toMatchObject({ fits: true, kvBytes: 128_000 });
      const large = plan(['--bytes', '1GiB']);
      expect(large.placement.fits).toBe(false);
      expect(large.placement.ramBytes).toBeGreaterThan(512 * MIB);
      expect(large.decode.crossingBytes).toBeGreaterThan(512 * MIB);
      expect(large.decode.formula).toContain('/ 0.8');
      expect(large.ways.map(({ name }) => name)).toContain('cpu');
      expect(large.machine.ramRead.source).toBe('measured');
      expect(large.machine.hostToDevice.source).toBe('measured');
      expect(large.machine.gpuFlops.source).toBe('assumed');
      expect(home.run(['status']).code).toBe(3);
    },
    LONG_MS,
  );

  test(
    'in words, and with what to do where something is wrong',
    () => {
      const text = home.call(['plan', '--bytes', '1GiB', '--vram', '700MiB']);
      for (const word of ['Where it lies', 'decode', 'prefill', 'tok/s', 'Advice', '(given)'])
        expect(text).toContain(word);
      const cases = [
        [[], 2, '--bytes'],
        [[join(home.folder, 'none.gguf')], 5, 'no such file'],
        [[WORKSET], 2, '.gguf'],
        [['--bytes', '1GiB', '--context', 'long'], 2, '--context'],
        [['--bytes', '1GiB', '--gpu', 'none'], 2, '--vram'],
      ] as const;
      for (const [args, code, word] of cases) {
        const done = home.run(['plan', ...args]);
        expect({ args, code: done.code }).toEqual({ args, code });
        expect(done.stderr).toContain(word);
      }
    },
    LONG_MS,
  );
});

describe('report', () => {
  test(
    'of a run with a plan, while it runs and after it has ended',
    async () => {
      const stats = join(home.folder, 'stats.json');
      const child = home.start([
        ...['run', '--plan', model, '--stats-file', stats, '--', WORKSET],
        ...['--bytes', '64MiB', '--buffer-bytes', '8MiB', '--rounds', '40', '--hold-seconds', '2'],
      ]);
      const end = endOf(child);
      await until('it runs', () => {
        const now = home.run(['report', '--json']);
        return now.code === 0 && (JSON.parse(now.stdout) as ReportShape).program.launchCount > 0;
      });
      expect(report([]).program.endedUnixMs).toBeNull();
      expect((await end).code).toBe(0);
      const done = await until('it has ended', () => {
        const now = report([]);
        return now.program.endedUnixMs !== null && now;
      });
      expect(done.plan?.model.name).toBe('small.gguf');
      const vram = done.comparison.find(({ name }) => name === 'VRAM, peak');
      expect(vram?.measured).toBeGreaterThanOrEqual(64 * MIB);
      expect(vram?.predicted).toBeGreaterThan(0);
      expect(Object.keys(done.program.phaseMs ?? {}).length).toBeGreaterThan(0);
      const text = home.call(['report', String(done.program.pid)]);
      expect(text).toContain('small.gguf');
      expect(text).toMatch(/VRAM, peak +\d.* +\d/);

      const planned = join(home.folder, 'plan.json');
      writeFileSync(planned, home.call(['plan', model, '--json']));
      const file = report([stats, '--plan', planned]);
      expect(file.program).toMatchObject({ pid: done.program.pid, phaseMs: null });
      expect(file.program.launchCount).toBe(done.program.launchCount);
      expect(file.plan?.model.name).toBe('small.gguf');
    },
    LONG_MS,
  );

  test('of what is not there says so', () => {
    const cases = [
      [['1'], 5, 'no program with pid 1'],
      [['nothing.json'], 5, 'neither a pid nor'],
      [[model], 2, 'no statistics file'],
    ] as const;
    for (const [args, code, word] of cases) {
      const done = home.run(['report', ...args]);
      expect({ args, code: done.code }).toEqual({ args, code });
      expect(done.stderr).toContain(word);
    }
  });
});
