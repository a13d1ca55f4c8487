// SPDX-License-Identifier: Apache-2.0
// The packages: what their natives need of the C library, what they hold, and that what they hold runs by itself.
// Installed as Debian installs them, they are in clean-root.sh.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
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
    maxBuffer: 1 << 26,
  });
  if (done.status !== 0)
    throw new Error(
      `${command} ${args.join(' ')} ended with ${done.status}: ${done.stderr}${done.stdout}`,
    );
  return done.stdout;
}

/** Every file below `root`. */
function filesBelow(root: string): string[] {
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** The command of a package really works: natives are loaded, a program runs on the simulated GPU. `home`: where
 *  the package's own tree lies. */
function works(command: string, home: string): void {
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
  const size = ['--bytes', '96MiB', '--buffer-bytes', '8MiB', '--rounds', '1', '--json'];
  const program = [join(home, 'build/bin/gb_workset'), ...size];
  const said = run(command, ['run', '--gpu', 'sim', '--', ...program], env);
  run(command, ['agent', 'stop', '--force'], env);
  expect(JSON.parse(said.trim().split('\n').at(-1) ?? '')).toMatchObject({ mismatches: 0 });
}

describe('natives', () => {
  const PROGRAMS = ['gb-executor', 'gb-probe', 'gb_workset'];
  const natives = (): string[] =>
    filesBelow(join(ROOT, 'build/portable'))
      .filter((path) => /portable\/(lib|lib\/sim|bin)\/[^/]+$/.test(path))
      .map((path) => realpathSync(path));

  test('need nothing newer than glibc 2.31, and no library but its own', () => {
    const paths = [...new Set(natives())];
    expect(paths.length).toBe(8);
    for (const native of paths) {
      const wanted = run('objdump', ['-T', native])
        .split('\n')
        .filter((line) => line.includes('*UND*'));
      expect(wanted.length).toBeGreaterThan(2);
      const newer = wanted.filter((line) => {
        const [, major, minor] = /GLIBC_(\d+)\.(\d+)/.exec(line) ?? [];
        return Number(major) > GLIBC[0] || Number(minor) > GLIBC[1];
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

  // driver/portable: with the start of old glibcs nobody runs them. The second of gb-executor is the compiler's look at
  // the CPU, which driver/lane/crypt_ipsec.c asks for itself.
  test('programs have no constructors but those of the compiler', () => {
    const counts = PROGRAMS.map((name) => {
      const sections = run('objdump', ['-h', join(ROOT, 'build/portable/bin', name)]);
      return [name, parseInt(/ \.init_array +([0-9a-f]+)/.exec(sections)?.[1] ?? '0', 16) / 8];
    });
    expect(Object.fromEntries(counts)).toEqual({ 'gb-executor': 2, 'gb-probe': 1, gb_workset: 1 });
  });
});

/** Of a package's list of files: what people and machines look for is there, and nothing of the checkout's own. */
function holdsWhatRuns(paths: readonly string[], home: string): void {
  for (const wanted of [
    'build/js/tui/cli/main.js',
    'build/lib/libgreenboost_cuda.so',
    'build/bin/gb-executor',
    'package.json',
    'README.md',
    'shim/python/greenboost.py',
    'shim/include/greenboost.h',
    'node_modules/koffi/package.json',
    'node_modules/@koromix/koffi-linux-x64/package.json',
  ])
    expect(paths).toContain(home + wanted);
  const own = paths.filter((path) => !path.includes('/node_modules/'));
  expect(own.filter((path) => /\.(ts|c|h|map|o)$|(^|\/)test\//.test(path))).toEqual([
    `${home}shim/include/greenboost.h`,
  ]);
  expect(paths.filter((path) => /node_modules\/(typescript|jest|eslint)\//.test(path))).toEqual([]);
}

test(
  'the .deb: what it needs and holds, and that it runs where it is unpacked',
  () => {
    const deb = resolve(ROOT, run('tui/install/deb.sh', [join(folder, 'deb')]).trim());
    expect(run('dpkg-deb', ['--field', deb, 'Depends'])).toContain('nodejs (>= 20.19)');
    const rows = run('dpkg-deb', ['--contents', deb]).split('\n').filter(Boolean);
    expect(rows.filter((row) => !row.includes(' root/root '))).toEqual([]);
    const paths = rows.map((row) => row.split(/ +/)[5] ?? '');
    holdsWhatRuns(paths, './usr/lib/greenboost/');
    for (const wanted of [
      './usr/bin/greenboost',
      './usr/lib/systemd/user/greenboost-feed.service',
      './usr/lib/systemd/user/greenboost-agent.service',
      './usr/lib/systemd/system/greenboost-feed.service',
      './usr/lib/sysusers.d/greenboost.conf',
      './usr/share/man/man1/greenboost-run.1.gz',
      './usr/share/bash-completion/completions/greenboost',
      './usr/share/zsh/vendor-completions/_greenboost',
      './usr/share/fish/vendor_completions.d/greenboost.fish',
      './usr/share/doc/greenboost/copyright',
      './etc/apparmor.d/greenboost-feed',
      './etc/apparmor.d/greenboost-agent',
    ])
      expect(paths).toContain(wanted);
    const root = join(folder, 'unpacked');
    run('dpkg-deb', ['--extract', deb, root]);
    const texts = filesBelow(root).filter((path) => !/node_modules|\.gz$/.test(path));
    expect(texts.filter((path) => readFileSync(path).includes(ROOT))).toEqual([]);
    works(join(root, 'usr/bin/greenboost'), join(root, 'usr/lib/greenboost'));
  },
  LONG_MS,
);

test(
  'the npm package: installed in an empty prefix, without a network, it works; uninstalled it leaves nothing',
  () => {
    const archive = resolve(ROOT, run('tui/install/npm.sh', [join(folder, 'npm')]).trim());
    const paths = run('tar', ['-tzf', archive]).split('\n');
    holdsWhatRuns(paths, 'package/');
    expect(paths).toContain('package/LICENSE');
    expect(paths).toContain('package/docs/operating.md');
    const prefix = join(folder, 'prefix');
    mkdirSync(prefix);
    const npm = (...args: string[]): string =>
      run('npm', [...args, '--global', '--prefix', prefix, '--offline', '--no-audit', '--no-fund']);
    npm('install', archive);
    works(join(prefix, 'bin/greenboost'), join(prefix, 'lib/node_modules/greenboost'));
    npm('uninstall', 'greenboost');
    expect(filesBelow(prefix)).toEqual([]);
  },
  LONG_MS,
);
