// SPDX-License-Identifier: Apache-2.0
// Asking a person on the controlling terminal, for secrets without echo; works while standard input is a pipe.
import { closeSync, openSync } from 'node:fs';
import { ReadStream } from 'node:tty';
import { GbError } from '../../proto/base/errors.js';

/** A well-spaced key has about 150 characters. */
const TYPED_CHARACTERS_MAX = 512;

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
        if (typed.length > TYPED_CHARACTERS_MAX) {
          return finish(() =>
            reject(new GbError('INVALID_ARGUMENT', 'that is far too long for a pairing key')),
          );
        }
      }
    });
    input.once('error', (error) => finish(() => reject(GbError.from(error))));
  });
}

/** Asks `question` on stderr and reads one line as the terminal shows it; Ctrl-C ends the command.
 *  @throws GbError CANCELED on Ctrl-D, INVALID_ARGUMENT without a terminal or for more than 512 characters. */
export function promptLine(question: string): Promise<string> {
  const fd = openTerminal();
  if (fd === undefined)
    return Promise.reject(new GbError('INVALID_ARGUMENT', 'there is no terminal to ask on'));
  const input = new ReadStream(fd);
  process.stderr.write(question);
  return new Promise((resolve, reject) => {
    let typed = '';
    const finish = (settle: () => void): void => {
      input.destroy();
      settle();
    };
    input.on('data', (bytes: Buffer) => {
      typed += bytes.toString('utf8');
      const end = typed.indexOf('\n');
      if (end >= 0) finish(() => resolve(typed.slice(0, end)));
      else if (typed.length > TYPED_CHARACTERS_MAX)
        finish(() => reject(new GbError('INVALID_ARGUMENT', 'that is far too long')));
    });
    input.once('end', () => finish(() => reject(new GbError('CANCELED', 'nothing was given'))));
    input.once('error', (error) => finish(() => reject(GbError.from(error))));
  });
}

/** Everything on standard input, bounded. @throws GbError INVALID_ARGUMENT when there is more than 512 characters. */
export async function readSecretFromStdin(): Promise<string> {
  let text = '';
  for await (const bytes of process.stdin) {
    text += String(bytes);
    if (text.length > TYPED_CHARACTERS_MAX) {
      throw new GbError('INVALID_ARGUMENT', 'standard input is far too long for a pairing key');
    }
  }
  return text;
}
