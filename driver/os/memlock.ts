// SPDX-License-Identifier: Apache-2.0
// How much memory this user may lock.
import { readFileSync } from 'node:fs';

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
