// SPDX-License-Identifier: Apache-2.0
import type { Bind } from '../security/bind.js';

/** `192.168.1.7:9740`, `[fe80::1%eth0]:9740`. */
export function formatEndpoint({ host, port }: Bind): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
