// SPDX-License-Identifier: Apache-2.0
// The pairing key of a feeder and the string people copy: `gb1-` and nine groups of eight base32 characters holding
// flags, feeder id, secret and checksum (45 bytes). Must not know files, sockets or TLS.
import { randomBytes } from 'node:crypto';
import { inspect } from 'node:util';
import { sha256 } from '@noble/hashes/sha2.js';
import { GbError } from '../proto/base/errors.js';
import { idFromBytes, type FeederId } from '../proto/base/ids.js';
import { decodeBase32, encodeBase32 } from './base32.js';
import { deriveFingerprint } from './derive.js';

/** One secret of one feeder. The secret leaves neither through JSON nor a log nor inspect; for the same reason a copy
 *  by spreading has none, and whoever uses it fails: make copies with createPairingKey. */
export interface PairingKey {
  readonly feederId: FeederId;
  /** 32 random bytes. Ownership: shared, nobody changes it. */
  readonly secret: Uint8Array;
  /** When it was made, or imported; 0 when unknown (the string does not carry it). */
  readonly createdUnixMs: number;
  /** True when several feeders hold it: any of them can then pass for any other (docs/security.md). */
  readonly shared: boolean;
}

export interface PairingKeyOptions {
  readonly createdUnixMs?: number;
  readonly shared?: boolean;
  /** For tests and for key files; default: 32 bytes from the system's generator. */
  readonly secret?: Uint8Array;
}

const PREFIX = 'GB1';
const FLAG_SHARED = 0x01;
const ID_OFFSET = 1; // flags
const SECRET_OFFSET = 9; // flags + feeder id
const CHECKSUM_OFFSET = 41; // flags + feeder id + secret
const PACKED_BYTES = 45; // + 4 bytes of checksum
const SECRET_BYTES = 32;
const TEXT_CHARACTERS = 72; // 45 bytes in groups of five bits
const GROUP_CHARACTERS = 8;
/** Longer input is refused before it is looked at; a well-spaced key has about 150 characters. */
const INPUT_CHARACTERS_MAX = 512;
const CHECKSUM_CONTEXT = new TextEncoder().encode('greenboost pairing string 1');

/** The secret is a hidden property: JSON, log serializers and copies by spreading do not see it, inspect shows this. */
function makeKey(
  feederId: FeederId,
  secret: Uint8Array,
  createdUnixMs: number,
  shared: boolean,
): PairingKey {
  const key = { feederId, createdUnixMs, shared };
  Object.defineProperty(key, 'secret', { value: secret });
  Object.defineProperty(key, inspect.custom, { value: () => `PairingKey(${feederId})` });
  return Object.freeze(key) as PairingKey;
}

/** A new key, or one from a known secret. @throws GbError INVALID_ARGUMENT when `secret` is not 32 bytes. */
export function createPairingKey(feederId: FeederId, options: PairingKeyOptions = {}): PairingKey {
  const secret = options.secret
    ? Uint8Array.from(options.secret)
    : Uint8Array.from(randomBytes(SECRET_BYTES));
  if (secret.length !== SECRET_BYTES) {
    throw new GbError(
      'INVALID_ARGUMENT',
      `a pairing secret has ${SECRET_BYTES} bytes, not ${secret.length}`,
    );
  }
  return makeKey(feederId, secret, options.createdUnixMs ?? 0, options.shared ?? false);
}

/** The string to show to the user and to no log. */
export function formatPairingKey(key: PairingKey): string {
  const packed = new Uint8Array(PACKED_BYTES);
  packed[0] = key.shared ? FLAG_SHARED : 0;
  packed.set(Buffer.from(key.feederId.slice(2), 'hex'), ID_OFFSET);
  packed.set(key.secret, SECRET_OFFSET);
  packed.set(checksumOf(packed), CHECKSUM_OFFSET);
  const groups = encodeBase32(packed).match(new RegExp(`.{${GROUP_CHARACTERS}}`, 'g')) as string[];
  return `gb1-${groups.join('-')}`;
}

/** Reads what formatPairingKey wrote; case, spaces, line ends and dashes do not matter. `createdUnixMs` dates the key.
 *  @throws GbError INVALID_ARGUMENT saying what is wrong; the message never holds any part of the input. */
export function parsePairingKey(text: string, createdUnixMs = 0): PairingKey {
  if (text.length > INPUT_CHARACTERS_MAX) throw invalid('is far too long for a pairing key');
  const compact = text.replace(/[\s-]/g, '').toUpperCase();
  if (compact === '') throw invalid('is empty');
  if (!compact.startsWith('GB')) throw invalid('does not begin with "gb1-"');
  if (!compact.startsWith(PREFIX))
    throw invalid('has a version this greenboost does not know; update it');
  const body = compact.slice(PREFIX.length);
  if (body.length !== TEXT_CHARACTERS) {
    const difference = body.length - TEXT_CHARACTERS;
    const what = difference > 0 ? `${difference} too many` : `${-difference} missing`;
    throw invalid(`has the wrong length (${what}); copy all of it`);
  }
  const packed = decodeBase32(body);
  if (!packed) throw invalid('holds a character that no pairing key has');
  const expected = checksumOf(packed);
  if (!expected.every((byte, index) => packed[CHECKSUM_OFFSET + index] === byte)) {
    throw invalid('has a wrong checksum: a character is wrong or swapped; copy it again');
  }
  const flags = packed[0] as number;
  if ((flags & ~FLAG_SHARED) !== 0)
    throw invalid('uses a feature this greenboost does not know; update it');
  const feederId = idFromBytes('feeder', packed.subarray(ID_OFFSET, SECRET_OFFSET));
  const secret = Uint8Array.from(packed.subarray(SECRET_OFFSET, CHECKSUM_OFFSET));
  return makeKey(feederId, secret, createdUnixMs, (flags & FLAG_SHARED) !== 0);
}

/** A public name for the key: the same on every machine that holds it, useless to whoever does not. */
export function keyFingerprint(key: PairingKey): string {
  return deriveFingerprint(key);
}

/** True when both are the same secret for the same feeder. */
export function samePairingKey(a: PairingKey, b: PairingKey): boolean {
  return a.feederId === b.feederId && Buffer.from(a.secret).equals(Buffer.from(b.secret));
}

function checksumOf(packed: Uint8Array): Uint8Array {
  const content = Buffer.concat([CHECKSUM_CONTEXT, packed.subarray(0, CHECKSUM_OFFSET)]);
  return sha256(content).subarray(0, PACKED_BYTES - CHECKSUM_OFFSET);
}

function invalid(what: string): GbError {
  return new GbError('INVALID_ARGUMENT', `the pairing key ${what}`);
}
