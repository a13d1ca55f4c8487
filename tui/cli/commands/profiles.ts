// SPDX-License-Identifier: Apache-2.0
// `greenboost profiles`: which programs are told which size, and why.
import type { FileProfile } from '../../../proto/settings/file.js';
import { RUN } from '../../../proto/settings/host.js';
import type { Setting } from '../../../proto/settings/setting.js';
import { SCHEMA_VERSION } from '../../model/snapshot.js';
import { painters, writeJson, writeLine } from '../output.js';
import type { ProfileJson } from '../outputs.js';
import { profilesOf, type Profile } from '../profiles.js';
import { settingsFile } from '../settings.js';

function matchText({ programs, modules }: Profile): string {
  const parts = [
    ...programs.map((name) => (name === '*' ? 'every other program' : name)),
    ...modules.map((name) => `python -m ${name}`),
  ];
  return parts.join(', ') || 'chosen with --profile only';
}

/** What the file sets for it of [run], by its name there. */
function settingsOf(file: FileProfile | undefined): Record<string, string> {
  const told = Object.entries(file?.run ?? {}).map(([key, value]) => {
    const setting = (RUN as Readonly<Record<string, Setting<unknown>>>)[key] as Setting<unknown>;
    return [setting.name, setting.kind.write(value)] as const;
  });
  return Object.fromEntries(told);
}

function profileJson({ file, ...profile }: Profile): ProfileJson {
  const settings = settingsOf(file);
  const report = settings['report'] ?? profile.report;
  return { ...profile, report, settings, fromFile: file !== undefined };
}

/** Prints every profile, in the order they are tried. */
export async function showProfiles(options: { json?: boolean; config?: string }): Promise<void> {
  const profiles = profilesOf(await settingsFile('host', options.config));
  if (options.json) {
    writeJson<'profiles'>({ schemaVersion: SCHEMA_VERSION, profiles: profiles.map(profileJson) });
    return;
  }
  const paint = painters(process.stdout);
  for (const profile of profiles) {
    const { report, ...settings } = settingsOf(profile.file);
    const what = `${(report ?? profile.report).padEnd(8)} ${matchText(profile)}`;
    writeLine(`${paint.bold(profile.name.padEnd(11))} ${what}`);
    const indent = ''.padEnd(21);
    for (const [name, value] of Object.entries(settings))
      writeLine(`${indent} runs with ${name} = ${value}`);
    for (const [name, value] of Object.entries(profile.env))
      writeLine(`${indent} sets ${name}=${value} unless it is set`);
    writeLine(`${indent} ${profile.why}`);
  }
}
