// SPDX-License-Identifier: Apache-2.0
// Asking a person for a secret on the controlling terminal, without echo; works while standard input is a pipe.
import { closeSync, openSync } from 'node:fs';
import { ReadStream } from 'node:tty';
import { GbError } from '../../proto/base/errors.js';

/** A well-spaced key has about 150 characters. */
const SECRET_CHARACTERS_MAX = 512;

function openTerminal(): number | undefined {
  try {
    return openSync('/dev/tty', 'r+');
  } catch {
    return undefined;
  }
}

/** True when there is a person to ask. */
export function canPrompt(): boolean {
  if (!process.stderr.isTTY) return false;
  const fd = openTerminal();
  if (fd === undefined) return false;
  closeSync(fd);
  return true;
}

/** Asks `question` on stderr and reads one line without echo; Enter ends it, backspace works, Ctrl-C gives up.
 *  @throws GbError CANCELED on Ctrl-C and Ctrl-D, INVALID_ARGUMENT without a terminal or for more
 *  than 512 characters. */
export function promptSecret(question: string): Promise<string> {
  const fd = openTerminal();
  if (fd === undefined)
    return Promise.reject(new GbError('INVALID_ARGUMENT', 'there is no terminal to ask on'));
  const input = new ReadStream(fd);
  input.setRawMode(true);
  process.stderr.write(question);
  return new Promise((resolve, reject) => {
    let typed = '';
    const finish = (settle: () => void): void => {
      input.setRawMode(false);
      input.destroy();
      process.stderr.write('\n');
      settle();
    };
    input.on('data', (bytes: Buffer) => {
      for (const character of bytes.toString('utf8')) {
        if (character === '\r' || character === '\n') return finish(() => resolve(typed));
        if (character === '\u0003' || (character === '\u0004' && typed === '')) {
          return finish(() => reject(new GbError('CANCELED', 'no key was given')));
        }
        if (character === '\u007f' || character === '\b') typed = typed.slice(0, -1);
        else if (character >= ' ') typed += character;
        if (typed.length > SECRET_CHARACTERS_MAX) {
          return finish(() =>
            reject(new GbError('INVALID_ARGUMENT', 'that is far too long for a pairing key')),
          );
        }
      }
    });
    input.once('error', (error) => finish(() => reject(GbError.from(error))));
  });
}

/** Everything on standard input, bounded. @throws GbError INVALID_ARGUMENT when there is more than 512 characters. */
export async function readSecretFromStdin(): Promise<string> {
  let text = '';
  for await (const bytes of process.stdin) {
    text += String(bytes);
    if (text.length > SECRET_CHARACTERS_MAX) {
      throw new GbError('INVALID_ARGUMENT', 'standard input is far too long for a pairing key');
    }
  }
  return text;
}
