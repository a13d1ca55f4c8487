// SPDX-License-Identifier: Apache-2.0
// `greenboost config init|check|show`: the files of settings, and what holds.
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { GbError } from '../../../proto/base/errors.js';
import { configDir, ensurePrivateDir } from '../../../proto/base/paths.js';
import { defaultFile } from '../../../proto/settings/document.js';
import {
  checkFile,
  problemLine,
  readFile,
  type FileProblem,
  type SettingsFile,
} from '../../../proto/settings/file.js';
import { RUN } from '../../../proto/settings/host.js';
import {
  defaultFilePath,
  roleOfFile,
  ROLE_FACTS,
  ROLES,
  type Role,
} from '../../../proto/settings/roles.js';
import { keyOf, type Setting, type SettingTable } from '../../../proto/settings/setting.js';
import { settle, type Origin } from '../../../proto/settings/settle.js';
import { SCHEMA_VERSION } from '../../model/snapshot.js';
import { painters, tableLines, writeJson, writeLine, writeOut } from '../output.js';
import { flagsOf, settingsPath, type GivenOptions } from '../settings.js';

const EXIT_PROBLEMS = 2;

/** Writes the default file of a role, or of both; never over one that is there.
 *  @throws GbError ALREADY_EXISTS when nothing was written. */
export function configInit(
  role: Role | undefined,
  { config, print }: { config?: string; print?: boolean },
): void {
  if (config !== undefined && role === undefined)
    throw new GbError('INVALID_ARGUMENT', '--config names one file: say whose, host or feeder');
  const roles = role ? [role] : ROLES;
  if (print) {
    writeOut(roles.map(defaultFile).join('\n'));
    return;
  }
  const paths = roles.map((one) => [one, resolve(config ?? defaultFilePath(one))] as const);
  const written = paths.filter(([one, path]) => writeNew(path, defaultFile(one)));
  for (const [, path] of written) writeLine(`wrote ${path}`);
  const kept = paths.filter((one) => !written.includes(one)).map(([, path]) => path);
  if (written.length > 0)
    kept.forEach((path) => writeLine(`${path} is there already: left as it is`));
  else
    throw new GbError('ALREADY_EXISTS', `${kept.join(' and ')}: there already, left as it is`, {
      details: { hint: 'see every default: greenboost config init --print' },
    });
}

/** False when there is a file already. */
function writeNew(path: string, text: string): boolean {
  if (dirname(path) === configDir()) ensurePrivateDir(configDir());
  else mkdirSync(dirname(path), { recursive: true });
  try {
    writeFileSync(path, text, { flag: 'wx', mode: 0o600 });
    return true;
  } catch (reason) {
    const { code } = reason as NodeJS.ErrnoException;
    if (code === 'EEXIST') return false;
    throw new GbError('PERMISSION_DENIED', `${path} cannot be written (${code ?? String(reason)})`);
  }
}

/** One file, looked at. */
export interface Checked {
  readonly path: string;
  readonly role: Role;
  readonly exists: boolean;
  readonly problems: readonly FileProblem[];
}

function check(role: Role, path: string): Checked {
  const checked = checkFile(role, path);
  return { path, role, exists: true, problems: 'problems' in checked ? checked.problems : [] };
}

/** Checks a file, or those of this machine. Prints `FILE:LINE:COLUMN: key: problem`; exit code 2 when there is one.
 *  @throws GbError NOT_FOUND when a named file is not there, INVALID_ARGUMENT when nobody knows whose it is. */
export function configCheck(
  file: string | undefined,
  options: { role?: Role; json?: boolean },
): void {
  const checked =
    file === undefined ? checkDefaults(options.role) : [checkNamed(file, options.role)];
  const problems = checked.flatMap((one) => one.problems);
  if (problems.length > 0) process.exitCode = EXIT_PROBLEMS;
  if (options.json) {
    writeJson<'config check'>({
      schemaVersion: SCHEMA_VERSION,
      ok: problems.length === 0,
      files: checked,
    });
    return;
  }
  for (const { path, role, exists, problems } of checked) {
    for (const problem of problems) writeLine(problemLine(path, problem));
    if (!exists) writeLine(`${path}: not there; every setting of the ${role} has its default`);
    else if (problems.length === 0) writeLine(`${path}: ok`);
  }
}

function checkDefaults(only: Role | undefined): Checked[] {
  return ROLES.filter((role) => only === undefined || role === only).map((role) => {
    const path = defaultFilePath(role);
    return existsSync(path) ? check(role, path) : { path, role, exists: false, problems: [] };
  });
}

