// SPDX-License-Identifier: Apache-2.0
// Which value holds: of the flag, else of the environment, else of the file, else the default; and where it is from.
import { GbError } from '../base/errors.js';
import type { SettingsFile } from './file.js';
import type { Setting, SettingTable, Values } from './setting.js';

type Env = Readonly<Record<string, string | undefined>>;

export type Origin =
  | { readonly from: 'flag'; readonly flag: string }
  | { readonly from: 'environment'; readonly variable: string }
  | {
      readonly from: 'file';
      readonly file: string;
      readonly line: number;
      readonly column: number;
    }
  | { readonly from: 'default' };

export interface Sources<T extends SettingTable> {
  /** Of flags, read already. */
  readonly flags?: Values<T>;
  readonly env: Env;
  readonly file?: SettingsFile | undefined;
}

export interface Settled<T extends SettingTable> {
  /** Without those that nobody told: their default holds. */
  readonly values: Values<T>;
  readonly origins: Readonly<Record<keyof T, Origin>>;
}

/** Settles a table. @throws GbError INVALID_ARGUMENT for a variable that cannot be read. */
export function settle<T extends SettingTable>(table: T, sources: Sources<T>): Settled<T> {
  const values: Record<string, unknown> = {};
  const origins: Record<string, Origin> = {};
  for (const [key, setting] of Object.entries(table)) {
    const { value, origin } = told(key, setting, sources);
    if (value !== undefined) values[key] = value;
    origins[key] = origin;
  }
  return { values: values as Values<T>, origins: origins as Record<keyof T, Origin> };
}

function told(
  key: string,
  setting: Setting<unknown>,
  { flags, env, file }: Sources<SettingTable>,
): { value?: unknown; origin: Origin } {
  const flag = flags?.[key];
  if (flag !== undefined)
    return { value: flag, origin: { from: 'flag', flag: `--${setting.flag}` } };
  const text = env[setting.env];
  if (text !== undefined && text !== '') {
    const value = readAs(setting, setting.env, [text], undefined);
    return { value, origin: { from: 'environment', variable: setting.env } };
  }
  const held = file?.get(setting);
  if (file && held)
    return { value: held.value, origin: { from: 'file', file: file.path, ...held.place } };
  return { origin: { from: 'default' } };
}

/** Reads texts as a setting's kind does. @throws GbError INVALID_ARGUMENT that names who told it: `name`. */
export function readAs<T>(
  { kind }: Setting<T>,
  name: string,
  texts: readonly string[],
  folder: string | undefined,
): T {
  try {
    return kind.read(texts, folder);
  } catch (reason) {
    throw new GbError('INVALID_ARGUMENT', `${name}: ${GbError.from(reason).rawMessage}`);
  }
}
