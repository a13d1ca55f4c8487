// SPDX-License-Identifier: Apache-2.0
// Where things lie: XDG folders for configuration, state and sockets, and the folder of built
// natives.
import { chmodSync, lstatSync, mkdirSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { GbError } from './errors.js';

/** Not by os.userInfo(): in containers a user often has a number and no name, and that throws. */
function ownUid(): number | undefined {
  return process.geteuid?.();
}

type Env = Readonly<Record<string, string | undefined>>;

export function configDir(env: Env = process.env): string {
  return join(env['XDG_CONFIG_HOME'] || join(homedir(), '.config'), 'greenboost');
}

export function stateDir(env: Env = process.env): string {
  return join(env['XDG_STATE_HOME'] || join(homedir(), '.local', 'state'), 'greenboost');
}

/** What may be lost at any time. */
export function cacheDir(env: Env = process.env): string {
  return join(env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'greenboost');
}

/** Sockets and short-lived files. Without XDG_RUNTIME_DIR: a folder of the user's own below the
 *  system's tmp. */
export function runtimeDir(env: Env = process.env): string {
  const base = env['XDG_RUNTIME_DIR'];
  return base ? join(base, 'greenboost') : join(tmpdir(), `greenboost-${ownUid()}`);
}

export function shimSocketPath(env: Env = process.env): string {
  return join(runtimeDir(env), 'shim.sock');
}

export function agentSocketPath(env: Env = process.env): string {
  return join(runtimeDir(env), 'agent.sock');
}

export function feedSocketPath(env: Env = process.env): string {
  return join(runtimeDir(env), 'feed.sock');
}

/** Makes `path` a folder that only this user can enter. @throws GbError PERMISSION_DENIED if it is
 *  somebody else's or a link. */
export function ensurePrivateDir(path: string): void {
  mkdirSync(path, { recursive: true, mode: 0o700 });
  const stat = lstatSync(path);
  if (!stat.isDirectory() || stat.uid !== ownUid()) {
    throw new GbError(
      'PERMISSION_DENIED',
      `${path} must be a folder of your own; remove it and try again`,
    );
  }
  if ((stat.mode & 0o077) !== 0) chmodSync(path, 0o700);
}

/** The package's root: where package.json lies, for a checkout and for an installed package alike. */
export function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'package.json'))) {
    const parent = dirname(folder);
    if (parent === folder) throw new GbError('NOT_FOUND', 'package.json of greenboost not found');
    folder = parent;
  }
  return folder;
}

/** Built natives: build/lib/libgreenboost_cuda.so, build/lib/sim/libcuda.so.1, build/bin/gb-
 *  executor, … */
export function nativePath(...parts: string[]): string {
  const path = join(packageRoot(), 'build', ...parts);
  if (!existsSync(path)) {
    throw new GbError('NOT_FOUND', `${parts.join('/')} is not built; run "make" in the checkout`);
  }
  return path;
}
