// SPDX-License-Identifier: Apache-2.0
// The file of a role: read, checked against the tables of settings, each value with its place. zod checks what
// may stand where; the schema is made of the tables.
import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { closest, distance } from 'fastest-levenshtein';
import { z } from 'zod';
import { GbError } from '../base/errors.js';
import { formatBytes } from '../base/units.js';
import { PROFILE_KEYS, PROFILE_LIST, PROFILE_WORDS, PROFILES_MAX, RUN } from './host.js';
import type { Kind } from './kinds.js';
import { ROLE_FACTS, type Role } from './roles.js';
import type { Setting, SettingTable } from './setting.js';
import { readToml, TomlError, type Place, type Toml } from './toml.js';

const FILE_BYTES_MAX = 256 * 1024;

/** One thing that is wrong with a file. */
export interface FileProblem extends Place {
  /** `lend.ram`; empty for the file as a whole. */
  readonly key: string;
  readonly text: string;
}

/** A profile as the file has it. */
export interface FileProfile {
  readonly name: string;
  readonly programs?: readonly string[];
  readonly modules?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly why?: string;
  /** Settings of [run], by their key in RUN. */
  readonly run: Readonly<Record<string, unknown>>;
  placeOf(name: string): Place;
}

export interface SettingsFile {
  readonly path: string;
  readonly role: Role;
  /** The value of a setting as its kind reads it, and where it stands; undefined: the file does not tell it. */
  get(setting: Setting<unknown>): { readonly value: unknown; readonly place: Place } | undefined;
  readonly profiles: readonly FileProfile[];
}

export type CheckedFile =
  { readonly file: SettingsFile } | { readonly problems: readonly [FileProblem, ...FileProblem[]] };

/** Reads and checks a file. @throws GbError NOT_FOUND, PERMISSION_DENIED, INVALID_ARGUMENT where `path` is none that
 *  can be read. */
export function checkFile(role: Role, path: string): CheckedFile {
  return checkText(role, path, readText(path));
}

/** The file, or undefined where there is none. @throws GbError as checkFile; INVALID_ARGUMENT with every problem. */
export function readFile(role: Role, path: string): SettingsFile | undefined {
  let checked: CheckedFile;
  try {
    checked = checkFile(role, path);
  } catch (reason) {
    if (GbError.from(reason).code === 'NOT_FOUND') return undefined;
    throw reason;
  }
  if ('file' in checked) return checked.file;
  const lines = checked.problems.map((problem) => problemLine(path, problem));
  throw new GbError('INVALID_ARGUMENT', lines.join('\n'), {
    details: { hint: 'it is checked by: greenboost config check' },
  });
}

/** `FILE:LINE:COLUMN: key: what is wrong`. */
export function problemLine(path: string, { line, column, key, text }: FileProblem): string {
  return `${path}:${line}:${column}: ${key === '' ? '' : `${key}: `}${text}`;
}

function readText(path: string): string {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (reason) {
    const { code } = reason as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR')
      throw new GbError('NOT_FOUND', `there is no file ${path}`, {
        details: { hint: 'write one with every default: greenboost config init' },
      });
    throw new GbError('PERMISSION_DENIED', `${path} cannot be read (${code ?? String(reason)})`);
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new GbError('INVALID_ARGUMENT', `${path} is no file`);
    if (stat.size > FILE_BYTES_MAX)
      throw new GbError('INVALID_ARGUMENT', `${path} has more than ${formatBytes(FILE_BYTES_MAX)}`);
    return new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(fd));
  } catch (reason) {
    if (reason instanceof TypeError)
      throw new GbError('INVALID_ARGUMENT', `${path} is no text in UTF-8`);
    throw reason;
  } finally {
    closeSync(fd);
  }
}

/** As checkFile, with the text of the file at `path`. */
export function checkText(role: Role, path: string, text: string): CheckedFile {
  let toml: Toml;
  try {
    toml = readToml(text);
  } catch (reason) {
    if (!(reason instanceof TomlError)) throw reason;
    return { problems: [{ ...reason.place, key: '', text: reason.message }] };
  }
  const schema = schemaOf(role, dirname(path));
  const result = schema.safeParse(toml.value);
  if (!result.success) {
    const problems = result.error.issues.flatMap((issue) => problemsOf(issue, role, toml));
    const [first, ...rest] = problems.sort((a, b) => a.line - b.line || a.column - b.column);
    if (first) return { problems: [first, ...rest] };
  }
  return { file: settingsFile(role, path, toml, result.data as Sections) };
}

type Sections = Readonly<Record<string, unknown>>;

function settingsFile(role: Role, path: string, toml: Toml, data: Sections): SettingsFile {
  const profiles = Object.entries((data['profiles'] ?? {}) as Record<string, Sections>);
  return {
    path,
    role,
    get({ section, name }) {
      const table = section === '' ? data : ((data[section] ?? {}) as Sections);
      if (!Object.hasOwn(table, name)) return undefined;
      const keys = section === '' ? [name] : [section, name];
      return { value: table[name], place: toml.placeOf(keys) };
    },
    profiles: profiles.map(([name, told]) => profileFrom(name, told, toml)),
  };
}

