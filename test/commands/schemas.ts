// SPDX-License-Identifier: Apache-2.0
// JSON Schemas (draft 7) of what commands print with --json, made from the types of tui/cli/outputs.ts by the compiler
// itself, so that there is one definition.
import Ajv from 'ajv';
import { expect } from '@jest/globals';
import ts from 'typescript';
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { ROOT } from '../arch/files.js';
import { UPDATE } from './golden.js';

export type Schema = Readonly<Record<string, unknown>>;

const SOURCE = join(ROOT, 'tui/cli/outputs.ts');
const DRAFT = 'http://json-schema.org/draft-07/schema#';

/** Where they are published, one file for each command. */
export const SCHEMAS = 'docs/schemas';

/** The published ones, by their files' names without the ending; while golden files are written, those to come. */
export function publishedSchemas(): ReadonlyMap<string, Schema> {
  if (UPDATE)
    return new Map(
      [...outputSchemas()].map(([name, schema]) => [name.replaceAll(' ', '-'), schema]),
    );
  const folder = join(ROOT, SCHEMAS);
  return new Map(
    readdirSync(folder).map((file) => [
      basename(file, '.json'),
      JSON.parse(readFileSync(join(folder, file), 'utf8')) as Schema,
    ]),
  );
}

/** A schema for each command of `Outputs`, by its words. @throws TypeError on a type that JSON cannot carry. */
export function outputSchemas(): ReadonlyMap<string, Schema> {
  const config = ts.readConfigFile(join(ROOT, 'tsconfig.json'), ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent(config.config, ts.sys, ROOT);
  const program = ts.createProgram([SOURCE], { ...options, noEmit: true });
  const checker = program.getTypeChecker();
  const file = program.getSourceFile(SOURCE);
  const outputs = file?.statements.find(
    (statement): statement is ts.InterfaceDeclaration =>
      ts.isInterfaceDeclaration(statement) && statement.name.text === 'Outputs',
  );
  if (!outputs) throw new TypeError('tui/cli/outputs.ts declares no Outputs');
  const made = checker
    .getTypeAtLocation(outputs)
    .getProperties()
    .map((property): [string, Schema] => {
      const title = `greenboost ${property.name} --json`;
      const writer = new Writer(checker, title);
      const body = writer.schemaOf(checker.getTypeOfSymbol(property), property.name);
      return [property.name, { $schema: DRAFT, title, ...body }];
    });
  return new Map(made);
}

class Writer {
  constructor(
    private readonly checker: ts.TypeChecker,
    private readonly where: string,
  ) {}

  schemaOf(type: ts.Type, path: string): Schema {
    if (type.isUnion()) return this.unionOf(type.types, path);
    if (type.isLiteral()) return { const: type.value };
    const { flags } = type;
    if (flags & ts.TypeFlags.BooleanLiteral)
      return { const: this.checker.typeToString(type) === 'true' };
    if (flags & ts.TypeFlags.String) return { type: 'string' };
    if (flags & ts.TypeFlags.Number) return { type: 'number' };
    if (flags & ts.TypeFlags.Null) return { type: 'null' };
    if (flags & ts.TypeFlags.Unknown) return {};
    if (this.checker.isArrayType(type)) {
      const [item] = this.checker.getTypeArguments(type as ts.TypeReference);
      if (item) return { type: 'array', items: this.schemaOf(item, `${path}[]`) };
    }
    const isObject = (flags & ts.TypeFlags.Object) !== 0 || type.isIntersection();
    if (isObject && type.getCallSignatures().length === 0) return this.objectOf(type, path);
    throw new TypeError(`${this.where}: ${path} is no JSON (${this.checker.typeToString(type)})`);
  }

  /** Words become one enum, true and false one boolean; the rest are alternatives. */
  private unionOf(types: readonly ts.Type[], path: string): Schema {
    const schemas = types
      .filter(({ flags }) => (flags & ts.TypeFlags.Undefined) === 0)
      .map((type) => this.schemaOf(type, path));
    const words = schemas.filter(({ const: word }) => typeof word === 'string');
    const truths = schemas.filter(({ const: word }) => typeof word === 'boolean');
    const rest = schemas.filter((schema) => !words.includes(schema) && !truths.includes(schema));
    const merged: Schema[] = [
      ...rest,
      ...(words.length > 0 ? [{ enum: words.map(({ const: word }) => word).sort() }] : []),
      ...(truths.length === 2 ? [{ type: 'boolean' }] : truths),
    ];
    const [only] = merged;
    if (merged.length === 1 && only) return only;
    const plain = merged.every((schema) => Object.keys(schema).join() === 'type');
    return plain ? { type: merged.map(({ type }) => type).sort() } : { anyOf: merged };
  }

  private objectOf(type: ts.Type, path: string): Schema {
    const properties = type
      .getProperties()
      .toSorted((one, other) => (one.name < other.name ? -1 : 1))
      .map((property) => this.propertyOf(property, `${path}.${property.name}`));
    const others = type.getStringIndexType();
    const required = properties.filter(({ optional }) => !optional).map(({ name }) => name);
    return {
      type: 'object',
      ...(properties.length > 0 || !others
        ? { properties: Object.fromEntries(properties.map(({ name, schema }) => [name, schema])) }
        : {}),
      ...(required.length > 0 ? { required } : {}),
      ...(others ? { additionalProperties: this.schemaOf(others, `${path}.*`) } : {}),
    };
  }

  /** With its doc comment. What may be undefined is absent in JSON. */
  private propertyOf(
    property: ts.Symbol,
    path: string,
  ): { name: string; optional: boolean; schema: Schema } {
    const type = this.checker.getTypeOfSymbol(property);
    const maybe = type.isUnion() && type.types.some(({ flags }) => flags & ts.TypeFlags.Undefined);
    const comment = ts.displayPartsToString(property.getDocumentationComment(this.checker));
    const description = comment.replace(/\s+/g, ' ').trim();
    return {
      name: property.name,
      optional: maybe || (property.flags & ts.SymbolFlags.Optional) !== 0,
      schema: { ...(description ? { description } : {}), ...this.schemaOf(type, path) },
    };
  }
}

/** The same schema with every object closed: for our own tests, where a field that the definition lacks is a mistake.
 *  The published ones are open, because fields may be added. */
export function closed(schema: Schema): Schema {
  return JSON.parse(JSON.stringify(schema), (_key, value: unknown) => {
    const isObject = typeof value === 'object' && value !== null && 'properties' in value;
    return isObject && !('additionalProperties' in value) && 'type' in value
      ? { ...value, additionalProperties: false }
      : value;
  }) as Schema;
}

/** Holds documents of commands against their published schemas, closed. */
export class Validator {
  /** Commands of which a document was seen. */
  readonly seen = new Set<string>();
  private readonly fits: ReadonlyMap<string, Ajv.ValidateFunction>;

  constructor() {
    const ajv = new Ajv({ allErrors: true });
    this.fits = new Map(
      [...publishedSchemas()].map(([name, schema]) => [name, ajv.compile(closed(schema))]),
    );
  }

  /** The names of all schemas. */
  get names(): string[] {
    return [...this.fits.keys()];
  }

  /** `command`: its words, or `dry-run`. */
  validate(command: string, document: unknown): void {
    const name = command.replaceAll(' ', '-');
    const fits = this.fits.get(name);
    if (!fits) throw new Error(`tui/cli/outputs.ts does not know greenboost ${command} --json`);
    fits(document);
    expect({ command, errors: fits.errors ?? [] }).toEqual({ command, errors: [] });
    this.seen.add(name);
  }
}
