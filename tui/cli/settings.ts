// SPDX-License-Identifier: Apache-2.0
// Settings on the command line: options made of the tables of proto/settings, what they were given, and the file.
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { Option, type Command } from 'commander';
import { GbError } from '../../proto/base/errors.js';
import type { SettingsFile } from '../../proto/settings/file.js';
import { defaultFilePath, ROLE_FACTS, type Role } from '../../proto/settings/roles.js';
import type { Setting, SettingTable, Values } from '../../proto/settings/setting.js';
import { readAs } from '../../proto/settings/settle.js';

/** As commander gives them: of `--lane-port` the value of `lanePort`. */
export type GivenOptions = Readonly<Record<string, unknown>>;

function collect(value: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), value];
}

/** The name under which commander keeps an option. */
function attributeOf({ flag }: Setting<unknown>): string {
  return flag.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

function optionOf(setting: Setting<unknown>): Option {
  const { flag, kind, about, fallback } = setting;
  const option = new Option(`--${flag} <${kind.placeholder}>`, `${about} (default: ${fallback})`);
  if (kind.choices) option.choices(kind.choices);
  return kind.separator === undefined ? option : option.argParser(collect);
}

/** Both ways of a switch; help shows the one that changes the default. */
function switchOptions({ flag, about, aboutOff, fallback }: Setting<unknown>): Option[] {
  const isOn = fallback === 'true';
  const on = new Option(`--${flag}`, about).hideHelp(isOn);
  const off = new Option(`--no-${flag}`, aboutOff ?? `not: ${about}`).hideHelp(!isOn);
  return [on, off];
}

/** Adds an option for each setting. */
export function addSettings(command: Command, table: SettingTable): Command {
  for (const setting of Object.values(table)) {
    const isSwitch = setting.kind.toml === 'switch';
    for (const option of isSwitch ? switchOptions(setting) : [optionOf(setting)])
      command.addOption(option);
  }
  return command;
}

/** Adds `--config`, the file of a role. */
export function addConfigOption(command: Command, role: Role): Command {
  const { fileName } = ROLE_FACTS[role];
  const about = `read settings from here (default: ${fileName} in the configuration folder)`;
  return command.addOption(new Option('--config <file>', about));
}

function textsOf(setting: Setting<unknown>, given: GivenOptions): readonly string[] | undefined {
  const value = given[attributeOf(setting)];
  if (value === undefined) return undefined;
  return [value].flat().map(String);
}

/** What the options of a table were given. @throws GbError INVALID_ARGUMENT that names the option. */
export function flagsOf<T extends SettingTable>(table: T, given: GivenOptions): Values<T> {
  const told = Object.entries(table).flatMap(([key, setting]) => {
    const texts = textsOf(setting, given);
    if (texts === undefined) return [];
    return [[key, readAs(setting, `--${setting.flag}`, texts, process.cwd())] as const];
  });
  return Object.fromEntries(told) as Values<T>;
}

/** The same options as arguments of another process, which may work in another folder. */
export function flagArgs(table: SettingTable, given: GivenOptions): string[] {
  return Object.values(table).flatMap((setting) => {
    const texts = textsOf(setting, given) ?? [];
    const { flag, kind } = setting;
    if (kind.toml === 'switch')
      return texts.map((text) => (text === 'true' ? `--${flag}` : `--no-${flag}`));
    return texts.flatMap((text) => [`--${flag}`, kind.path ? resolve(text) : text]);
  });
}

/** Where the file of a role is read from. @throws GbError NOT_FOUND when a file that was named is not there. */
export async function settingsPath(role: Role, flag: string | undefined): Promise<string> {
  const path = resolve(flag ?? defaultFilePath(role));
  const named = flag !== undefined || (process.env[ROLE_FACTS[role].env] ?? '') !== '';
  if (named && !existsSync(path))
    throw new GbError('NOT_FOUND', `there is no file ${path}`, {
      details: { hint: `write one with every default: greenboost config init ${role}` },
    });
  return path;
}

/** The file of a role, where there is one. @throws GbError as settingsPath; INVALID_ARGUMENT with all that is wrong. */
export async function settingsFile(
  role: Role,
  flag: string | undefined,
): Promise<SettingsFile | undefined> {
  const path = await settingsPath(role, flag);
  // Reading one takes zod and a parser, which nobody waits for who has none.
  if (!existsSync(path)) return undefined;
  return (await import('../../proto/settings/file.js')).readFile(role, path);
}
