// SPDX-License-Identifier: Apache-2.0
// `greenboost version`.
import { PROTOCOL_MAJOR, PROTOCOL_MINOR } from '../../../proto/base/limits.js';
import { softwareVersion } from '../../../proto/base/version.js';
import { SCHEMA_VERSION } from '../../model/snapshot.js';
import { writeJson, writeLine } from '../output.js';

/** Prints the version of the command and of the protocol it speaks. */
export async function showVersion(options: { json?: boolean }): Promise<void> {
  const protocol = `${PROTOCOL_MAJOR}.${PROTOCOL_MINOR}`;
  if (options.json)
    writeJson<'version'>({
      schemaVersion: SCHEMA_VERSION,
      software: softwareVersion(),
      protocol,
      node: process.version,
    });
  else writeLine(`${softwareVersion()} (protocol ${protocol}, node ${process.version})`);
}
