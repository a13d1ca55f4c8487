// SPDX-License-Identifier: Apache-2.0
// The argument tree of `greenboost`: names, options, help. No work is done here; actions import their command.
import { Argument, Command, Option } from 'commander';

const QUICK_START = `
Three lines to start:
  lender$  greenboost feed start --ram 16GiB     prints the line for the host
  host$    greenboost connect lender             asks for the lender's key once
  host$    greenboost run -- python serve.py     the program sees a bigger GPU

Exit codes: 0 ok, 2 usage, 3 unreachable, 4 key or permission, 5 not found,
6 no room, 7 wrong state, 8 timeout, 9 data lost, 10 driver or system.
Every command that reads takes --json. Manual: docs/operating.md`;

const GROUPS = {
  lend: 'Lend memory (on every spare machine):',
  use: 'Use it (on the machine that runs the program):',
  look: 'Look:',
  keys: 'Keys and services:',
  other: 'More:',
} as const;

function example(command: Command, ...lines: string[]): Command {
  const text = lines.map((line) => `  ${line}`).join('\n');
  return command.addHelpText('after', `\n${lines.length > 1 ? 'Examples' : 'Example'}:\n${text}`);
}

function collect(value: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), value];
}

const jsonOption = (): Option =>
  new Option('--json', 'machine-readable: numbers with their unit in the key');

function addFeed(program: Command): void {
  const feed = program
    .command('feed')
    .helpGroup(GROUPS.lend)
    .description('lend RAM and VRAM of this machine: start, pause, resume, stop, status');
  const start = feed
    .command('start')
    .description('start lending (in the background, unless --foreground)')
    .option('--ram <size>', 'RAM to lend, e.g. 16GiB (default: half of what is available)')
    .option('--vram <gpu=size>', 'VRAM to lend of one GPU, e.g. 0=8GiB; repeatable', collect)
    .option('--port <port>', 'TCP port, 0 for any free one (default: 9740)')
    .option('--lane-port <port>', 'TCP port of lanes, 0 for any free one (default: port + 1)')
    .option(
      '--bind <address>',
      'address to listen on; repeatable (default: the LAN addresses)',
      collect,
    )
    .option('--allow-wan', 'also listen on public addresses')
    .option('--name <name>', 'what hosts call this feeder (default: the host name)')
    .addOption(new Option('--gpu <driver>', 'whose VRAM').choices(['none', 'cuda', 'sim']))
    .option('--host-bytes-max <size>', 'lend one host at most this much (default: all)')
    .option('--host-rate <rate>', 'send and take at most this much per second and host, e.g. 100MB')
    .option('--cache-dir <folder>', 'keep blocks that hosts sent before here, sealed')
    .option('--cache-bytes <size>', 'how much of them, 0 for none (default: a tenth of the disk)')
    .option('--no-compute', 'lend memory only: no kernels of hosts run on the GPU')
    .option('--foreground', 'stay here and log to stderr (systemd)')
    .action(async (options) => (await import('./commands/feed.js')).feedStart(options));
  example(
    start,
    'greenboost feed start --ram 16GiB',
    'greenboost feed start --ram 8GiB --vram 0=12GiB --port 9750',
  );
  const pause = feed
    .command('pause')
    .description('lend nothing new; what is lent goes on')
    .option('--drain', 'also ask hosts to move what they hold to other feeders')
    .action(async (options) => (await import('./commands/feed.js')).feedPause(options));
  example(pause, 'greenboost feed pause --drain');
  feed
    .command('resume')
    .description('lend again after pause')
    .action(async () => (await import('./commands/feed.js')).feedResume());
  const stop = feed
    .command('stop')
    .description('stop lending: says goodbye to hosts, scrubs and frees everything')
    .option('--grace <seconds>', 'how long hosts may take to fetch their bytes', '10')
    .action(async (options) => (await import('./commands/feed.js')).feedStop(options));
  example(stop, 'greenboost feed stop --grace 30');
  const status = feed
    .command('status')
    .description('what is lent, to whom')
    .addOption(jsonOption())
    .action(async (options) => (await import('./commands/feed.js')).feedStatus(options));
  example(status, 'greenboost feed status --json');
}

