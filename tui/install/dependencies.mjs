// SPDX-License-Identifier: Apache-2.0
// Prints the folders of what package.json needs at run time, and of what that needs in turn, one a line, relative to
// the root of the checkout: `node dependencies.mjs ROOT`. Found as Node finds them, so that it does not matter what
// else lies in node_modules.
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';

const root = process.argv[2] ?? '.';

function manifestOf(folder) {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
}

/** The folder of `name` for code in `from`; undefined when it is not installed. */
function find(name, from) {
  for (let folder = from; ; folder = dirname(folder)) {
    const place = join(folder, 'node_modules', name);
    if (existsSync(join(place, 'package.json'))) return place;
    if (relative(root, folder) === '') return undefined;
  }
}

const found = new Set();

/** Optional ones are natives for machines: those that are not installed are for others. */
function visit(folder) {
  const { dependencies = {}, optionalDependencies = {} } = manifestOf(folder);
  for (const name of [...Object.keys(dependencies), ...Object.keys(optionalDependencies)]) {
    const place = find(name, folder);
    if (place === undefined && !(name in optionalDependencies))
      throw new Error(`${name} is not installed: npm install`);
    if (place === undefined || found.has(place)) continue;
    found.add(place);
    visit(place);
  }
}

visit(root);
for (const place of [...found].sort()) console.log(relative(root, place));
