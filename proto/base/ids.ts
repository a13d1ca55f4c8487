// SPDX-License-Identifier: Apache-2.0
// Branded identifiers: a letter, a dash, 16 lower-case hex digits (64 random or derived bits).
import { randomBytes } from 'node:crypto';
import { GbError } from './errors.js';

declare const brand: unique symbol;
type Id<Name extends string> = string & { readonly [brand]: Name };

export type FeederId = Id<'feeder'>; // F-…
export type HostId = Id<'host'>; // H-…
export type LeaseId = Id<'lease'>; // L-…
export type SessionId = Id<'session'>; // S-…
export type AttachmentId = Id<'attachment'>; // 32 hex digits: 128 random bits chosen by the shim

const PREFIXES = { feeder: 'F', host: 'H', lease: 'L', session: 'S' } as const;
type PrefixedName = keyof typeof PREFIXES;

/** A new random id. */
export function createId<Name extends PrefixedName>(name: Name): Id<Name> {
  return idFromBytes(name, randomBytes(8));
}

/** An id from 8 bytes derived elsewhere (HKDF, TLS exporter). */
export function idFromBytes<Name extends PrefixedName>(name: Name, bytes: Uint8Array): Id<Name> {
  if (bytes.length !== 8) throw new RangeError('an id has 8 bytes');
  return `${PREFIXES[name]}-${Buffer.from(bytes).toString('hex')}` as Id<Name>;
}

/** Checks the form only. @throws GbError INVALID_ARGUMENT. */
export function parseId<Name extends PrefixedName>(name: Name, text: string): Id<Name> {
  if (!new RegExp(`^${PREFIXES[name]}-[0-9a-f]{16}$`).test(text)) {
    throw new GbError('INVALID_ARGUMENT', `"${text.slice(0, 40)}" is not a ${name} id`);
  }
  return text as Id<Name>;
}

/** Checks the form only. @throws GbError INVALID_ARGUMENT. */
export function parseAttachmentId(text: string): AttachmentId {
  if (!/^[0-9a-f]{32}$/.test(text)) {
    throw new GbError('INVALID_ARGUMENT', `"${text.slice(0, 40)}" is not an attachment id`);
  }
  return text as AttachmentId;
}
