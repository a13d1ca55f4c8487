// SPDX-License-Identifier: Apache-2.0
// What the parts of the argument tree share: the groups of the help, the examples below it, and `--json`.
import { Option, type Command } from 'commander';

export const GROUPS = {
  lend: 'Lend memory (on every spare machine):',
  use: 'Use it (on the machine that runs the program):',
  look: 'Look:',
  keys: 'Keys and services:',
  other: 'More:',
} as const;

const EXAMPLES = new WeakMap<Command, readonly string[]>();

/** The lines of `example`; none for most commands. */
export function examplesOf(command: Command): readonly string[] {
  return EXAMPLES.get(command) ?? [];
}

/** Lines that a reader can copy, below the help of `command`. */
export function example(command: Command, ...lines: string[]): Command {
  EXAMPLES.set(command, lines);
  const text = lines.map((line) => `  ${line}`).join('\n');
  return command.addHelpText('after', `\n${lines.length > 1 ? 'Examples' : 'Example'}:\n${text}`);
}

/** Every command that reads has it. */
export const jsonOption = (): Option =>
  new Option('--json', 'machine-readable: numbers with their unit in the key');

/** Every command that changes the cluster has them. */
export function addPlanned(command: Command): Command {
  return command
    .option('--dry-run', 'say what would be done, do nothing')
    .option('--epoch <number>', 'only if the cluster is as --dry-run found it')
    .addOption(jsonOption());
}
