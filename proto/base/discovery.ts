// SPDX-License-Identifier: Apache-2.0
// What a feeder tells everybody on its LAN by mDNS (RFC 6762) as a service (RFC 6763): its port and the fingerprint of
// its key, which say nothing of what it lends or to whom. Both are claims: a connection proves the key.

export const MDNS_PORT = 5353;
/** DNS-SD type of feeders. */
export const SERVICE_TYPE = '_greenboost._tcp.local';
/** How long others may believe an answer. */
export const SERVICE_TTL_SECONDS = 120;

const TXT_KEY = 'key=';
const FINGERPRINT = /^[0-9a-f]{4}(?:-[0-9a-f]{4}){1,15}$/;

/** The service's TXT record. */
export function serviceTxt(keyFingerprint: string): string {
  return `${TXT_KEY}${keyFingerprint}`;
}

/** The fingerprint in a TXT record of anybody's; undefined where there is none. */
export function fingerprintOfTxt(strings: readonly string[]): string | undefined {
  const found = strings.find((text) => text.startsWith(TXT_KEY))?.slice(TXT_KEY.length);
  return found !== undefined && FINGERPRINT.test(found) ? found : undefined;
}
