// SPDX-License-Identifier: Apache-2.0
// The argument tree of `greenboost`: names, options, help. No work is done here; actions import their command.
import { Command, type Argument } from 'commander';
import { addAudit, addKeys, addMetrics, addServices } from './tree/keys.js';
import { addConfig } from './tree/config.js';
import { addFeed } from './tree/lend.js';
import { addBench, addDoctor, addLook, addReport } from './tree/look.js';
import { addOther } from './tree/other.js';
import { GROUPS } from './tree/parts.js';
import { addPlan, addProfiles, addUse } from './tree/use.js';

const QUICK_START = `
Three lines to start:
  lender$  greenboost feed start --ram 16GiB     prints the line for the host
  host$    greenboost connect lender             asks for the lender's key once
  host$    greenboost run -- python serve.py     the program sees a bigger GPU

Exit codes: 0 ok, 2 usage, 3 unreachable, 4 key or permission, 5 not found,
6 no room, 7 wrong state, 8 timeout, 9 data lost, 10 driver or system.
Every command that reads takes --json. Manual: docs/operating.md`;

/** The whole tree. Parsing throws CommanderError instead of ending the process. */
export function createProgram(): Command {
  const program = new Command('greenboost');
  program
    .description(
      'The memory of this GPU machine and of its neighbours, as one CUDA device for unmodified programs.',
    )
    .enablePositionalOptions()
    .exitOverride()
    .showSuggestionAfterError(true)
    .configureOutput({
      outputError: (text, write) => write(text.replace(/^error: /, 'greenboost: ')),
    })
    .configureHelp({
      // The list of commands names them; each command's own help has the options.
      subcommandTerm: (command) => {
        const argument = command.registeredArguments[0];
        return argument
          ? `${command.name()} ${argument.variadic ? '-- CMD' : termOf(argument)}`
          : command.name();
      },
    })
    .addHelpText('after', QUICK_START)
    .commandsGroup(GROUPS.other)
    .helpCommand('help [command]', 'help for a command');
  addFeed(program);
  addUse(program);
  addProfiles(program);
  addPlan(program);
  addLook(program);
  addDoctor(program);
  addBench(program);
  addReport(program);
  addKeys(program);
  addAudit(program);
  addServices(program);
  addMetrics(program);
  addConfig(program);
  addOther(program);
  for (const command of allCommands(program)) {
    command.showHelpAfterError(`  see: ${pathOf(command)} --help`);
  }
  return program;
}

/** As the list of commands shows an argument. */
function termOf(argument: Argument): string {
  return argument.required ? `<${argument.name()}>` : `[${argument.name()}]`;
}

/** `command` and everything below it. */
export function allCommands(command: Command): Command[] {
  return [command, ...command.commands.flatMap(allCommands)];
}

function pathOf(command: Command): string {
  return command.parent ? `${pathOf(command.parent)} ${command.name()}` : command.name();
}
