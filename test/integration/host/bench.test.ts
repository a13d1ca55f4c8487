// SPDX-License-Identifier: Apache-2.0
// `greenboost bench` as people run it: every path has a row, a disk only when asked for, and nothing is left on it.
import { expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { packageRoot } from '../../../proto/base/paths.js';

const CLI = join(packageRoot(), 'build', 'js', 'tui', 'cli', 'main.js');

function bench(
  args: readonly string[],
  runtime: string,
): Promise<{ code: number; stdout: string; stderr: string }> {
  const env = {
    ...process.env,
    XDG_RUNTIME_DIR: runtime,
    GREENBOOST_GPU: 'sim',
    GBSIM_GPU: `bench-${process.pid}`,
  };
  return new Promise((resolve) => {
    execFile(process.execPath, [CLI, 'bench', ...args], { env }, (error, stdout, stderr) =>
      resolve({ code: Number(error?.code ?? 0), stdout, stderr }),
    );
  });
}

test('each path has a figure with its unit; the disk’s file is gone afterwards', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'greenboost-bench-'));
  try {
    const { code, stdout, stderr } = await bench(['--json', '--disk', folder], folder);
    expect({ code, stderr: code === 0 ? '' : stderr }).toEqual({ code: 0, stderr: '' });
    const { paths } = JSON.parse(stdout) as {
      paths: { path: string; bytesPerSecond: number | null; simulated: boolean; note: string }[];
    };
    expect(paths.map(({ path }) => path)).toEqual([
      ...['vram_copy', 'host_to_device', 'device_to_host', 'host_in_place'],
      ...['ram_read', 'ram_copy', 'disk_write', 'disk_read'],
    ]);
    for (const { path, bytesPerSecond, note } of paths.filter(
      ({ path: name }) => !name.startsWith('disk'),
    ))
      expect({ path, note, isPositive: (bytesPerSecond ?? 0) > 0 }).toEqual({
        path,
        note,
        isPositive: true,
      });
    expect(paths.filter(({ simulated }) => simulated)).toHaveLength(4);
    expect(readdirSync(folder)).toEqual([]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('a table for people says that a simulated GPU is none; a folder that is not there is refused', async () => {
  const { code, stdout, stderr } = await bench([], tmpdir());
  expect(code).toBe(0);
  expect(stdout).toMatch(
    /^PATH +RATE +LATENCY +HOW\nGPU 0 VRAM, copy inside +\S+ [GM]B\/s .*simulated: no figure/m,
  );
  expect(stderr).toContain('--disk FOLDER');
  expect((await bench(['--disk', '/nowhere'], tmpdir())).code).toBe(4);
});