function addUse(program: Command): void {
  const connect = program
    .command('connect')
    .helpGroup(GROUPS.use)
    .description('add a feeder; asks for its key once')
    .argument('<address>', 'host or host:port of the feeder')
    .option('--key-file <path>', 'read the key from a file that only you can read')
    .option('--feeder <id>', 'which key of the keyring, when several fit')
    .option('--timeout <seconds>', 'give up after', '20')
    .addOption(jsonOption())
    .action(async (address, options) =>
      (await import('./commands/connect.js')).connectFeeder(address, options),
    );
  example(
    connect,
    'greenboost connect 192.168.1.21',
    'GREENBOOST_KEY=$(ssh lender greenboost key show) greenboost connect lender:9750',
  );
  const disconnect = program
    .command('disconnect')
    .helpGroup(GROUPS.use)
    .description('bring back what a feeder holds, then leave it')
    .argument('<feeder>', 'name, id or address')
    .option('--force', 'leave at once, even though bytes are lost')
    .addOption(jsonOption())
    .action(async (feeder, options) =>
      (await import('./commands/connect.js')).disconnectFeeder(feeder, options),
    );
  example(disconnect, 'greenboost disconnect lender');
  addFeeders(program);
  const run = program
    .command('run')
    .helpGroup(GROUPS.use)
    .description('run a program with the enlarged GPU')
    .usage('[options] -- CMD [ARGS...]')
    .argument('<cmd...>', 'the program and its arguments')
    .option('--vram-budget <size>', 'use at most this much VRAM (default: what the GPU has)')
    .option(
      '--ram-budget <size>',
      'use at most this much local RAM (default: what the agent grants)',
    )
    .addOption(
      new Option(
        '--overcommit <how>',
        'let ranges live on feeders, fetched before launches that need them',
      ).choices(['gated']),
    )
    .addOption(
      new Option(
        '--replicas <count>',
        'copies of what lies on feeders; with 2, each on another one, nothing is lost with a feeder',
      ).choices(['1', '2']),
    )
    .addOption(
      new Option(
        '--remote <how>',
        'where kernels run whose data lie on feeders: there (merged), or here after the data came back',
      ).choices(['merged', 'off']),
    )
    .option(
      '--nvme <dir[:size]>',
      'the same with an encrypted file on a local drive (default size: half of what is free, at most 64GiB)',
    )
    .option(
      '--report <size>',
      'GPU memory size the program is told: honest, extend, or extend=SIZE (default: its profile)',
    )
    .option('--profile <name>', 'take the program for this kind (default: by its name)')
    .addOption(new Option('--gpu <driver>', 'real or simulated GPU').choices(['cuda', 'sim']))
    .option('--plan <model>', 'predict first, as `plan` does, for `report` afterwards')
    .option('--stats-file <path>', 'write peaks and counters as JSON when the program ends')
    .passThroughOptions()
    .action(async (cmd, options) => {
      process.exitCode = await (await import('./commands/run.js')).runCommand(cmd, options);
    });
  example(
    run,
    'greenboost run -- python serve.py',
    'greenboost run --vram-budget 8GiB --overcommit gated -- ./train --epochs 3',
    'greenboost run --nvme /mnt/nvme:200GiB -- python big.py',
  );
}

function addFeeders(program: Command): void {
  const load = () => import('./commands/feeders.js');
  const command = (name: string, description: string): Command =>
    program
      .command(name)
      .helpGroup(GROUPS.use)
      .description(description)
      .argument('<feeder>', 'name, id or address')
      .addOption(jsonOption());
  const drain = command('drain', 'move what a feeder holds to others; Ctrl-C gives up').action(
    async (feeder, options) => (await load()).drainFeeder(feeder, options),
  );
  example(drain, 'greenboost drain lender', 'greenboost drain lender --json | jq .movedBytes');
  command('pause', 'place nothing new on a feeder; what lies there stays').action(
    async (feeder, options) => (await load()).setFeederPaused(feeder, true, options),
  );
  command('resume', 'place on it again, after pause or drain').action(async (feeder, options) =>
    (await load()).setFeederPaused(feeder, false, options),
  );
  const ping = command('ping', 'round trips and bandwidth of a feeder, calls and lanes')
    .helpGroup(GROUPS.look)
    .option('-c, --count <n>', 'round trips, 1 to 1000', '5')
    .option('--interval <seconds>', 'between them', '0.2')
    .action(async (feeder, options) => (await load()).pingFeeder(feeder, options));
  example(ping, 'greenboost ping lender -c 20', 'greenboost ping lender --json');
}

function addDoctor(program: Command): void {
  const doctor = program
    .command('doctor')
    .helpGroup(GROUPS.look)
    .description('is this machine ready? every point is tried, each with what to do')
    .option('--host', 'as the machine that runs programs')
    .option('--feeder', 'as a machine that lends')
    .addOption(new Option('--gpu <driver>', 'which driver').choices(['none', 'cuda', 'sim']))
    .option('--fix', 'print settings that make things faster; runs nothing')
    .addOption(jsonOption())
    .action(async (options) => (await import('./commands/doctor.js')).runDoctor(options));
  example(doctor, 'greenboost doctor', 'greenboost doctor --feeder --json');
}

