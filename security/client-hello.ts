// SPDX-License-Identifier: Apache-2.0
// Looks at the first message of a connection before OpenSSL does, to turn strangers away early and
// in silence: what is not a TLS 1.3 ClientHello with one external PSK and ephemeral key exchange
// (RFC 8446, section 4.1.2) never reaches it. This authenticates nobody: everything it lets through
// is checked in full by OpenSSL. Pure; must not know sockets.

/** Why a first message is refused. */
export type HelloFlaw = 'not_tls' | 'oversized' | 'malformed' | 'not_tls13' | 'no_psk' | 'no_h2';

export type HelloVerdict =
  /** More bytes are needed to tell. */
  | { readonly t: 'incomplete' }
  | { readonly t: 'refused'; readonly flaw: HelloFlaw }
  /** `random` (32 bytes) and `identity` are views into the input. */
  | { readonly t: 'accepted'; readonly random: Uint8Array; readonly identity: Uint8Array };

const RECORD_HEADER_BYTES = 5;
const CONTENT_HANDSHAKE = 22;
const HANDSHAKE_CLIENT_HELLO = 1;
const LEGACY_MAJOR = 3;
const VERSION_TLS13 = 0x0304;
const MODE_PSK_DHE_KE = 1;
const BINDER_SHA256_BYTES = 32;
const IDENTITY_BYTES_MAX = 128;
const EXTENSION = { alpn: 16, preSharedKey: 41, supportedVersions: 43, pskModes: 45 } as const;

/** Judges the bytes a peer has sent so far. `bytesMax` bounds the whole record with its header: a longer one is
 *  refused from its header alone. */
export function inspectClientHello(bytes: Uint8Array, bytesMax: number): HelloVerdict {
  if (bytes.length === 0) return { t: 'incomplete' };
  if (bytes[0] !== CONTENT_HANDSHAKE) return refused('not_tls');
  if (bytes.length > 1 && bytes[1] !== LEGACY_MAJOR) return refused('not_tls');
  if (bytes.length < RECORD_HEADER_BYTES) return { t: 'incomplete' };
  const bodyLength = ((bytes[3] as number) << 8) | (bytes[4] as number);
  if (RECORD_HEADER_BYTES + bodyLength > bytesMax) return refused('oversized');
  if (bytes.length > RECORD_HEADER_BYTES && bytes[RECORD_HEADER_BYTES] !== HANDSHAKE_CLIENT_HELLO) {
    return refused('not_tls');
  }
  if (bytes.length < RECORD_HEADER_BYTES + bodyLength) return { t: 'incomplete' };
  return inspectHello(
    new Cursor(bytes.subarray(RECORD_HEADER_BYTES, RECORD_HEADER_BYTES + bodyLength)),
  );
}

function inspectHello(record: Cursor): HelloVerdict {
  record.uint(1); // HandshakeType, checked above
  const hello = new Cursor(record.vector(3));
  // A hello in several records is legal TLS that no peer of ours sends.
  if (record.failed || record.left > 0) return refused('malformed');
  hello.take(2); // legacy_version
  const random = hello.take(32);
  hello.vector(1); // legacy_session_id
  hello.vector(2); // cipher_suites
  hello.vector(1); // legacy_compression_methods
  if (hello.failed) return refused('malformed');
  if (hello.left === 0) return refused('not_tls13');
  const extensions = readExtensions(new Cursor(hello.vector(2)));
  if (hello.failed || hello.left > 0 || !extensions) return refused('malformed');
  if (!offersTls13(extensions)) return refused('not_tls13');
  if (!offersPskWithExchange(extensions)) return refused('no_psk');
  if (!offersHttp2(extensions)) return refused('no_h2');
  const identity = readSinglePsk(extensions);
  if (!identity) return refused('malformed');
  // A ticket is binary. Node would not show it to our callback, and OpenSSL would look for a session to resume.
  if (!identity.every((byte) => byte > 0x20 && byte < 0x7f)) return refused('no_psk');
  return { t: 'accepted', random, identity };
}

/** Extensions by type in the order they came, or undefined when one is cut or comes twice. */
function readExtensions(list: Cursor): Map<number, Uint8Array> | undefined {
  const extensions = new Map<number, Uint8Array>();
  while (list.left > 0) {
    const type = list.uint(2);
    const data = list.vector(2);
    if (list.failed || extensions.has(type)) return undefined;
    extensions.set(type, data);
  }
  return extensions;
}

function offersTls13(extensions: ReadonlyMap<number, Uint8Array>): boolean {
  const versions = new Cursor(
    new Cursor(extensions.get(EXTENSION.supportedVersions) ?? new Uint8Array()).vector(1),
  );
  while (versions.left > 0) if (versions.uint(2) === VERSION_TLS13) return true;
  return false;
}

function offersPskWithExchange(extensions: ReadonlyMap<number, Uint8Array>): boolean {
  if (!extensions.has(EXTENSION.preSharedKey)) return false;
  return new Cursor(extensions.get(EXTENSION.pskModes) ?? new Uint8Array())
    .vector(1)
    .includes(MODE_PSK_DHE_KE);
}

function offersHttp2(extensions: ReadonlyMap<number, Uint8Array>): boolean {
  const protocols = new Cursor(
    new Cursor(extensions.get(EXTENSION.alpn) ?? new Uint8Array()).vector(2),
  );
  while (protocols.left > 0)
    if (Buffer.from(protocols.vector(1)).equals(Buffer.from('h2'))) return true;
  return false;
}

/** The identity of the one PSK offered. pre_shared_key must be the last extension (RFC 8446, section 4.2.11); a peer
 *  of ours offers one PSK with a SHA-256 binder, never a list to try. */
function readSinglePsk(extensions: ReadonlyMap<number, Uint8Array>): Uint8Array | undefined {
  if ([...extensions.keys()].at(-1) !== EXTENSION.preSharedKey) return undefined;
  const offered = new Cursor(extensions.get(EXTENSION.preSharedKey) as Uint8Array);
  const identities = new Cursor(offered.vector(2));
  const identity = identities.vector(2);
  identities.take(4); // obfuscated_ticket_age
  const binders = new Cursor(offered.vector(2));
  const binder = binders.vector(1);
  const cut = [offered, identities, binders].some((cursor) => cursor.failed || cursor.left > 0);
  if (cut || identity.length === 0 || identity.length > IDENTITY_BYTES_MAX) return undefined;
  return binder.length === BINDER_SHA256_BYTES ? identity : undefined;
}

function refused(flaw: HelloFlaw): HelloVerdict {
  return { t: 'refused', flaw };
}

/** Reads forward; past the end it gives zeros and empty views and stays `failed` with nothing left. */
class Cursor {
  #offset = 0;
  failed = false;

  constructor(private readonly bytes: Uint8Array) {}

  get left(): number {
    return this.bytes.length - this.#offset;
  }

  take(length: number): Uint8Array {
    if (length > this.left) {
      this.failed = true;
      this.#offset = this.bytes.length;
      return new Uint8Array();
    }
    this.#offset += length;
    return this.bytes.subarray(this.#offset - length, this.#offset);
  }

  /** An unsigned number of `length` bytes, at most three. */
  uint(length: number): number {
    return this.take(length).reduce((value, byte) => (value << 8) | byte, 0);
  }

  /** Bytes with their length in front, in `lengthBytes` bytes. */
  vector(lengthBytes: number): Uint8Array {
    return this.take(this.uint(lengthBytes));
  }
}
