// SPDX-License-Identifier: Apache-2.0
// Whether lent RAM can be kept from being swapped out, in one sentence for people.
import { readFileSync } from 'node:fs';
import { memlockBytes } from '../driver/os/memlock.js';
import { formatBytes } from '../proto/base/units.js';

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** Empty when everything lent can be locked, or when the driver pins it. */
export function lockNote(
  ramBytes: number,
  limitBytes = memlockBytes(),
  meminfo = readText('/proc/meminfo'),
): string {
  if (ramBytes === 0 || limitBytes >= ramBytes) return '';
  if (/^SwapTotal:\s+0 kB$/m.test(meminfo)) return '';
  return (
    `only ${formatBytes(limitBytes)} of RAM per lease can be locked, the rest may be swapped out; ` +
    'raise the limit with LimitMEMLOCK=infinity (systemd) or memlock in /etc/security/limits.conf'
  );
}
