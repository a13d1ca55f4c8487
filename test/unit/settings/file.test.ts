// SPDX-License-Identifier: Apache-2.0
// Files of settings: every value with its place, every mistake with its place and its remedy, and the default files.
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { defaultFile } from '../../../proto/settings/document.js';
import { FEEDER } from '../../../proto/settings/feeder.js';
import { checkText, problemLine, type SettingsFile } from '../../../proto/settings/file.js';
import { AGENT, RUN } from '../../../proto/settings/host.js';
import { ROLE_FACTS, ROLES, type Role } from '../../../proto/settings/roles.js';
import { keyOf } from '../../../proto/settings/setting.js';
import { settle } from '../../../proto/settings/settle.js';
import { readToml, TomlError } from '../../../proto/settings/toml.js';
import { ROOT } from '../../arch/files.js';

const PATH = '/etc/test/feeder.toml';

function good(role: Role, text: string): SettingsFile {
  const checked = checkText(role, PATH, text);
  if ('file' in checked) return checked.file;
  throw new Error(checked.problems.map((problem) => problemLine(PATH, problem)).join('\n'));
}

function wrong(role: Role, text: string): string[] {
  const checked = checkText(role, PATH, text);
  return 'file' in checked ? [] : checked.problems.map((problem) => problemLine('F', problem));
}

