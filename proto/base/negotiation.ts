// SPDX-License-Identifier: Apache-2.0
// What two ends of a contract have in common, judged by the one that is asked. The same rules for all contracts: a
// different major version and a required feature that is unknown are refused, with both versions in the message;
// offered features that are unknown are ignored.
import { GbError } from './errors.js';

export interface Version {
  readonly major: number;
  readonly minor: number;
}

export interface Offer {
  /** Undefined: the peer said none. */
  readonly version: Version | undefined;
  /** Bit set. */
  readonly offered: bigint;
  readonly required: bigint;
}

export interface Terms {
  /** `protocol` or `ABI`. */
  readonly contract: string;
  /** `the host`, `this feeder`. */
  readonly peer: string;
  readonly self: string;
  readonly version: Version;
  /** Bit set of all that is known. */
  readonly features: bigint;
}

/** The features in force. @throws GbError UNSUPPORTED. */
export function agree({ version, offered, required }: Offer, terms: Terms): bigint {
  const { contract, peer, self } = terms;
  const theirs = version ? `${version.major}.${version.minor}` : 'none';
  const ours = `${terms.version.major}.${terms.version.minor}`;
  if (version?.major !== terms.version.major) {
    throw new GbError(
      'UNSUPPORTED',
      `${peer} speaks ${contract} ${theirs}, ${self} ${ours}; update the older one`,
    );
  }
  const unknown = required & ~terms.features;
  if (unknown !== 0n) {
    throw new GbError(
      'UNSUPPORTED',
      `${peer} (${contract} ${theirs}) requires features (0x${unknown.toString(16)}) that ${self} ` +
        `(${contract} ${ours}) does not have; update ${self}`,
    );
  }
  return (offered | required) & terms.features;
}
