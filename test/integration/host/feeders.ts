// SPDX-License-Identifier: Apache-2.0
// Real feeders for the agent's tests: in this process, or in one of their own that can be killed.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { startFeeder, type FeederOptions, type RunningFeeder } from '../../../feeder/main.js';
import { createLogger } from '../../../proto/base/log.js';
import { packageRoot } from '../../../proto/base/paths.js';
import { openFeederKeys } from '../../../security/key-file.js';
import { importKey } from '../../../security/keyring.js';
import type { PairingKey } from '../../../security/pairing.js';
import type { TestHost } from './harness.js';

const log = createLogger({ name: 'feeder', level: 'silent' });

/** The key of the feeder whose folder this is; made when it has none. */
export function feederKey(configDir: string): PairingKey {
  const key = openFeederKeys(configDir, log).current().keys[0];
  if (!key) throw new Error('the feeder has no key');
  return key;
}

export interface TestFeeder {
  readonly feederId: string;
  readonly address: string;
  readonly key: PairingKey;
  readonly feeder: RunningFeeder;
}

/** A feeder in this process that lends `ramBytes`; the host's keyring gets its key. Ownership: the
 *  caller stops it. */
export async function startTestFeeder(
  host: TestHost,
  name: string,
  ramBytes: number,
  port = 0,
  over: FeederOptions = {},
): Promise<TestFeeder> {
  const configDir = join(host.folder, name, 'greenboost');
  const feeder = await startFeeder(
    {
      ramBytes,
      port,
      bind: ['127.0.0.1'],
      name,
      gpu: 'none',
      ramReserveBytes: 0,
      configDir,
      stateDir: join(host.folder, name, 'state'),
      cacheDir: join(host.folder, name, 'cache'),
      controlSocket: false,
      ...over,
    },
    { log },
  );
  const key = feederKey(configDir);
  importKey(host.configDir, key);
  return { feederId: feeder.feederId, address: feeder.addresses[0] as string, key, feeder };
}

export const CLI = join(packageRoot(), 'build', 'js', 'tui', 'cli', 'main.js');

export interface FeederProcess {
  readonly child: ChildProcess;
  readonly feederId: string;
  readonly address: string;
}

/** A feeder in a process of its own. @throws when the package is not built. Ownership: the caller
 *  ends it. */
export async function spawnFeeder(
  host: TestHost,
  name: string,
  ram: string,
  port: number,
): Promise<FeederProcess> {
  if (!existsSync(CLI)) throw new Error('not built: run make first');
  const folder = join(host.folder, name);
  const key = feederKey(join(folder, 'greenboost'));
  importKey(host.configDir, key);
  const args = [
    'feed',
    'start',
    '--foreground',
    '--ram',
    ram,
    '--port',
    `${port}`,
    '--bind',
    '127.0.0.1',
    '--gpu',
    'none',
    '--name',
    name,
  ];
  const env = {
    ...process.env,
    XDG_CONFIG_HOME: folder,
    XDG_RUNTIME_DIR: join(folder, 'run'),
    XDG_STATE_HOME: join(folder, 'state'),
    XDG_CACHE_HOME: join(folder, 'cache'),
    GREENBOOST_RAM_RESERVE: '0',
    GREENBOOST_LOG: 'info',
  };
  const child = spawn(process.execPath, [CLI, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  child.stderr?.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const address = await new Promise<string>((resolve, reject) => {
    child.stdout?.on('data', (chunk: Buffer) => {
      output += chunk.toString();
      const match = /127\.0\.0\.1:\d+/.exec(output);
      if (match) resolve(match[0]);
    });
    child.once('exit', (code) => reject(new Error(`the feeder ended with ${code}: ${output}`)));
  });
  return { child, feederId: key.feederId, address };
}

/** Kills a process and waits until it is gone. */
export async function killHard(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGKILL');
  await gone;
}

/** Processes that `pid` has started. */
export function childrenOf(pid: number): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    .split(' ')
    .filter((word) => word !== '')
    .map(Number);
}
