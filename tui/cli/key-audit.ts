// SPDX-License-Identifier: Apache-2.0
// Keys that come and go by a command are named in the audit log, by their fingerprints.
import { stateDir } from '../../proto/base/paths.js';
import { openAudit } from '../../security/audit.js';
import { keyFingerprint, type PairingKey } from '../../security/pairing.js';

/** `own`: one that this feeder accepts; `keyring`: one by which this host connects. */
export type KeyPlace = 'own' | 'keyring';

function record(
  event: 'key_added' | 'key_removed',
  place: KeyPlace,
  key: PairingKey,
  how: string,
): void {
  const { feederId: feeder, shared } = key;
  const audit = openAudit({ stateDir: stateDir(), by: 'command' });
  audit.record(event, { feeder, fingerprint: keyFingerprint(key), place, how, shared });
  audit.close();
}

export function noteKeyAdded(place: KeyPlace, key: PairingKey, how: string): void {
  record('key_added', place, key, how);
}

export function noteKeyRemoved(place: KeyPlace, key: PairingKey, how: string): void {
  record('key_removed', place, key, how);
}
