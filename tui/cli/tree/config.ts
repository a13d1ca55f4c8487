// SPDX-License-Identifier: Apache-2.0
// `greenboost config`: the files of settings.
import { Argument, Option, type Command } from 'commander';
import { FEEDER } from '../../../proto/settings/feeder.js';
import { RUN } from '../../../proto/settings/host.js';
import { addConfigOption, addSettings } from '../settings.js';
import { GROUPS, example, jsonOption } from './parts.js';

export function addConfig(program: Command): void {
  const load = () => import('../commands/config.js');
  const config = program
    .command('config')
    .helpGroup(GROUPS.other)
    .description('files of settings: write one, check it, show what holds and why');
  const role = () => new Argument('[role]', 'whose settings').choices(['host', 'feeder']);
  const init = config
    .command('init')
    .description('write a file with every setting, its default and what it does')
    .addArgument(role())
    .option('--config <file>', 'write this file')
    .option('--print', 'print it instead')
    .action(async (whose, options) => (await load()).configInit(whose, options));
  example(init, 'greenboost config init feeder');
  const check = config
    .command('check')
    .description('is a file right? every mistake with its line and column (exit code 2)')
    .argument('[file]', 'default: those of this machine')
    .addOption(new Option('--role <role>', 'whose it is').choices(['host', 'feeder']))
    .addOption(jsonOption())
    .action(async (file, options) => (await load()).configCheck(file, options));
  example(check, 'greenboost config check', 'greenboost config check lab.toml --role feeder');
  const show = config
    .command('show')
    .description('every setting and its value, of both roles or of one')
    .option('--origin', 'and where it is from: flag, variable, line of a file, default')
    .addOption(jsonOption())
    .action(async (options) => (await load()).configShow(undefined, options));
  for (const [whose, table] of [
    ['host', RUN],
    ['feeder', FEEDER],
  ] as const) {
    const one = show
      .command(whose)
      .description(`settings of the ${whose}; takes its options too`)
      .option('--origin', 'and where it is from')
      .addOption(jsonOption())
      .action(async (options) => (await load()).configShow(whose, options));
    addConfigOption(addSettings(one, table), whose);
  }
  example(
    show,
    'greenboost config show --origin',
    'greenboost config show feeder --ram 4GiB --json',
  );
}
