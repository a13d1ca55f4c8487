// SPDX-License-Identifier: Apache-2.0
// Addresses of feeders as people write them and as the channel wants them.
import { isIP } from 'node:net';
import { GbError } from '../../proto/base/errors.js';
import { DEFAULT_PORT } from '../../proto/base/limits.js';

/** True when `text` means `address`, which is normalized. */
export function sameAddress(address: string, text: string): boolean {
  try {
    return address === normalizeAddress(text);
  } catch {
    return false;
  }
}

/** `host`, `host:port`, `[v6]:port` or a bare IPv6 address as `host:port`. @throws GbError
 *  INVALID_ARGUMENT. */
export function normalizeAddress(text: string): string {
  const trimmed = text.trim();
  if (isIP(trimmed.split('%')[0] as string) === 6) return `[${trimmed}]:${DEFAULT_PORT}`;
  const match = /^(\[[0-9a-fA-F:.%a-z0-9]+\]|[A-Za-z0-9._-]{1,253})(?::(\d{1,5}))?$/.exec(trimmed);
  const port = match?.[2] === undefined ? DEFAULT_PORT : Number(match[2]);
  if (!match || port < 1 || port > 65535) {
    throw new GbError(
      'INVALID_ARGUMENT',
      `"${text.slice(0, 80)}" is not an address; write host or host:port`,
    );
  }
  return `${match[1]}:${port}`;
}
