// SPDX-License-Identifier: Apache-2.0
// One setting: where it stands in the file, its flag, its variable, and its words in help and documents. Tables of
// them (feeder.ts, host.ts) are the only definition; they are plain data, as the command's arguments are made of them
// at every start, and zod alone would take longer than that (file.ts makes its schema of them when there is a file).
import type { Kind } from './kinds.js';

export interface Setting<T> {
  /** The table of the file that it stands in; empty: above all tables. */
  readonly section: string;
  /** Its key there. */
  readonly name: string;
  readonly kind: Kind<T>;
  /** Without its dashes. */
  readonly flag: string;
  readonly env: string;
  /** What it does: the text of `--help`. */
  readonly about: string;
  /** Of a switch that is on by default: what its --no- does. */
  readonly aboutOff?: string;
  /** What holds without it, in words. */
  readonly fallback: string;
  /** A value as TOML: the default where that is one value, else an example. */
  readonly example: string;
}

export type SettingTable = Readonly<Record<string, Setting<unknown>>>;

/** What may be told of a table's settings. */
export type Values<T extends SettingTable> = {
  readonly [K in keyof T]?: T[K] extends Setting<infer V> ? V : never;
};

/** Keeps the type of each value. */
export function settings<T extends SettingTable>(table: T): T {
  return table;
}

/** `lend.ram`, `name`. */
export function keyOf({ section, name }: Pick<Setting<unknown>, 'section' | 'name'>): string {
  return section === '' ? name : `${section}.${name}`;
}
