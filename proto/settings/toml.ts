// SPDX-License-Identifier: Apache-2.0
// A TOML text as plain values, and where each of its keys stands: the parser's tree, flattened. Knows no settings.
import { getStaticTOMLValue, parseTOML, ParseError, type AST } from 'toml-eslint-parser';

/** In the text; both from 1. */
export interface Place {
  readonly line: number;
  readonly column: number;
}

export interface Toml {
  /** Tables are objects without a prototype: every key is an ordinary one. */
  readonly value: Readonly<Record<string, unknown>>;
  /** Where the key of that path stands; of a path that is not there, the nearest one above. */
  placeOf(path: readonly PropertyKey[]): Place;
}

export class TomlError extends Error {
  constructor(
    message: string,
    readonly place: Place,
  ) {
    super(message);
    this.name = 'TomlError';
  }
}

type Table = Record<string, unknown>;
type Step = string | number;

const START: Place = { line: 1, column: 1 };
const placeId = (path: readonly PropertyKey[]): string => JSON.stringify(path.map(String));

/** @throws TomlError where the text is no TOML 1.0. */
export function readToml(text: string): Toml {
  const places = new Map<string, Place>([[placeId([]), START]]);
  const value = emptyTable();
  const [top] = parsed(text).body;
  for (const node of top.body) {
    if (node.type === 'TOMLTable') {
      note(places, node.resolvedKey, node.key);
      tableAt(value, node.resolvedKey);
      for (const entry of node.body) put(value, node.resolvedKey, entry, places);
    } else put(value, [], node, places);
  }
  return {
    value,
    placeOf(path) {
      for (let length = path.length; length > 0; length--) {
        const place = places.get(placeId(path.slice(0, length)));
        if (place) return place;
      }
      return START;
    },
  };
}

function parsed(text: string): AST.TOMLProgram {
  try {
    return parseTOML(text, { tomlVersion: '1.0' });
  } catch (reason) {
    if (!(reason instanceof ParseError)) throw reason;
    throw new TomlError(reason.message, { line: reason.lineNumber, column: reason.column + 1 });
  }
}

function emptyTable(): Table {
  return Object.create(null) as Table;
}

function note(places: Map<string, Place>, path: readonly Step[], node: AST.TOMLNode): void {
  const { line, column } = node.loc.start;
  const id = placeId(path);
  if (!places.has(id)) places.set(id, { line, column: column + 1 });
}

/** The table at `path`, made where it is missing; a number is a place in an array of tables. */
function tableAt(root: Table, path: readonly Step[]): Table {
  let at: Table | unknown[] = root;
  for (const [index, step] of path.entries()) {
    const holder = at as Record<Step, unknown>;
    holder[step] ??= typeof path[index + 1] === 'number' ? [] : emptyTable();
    at = holder[step] as Table | unknown[];
  }
  return at as Table;
}

function put(
  root: Table,
  base: readonly Step[],
  { key, value }: AST.TOMLKeyValue,
  places: Map<string, Place>,
): void {
  const names = key.keys.map((part) => (part.type === 'TOMLBare' ? part.name : part.value));
  const path = [...base, ...names];
  names.forEach((_, index) => {
    const part = key.keys[index];
    if (part) note(places, path.slice(0, base.length + index + 1), part);
  });
  if (value.type === 'TOMLInlineTable') {
    tableAt(root, path);
    for (const entry of value.body) put(root, path, entry, places);
    return;
  }
  const last = names.at(-1) as string;
  tableAt(root, path.slice(0, -1))[last] = getStaticTOMLValue(value);
}
