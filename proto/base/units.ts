// SPDX-License-Identifier: Apache-2.0
// Byte sizes and times as people write and read them. Sizes are powers of 1024; rates are shown in
// GB/s (10^9).
import { GbError } from './errors.js';

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;
export const TIB = 1024 * GIB;

const FACTORS: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  k: KIB,
  kib: KIB,
  kb: 1e3,
  m: MIB,
  mib: MIB,
  mb: 1e6,
  g: GIB,
  gib: GIB,
  gb: 1e9,
  t: TIB,
  tib: TIB,
  tb: 1e12,
};

/** Parses `16GiB`, `512 MiB`, `1.5g`, `4096`. Returns whole bytes.
 *  @throws GbError INVALID_ARGUMENT on anything else, on a negative size and above 2^53. */
export function parseBytes(text: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*$/.exec(text);
  const factor = match ? FACTORS[(match[2] ?? '').toLowerCase()] : undefined;
  const value = match && factor !== undefined ? Math.floor(Number(match[1]) * factor) : Number.NaN;
  if (!Number.isSafeInteger(value)) {
    throw new GbError(
      'INVALID_ARGUMENT',
      `"${text}" is not a size; write for example 512MiB or 16GiB`,
    );
  }
  return value;
}

/** `1536 MiB` style, three significant digits: 0 B, 980 KiB, 1.50 GiB. */
export function formatBytes(bytes: number | bigint): string {
  const value = Number(bytes);
  for (const [unit, factor] of [
    ['TiB', TIB],
    ['GiB', GIB],
    ['MiB', MIB],
    ['KiB', KIB],
  ] as const) {
    if (value >= factor) return `${significant(value / factor)} ${unit}`;
  }
  return `${value} B`;
}

/** `55.4 GB/s`; `-` when nothing was measured. */
export function formatRate(bytesPerSecond: number): string {
  if (!(bytesPerSecond > 0)) return '-';
  for (const [unit, factor] of [
    ['GB/s', 1e9],
    ['MB/s', 1e6],
    ['kB/s', 1e3],
  ] as const) {
    if (bytesPerSecond >= factor) return `${significant(bytesPerSecond / factor)} ${unit}`;
  }
  return `${Math.round(bytesPerSecond)} B/s`;
}

/** `0.5 us`, `212 us`, `1.9 ms`, `2.0 s`; `-` when nothing was measured. */
export function formatMicros(micros: number): string {
  if (!(micros > 0)) return '-';
  if (micros < 1000) return `${significant(micros)} us`;
  if (micros < 1e6) return `${significant(micros / 1000)} ms`;
  return `${significant(micros / 1e6)} s`;
}

/** `3s`, `41m`, `2h14m`, `3d04h`. */
export function formatAge(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds}s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}m`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours}h${String(minutes % 60).padStart(2, '0')}m`;
  return `${Math.floor(hours / 24)}d${String(hours % 24).padStart(2, '0')}h`;
}

function significant(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** A byte count from the wire as a number. @throws GbError PROTOCOL_VIOLATION above 2^53. */
export function bytesFromWire(value: bigint): number {
  if (value < 0n || value > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new GbError('PROTOCOL_VIOLATION', 'a byte count above 2^53');
  }
  return Number(value);
}
