// SPDX-License-Identifier: Apache-2.0
// Builds ClientHello messages, good ones and all the wrong ones.

export interface HelloParts {
  readonly random?: Buffer;
  readonly versions?: readonly number[] | undefined;
  readonly modes?: readonly number[] | undefined;
  readonly protocols?: readonly string[] | undefined;
  readonly identities?: readonly Buffer[] | undefined;
  readonly binders?: readonly Buffer[] | undefined;
  /** Put after pre_shared_key, which must be last. */
  readonly trailing?: readonly [number, Buffer][];
}

export const IDENTITY = Buffer.from(`gb1.${'0123456789abcdef'.repeat(2)}`);

/** `bytes` with its length in front. */
export function vector(lengthBytes: number, ...parts: readonly Buffer[]): Buffer {
  const body = Buffer.concat(parts);
  const length = Buffer.alloc(lengthBytes);
  length.writeUIntBE(body.length, 0, lengthBytes);
  return Buffer.concat([length, body]);
}

const uint16 = (value: number): Buffer => Buffer.of(value >> 8, value & 255);

/** A record with a ClientHello; without arguments one that is accepted. Undefined parts are left out. */
export function buildHello(parts: HelloParts = {}): Buffer {
  const {
    random = Buffer.alloc(32, 9),
    versions = [0x0304],
    modes = [1],
    protocols = ['h2'],
    identities = [IDENTITY],
    binders = [Buffer.alloc(32, 5)],
    trailing = [],
  } = parts;
  const left = (name: keyof HelloParts): boolean => name in parts && parts[name] === undefined;
  const extensions: [number, Buffer][] = [];
  if (!left('versions')) extensions.push([43, vector(1, ...versions.map(uint16))]);
  if (!left('modes')) extensions.push([45, vector(1, Buffer.from(modes))]);
  if (!left('protocols')) {
    extensions.push([16, vector(2, ...protocols.map((name) => vector(1, Buffer.from(name))))]);
  }
  if (!left('identities')) {
    const offered = vector(
      2,
      ...identities.map((identity) => Buffer.concat([vector(2, identity), Buffer.alloc(4)])),
    );
    extensions.push([
      41,
      Buffer.concat([offered, vector(2, ...binders.map((binder) => vector(1, binder)))]),
    ]);
  }
  return wrapHello(random, [...extensions, ...trailing]);
}

export function wrapHello(random: Buffer, extensions: readonly [number, Buffer][]): Buffer {
  const hello = Buffer.concat([
    uint16(0x0303),
    random,
    vector(1, Buffer.alloc(32, 1)),
    vector(2, uint16(0x1301)),
    vector(1, Buffer.of(0)),
    vector(2, ...extensions.map(([type, data]) => Buffer.concat([uint16(type), vector(2, data)]))),
  ]);
  return wrapRecord(Buffer.concat([Buffer.of(1), vector(3, hello)]));
}

export function wrapRecord(handshake: Buffer): Buffer {
  return Buffer.concat([Buffer.of(22, 3, 1), vector(2, handshake)]);
}
