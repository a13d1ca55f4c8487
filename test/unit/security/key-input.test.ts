// SPDX-License-Identifier: Apache-2.0
import { expect, test } from '@jest/globals';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createId } from '../../../proto/base/ids.js';
import { KEY_VARIABLE, resolveKeyInput } from '../../../security/key-input.js';
import { createPairingKey, formatPairingKey, samePairingKey } from '../../../security/pairing.js';
import { temporaryFolder } from './temporary.js';

const folder = temporaryFolder();
const [first, second, third] = [1, 2, 3].map(() => createPairingKey(createId('feeder')));

function source(): { keyFile: string; env: Record<string, string>; prompt: () => Promise<string> } {
  const keyFile = join(folder(), 'key');
  writeFileSync(keyFile, `${formatPairingKey(first!)}\n`, { mode: 0o600 });
  return {
    keyFile,
    env: { [KEY_VARIABLE]: formatPairingKey(second!) },
    prompt: () => Promise.resolve(formatPairingKey(third!)),
  };
}

test('the file comes before the environment, the environment before the prompt', async () => {
  const { keyFile, env, prompt } = source();
  expect(samePairingKey(await resolveKeyInput({ keyFile, env, prompt }), first!)).toBe(true);
  expect(samePairingKey(await resolveKeyInput({ env, prompt }), second!)).toBe(true);
  expect(
    samePairingKey(await resolveKeyInput({ env: { [KEY_VARIABLE]: '' }, prompt }), third!),
  ).toBe(true);
});

test('a source that is there but wrong is an error, not a reason to try the next', async () => {
  const { keyFile, env, prompt } = source();
  await expect(resolveKeyInput({ keyFile: `${keyFile}x`, env, prompt })).rejects.toThrow(
    'NOT_FOUND',
  );
  await expect(resolveKeyInput({ env: { [KEY_VARIABLE]: 'gb1-x' }, prompt })).rejects.toThrow(
    'INVALID_ARGUMENT',
  );
  chmodSync(keyFile, 0o644);
  await expect(resolveKeyInput({ keyFile, env, prompt })).rejects.toThrow('PERMISSION_DENIED');
});

test('without any source it names all three', async () => {
  await expect(resolveKeyInput({ env: {} })).rejects.toThrow(
    /--key-file.*GREENBOOST_KEY.*terminal/,
  );
});
