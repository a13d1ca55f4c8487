// SPDX-License-Identifier: Apache-2.0
// The files of the repository, for the tests about the repository itself.
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..', '..');

/** Files git tracks, or would track, below `folders` (all when empty), with one of the endings;
 *  relative to ROOT. */
export function filesOf(folders: readonly string[], ...endings: readonly string[]): string[] {
  const output = execFileSync(
    'git',
    ['ls-files', '--cached', '--others', '--exclude-standard', '--', ...folders],
    {
      cwd: ROOT,
      encoding: 'utf8',
    },
  );
  return output
    .split('\n')
    .filter((file) => file !== '' && existsSync(join(ROOT, file)))
    .filter((file) => endings.length === 0 || endings.some((ending) => file.endsWith(ending)));
}
