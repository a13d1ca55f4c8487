// SPDX-License-Identifier: Apache-2.0
// Commands of the machine that runs programs: feeders, runs, plans.
import { Option, type Command } from 'commander';
import { RUN } from '../../../proto/settings/host.js';
import { addConfigOption, addSettings } from '../settings.js';
import { addPlanned, GROUPS, example, jsonOption } from './parts.js';

export function addUse(program: Command): void {
  const connect = program
    .command('connect')
    .helpGroup(GROUPS.use)
    .description('add a feeder; asks for its key once')
    .argument('[address]', 'host or host:port (default: asks which of those on this network)')
    .option('--key-file <path>', 'read the key from a file that only you can read')
    .option('--feeder <id>', 'which key of the keyring, when several fit')
    .option('--timeout <seconds>', 'give up after', '20')
    .option('--look <seconds>', 'without an address: wait so long for feeders to answer', '3')
    .addOption(jsonOption())
    .action(async (address, options) =>
      (await import('../commands/connect.js')).connectFeeder(address, options),
    );
  example(
    connect,
    'greenboost connect',
    'greenboost connect 192.168.1.21',
    'GREENBOOST_KEY=$(ssh lender greenboost key show) greenboost connect lender:9750',
  );
  const disconnect = program
    .command('disconnect')
    .helpGroup(GROUPS.use)
    .description('bring back what a feeder holds, then leave it')
    .argument('<feeder>', 'name, id or address')
    .option('--force', 'leave at once, even though bytes are lost')
    .action(async (feeder, options) =>
      (await import('../commands/connect.js')).disconnectFeeder(feeder, options),
    );
  addPlanned(disconnect);
  example(disconnect, 'greenboost disconnect lender');
  addFeeders(program);
  const run = program
    .command('run')
    .helpGroup(GROUPS.use)
    .description('run a program with the enlarged GPU')
    .usage('[options] -- CMD [ARGS...]')
    .argument('<cmd...>', 'the program and its arguments');
  addConfigOption(addSettings(run, RUN), 'host')
    .option('--profile <name>', 'take the program for this kind (default: by its name)')
    .addOption(new Option('--gpu <driver>', 'real or simulated GPU').choices(['cuda', 'sim']))
    .option('--plan <model>', 'predict first, as `plan` does, for `report` afterwards')
    .option('--stats-file <path>', 'write peaks and counters as JSON when the program ends')
    .passThroughOptions()
    .action(async (cmd, options) => {
      process.exitCode = await (await import('../commands/run.js')).runCommand(cmd, options);
    });
  example(
    run,
    'greenboost run -- python serve.py',
    'greenboost run --vram-budget 8GiB --overcommit gated -- ./train --epochs 3',
    'greenboost run --nvme /mnt/nvme:200GiB -- python big.py',
  );
}

function addFeeders(program: Command): void {
  const load = () => import('../commands/feeders.js');
  const command = (name: string, description: string): Command =>
    program
      .command(name)
      .helpGroup(GROUPS.use)
      .description(description)
      .argument('<feeder>', 'name, id or address');
  const drain = command('drain', 'move what a feeder holds to others; Ctrl-C gives up').action(
    async (feeder, options) => (await load()).drainFeeder(feeder, options),
  );
  addPlanned(drain);
  example(
    drain,
    'greenboost drain lender --dry-run',
    'greenboost drain lender --json | jq .movedBytes',
  );
  const pause = command('pause', 'place nothing new on a feeder; what lies there stays').action(
    async (feeder, options) => (await load()).setFeederPaused(feeder, true, options),
  );
  addPlanned(pause);
  const resume = command('resume', 'place on it again, after pause or drain').action(
    async (feeder, options) => (await load()).setFeederPaused(feeder, false, options),
  );
  addPlanned(resume);
  const ping = command('ping', 'round trips and bandwidth of a feeder, calls and lanes')
    .helpGroup(GROUPS.look)
    .addOption(jsonOption())
    .option('-c, --count <n>', 'round trips, 1 to 1000', '5')
    .option('--interval <seconds>', 'between them', '0.2')
    .action(async (feeder, options) => (await load()).pingFeeder(feeder, options));
  const evict = program
    .command('evict')
    .helpGroup(GROUPS.use)
    .description('take VRAM from a program, once: its bytes go to RAM until it uses them again')
    .argument('<pid>', 'of a running program')
    .option('--bytes <size>', 'how much (default: all it has in VRAM)')
    .option('--timeout <seconds>', 'how long to wait for the program', '30')
    .action(async (pid, options) =>
      (await import('../commands/evict.js')).evictProgram(pid, options),
    );
  addPlanned(evict);
  example(evict, 'greenboost evict 4242 --bytes 4GiB', 'greenboost evict 4242 --dry-run');
  example(ping, 'greenboost ping lender -c 20', 'greenboost ping lender --json');
}

export function addProfiles(program: Command): void {
  const profiles = program
    .command('profiles')
    .helpGroup(GROUPS.use)
    .description('which programs are told which GPU memory size, and why')
    .addOption(jsonOption())
    .action(async (options) => (await import('../commands/profiles.js')).showProfiles(options));
  addConfigOption(profiles, 'host');
  example(profiles, 'greenboost profiles', 'greenboost run --profile jax -- python train.py');
}

export function addPlan(program: Command): void {
  const plan = program
    .command('plan')
    .helpGroup(GROUPS.use)
    .description(
      'what of a model fits where on this machine, how fast, and whether to do otherwise',
    )
    .argument('[model]', 'a .gguf, a .safetensors, its index, or the folder they lie in')
    .option('--bytes <size>', 'weights of which only the size is known')
    .option('--context <tokens>', 'tokens of context (default: what the model has, at most 8192)')
    .option('--vram <size>', 'plan for this much VRAM (default: what the GPU has)')
    .option('--ram <size>', 'plan for this much RAM (default: what is available)')
    .option('--gpu-index <n>', 'which GPU', '0')
    .addOption(new Option('--gpu <driver>', 'whose GPU').choices(['cuda', 'sim', 'none']))
    .addOption(jsonOption())
    .action(async (model, options) =>
      (await import('../commands/plan.js')).showPlan(model, options),
    );
  example(
    plan,
    'greenboost plan model-Q4_K_M.gguf --context 8192',
    'greenboost plan --bytes 13GiB --vram 8GiB --json',
  );
}
