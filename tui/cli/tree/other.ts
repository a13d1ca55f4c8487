// SPDX-License-Identifier: Apache-2.0
// What is left: the demonstration, versions, completion.
import { Argument, type Command } from 'commander';
import { GROUPS, example, jsonOption } from './parts.js';

export function addOther(program: Command): void {
  program
    .command('demo')
    .helpGroup(GROUPS.other)
    .description('see it work on this machine alone: two feeders, a program three times its GPU')
    .option('--vram <size>', 'VRAM budget of the program (its working set is three times this)')
    .option('--keep', 'keep the temporary folder with all logs')
    .addOption(jsonOption())
    .action(async (options) => {
      process.exitCode = await (await import('../demo/demo.js')).runDemo(options);
    });
  program
    .command('version')
    .helpGroup(GROUPS.other)
    .description('versions of the command and the protocol')
    .addOption(jsonOption())
    .action(async (options) => (await import('../commands/version.js')).showVersion(options));
  const completion = program
    .command('completion')
    .helpGroup(GROUPS.other)
    .description('a completion script for your shell')
    .addArgument(new Argument('<shell>').choices(['bash', 'zsh', 'fish']))
    .action(async (shell) => (await import('../completion.js')).writeCompletion(program, shell));
  example(
    completion,
    'greenboost completion bash > ~/.local/share/bash-completion/completions/greenboost',
  );
}
