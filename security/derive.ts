// SPDX-License-Identifier: Apache-2.0
// Every key and public name that comes from a pairing key or from a session, by HKDF-SHA256 (RFC
// 5869). Nothing uses the pairing secret itself. Each purpose has a label of its own, and the
// label, the feeder id and the protocol are bound into the derivation the way RFC 9258 imports a
// PSK, so that no two purposes, feeders or protocol versions share a key.
import { expand, extract } from '@noble/hashes/hkdf.js';
import { sha256 } from '@noble/hashes/sha2.js';
import { idFromBytes, type SessionId } from '../proto/base/ids.js';
import type { PairingKey } from './pairing.js';

const SALT = utf8('greenboost pairing key, version 1');

/** What a derived value is for. The role is part of the TLS labels: this PSK authenticates a host
 *  that connects to a feeder and nothing else, so a feeder can never be made to talk to itself (RFC
 *  9257, section 4.1). */
const LABELS = {
  tlsPsk: ['tls psk, host connects to feeder', 'TLS 1.3, SHA-256'],
  tlsIdentity: ['tls psk identity, host connects to feeder', 'TLS 1.3, SHA-256'],
  fingerprint: ['fingerprint', ''],
  blockCache: ['block cache', ''],
} as const;

/** Labels for the TLS exporter (RFC 8446, section 7.5). */
export const EXPORTER_LABELS = {
  sessionId: 'EXPORTER-greenboost-1-session-id',
  lane: 'EXPORTER-greenboost-1-lane',
} as const;

/** Keying material of one TLS session: `length` bytes, different for each label, equal on both
 *  sides. */
export type Exporter = (label: string, length: number) => Uint8Array;

/** What TLS needs: `psk` is secret (32 bytes), `identity` is public and travels in clear in the
 *  first message. */
export interface TlsPsk {
  readonly identity: string;
  readonly psk: Uint8Array;
}

/** Bytes in the identity's hash; with its prefix the identity has 36 characters. */
const IDENTITY_BYTES = 16;
const FINGERPRINT_BYTES = 8;
const PSK_BYTES = 32;
const BLOCK_CACHE_KEY_BYTES = 32;

/** Tickets of lanes (docs/adr/0011-lanes.md). */
const LANE_SALT = utf8('greenboost lane, version 1');
const LANE_LABEL = 'lane ticket';
const LANE_EXPORTER_BYTES = 32;
const LANE_SECRET_BYTES = 32;
export const LANE_TICKET_ID_BYTES = 16;

/** The external PSK of `key` and the identity that names it. The identity tells an observer that
 *  two connections use the same key; it does not tell which feeder or anything about the secret. */
export function deriveTlsPsk(key: PairingKey): TlsPsk {
  const identity = derive(key, LABELS.tlsIdentity, IDENTITY_BYTES);
  return {
    identity: `gb1.${Buffer.from(identity).toString('hex')}`,
    psk: derive(key, LABELS.tlsPsk, PSK_BYTES),
  };
}

/** A public name for the key, to compare by eye: four groups of four hex digits. */
export function deriveFingerprint(key: PairingKey): string {
  const text = Buffer.from(derive(key, LABELS.fingerprint, FINGERPRINT_BYTES)).toString('hex');
  return (text.match(/.{4}/g) as string[]).join('-');
}

/** The id both ends give a session, without sending it. */
export function deriveSessionId(exporter: Exporter): SessionId {
  return idFromBytes('session', exporter(EXPORTER_LABELS.sessionId, 8));
}

/** The secret of a lane's ticket, the same on both sides of a session and never sent. Ownership:
 *  the caller wipes it. pre: `ticketId` has 16 bytes. @throws when the session has ended. */
export function deriveLaneSecret(exporter: Exporter, ticketId: Uint8Array): Uint8Array {
  if (ticketId.length !== LANE_TICKET_ID_BYTES)
    throw new RangeError(`a ticket id has ${LANE_TICKET_ID_BYTES} bytes`);
  const exported = exporter(EXPORTER_LABELS.lane, LANE_EXPORTER_BYTES);
  const prk = extract(sha256, exported, LANE_SALT);
  const secret = expand(sha256, prk, info(LANE_LABEL, ticketId), LANE_SECRET_BYTES);
  exported.fill(0);
  prk.fill(0);
  return secret;
}

/** What names and seals the blocks that a feeder keeps on disk: 32 bytes. Another key, another
 *  cache. */
export function deriveBlockCacheKey(key: PairingKey): Uint8Array {
  return derive(key, LABELS.blockCache, BLOCK_CACHE_KEY_BYTES);
}

function derive(key: PairingKey, label: readonly [string, string], length: number): Uint8Array {
  const prk = extract(sha256, key.secret, SALT);
  const okm = expand(sha256, prk, info(label[0], key.feederId, label[1]), length);
  prk.fill(0); // Best effort: the collector may have copied it.
  return okm;
}

/** Each field with its length in front, so that no two lists of fields give the same bytes. */
function info(...fields: readonly (string | Uint8Array)[]): Uint8Array {
  const parts = fields.flatMap((field) => {
    const bytes = typeof field === 'string' ? utf8(field) : field;
    return [Uint8Array.of(bytes.length >> 8, bytes.length & 0xff), bytes];
  });
  return Buffer.concat(parts);
}

function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