function addBench(program: Command): void {
  const bench = program
    .command('bench')
    .helpGroup(GROUPS.look)
    .description('what VRAM, PCIe, RAM, a disk and each feeder carry, in one table')
    .option('--disk <folder>', 'also a disk: 512 MiB are written there, read and removed')
    .addOption(new Option('--gpu <driver>', 'which driver').choices(['none', 'cuda', 'sim']))
    .addOption(jsonOption())
    .action(async (options) => (await import('./commands/bench.js')).runBench(options));
  example(bench, 'greenboost bench', 'greenboost bench --disk /mnt/nvme --json');
}

function addMetrics(program: Command): void {
  const metrics = program
    .command('metrics')
    .helpGroup(GROUPS.keys)
    .description('metrics of this machine’s daemons for Prometheus, on loopback, until Ctrl-C')
    .option('--listen <address:port>', 'where (default: 127.0.0.1:9742)')
    .option('--once', 'print them instead')
    .action(async (options) => (await import('./commands/metrics.js')).serveMetrics(options));
  example(metrics, 'greenboost metrics', 'greenboost metrics --once');
}

function addProfiles(program: Command): void {
  const profiles = program
    .command('profiles')
    .helpGroup(GROUPS.use)
    .description('which programs are told which GPU memory size, and why')
    .addOption(jsonOption())
    .action(async (options) => (await import('./commands/profiles.js')).showProfiles(options));
  example(profiles, 'greenboost profiles', 'greenboost run --profile jax -- python train.py');
}

function addPlan(program: Command): void {
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
      (await import('./commands/plan.js')).showPlan(model, options),
    );
  example(
    plan,
    'greenboost plan model-Q4_K_M.gguf --context 8192',
    'greenboost plan --bytes 13GiB --vram 8GiB --json',
  );
}

function addReport(program: Command): void {
  const report = program
    .command('report')
    .helpGroup(GROUPS.look)
    .description('a run after the fact: prediction and measurement side by side')
    .argument('[run]', 'a pid, or a statistics file of `run --stats-file` (default: the newest)')
    .option(
      '--plan <file>',
      'compare with this plan (plan --json) instead of the one of run --plan',
    )
    .option('--html <file>', 'write it as one page with plots instead')
    .addOption(jsonOption())
    .action(async (run, options) =>
      (await import('./commands/report.js')).showReport(run, options),
    );
  example(
    report,
    'greenboost report',
    'greenboost report --html run.html',
    'greenboost report stats.json --plan plan.json --json',
  );
}

function addLook(program: Command): void {
  const status = program
    .command('status')
    .helpGroup(GROUPS.look)
    .description('tiers, feeders and programs, once')
    .option('--probe', 'measure every tier and link again first')
    .addOption(jsonOption())
    .action(async (options) => (await import('./commands/status.js')).showStatus(options));
  example(status, 'greenboost status --json | jq .tiers');
  const explain = program
    .command('explain')
    .helpGroup(GROUPS.look)
    .description('where a program lies on feeders, where its kernels ran, and why')
    .argument('<pid>', 'of a running program')
    .addOption(jsonOption())
    .action(async (pid, options) =>
      (await import('./commands/explain.js')).showExplain(pid, options),
    );
  example(explain, 'greenboost explain 4242', 'greenboost explain 4242 --json | jq .reasons');
  const cluster = program
    .command('cluster')
    .helpGroup(GROUPS.look)
    .description('the same, live and full-screen (q quits)')
    .option('--once', 'plain tables, then end (also when the output is no terminal)')
    .option('--watch', 'with --json: one document a line, as things change')
    .option('--interval <seconds>', 'time between pictures, 0.25 to 10', '1')
    .option('--ascii', 'draw with ASCII only')
    .addOption(jsonOption())
    .action(async (options) => (await import('./commands/cluster.js')).showCluster(options));
  example(cluster, 'greenboost cluster', 'greenboost cluster --watch --json | jq -c .attachments');
  const events = program
    .command('events')
    .helpGroup(GROUPS.look)
    .description('what happened, oldest first')
    .option('-f, --follow', 'go on as things happen')
    .addOption(jsonOption())
    .action(async (options) => (await import('./commands/status.js')).showEvents(options));
  example(events, 'greenboost events --follow');
}

