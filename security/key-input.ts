// SPDX-License-Identifier: Apache-2.0
// Where `connect` gets a pairing key from: a file, the environment, or a prompt; never the command line, which every
// user of the machine can read in /proc.
import { GbError } from '../proto/base/errors.js';
import { parsePairingKey, type PairingKey } from './pairing.js';
import { readPrivateFile } from './private-file.js';

/** The environment variable that may hold the pairing string. */
export const KEY_VARIABLE = 'GREENBOOST_KEY';

export interface KeyInput {
  /** Path of a private file that holds the pairing string and nothing else. */
  readonly keyFile?: string | undefined;
  /** The environment; its KEY_VARIABLE is read. Ownership: the caller removes it before it starts children. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Asks the person without echo; absent when there is no terminal. */
  readonly prompt?: (() => Promise<string>) | undefined;
}

/** The key from the first source that is there: file, environment, prompt. A source that is there but wrong is an
 *  error, not a reason to try the next. @throws GbError INVALID_ARGUMENT for a bad key or when there is no source;
 *  NOT_FOUND and PERMISSION_DENIED for the file. */
export async function resolveKeyInput(input: KeyInput): Promise<PairingKey> {
  if (input.keyFile !== undefined) {
    const text = readPrivateFile(input.keyFile);
    if (text === undefined) throw new GbError('NOT_FOUND', `there is no key file ${input.keyFile}`);
    return parsePairingKey(text);
  }
  const fromEnvironment = input.env?.[KEY_VARIABLE];
  if (fromEnvironment !== undefined && fromEnvironment !== '')
    return parsePairingKey(fromEnvironment);
  if (input.prompt) return parsePairingKey(await input.prompt());
  throw new GbError(
    'INVALID_ARGUMENT',
    `no pairing key: give --key-file, set ${KEY_VARIABLE}, or run this in a terminal to be asked for it`,
  );
}
