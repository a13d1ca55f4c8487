// SPDX-License-Identifier: Apache-2.0
// The operating system's side: limits, memory groups, disks, and other libraries that get into every program.
import { existsSync, readFileSync, statfsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { memlockBytes } from '../../driver/os/memlock.js';
import { formatBytes } from '../../proto/base/units.js';
import { finder, type Finding } from './finding.js';

type Env = Readonly<Record<string, string | undefined>>;

/** Below this much locked memory RAM of CPUs-only machines may be swapped out. */
const MEMLOCK_BYTES_MIN = 1 << 30;
const DISK_BYTES_MIN = 256 << 20;
/** More of a library is not looked through. */
const LIBRARY_BYTES_MAX = 64 << 20;

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** RLIMIT_MEMLOCK of this user. */
export function checkMemlock(bytes = memlockBytes()): Finding[] {
  const find = finder('memlock', 'migration');
  if (bytes === Number.POSITIVE_INFINITY) return [find.ok('memory may be locked without a limit')];
  if (bytes >= MEMLOCK_BYTES_MIN) return [find.ok(`${formatBytes(bytes)} may be locked`)];
  return [
    find.warning(
      `only ${formatBytes(bytes)} of memory may be locked: RAM that is lent may be swapped out`,
      'raise it: LimitMEMLOCK=infinity (systemd), or "* - memlock unlimited" in /etc/security/limits.conf',
    ),
  ];
}

/** The memory limit of the control group this process is in (cgroup v2), against the machine's memory. */
export function checkMemoryGroup(
  root = '/sys/fs/cgroup',
  own = read('/proc/self/cgroup'),
  meminfo = read('/proc/meminfo'),
): Finding[] {
  const find = finder('cgroup', 'migration');
  const group = /^0::(.*)$/m.exec(own)?.[1];
  if (group === undefined) return [find.skipped('no unified control groups here')];
  const total = Number(/^MemTotal:\s+(\d+) kB$/m.exec(meminfo)?.[1] ?? 0) * 1024;
  let least = Number.POSITIVE_INFINITY;
  for (let path = group; ; path = dirname(path)) {
    const text = read(join(root, path, 'memory.max')).trim();
    if (/^\d+$/.test(text)) least = Math.min(least, Number(text));
    if (path === '/' || path === '.') break;
  }
  if (least >= total) return [find.ok('no control group limits the memory')];
  return [
    find.warning(
      `this control group may use ${formatBytes(least)} of ${formatBytes(total)}: more RAM than that ends programs`,
      'raise MemoryMax= of the unit or the container (--memory), or limit the tier: greenboost agent --ram',
    ),
  ];
}

/** Room where state and caches are written. `folders`: existing or not. */
export function checkDisks(folders: readonly string[]): Finding[] {
  const find = finder('disk', 'migration');
  return folders.map((folder) => {
    let there = folder;
    while (!existsSync(there) && dirname(there) !== there) there = dirname(there);
    const { bavail, bsize } = statfsSync(there);
    const free = bavail * bsize;
    return free >= DISK_BYTES_MIN
      ? find.ok(`${formatBytes(free)} free for ${folder}`)
      : find.failure(
          `${formatBytes(free)} free for ${folder}: state and logs cannot be written`,
          'make room on that disk, or point XDG_STATE_HOME and XDG_CACHE_HOME elsewhere',
        );
  });
}

/** True when the library defines, or asks for, what the shim intercepts. */
function touchesCuda(path: string): boolean {
  try {
    return readFileSync(path).subarray(0, LIBRARY_BYTES_MAX).includes('cuLaunchKernel\0');
  } catch {
    return false;
  }
}

/** Other libraries that are preloaded into every program and intercept CUDA too. */
export function checkInterposers(env: Env, system = read('/etc/ld.so.preload')): Finding[] {
  const find = finder('interposer', 'shim');
  const words = `${env['LD_PRELOAD'] ?? ''} ${system}`.split(/[\s:]+/).filter(Boolean);
  const others = words.filter(
    (path) => !path.endsWith('libgreenboost_cuda.so') && touchesCuda(path),
  );
  if (others.length === 0) return [find.ok('no other library intercepts CUDA')];
  return others.map((path) =>
    find.failure(
      `${path} is preloaded and intercepts CUDA, too: two answers to one question`,
      'take it out of LD_PRELOAD or /etc/ld.so.preload for programs under greenboost',
    ),
  );
}
