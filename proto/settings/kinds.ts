// SPDX-License-Identifier: Apache-2.0
// Kinds of settings: how a value is read from text (of a flag, of the environment, of TOML), and how it is written.
// Whoever reads names the setting; messages here say only what is wrong with the value.
import { isAbsolute, resolve } from 'node:path';
import { GbError } from '../base/errors.js';
import { GIB, KIB, MIB, parseBytes, TIB } from '../base/units.js';
import { parseHours, type HoursWindow } from './hours.js';

/** What a value is in a TOML file. A size is a text or whole bytes. */
export type TomlForm = 'text' | 'whole' | 'number' | 'switch' | 'size';

export interface Kind<T> {
  readonly toml: TomlForm;
  /** `size` in `--ram <size>`; empty for a switch. */
  readonly placeholder: string;
  readonly choices?: readonly string[];
  /** Several values: what stands between them in one text. In TOML they are an array, as flags they are repeated. */
  readonly separator?: string;
  /** It names a folder. */
  readonly path?: true;
  /** Reads a value; a kind with a separator gets any number of texts, every other one exactly one.
   *  `folder`: what a path is relative to; undefined: it must be a full one.
   *  @throws GbError INVALID_ARGUMENT. */
  read(texts: readonly string[], folder: string | undefined): T;
  /** As people write it; read gives the same value again. */
  write(value: T): string;
}

const wrong = (text: string): GbError => new GbError('INVALID_ARGUMENT', text);
const shown = (text: string): string => `"${text.slice(0, 60)}"`;

function one<T>(
  toml: TomlForm,
  placeholder: string,
  read: (text: string, folder: string | undefined) => T,
  write: (value: T) => string = String,
): Kind<T> {
  return { toml, placeholder, read: (texts, folder) => read(texts[0] ?? '', folder), write };
}

/** `16GiB`; in the largest unit that it is a whole number of. */
function sizeText(bytes: number): string {
  const units: Readonly<Record<string, number>> = { TiB: TIB, GiB: GIB, MiB: MIB, KiB: KIB };
  const found = Object.entries(units).find(([, unit]) => bytes >= unit && bytes % unit === 0);
  return found ? `${bytes / found[1]}${found[0]}` : String(bytes);
}

export const SIZE: Kind<number> = one('size', 'size', parseBytes, sizeText);

/** `100MB`, `100MB/s`: bytes per second. */
export function rate(least: number): Kind<number> {
  const read = (text: string): number => {
    const bytes = parseBytes(text.replace(/\/s$/, ''));
    if (bytes < least) throw wrong(`${shown(text)} is too little; at least 1MB/s`);
    return bytes;
  };
  const write = (bytes: number): string => (bytes % 1e6 === 0 ? `${bytes / 1e6}MB` : `${bytes}`);
  return one('size', 'rate', read, write);
}

export const PORT: Kind<number> = one('whole', 'port', (text) => {
  const port = Number(text);
  if (!/^\d{1,5}$/.test(text) || port > 65_535)
    throw wrong(`${shown(text)} is not a port, 0 to 65535`);
  return port;
});

/** A whole number between two. `what` names it in help, as `nice`. */
export function whole(what: string, least: number, most: number): Kind<number> {
  return one('whole', what, (text) => {
    const value = Number(text);
    if (!/^-?\d{1,15}$/.test(text) || value < least || value > most)
      throw wrong(`${shown(text)}: write a whole number from ${least} to ${most}`);
    return value;
  });
}

/** Seconds, read as milliseconds. */
export function seconds(least: number, most: number): Kind<number> {
  const read = (text: string): number => {
    const value = Number(text);
    if (!/^\d{1,9}(\.\d{1,3})?$/.test(text) || value < least || value > most)
      throw wrong(`${shown(text)}: write ${least} to ${most} seconds`);
    return Math.round(value * 1_000);
  };
  return one('number', 'seconds', read, (ms) => String(ms / 1_000));
}

/** A text of so many characters at most. */
export function words(what: string, most: number): Kind<string> {
  return one('text', what, (text) => {
    if (text === '' || text.length > most) throw wrong(`write 1 to ${most} characters`);
    return text;
  });
}

/** Read as a full path. */
export const PATH: Kind<string> = { ...one('text', 'folder', fullPath), path: true };

function fullPath(text: string, folder: string | undefined): string {
  if (text === '' || text.includes('\0')) throw wrong('write a folder');
  if (!isAbsolute(text) && folder === undefined)
    throw wrong(`${shown(text)}: write a full path, beginning with /`);
  return resolve(folder ?? '/', text);
}

export function choice<const C extends string>(what: string, ...choices: readonly C[]): Kind<C> {
  const read = (text: string): C => {
    const found = choices.find((candidate) => candidate === text);
    if (found === undefined) throw wrong(`${shown(text)}: write ${choices.join(', ')}`);
    return found;
  };
  return { ...one('text', what, read), choices };
}

