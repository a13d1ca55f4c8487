// SPDX-License-Identifier: Apache-2.0
// --help, the manual pages and the completions: one tree of definitions, said in three ways. Pages are formatted by
// groff, completions are loaded and asked by the shells themselves.
import { afterAll, describe, expect, test } from '@jest/globals';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { completionScript } from '../../tui/cli/completion.js';
import { manualPages } from '../../tui/cli/manual.js';
import { allCommands, createProgram } from '../../tui/cli/program.js';
import { expectGolden, expectNoOthers } from './golden.js';

const folder = mkdtempSync(join(tmpdir(), 'greenboost-manual-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const program = createProgram();
const pages = manualPages(program);

/** Runs `command` to its end; its output, of both streams. @throws when it cannot be run. */
function said(command: string, args: readonly string[], input = ''): string {
  const done = spawnSync(command, args, { input, encoding: 'utf8' });
  if (done.error) throw done.error;
  return done.stdout + done.stderr;
}

/** Pages that are kept as man shows them. */
const SHOWN = ['greenboost.1', 'greenboost-feed.1', 'greenboost-run.1'];

test('no golden file is left that nobody compares with', () => {
  const names = ['help.txt', ...SHOWN.map((file) => `man-${file}.txt`)];
  expectNoOthers('test/commands/golden', names);
});

test('help of every command', () => {
  const texts = allCommands(program).map((command) => {
    let text = '';
    command.configureOutput({ writeOut: (part) => (text += part), getOutHelpWidth: () => 80 });
    command.outputHelp();
    return text;
  });
  expectGolden('test/commands/golden/help.txt', texts.join(`\n${'-'.repeat(80)}\n`));
});

describe('manual pages', () => {
  test('there is one for each command, and the page of greenboost names them all', () => {
    const names = program.commands.map((command) => `greenboost-${command.name()}.1`);
    expect(pages.map(({ file }) => file)).toEqual(['greenboost.1', ...names]);
    for (const name of names)
      expect(pages[0]?.text).toContain(`"${name.slice(0, -2).replaceAll('-', '\\-')}"`);
  });

  test('every option of every command has its place', () => {
    for (const command of program.commands) {
      const page = pages.find(({ file }) => file === `greenboost-${command.name()}.1`)?.text ?? '';
      const options = allCommands(command).flatMap((one) => one.options);
      for (const { long } of options.filter(({ hidden }) => !hidden))
        expect(page).toContain(`\\fB${(long ?? '').replaceAll('-', '\\-')}\\fR`);
    }
  });

  test('groff finds nothing to complain of, with every warning on', () => {
    for (const { file, text } of pages)
      expect(`${file}: ${said('groff', ['-man', '-Tutf8', '-ww', '-z', '-'], text)}`).toBe(
        `${file}: `,
      );
  });

  test('man shows them', () => {
    for (const { file, text } of pages) {
      const path = join(folder, file);
      writeFileSync(path, text);
      const env = { ...process.env, LC_ALL: 'C.UTF-8', MANWIDTH: '80', MAN_KEEP_FORMATTING: '' };
      const done = spawnSync('man', ['--warnings=w', '-l', path], { env, encoding: 'utf8' });
      expect({ file, status: done.status, stderr: done.stderr }).toEqual({
        file,
        status: 0,
        stderr: '',
      });
      expect(done.stdout).toMatch(/^GREENBOOST/);
      if (SHOWN.includes(file))
        expectGolden(`test/commands/golden/man-${file}.txt`, done.stdout);
    }
  });
});

describe('completions', () => {
  const script = (shell: 'bash' | 'zsh' | 'fish'): string => {
    const path = join(folder, `completion.${shell}`);
    writeFileSync(path, completionScript(program, shell));
    return path;
  };

  test('bash', () => {
    const ask = `source ${script('bash')}
      COMP_WORDS=(greenboost feed st); COMP_CWORD=2; _greenboost; echo "\${COMPREPLY[@]}"
      COMP_WORDS=(greenboost run --vr); _greenboost; echo "\${COMPREPLY[@]}"
      COMP_WORDS=(greenboost completion ''); _greenboost; echo "\${COMPREPLY[@]}"`;
    expect(said('bash', ['--norc', '-c', ask])).toBe(
      'start stop status\n--vram-budget\nbash zsh fish --help\n',
    );
  });

  test('zsh', () => {
    const ask = `compdef() { : }
      _describe() { print -l -- "\${(@P)2}" }
      source ${script('zsh')}
      words=(greenboost feed st); CURRENT=3; _greenboost`;
    const lines = said('zsh', ['-f', '-c', ask]).trim().split('\n');
    const feed = program.commands.find((command) => command.name() === 'feed');
    expect(lines.map((line) => line.split(':')[0])).toEqual([
      ...(feed?.commands ?? []).map((command) => command.name()),
      '--help',
    ]);
  });

  test('fish', () => {
    const ask = (line: string): string[] =>
      said('fish', ['--no-config', '-c', `source ${script('fish')}; complete -C '${line}'`])
        .trim()
        .split('\n')
        .map((text) => text.split('\t')[0] ?? '');
    expect(ask('greenboost feed st')).toEqual(['start', 'status', 'stop']);
    expect(ask('greenboost run --vram')).toEqual(['--vram-budget']);
    expect(ask('greenboost key show --js')).toEqual(['--json']);
  });
});