function profileFrom(name: string, told: Sections, toml: Toml): FileProfile {
  const own = PROFILE_KEYS.filter((key) => told[key.name] !== undefined);
  const run = Object.entries(RUN).filter(([, setting]) => told[setting.name] !== undefined);
  return {
    name,
    ...Object.fromEntries(own.map((key) => [key.name, told[key.name]])),
    run: Object.fromEntries(run.map(([key, setting]) => [key, told[setting.name]])),
    placeOf: (key) => toml.placeOf(['profiles', name, key]),
  };
}

/** What may stand in the file of a role. `folder`: what its paths are relative to. */
function schemaOf(role: Role, folder: string) {
  const all = ROLE_FACTS[role].tables.flatMap((table) => Object.values(table));
  const shape: Record<string, z.ZodType> = {};
  for (const section of Object.keys(ROLE_FACTS[role].sections)) {
    const own = shapeOf(
      all.filter((setting) => setting.section === section),
      folder,
    );
    if (section === '') Object.assign(shape, own);
    else shape[section] = tableOf(own).optional();
  }
  if (role === 'host') shape['profiles'] = profilesOf(folder).optional();
  return tableOf(shape);
}

function tableOf(shape: Record<string, z.ZodType>) {
  return z.strictObject(shape, { error: errorOf('a table') });
}

function shapeOf(table: readonly Setting<unknown>[], folder: string): Record<string, z.ZodType> {
  return Object.fromEntries(
    table.map(({ name, kind }) => [name, valueOf(kind, folder).optional()]),
  );
}

function profilesOf(folder: string) {
  const env = z.record(
    z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/, { error: 'is no name of a variable' }),
    z.string({ error: errorOf('a text in quotes') }),
    { error: errorOf('a table of variables') },
  );
  const profile = tableOf({
    ...shapeOf(Object.values(RUN as SettingTable), folder),
    programs: valueOf(PROFILE_LIST, folder).optional(),
    modules: valueOf(PROFILE_LIST, folder).optional(),
    env: env.optional(),
    why: valueOf(PROFILE_WORDS, folder).optional(),
  });
  return z
    .record(z.string(), profile, { error: errorOf('a table') })
    .refine((profiles) => Object.keys(profiles).length <= PROFILES_MAX, {
      error: `at most ${PROFILES_MAX} profiles`,
    });
}

/** A value of a kind, in the form that TOML has for it, then read as its text would be. */
function valueOf(kind: Kind<unknown>, folder: string): z.ZodType {
  const form = formOf(kind);
  const texts = kind.separator === undefined ? form : z.array(form, { error: errorOf('an array') });
  return texts.transform((value, context) => {
    try {
      return kind.read([value].flat().map(String), folder);
    } catch (reason) {
      context.addIssue({ code: 'custom', message: GbError.from(reason).rawMessage });
      return z.NEVER;
    }
  });
}

function formOf({ toml }: Kind<unknown>) {
  switch (toml) {
    case 'text':
      return z.string({ error: errorOf('a text in quotes') });
    case 'whole':
      return z.int({ error: errorOf('a whole number') });
    case 'number':
      return z.number({ error: errorOf('a number') });
    case 'switch':
      return z.boolean({ error: errorOf('true or false') });
    case 'size':
      return z.union([z.string(), z.int()], { error: errorOf('a size, such as "16GiB"') });
  }
}

/** Of a value of another type; keys that are wrong have words of their own. */
function errorOf(wanted: string): (issue: { code?: string | undefined }) => string | undefined {
  return ({ code }) =>
    code === 'unrecognized_keys' || code === 'invalid_key' ? undefined : `write ${wanted} here`;
}

function problemsOf(issue: z.core.$ZodIssue, role: Role, toml: Toml): FileProblem[] {
  const path = issue.path.map(String);
  if (issue.code !== 'unrecognized_keys') {
    const { message } = issue.code === 'invalid_key' ? (issue.issues[0] ?? issue) : issue;
    return [{ ...toml.placeOf(issue.path), key: path.join('.'), text: message }];
  }
  return issue.keys.map((name) => {
    const known = knownNames(role, path);
    const what = path.length === 0 && isTable(toml.value[name]) ? 'table' : 'key';
    const text = `there is no such ${what}${nearest(name, known)}`;
    return { ...toml.placeOf([...issue.path, name]), key: [...path, name].join('.'), text };
  });
}

function isTable(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** What may stand in the table at `path`. */
function knownNames(role: Role, path: readonly string[]): string[] {
  const { tables, sections } = ROLE_FACTS[role];
  const all = tables.flatMap((table) => Object.values(table));
  const [section = ''] = path;
  if (section === 'profiles')
    return [...Object.values(RUN), ...PROFILE_KEYS].map(({ name }) => name);
  const names = all.filter((setting) => setting.section === section).map(({ name }) => name);
  if (section !== '') return names;
  const tableNames = Object.keys(sections).filter((name) => name !== '');
  return [...names, ...tableNames, ...(role === 'host' ? ['profiles'] : [])];
}

/** `; did you mean "ram"?` where a name is near enough, else what there is. */
function nearest(name: string, known: readonly string[]): string {
  const near = closest(name, known);
  if (distance(name, near) <= Math.max(2, Math.floor(near.length / 3)))
    return `; did you mean "${near}"?`;
  return `; there are ${known.join(', ')}`;
}