const SWITCH_WORDS: Readonly<Record<string, boolean>> = {
  on: true,
  true: true,
  '1': true,
  off: false,
  false: false,
  '0': false,
};

function readSwitch(text: string): boolean {
  const value = Object.hasOwn(SWITCH_WORDS, text) ? SWITCH_WORDS[text] : undefined;
  if (value === undefined) throw wrong(`${shown(text)}: give on or off`);
  return value;
}

export const SWITCH: Kind<boolean> = one('switch', '', readSwitch);

/** What a program is told of GPU memory: `honest`, `extend` or `extend=SIZE`, the size read as bytes. */
export const REPORT: Kind<string> = one('text', 'size', readReport, (report) =>
  report.replace(/\d+$/, (bytes) => sizeText(Number(bytes))),
);

function readReport(text: string): string {
  if (text === 'honest' || text === 'extend') return text;
  const size = /^extend=(.+)$/.exec(text)?.[1];
  if (size === undefined) throw wrong(`${shown(text)}: write honest, extend or extend=SIZE`);
  return `extend=${parseBytes(size)}`;
}

export interface NvmeRoom {
  readonly directory: string;
  readonly bytes?: number;
}

/** `DIR` or `DIR:SIZE`. */
export const NVME: Kind<NvmeRoom> = one('text', 'dir[:size]', readNvme, ({ directory, bytes }) =>
  bytes === undefined ? directory : `${directory}:${sizeText(bytes)}`,
);

function readNvme(text: string, folder: string | undefined): NvmeRoom {
  const [, directory = '', size] = /^(.*?)(?::(\d[^:/]*))?$/s.exec(text) ?? [];
  if (directory === '') throw wrong('write a folder, as /mnt/nvme or /mnt/nvme:64GiB');
  const bytes = size === undefined ? {} : { bytes: parseBytes(size) };
  return { directory: fullPath(directory, folder), ...bytes };
}

/** Several of one kind. `gather` makes of them what is kept, `items` takes that apart again. */
function list<E, T>(
  kind: Kind<E>,
  separator: string,
  gather: (items: readonly E[]) => T,
  items: (value: T) => readonly E[],
): Kind<T> {
  const { toml, placeholder } = kind;
  const read = (texts: readonly string[], folder: string | undefined): T => {
    const parts = texts.flatMap((text) => text.split(separator)).map((part) => part.trim());
    return gather(parts.filter((part) => part !== '').map((part) => kind.read([part], folder)));
  };
  const write = (value: T): string => items(value).map(kind.write).join(separator);
  return { toml, placeholder, separator, read, write };
}

/** Any number of one kind. */
export function many<E>(kind: Kind<E>, separator = ','): Kind<readonly E[]> {
  return list<E, readonly E[]>(
    kind,
    separator,
    (items) => items,
    (value) => value,
  );
}

const GPUS_MAX = 64;

const GPU_SIZE = one<readonly [number, number]>(
  'text',
  'gpu=size',
  (text) => {
    const match = /^(\d{1,2})=(.+)$/.exec(text);
    const index = Number(match?.[1]);
    if (!match || index >= GPUS_MAX)
      throw wrong(`${shown(text)} is not GPU=SIZE; 0=8GiB is 8 GiB of the first GPU`);
    return [index, parseBytes(match[2] ?? '')];
  },
  ([gpu, bytes]) => `${gpu}=${sizeText(bytes)}`,
);

/** Bytes by CUDA ordinal. */
export const GPU_SIZES: Kind<ReadonlyMap<number, number>> = list(
  GPU_SIZE,
  ',',
  gpuMap,
  (sizes: ReadonlyMap<number, number>) => [...sizes],
);

function gpuMap(items: readonly (readonly [number, number])[]): ReadonlyMap<number, number> {
  const sizes = new Map<number, number>();
  for (const [gpu, bytes] of items) {
    if (sizes.has(gpu)) throw wrong(`GPU ${gpu} is named twice`);
    sizes.set(gpu, bytes);
  }
  return sizes;
}

const WINDOW: Kind<HoursWindow> = one('text', 'hours', parseHours, ({ text }) => text);

/** Windows of time; `;` stands between them, as days have commas. */
export const HOURS: Kind<readonly HoursWindow[]> = many(WINDOW, ';');

export interface IoPriority {
  readonly class: 'best-effort' | 'idle';
  /** 0, first served, to 7; of best-effort only. */
  readonly level: number;
}

/** `idle`, or `best-effort:LEVEL`. */
export const IO_PRIORITY: Kind<IoPriority> = one('text', 'class', readIo, (io) =>
  io.class === 'idle' ? 'idle' : `best-effort:${io.level}`,
);

function readIo(text: string): IoPriority {
  if (text === 'idle') return { class: 'idle', level: 0 };
  const level = /^best-effort:([0-7])$/.exec(text)?.[1];
  if (level === undefined)
    throw wrong(`${shown(text)}: write idle, or best-effort:0 to best-effort:7`);
  return { class: 'best-effort', level: Number(level) };
}
