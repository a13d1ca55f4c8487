// SPDX-License-Identifier: Apache-2.0
// Whether lent RAM can be kept from being swapped out, in one sentence for people.
import { readFileSync } from 'node:fs';
import { formatBytes } from '../proto/base/units.js';

const CAP_IPC_LOCK = 14n;

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** Bytes one process may lock; Infinity with the capability or without a limit. */
export function memlockBytes(
  limits = readText('/proc/self/limits'),
  status = readText('/proc/self/status'),
): number {
  const capabilities = BigInt(`0x${/^CapEff:\s+([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`);
  if ((capabilities >> CAP_IPC_LOCK) & 1n) return Number.POSITIVE_INFINITY;
  const hard = /^Max locked memory\s+\S+\s+(\S+)/m.exec(limits)?.[1];
  return hard === undefined || hard === 'unlimited' ? Number.POSITIVE_INFINITY : Number(hard);
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
