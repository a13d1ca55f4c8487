// SPDX-License-Identifier: Apache-2.0
// Installing: what is installed works on its own, and uninstall leaves nothing. Packages: test/packages.
import { afterAll, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ROOT } from '../arch/files.js';
import { LAUNCHER } from './cli-home.js';

const LONG_MS = 300_000;
const folder = mkdtempSync(join(tmpdir(), 'greenboost-install-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function install(action: 'install' | 'uninstall', prefix: string, destination = ''): string {
  const script = join(ROOT, 'tui/install/install.sh');
  return execFileSync(script, [action, prefix, destination], { cwd: ROOT, encoding: 'utf8' });
}

test(
  'install makes a command that needs nothing of the checkout; uninstall takes every file and folder away',
  () => {
    const destination = join(folder, 'destination');
    install('install', '/opt/greenboost', destination);
    const home = join(destination, 'opt/greenboost');
    const command = join(home, 'bin/greenboost');
    const clean = { PATH: process.env['PATH'] ?? '', HOME: folder, XDG_RUNTIME_DIR: folder };
    const version = (path: string): string =>
      execFileSync(path, ['version'], { env: clean, encoding: 'utf8' });
    expect(version(command)).toBe(version(LAUNCHER));
    const shim = execFileSync(command, ['run', '--', 'sh', '-c', 'echo $LD_PRELOAD'], {
      env: { ...clean, XDG_STATE_HOME: folder, GREENBOOST_GPU: 'none' },
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    expect(shim.trim()).toBe(join(home, 'lib/greenboost/build/lib/libgreenboost_cuda.so'));
    execFileSync(command, ['agent', 'stop', '--force'], {
      env: { ...clean, XDG_STATE_HOME: folder },
    });
    expect(existsSync(join(home, 'share/bash-completion/completions/greenboost'))).toBe(true);
    install('install', '/opt/greenboost', destination);
    install('uninstall', '/opt/greenboost', destination);
    expect(existsSync(destination)).toBe(false);
  },
  LONG_MS,
);

test(
  'uninstall leaves the folders and files of others alone',
  () => {
    const prefix = join(folder, 'shared');
    execFileSync('mkdir', ['-p', join(prefix, 'bin'), join(prefix, 'share')]);
    execFileSync('touch', [join(prefix, 'bin/other')]);
    install('install', prefix);
    install('uninstall', prefix);
    expect(readdirSync(prefix).sort()).toEqual(['bin', 'share']);
    expect(readdirSync(join(prefix, 'bin'))).toEqual(['other']);
  },
  LONG_MS,
);