describe('readToml', () => {
  test('tells where each key stands, in tables, inline tables and dotted keys', () => {
    const { value, placeOf } = readToml(
      'a = 1\n[t]\n  b.c = "x"\n  d = { e = [1, 2] }\n[[k]]\nf = 1\n',
    );
    expect(JSON.parse(JSON.stringify(value))).toEqual({
      a: 1,
      t: { b: { c: 'x' }, d: { e: [1, 2] } },
      k: [{ f: 1 }],
    });
    expect(placeOf(['a'])).toEqual({ line: 1, column: 1 });
    expect(placeOf(['t'])).toEqual({ line: 2, column: 2 });
    expect(placeOf(['t', 'b', 'c'])).toEqual({ line: 3, column: 5 });
    expect(placeOf(['t', 'd', 'e'])).toEqual({ line: 4, column: 9 });
    expect(placeOf(['k', 0, 'f'])).toEqual({ line: 6, column: 1 });
    expect(placeOf(['t', 'b', 'none'])).toEqual({ line: 3, column: 3 });
  });

  test('keys that are names of prototypes are keys like others', () => {
    const { value } = readToml('[__proto__]\npolluted = true\n[constructor]\nx = 1\n');
    expect(Object.keys(value)).toEqual(['__proto__', 'constructor']);
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
    expect(wrong('feeder', '[__proto__]\nx = 1\n')).toEqual([
      expect.stringMatching(/^F:1:2: __proto__: there is no such table/),
    ]);
  });

  test('any text is read, or refused with a place inside of it', () => {
    const part = fc.constantFrom(
      '[',
      ']',
      '=',
      '"',
      "'",
      '{',
      '}',
      '\n',
      '.',
      '#',
      'a',
      '1',
      ' ',
      '\\',
      ',',
      '\r',
    );
    fc.assert(
      fc.property(fc.array(fc.oneof(part, fc.string()), { maxLength: 40 }), (parts) => {
        const text = parts.join('');
        try {
          readToml(text);
        } catch (reason) {
          expect(reason).toBeInstanceOf(TomlError);
          const { line, column } = (reason as TomlError).place;
          const lines = text.split(/\r?\n/);
          expect(line).toBeGreaterThanOrEqual(1);
          expect(line).toBeLessThanOrEqual(lines.length);
          expect(column).toBeGreaterThanOrEqual(1);
          expect(column).toBeLessThanOrEqual((lines[line - 1] ?? '').length + 2);
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe('a file', () => {
  test('gives values as the flags would, and paths relative to itself', () => {
    const file = good(
      'feeder',
      '[lend]\nram = "4GiB"\nvram = ["0=1GiB"]\n[cache]\ndir = "b"\nbytes = 0\n',
    );
    const { values, origins } = settle(FEEDER, { env: {}, file });
    expect(values).toMatchObject({ ramBytes: 4 * 2 ** 30, cacheDir: '/etc/test/b', cacheBytes: 0 });
    expect([...(values.vramBytes ?? [])]).toEqual([[0, 2 ** 30]]);
    expect(origins.ramBytes).toEqual({ from: 'file', file: PATH, line: 2, column: 1 });
    expect(origins.port).toEqual({ from: 'default' });
  });

  test.each<[Role, string, string]>([
    ['feeder', 'nmae = "x"', 'F:1:1: nmae: there is no such key; did you mean "name"?'],
    [
      'feeder',
      '\n[lend]\n rams = 1',
      'F:3:2: lend.rams: there is no such key; did you mean "ram"?',
    ],
    ['feeder', '[listn]\nport = 1', 'F:1:2: listn: there is no such table; did you mean "listen"?'],
    ['feeder', '[lend]\nram = "lots"', 'F:2:1: lend.ram: "lots" is not a size; write for example'],
    ['feeder', '[lend]\nram = true', 'F:2:1: lend.ram: write a size, such as "16GiB" here'],
    ['feeder', '[lend]\nvram = "0=8GiB"', 'F:2:1: lend.vram: write an array here'],
    ['feeder', '[listen]\nport = 70000', 'F:2:1: listen.port: "70000" is not a port'],
    ['feeder', '[listen]\nport = "9740"', 'F:2:1: listen.port: write a whole number here'],
    ['feeder', 'lend = 4', 'F:1:1: lend: write a table here'],
    ['feeder', '[lend]\nram = "1GiB"\nram = "2GiB"', 'F:3:1: '],
    ['feeder', '[lend\n', 'F:2:1: Unterminated'],
    [
      'feeder',
      '[hosts]\nzzzzzzzz = 1',
      'F:2:1: hosts.zzzzzzzz: there is no such key; there are bytes_max',
    ],
    ['host', '[run]\nremote = "megred"', 'F:2:1: run.remote: "megred": write merged, devices, off'],
    [
      'host',
      '[profiles.x]\nprogrms = []',
      'F:2:1: profiles.x.progrms: there is no such key; did you mean "programs"?',
    ],
    [
      'host',
      '[profiles.x]\nenv = { "1A" = "x" }',
      'F:2:9: profiles.x.env.1A: is no name of a variable',
    ],
    ['host', '[profiles.x]\nreport = "more"', 'F:2:1: profiles.x.report: "more": write honest'],
  ])('%s: %j is refused', (role, text, line) => {
    const lines = wrong(role, text);
    expect(lines[0]).toContain(line);
    expect(lines[0]?.startsWith(line.slice(0, 6))).toBe(true);
  });

  test('every mistake is told, in the order of the file', () => {
    const text = 'a = 1\n[lend]\nram = "x"\nb = 2\n[listen]\nport = -1\n';
    expect(wrong('feeder', text).map((line) => line.split(':').slice(1, 2).join())).toEqual([
      '1',
      '3',
      '4',
      '6',
    ]);
  });
});

describe('precedence', () => {
  const file = good('host', 'log = "debug"\n[run]\nreport = "honest"\nstaging = "off"\n');
  test('a flag goes before a variable, a variable before the file, the file before the default', () => {
    const env = { GREENBOOST_REPORT: 'extend', GREENBOOST_STAGING: '' };
    const flags = { report: 'extend=1024' };
    const of = (sources: Parameters<typeof settle<typeof RUN>>[1]) => settle(RUN, sources);
    expect(of({ env: {}, file }).values).toMatchObject({ report: 'honest', staging: 'off' });
    expect(of({ env, file }).values).toMatchObject({ report: 'extend', staging: 'off' });
    const all = of({ flags, env, file });
    expect(all.values.report).toBe('extend=1024');
    expect(all.origins.report).toEqual({ from: 'flag', flag: '--report' });
    expect(of({ env, file }).origins.report).toEqual({
      from: 'environment',
      variable: 'GREENBOOST_REPORT',
    });
    expect(of({ env: {} }).values).toEqual({});
    expect(settle(AGENT, { env: {}, file }).values.logLevel).toBe('debug');
  });

  test('a variable that cannot be read is named', () => {
    expect(() => settle(RUN, { env: { GREENBOOST_FRAMES: 'x' } })).toThrow(
      /GREENBOOST_FRAMES: "x" is not a size/,
    );
  });
});

describe.each(ROLES)('the default file of the %s', (role) => {
  const text = defaultFile(role);
  const all = ROLE_FACTS[role].tables.flatMap((table) => Object.values(table));

  test('changes nothing as it is', () => {
    const file = good(role, text);
    expect(all.filter((setting) => file.get(setting))).toEqual([]);
    expect(file.profiles).toEqual([]);
  });

  test('is right with every example taken out of its comment, and has every setting', () => {
    const file = good(role, text.replace(/^#(?=[a-z_[]+)/gm, ''));
    expect(all.filter((setting) => !file.get(setting)).map(keyOf)).toEqual([]);
    expect(file.profiles.map(({ name }) => name)).toEqual(role === 'host' ? ['mine'] : []);
  });

  test('names the flag and the variable of each setting, once', () => {
    for (const { flag, env } of all) {
      expect(text).toContain(`--${flag}`);
      expect(text).toContain(env);
    }
    expect(new Set(all.map(keyOf)).size).toBe(all.length);
    expect(text.split('\n').every((line) => line.length <= 100)).toBe(true);
  });

  test('is what the manual shows', () => {
    const manual = readFileSync(join(ROOT, 'docs/configuration.md'), 'utf8');
    expect(manual).toContain(`\`\`\`toml\n${text}\`\`\`\n`);
  });
});
