// SPDX-License-Identifier: Apache-2.0
// The files that hold keys: there, private, readable.
import { GbError } from '../../proto/base/errors.js';
import { feederKeysPath, loadFeederKeys } from '../../security/key-file.js';
import { keyringPath, listKeyring } from '../../security/keyring.js';
import { finder, type Concern, type Finding } from './finding.js';

function looked(check: string, concern: Concern, path: string, look: () => Finding): Finding {
  try {
    return look();
  } catch (reason) {
    const error = GbError.from(reason);
    const fix = error.code === 'PERMISSION_DENIED' ? `chmod 600 ${path}` : '';
    return finder(check, concern).failure(error.rawMessage, fix);
  }
}

/** The host's keyring. */
export function checkKeyring(configDir: string): Finding[] {
  const find = finder('keyring', 'feeders');
  return [
    looked('keyring', 'feeders', keyringPath(configDir), () => {
      const keys = listKeyring(configDir);
      return keys.length > 0
        ? find.ok(`keys of ${keys.length} feeder${keys.length === 1 ? '' : 's'}`)
        : find.failure(
            'no key of any feeder',
            'on a spare machine: greenboost feed start; then here the line that it prints',
          );
    }),
  ];
}

/** The keys of this machine's feeder. */
export function checkFeederKeys(configDir: string): Finding[] {
  const find = finder('feeder_keys', 'lending');
  return [
    looked('feeder_keys', 'lending', feederKeysPath(configDir), () => {
      const count = loadFeederKeys(configDir)?.keys.length ?? 0;
      return count > 0
        ? find.ok(`${count} key${count === 1 ? '' : 's'} let hosts in`)
        : find.failure('no key lets a host in', 'greenboost key rotate, then greenboost key show');
    }),
  ];
}
