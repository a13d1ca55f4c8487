// SPDX-License-Identifier: Apache-2.0
// The packages: what their natives need of the C library, a .deb that is installed, used and purged in an empty root,
// an npm package that is installed and used in an empty prefix. Neither leaves anything behind.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ROOT } from '../arch/files.js';

const LONG_MS = 600_000;
const GLIBC = [2, 31] as const;
const folder = mkdtempSync(join(tmpdir(), 'greenboost-packages-'));
const VERSION = (
  JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string }
).version;

beforeAll(() => {
  execFileSync('make', ['-s', 'portable'], { cwd: ROOT, stdio: ['ignore', 'ignore', 'inherit'] });
}, LONG_MS);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function run(command: string, args: readonly string[], env: Record<string, string> = {}): string {
  const done = spawnSync(command, args, {
    cwd: ROOT,
    env: { PATH: process.env['PATH'] ?? '', HOME: folder, ...env },
    encoding: 'utf8',
  });
  if (done.status !== 0)
    throw new Error(
      `${command} ${args.join(' ')} ended with ${done.status}: ${done.stderr}${done.stdout}`,
    );
  return done.stdout;
}

/** Every path below `root`, folders with a slash. */
function pathsOf(root: string): string[] {
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .map((entry) => join(entry.parentPath, entry.name) + (entry.isDirectory() ? '/' : ''))
    .map((path) => path.slice(root.length))
    .sort();
}

/** The command of an installed package really works: natives are loaded, a program runs on the simulated GPU. */
function works(command: string): void {
  const env = {
    GREENBOOST_GPU: 'sim',
    GBSIM_GPU: `package-${process.pid}`,
    GBSIM_VRAM: '64MiB',
    XDG_RUNTIME_DIR: join(folder, 'run'),
    XDG_STATE_HOME: join(folder, 'state'),
    XDG_CONFIG_HOME: join(folder, 'config'),
    XDG_CACHE_HOME: join(folder, 'cache'),
  };
  for (const path of ['run', 'state', 'config', 'cache'])
    mkdirSync(join(folder, path), { recursive: true, mode: 0o700 });
  expect(run(command, ['version'], env)).toContain(`greenboost ${VERSION}`);
  const installed = join(realpathSync(command), '../../../../bin/gb_workset');
  const size = ['--bytes', '96MiB', '--buffer-bytes', '8MiB', '--rounds', '1', '--json'];
  const said = run(command, ['run', '--gpu', 'sim', '--', installed, ...size], env);
  expect(JSON.parse(said.trim().split('\n').at(-1) ?? '')).toMatchObject({ mismatches: 0 });
  run(command, ['agent', 'stop', '--force'], env);
}

test('natives need nothing newer than glibc 2.31, and no library but its own', () => {
  const natives = ['lib', 'lib/sim', 'bin'].flatMap((part) => {
    const path = join(ROOT, 'build/portable', part);
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(path, entry.name));
  });
  expect(natives.length).toBeGreaterThanOrEqual(8);
  for (const native of natives) {
    const wanted = run('objdump', ['-T', native])
      .split('\n')
      .filter((line) => line.includes('*UND*'));
    const newer = wanted.filter((line) => {
      const [, major, minor] = /GLIBC_(\d+)\.(\d+)/.exec(line) ?? [];
      return Number(major) > GLIBC[0] || (Number(major) === GLIBC[0] && Number(minor) > GLIBC[1]);
    });
    expect({ native, newer }).toEqual({ native, newer: [] });
    const libraries = [...run('objdump', ['-p', native]).matchAll(/NEEDED +(\S+)/g)].map(
      ([, one]) => one,
    );
    const known = /^(lib(c|m|pthread|dl|rt)\.so\.\d|libcuda\.so\.1|ld-linux-x86-64\.so\.2)$/;
    expect({ native, others: libraries.filter((one) => !known.test(one ?? '')) }).toEqual({
      native,
      others: [],
    });
  }
});

test(
  'the .deb: installed in an empty root it works, purged it leaves nothing',
  () => {
    const deb = run('tui/install/deb.sh', [join(folder, 'deb')]).trim();
    expect(run('dpkg-deb', ['--field', deb, 'Depends'])).toContain('nodejs (>= 20.19)');
    const listed = run('dpkg-deb', ['--contents', deb]);
    for (const wanted of [
      './usr/bin/greenboost',
      './usr/lib/systemd/user/greenboost-feed.service',
      './usr/lib/systemd/system/greenboost-feed.service',
      './usr/share/man/man1/greenboost-run.1.gz',
      './usr/share/bash-completion/completions/greenboost',
      './usr/share/zsh/vendor-completions/_greenboost',
      './usr/share/doc/greenboost/copyright',
      './etc/apparmor.d/greenboost-feed',
    ])
      expect(listed).toContain(wanted);
    expect(listed).not.toMatch(/\.ts$|\.map$|\/test\/commands/m);
    expect(listed.split('\n').filter((line) => line && !line.includes(' root/root '))).toEqual([]);

    const root = join(folder, 'root');
    mkdirSync(join(root, 'var/lib/dpkg/info'), { recursive: true });
    mkdirSync(join(root, 'var/lib/dpkg/updates'));
    for (const file of ['status', 'available']) writeFileSync(join(root, 'var/lib/dpkg', file), '');
    const own = (path: string): boolean => !path.startsWith('/var/');
    const before = pathsOf(root).filter(own);
    const dpkg = (...args: string[]): string =>
      run('dpkg', [
        `--root=${root}`,
        `--log=${join(folder, 'dpkg.log')}`,
        '--force-not-root',
        '--force-script-chrootless',
        '--force-depends',
        ...args,
      ]);
    dpkg('--install', deb);
    expect(dpkg('--status', 'greenboost')).toContain('Status: install ok installed');
    expect(run('dpkg', [`--root=${root}`, '--verify', 'greenboost'])).toBe('');
    works(join(root, 'usr/bin/greenboost'));
    dpkg('--purge', 'greenboost');
    // The user that systemd-sysusers made belongs to the machine from then on.
    const after = pathsOf(root).filter((path) => own(path) && !path.startsWith('/etc/'));
    expect(after).toEqual(before);
    expect(pathsOf(root).filter((path) => path.includes('greenboost'))).toEqual([]);
  },
  LONG_MS,
);

test(
  'the npm package: installed in an empty prefix, without a network, it works; uninstalled it leaves nothing',
  () => {
    const archive = run('tui/install/npm.sh', [join(folder, 'npm')]).trim();
    const prefix = join(folder, 'prefix');
    mkdirSync(prefix);
    const npm = (...args: string[]): string =>
      run('npm', [...args, '--global', '--prefix', prefix, '--offline', '--no-audit', '--no-fund']);
    npm('install', archive);
    works(join(prefix, 'bin/greenboost'));
    npm('uninstall', 'greenboost');
    expect(pathsOf(prefix).filter((path) => path.includes('greenboost'))).toEqual([]);
    expect(pathsOf(prefix).filter((path) => !path.endsWith('/'))).toEqual([]);
  },
  LONG_MS,
);
