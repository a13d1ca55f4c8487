#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// The `greenboost` command. Only the argument tree is loaded here; each command loads what it needs when it runs.
import { CommanderError } from 'commander';
import { describeError, EXIT_USAGE, exitCodeOf } from './exit.js';
import { createProgram } from './program.js';

function isPipeClosed(error: unknown): boolean {
  return (error as NodeJS.ErrnoException | undefined)?.code === 'EPIPE';
}

/** `--version` is the command `version`; no argument at all is a question for help, not a mistake. */
async function run(args: readonly string[]): Promise<void> {
  const program = createProgram();
  if (args.length === 0) program.outputHelp();
  else {
    const isVersion = args[0] === '--version' || args[0] === '-V';
    await program.parseAsync(isVersion ? ['version'] : args, { from: 'user' });
  }
}

async function main(): Promise<void> {
  // `greenboost events | head` ends when head does, without a trace.
  process.stdout.on('error', (error) => {
    if (isPipeClosed(error)) process.exit(0);
    throw error;
  });
  try {
    await run(process.argv.slice(2));
  } catch (reason) {
    if (reason instanceof CommanderError) {
      process.exitCode = reason.exitCode === 0 ? 0 : EXIT_USAGE;
      return;
    }
    const { GbError } = await import('../../proto/base/errors.js');
    const error = GbError.from(reason);
    process.stderr.write(describeError(error));
    if (!(reason instanceof GbError) && process.env['GREENBOOST_LOG'] === 'debug')
      process.stderr.write(`${String((reason as Error).stack)}\n`);
    process.exitCode = exitCodeOf(error);
  }
}

await main();
