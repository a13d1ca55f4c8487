// SPDX-License-Identifier: Apache-2.0
// The default file of a role: every setting with what it does, its default, its flag and its variable. All of it is
// commented out, so that a file that was never edited changes nothing.
import { PROFILE_KEYS, RUN } from './host.js';
import { ROLE_FACTS, type Role } from './roles.js';
import type { Setting } from './setting.js';

const COLUMNS_MAX = 100;

/** The text of the default file. */
export function defaultFile(role: Role): string {
  const { about, sections, tables, env } = ROLE_FACTS[role];
  const all = tables.flatMap((table) => Object.values(table));
  const head = [
    ...about.flatMap(comment),
    ...comment(
      'Take the # before a key away to set it. A flag goes before a variable, and that before this file.',
    ),
    ...comment(
      `Check it: greenboost config check. See what holds: greenboost config show --origin.`,
    ),
    ...comment(`${env} names another file, and so does --config.`),
  ];
  const parts = Object.entries(sections).map(([section, words]) => [
    ...(section === '' ? [] : ['', ...comment(words), `[${section}]`]),
    ...all.filter((setting) => setting.section === section).flatMap(entry),
  ]);
  return `${[...head, ...parts.flat(), ...(role === 'host' ? profilePart() : [])].join('\n')}\n`;
}

function entry({ about, fallback, flag, env, name, example, kind }: Setting<unknown>): string[] {
  const off = kind.toml === 'switch' ? `, --no-${flag}` : '';
  return [
    '',
    ...comment(`${about[0]?.toUpperCase()}${about.slice(1)}. Default: ${fallback}.`),
    ...comment(`--${flag}${off}, ${env}`),
    `#${name} = ${example}`,
  ];
}

function profilePart(): string[] {
  const runNames = Object.values(RUN).map(({ name }) => name);
  return [
    '',
    ...comment(
      'Profiles: what some programs get. `greenboost profiles` lists those that there are; one of the same name is ' +
        'changed, another is tried before them. A profile may set what [run] may, before [run] itself: ' +
        `${runNames.join(', ')}.`,
    ),
    '#[profiles.mine]',
    ...PROFILE_KEYS.flatMap((key) => [...comment(key.about), `#${key.name} = ${key.example}`]),
    `#report = "honest"`,
  ];
}

/** As comment lines, broken at words. */
function comment(text: string): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= COLUMNS_MAX)
      lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(`# ${word}`);
  }
  return lines;
}
