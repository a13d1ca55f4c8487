// SPDX-License-Identifier: Apache-2.0
// docs/schemas holds what commands promise to print with --json; scripts of people may rely on it.
import Ajv from 'ajv';
import { expect, test } from '@jest/globals';
import { expectGolden, expectNoOthers } from './golden.js';
import { closed, outputSchemas, SCHEMAS, type Schema } from './schemas.js';

const schemas = outputSchemas();
const fileOf = (command: string): string => `${command.replaceAll(' ', '-')}.json`;

test('what is published is what the types say today', () => {
  for (const [command, schema] of schemas)
    expectGolden(`${SCHEMAS}/${fileOf(command)}`, `${JSON.stringify(schema, null, 1)}\n`);
  expectNoOthers(SCHEMAS, [...schemas.keys()].map(fileOf));
});

test('a published schema lets new fields in and no wrong ones; the closed one of our tests lets no new ones in', () => {
  const schema = schemas.get('disconnect') as Schema;
  const document = { schemaVersion: 1, feeder: 'anvil', movedBytes: 0, lostBytes: 0 };
  const fits = (one: Schema, value: unknown): unknown => new Ajv().compile(one)(value);
  expect(fits(schema, document)).toBe(true);
  expect(fits(schema, { ...document, later: 1 })).toBe(true);
  expect(fits(schema, { ...document, movedBytes: '0' })).toBe(false);
  expect(fits(schema, { schemaVersion: 1 })).toBe(false);
  expect(fits(closed(schema), document)).toBe(true);
  expect(fits(closed(schema), { ...document, later: 1 })).toBe(false);
});
