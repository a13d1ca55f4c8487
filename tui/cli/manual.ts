// SPDX-License-Identifier: Apache-2.0
// Manual pages (roff, macros of man(7)) from the commander tree, one for `greenboost` and one for each command, so
// that they say what --help says. `node manual.js FOLDER` writes them (make man).
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';
import type { Argument, Command, Option } from 'commander';
import { softwareVersion } from '../../proto/base/version.js';
import { EXIT_MEANINGS, EXIT_SIGNAL_BASE } from './exit.js';
import { allCommands, createProgram } from './program.js';
import { examplesOf } from './tree/parts.js';

export interface ManualPage {
  /** `greenboost-feed.1` */
  readonly file: string;
  readonly text: string;
}

/** Text for roff: nothing in it is a request or an escape, and hyphens stay hyphens that can be copied. */
function escaped(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replace(/^([.'])/gm, '\\&$1')
    .replaceAll('`', '\\(ga')
    .replaceAll('…', '...')
    .replaceAll('’', '\\(cq')
    .replaceAll('✗', 'x');
}

/** An argument of a macro. */
function quoted(text: string): string {
  return `"${escaped(text).replaceAll('"', '\\(dq')}"`;
}

/** `\`feed start\`` is bold, as what is typed. */
function prose(text: string): string {
  return text
    .split('`')
    .map((part, index) => (index % 2 === 1 ? `\\fB${escaped(part)}\\fR` : escaped(part)))
    .join('');
}

/** A description as a sentence. */
function sentence(text: string): string {
  const end = text.endsWith('.') ? '' : '.';
  return prose(text.charAt(0).toUpperCase() + text.slice(1) + end);
}

function argumentText(argument: Argument): string {
  const name = `\\fI${escaped(argument.name())}\\fR${argument.variadic ? ' ...' : ''}`;
  return argument.required ? name : `[${name}]`;
}

/** `\fB-c\fR, \fB--count\fR \fIn\fR` */
function optionText(option: Option): string {
  return option.flags
    .split(/(<[^>]+>|[ ,]+)/)
    .filter((part) => part !== '')
    .map((part) => {
      if (/^[ ,]+$/.test(part)) return part;
      return part.startsWith('<')
        ? `\\fI${escaped(part.slice(1, -1))}\\fR`
        : `\\fB${escaped(part)}\\fR`;
    })
    .join('');
}

function optionLines(options: readonly Option[]): string[] {
  return options
    .filter((option) => !option.hidden)
    .flatMap((option) => {
      const choices = option.argChoices ? ` (${option.argChoices.join(', ')})` : '';
      const isText = typeof option.defaultValue === 'string';
      const standard = isText ? ` (default: ${String(option.defaultValue)})` : '';
      return ['.TP', optionText(option), prose(`${option.description}${choices}${standard}`)];
    });
}

function argumentLines(command: Command): string[] {
  return command.registeredArguments
    .filter(({ description }) => description !== '')
    .flatMap((argument) => ['.TP', argumentText(argument), prose(argument.description)]);
}

function pathOf(command: Command): string {
  return command.parent ? `${pathOf(command.parent)} ${command.name()}` : command.name();
}

function synopsis(command: Command): string {
  const words = [`\\fB${escaped(pathOf(command))}\\fR`];
  if (command.options.some((option) => !option.hidden)) words.push('[\\fIoptions\\fR]');
  if (command.name() === 'run') words.push('\\-\\-');
  words.push(...command.registeredArguments.map(argumentText));
  if (command.commands.length > 0 && command.registeredArguments.length === 0)
    words.push('\\fIcommand\\fR');
  return words.join(' ');
}

function exampleLines(commands: readonly Command[]): string[] {
  const lines = commands.flatMap(examplesOf);
  if (lines.length === 0) return [];
  return ['.SH EXAMPLES', '.nf', ...lines.map(escaped), '.fi'];
}

function exitLines(): string[] {
  const rows = Object.entries(EXIT_MEANINGS).flatMap(([code, means]) => [
    '.TP',
    `\\fB${Number(code) === EXIT_SIGNAL_BASE ? `${code}+\\fIn` : code}\\fR`,
    prose(means.replace(/^plus n: /, '')),
  ]);
  return ['.SH EXIT STATUS', ...rows];
}

function head(title: string, name: string, description: string): string[] {
  return [
    '.\\" SPDX-License-Identifier: Apache-2.0',
    '.\\" Written by tui/cli/manual.ts from the definitions of --help.',
    `.TH ${quoted(title.toUpperCase())} 1 "" ${quoted(softwareVersion())} "GreenBoost manual"`,
    '.SH NAME',
    `${escaped(name)} \\- ${prose(description)}`,
  ];
}

/** What a command with commands below it says of each of them. */
function belowLines(command: Command): string[] {
  return allCommands(command)
    .slice(1)
    .flatMap((child) => [
      `.SS ${quoted(pathOf(child))}`,
      synopsis(child),
      '.PP',
      sentence(child.description()),
      ...argumentLines(child),
      ...optionLines(child.options),
    ]);
}

function commandPage(command: Command): ManualPage {
  const name = pathOf(command).replaceAll(' ', '-');
  const [own, below] = [
    [...argumentLines(command), ...optionLines(command.options)],
    belowLines(command),
  ];
  const lines = [
    ...head(name, name, command.description()),
    '.SH SYNOPSIS',
    ...allCommands(command).map(synopsis).join('\n.br\n').split('\n'),
    '.SH DESCRIPTION',
    sentence(command.description()),
    ...(own.length > 0 ? ['.SH OPTIONS', ...own] : []),
    ...(below.length > 0 ? ['.SH COMMANDS', ...below] : []),
    ...exampleLines(allCommands(command)),
    '.SH EXIT STATUS',
    '0 when it is done; else see',
    '.BR greenboost (1).',
    '.SH SEE ALSO',
    '.BR greenboost (1)',
  ];
  return { file: `${name}.1`, text: `${lines.join('\n')}\n` };
}

function mainPage(program: Command): ManualPage {
  const lines = [
    ...head('greenboost', 'greenboost', 'memory of several machines as one CUDA device'),
    '.SH SYNOPSIS',
    synopsis(program),
    '.SH DESCRIPTION',
    sentence(program.description()),
    '.SH COMMANDS',
    ...program.commands.flatMap((command) => [
      '.TP',
      `.BR ${quoted(`greenboost-${command.name()}`)} (1)`,
      sentence(command.description()),
    ]),
    ...exitLines(),
    '.SH FILES',
    ...FILES.flatMap(([path, holds]) => ['.TP', `\\fI${escaped(path)}\\fR`, escaped(holds)]),
    '.SH ENVIRONMENT',
    'docs/operating.md lists every variable.',
  ];
  return { file: 'greenboost.1', text: `${lines.join('\n')}\n` };
}

const FILES = [
  ['~/.config/greenboost/', 'keys, closed to others'],
  ['~/.local/state/greenboost/', 'logs of daemons, the audit log, links and leases of the agent'],
  ['~/.cache/greenboost/blocks/', 'the block cache of a feeder, sealed'],
  ['$XDG_RUNTIME_DIR/greenboost/', 'sockets of the daemons'],
] as const;

/** Every page; `help` has none. */
export function manualPages(program: Command): ManualPage[] {
  return [mainPage(program), ...program.commands.map(commandPage)];
}

/** Writes the pages into `folder`. */
function writeManual(folder: string): void {
  mkdirSync(folder, { recursive: true });
  for (const { file, text } of manualPages(createProgram()))
    writeFileSync(join(folder, file), text);
}

if (argv[1] === fileURLToPath(import.meta.url)) writeManual(argv[2] ?? '.');
