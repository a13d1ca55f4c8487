// SPDX-License-Identifier: Apache-2.0
// Every C structure that crosses a process boundary, as the compiler lays it out, against its
// TypeScript mirror.
import { describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LAYOUTS as EXECUTOR_LAYOUTS } from '../../driver/executor/abi.js';
import { DOOR_LAYOUTS, LANE_LAYOUTS } from '../../driver/lane/abi.js';
import { LAYOUTS as SHIM_LAYOUTS } from '../../host/shim/abi.js';
import { ROOT } from './files.js';

interface Layout {
  readonly size: number;
  readonly offsets: Readonly<Record<string, number>>;
}
type Layouts = Readonly<Record<string, Layout>>;

const HEADERS: readonly (readonly [string, Layouts])[] = [
  ['shim/include/gb_abi.h', SHIM_LAYOUTS],
  ['driver/executor/gb_exec.h', EXECUTOR_LAYOUTS],
  ['driver/lane/lane.h', LANE_LAYOUTS],
  ['driver/lane/door.h', DOOR_LAYOUTS],
];

/** Prints one JSON object of the shape of `layouts`, with the compiler's numbers. */
function compilerLayouts(header: string, layouts: Layouts): Layouts {
  const rows = Object.entries(layouts).map(([name, { offsets }]) => {
    const fields = Object.keys(offsets).map(
      (field) =>
        `printf("%s\\"${field}\\":%zu", first++ ? "," : "", offsetof(struct ${name}, ${field}));`,
    );
    return `printf("%s\\"${name}\\":{\\"size\\":%zu,\\"offsets\\":{", structs++ ? "," : "", sizeof(struct ${name}));
      first = 0; ${fields.join('\n')} printf("}}");`;
  });
  const source = `#include <stdio.h>\n#include "${join(ROOT, header)}"\nint main(void) { int first = 0, structs = 0;
    printf("{"); ${rows.join('\n')} printf("}"); (void)first; return 0; }`;
  const folder = mkdtempSync(join(tmpdir(), 'greenboost-abi-'));
  try {
    writeFileSync(join(folder, 'layout.c'), source);
    execFileSync('gcc', ['-std=c11', '-o', join(folder, 'layout'), join(folder, 'layout.c')]);
    return JSON.parse(execFileSync(join(folder, 'layout'), { encoding: 'utf8' })) as Layouts;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

describe.each(HEADERS)('%s', (header, layouts) => {
  test('every offset and size agrees with the compiler', () => {
    const mirror = Object.fromEntries(
      Object.entries(layouts).map(([name, { size, offsets }]) => [
        name,
        { size, offsets: { ...offsets } },
      ]),
    );
    expect(mirror).toEqual(compilerLayouts(header, layouts));
  });

  test('no structure of the header is missing from the mirror', () => {
    const text = readFileSync(join(ROOT, header), 'utf8');
    const names = [...text.matchAll(/^struct (\w+) \{/gm)].map((match) => match[1]).sort();
    expect(Object.keys(layouts).sort()).toEqual(names);
  });
});