function addKeys(program: Command): void {
  const key = program
    .command('key')
    .helpGroup(GROUPS.keys)
    .description('pairing keys: show, import, rotate, revoke, list, remove');
  const load = () => import('./commands/key.js');
  key
    .command('generate')
    .description("make this feeder's key (does nothing when there is one)")
    .action(async () => (await load()).keyGenerate());
  key
    .command('show')
    .description("print this feeder's key, to be typed or copied into connect")
    .addOption(jsonOption())
    .action(async (options) => (await load()).keyShow(options));
  const bringIn = key
    .command('import')
    .description(
      'put a key into the keyring (prompt, --key-file, standard input or GREENBOOST_KEY)',
    )
    .option('--key-file <path>', 'read it from a file that only you can read')
    .option(
      '--as-own',
      "use it as this feeder's own key: several feeders then share one key (weaker)",
    )
    .action(async (options) => (await load()).keyImport(options));
  example(bringIn, 'ssh lender greenboost key show | greenboost key import');
  key
    .command('rotate')
    .description('make a new key for this feeder; the old ones work until they are revoked')
    .action(async () => (await load()).keyRotate());
  key
    .command('list')
    .description('the keyring: feeder ids and fingerprints, never keys')
    .addOption(jsonOption())
    .action(async (options) => (await load()).keyList(options));
  key
    .command('revoke')
    .description("end one of this feeder's keys; its sessions close within seconds")
    .argument('<fingerprint>', 'or its beginning')
    .action(async (fingerprint) => (await load()).keyRevoke(fingerprint));
  key
    .command('remove')
    .description('forget the key of a feeder')
    .argument('<feeder>', 'feeder id')
    .action(async (id) => (await load()).keyRemove(id));
}

function addAudit(program: Command): void {
  const audit = program
    .command('audit')
    .helpGroup(GROUPS.keys)
    .description('who was let in and who was not: sessions, refusals, keys, tickets')
    .option('-f, --follow', 'go on as things happen')
    .addOption(jsonOption())
    .action(async (options) => (await import('./commands/audit.js')).showAudit(options));
  example(audit, 'greenboost audit --json | grep session_refused', 'greenboost audit --follow');
}

function addServices(program: Command): void {
  const agent = program
    .command('agent')
    .helpGroup(GROUPS.keys)
    .description('the host agent in the foreground; stop, status (connect and run start it)')
    .action(async () => (await import('./commands/daemons.js')).agentForeground());
  agent
    .command('status')
    .description('is it running')
    .addOption(jsonOption())
    .action(async (options) => (await import('./commands/agent.js')).agentStatus(options));
  agent
    .command('stop')
    .description('stop it (refused while programs run)')
    .option(
      '--force',
      'stop although programs run; they keep their local memory, and `run` starts it again',
    )
    .action(async (options) => (await import('./commands/agent.js')).agentStop(options));
}

function addOther(program: Command): void {
  program
    .command('demo')
    .helpGroup(GROUPS.other)
    .description('see it work on this machine alone: two feeders, a program three times its GPU')
    .option('--vram <size>', 'VRAM budget of the program (its working set is three times this)')
    .option('--keep', 'keep the temporary folder with all logs')
    .addOption(jsonOption())
    .action(async (options) => {
      process.exitCode = await (await import('./demo/demo.js')).runDemo(options);
    });
  program
    .command('version')
    .helpGroup(GROUPS.other)
    .description('versions of the command and the protocol')
    .addOption(jsonOption())
    .action(async (options) => (await import('./commands/version.js')).showVersion(options));
  const completion = program
    .command('completion')
    .helpGroup(GROUPS.other)
    .description('a completion script for your shell')
    .addArgument(new Argument('<shell>').choices(['bash', 'zsh', 'fish']))
    .action(async (shell) => (await import('./completion.js')).writeCompletion(program, shell));
  example(
    completion,
    'greenboost completion bash > ~/.local/share/bash-completion/completions/greenboost',
  );
}

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
          ? `${command.name()} ${argument.variadic ? '-- CMD' : `<${argument.name()}>`}`
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
  addOther(program);
  for (const command of allCommands(program)) {
    command.showHelpAfterError(`  see: ${pathOf(command)} --help`);
  }
  return program;
}

/** `command` and everything below it. */
export function allCommands(command: Command): Command[] {
  return [command, ...command.commands.flatMap(allCommands)];
}

function pathOf(command: Command): string {
  return command.parent ? `${pathOf(command.parent)} ${command.name()}` : command.name();
}
