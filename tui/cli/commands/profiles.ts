// SPDX-License-Identifier: Apache-2.0
// `greenboost profiles`: which programs are told which size, and why.
import { SCHEMA_VERSION } from '../../model/snapshot.js';
import { painters, writeJson, writeLine } from '../output.js';
import { PROFILES, type Profile } from '../profiles.js';

function matchText({ programs, modules }: Profile): string {
  const parts = [
    ...programs.map((name) => (name === '*' ? 'every other program' : name)),
    ...modules.map((name) => `python -m ${name}`),
  ];
  return parts.join(', ');
}

/** Prints every profile, in the order they are tried. */
export function showProfiles(options: { json?: boolean }): void {
  if (options.json) {
    writeJson({ schemaVersion: SCHEMA_VERSION, profiles: PROFILES });
    return;
  }
  const paint = painters(process.stdout);
  for (const profile of PROFILES) {
    const sets = Object.entries(profile.env).map(([name, value]) => `${name}=${value}`);
    writeLine(
      `${paint.bold(profile.name.padEnd(11))} ${profile.report.padEnd(8)} ${matchText(profile)}`,
    );
    for (const line of sets) writeLine(`${''.padEnd(21)} sets ${line} unless it is set`);
    writeLine(`${''.padEnd(21)} ${profile.why}`);
  }
}
