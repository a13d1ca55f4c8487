// SPDX-License-Identifier: Apache-2.0
// Figures of the full-screen view: GiB and GiB/s throughout, never cut, `-` for unknown.
import { formatAge, GIB } from '../../proto/base/units.js';

/** GiB with one decimal, `62.2`; two below 1 GiB so that small pools are not all zero. */
export function gib(bytes: number): string {
  const value = bytes / GIB;
  if (bytes === 0) return '0.0';
  return value < 1 ? value.toFixed(2) : value < 1000 ? value.toFixed(1) : value.toFixed(0);
}

/** GiB/s, `1.63`, `935`; `-` when unknown. */
export function gibPerSecond(rate: number | null | undefined): string {
  if (rate === null || rate === undefined) return '-';
  const value = rate / GIB;
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** `0.5us`, `212us`, `1.9ms`; `-` when unknown. */
export function shortMicros(micros: number | null): string {
  if (micros === null) return '-';
  if (micros < 10) return `${micros.toFixed(1)}us`;
  if (micros < 1_000) return `${micros.toFixed(0)}us`;
  if (micros < 1_000_000) return `${(micros / 1_000).toFixed(micros < 10_000 ? 2 : 1)}ms`;
  return `${(micros / 1e6).toFixed(1)}s`;
}

/** `0.3s`, `41s`, `9m`, `2h14m`. */
export function shortAge(ms: number): string {
  const bounded = Math.max(0, ms);
  if (bounded < 10_000) return `${(bounded / 1000).toFixed(1)}s`;
  return formatAge(bounded);
}

export function percent(share: number): string {
  return `${Math.round(share * 100)}%`;
}