function checkNamed(file: string, role: Role | undefined): Checked {
  const whose = role ?? roleOfFile(file);
  if (whose) return check(whose, file);
  throw new GbError('INVALID_ARGUMENT', `whose settings are in ${file}?`, {
    details: { hint: 'say so: --role host or --role feeder' },
  });
}

interface ShownSetting {
  readonly key: string;
  /** As it is written; null: the default holds. */
  readonly value: string | null;
  readonly default: string;
  readonly origin: Origin;
  readonly flag: string;
  readonly env: string;
}

/** The settings of one role. */
export interface ShownRole {
  readonly role: Role;
  readonly file: string;
  readonly fileExists: boolean;
  readonly settings: readonly ShownSetting[];
}

export interface ConfigShowOptions extends GivenOptions {
  readonly config?: string;
  readonly origin?: boolean;
  readonly json?: boolean;
}

/** Prints every setting of a role, or of both, with its value and where that is from: what a daemon or program that is
 *  started now would get. Options of the role are taken as `feed start` and `run` take them.
 *  @throws GbError INVALID_ARGUMENT for what is wrong with them, the environment or the file. */
export async function configShow(
  role: Role | undefined,
  options: ConfigShowOptions,
): Promise<void> {
  const roles = await Promise.all(
    (role ? [role] : ROLES).map((one) => shownRole(one, options, role !== undefined)),
  );
  if (options.json) {
    writeJson<'config show'>({ schemaVersion: SCHEMA_VERSION, roles });
    return;
  }
  const paint = painters(process.stdout);
  for (const [index, { role: one, file, fileExists, settings }] of roles.entries()) {
    if (index > 0) writeLine();
    writeLine(`${paint.bold(one)}: ${file}${fileExists ? '' : ' (not there)'}`);
    const columns = ['SETTING', 'VALUE', ...(options.origin ? ['FROM'] : [])];
    const rows = settings.map((shown) => [
      shown.key,
      shown.value ?? `(${shown.default})`,
      ...(options.origin ? [originText(shown.origin)] : []),
    ]);
    const table = { columns: columns.map((title) => ({ title, align: 'left' as const })), rows };
    tableLines(table).forEach((line) => writeLine(line));
  }
}

async function shownRole(role: Role, given: GivenOptions, named: boolean): Promise<ShownRole> {
  const path = await settingsPath(
    role,
    named ? (given['config'] as string | undefined) : undefined,
  );
  const file = readFile(role, path);
  const { tables } = ROLE_FACTS[role];
  const shown = tables.flatMap((table) =>
    shownTable(table, isGiven(role, table) ? given : {}, file),
  );
  return {
    role,
    file: path,
    fileExists: file !== undefined,
    settings: [...shown, ...shownProfiles(file)],
  };
}

/** Flags of `run` and of `feed start` are taken here too; those of other commands are not. */
export function isGiven(role: Role, table: SettingTable): boolean {
  return role === 'feeder' || table === RUN;
}

function shownTable(
  table: SettingTable,
  given: GivenOptions,
  file: SettingsFile | undefined,
): ShownSetting[] {
  const { values, origins } = settle(table, {
    flags: flagsOf(table, given),
    env: process.env,
    file,
  });
  return Object.entries(table).map(([key, setting]) => ({
    key: keyOf(setting),
    value: values[key] === undefined ? null : setting.kind.write(values[key]),
    default: setting.fallback,
    origin: origins[key] as Origin,
    flag: `--${setting.flag}`,
    env: setting.env,
  }));
}

/** What profiles of the file set of [run]. */
function shownProfiles(file: SettingsFile | undefined): ShownSetting[] {
  return (file?.profiles ?? []).flatMap((profile) =>
    Object.entries(profile.run).map(([key, value]) => {
      const setting = (RUN as SettingTable)[key] as Setting<unknown>;
      const origin = {
        from: 'file' as const,
        file: file?.path ?? '',
        ...profile.placeOf(setting.name),
      };
      return {
        key: `profiles.${profile.name}.${setting.name}`,
        value: setting.kind.write(value),
        default: keyOf(setting),
        origin,
        flag: `--${setting.flag}`,
        env: setting.env,
      };
    }),
  );
}

/** `default`, `--ram`, `GREENBOOST_FEED_RAM`, `FILE:LINE`. */
function originText(origin: Origin): string {
  switch (origin.from) {
    case 'default':
      return 'default';
    case 'flag':
      return origin.flag;
    case 'environment':
      return origin.variable;
    case 'file':
      return `${origin.file}:${origin.line}`;
  }
}
