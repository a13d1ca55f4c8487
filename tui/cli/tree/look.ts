// SPDX-License-Identifier: Apache-2.0
// Commands that look and change nothing.
import { Argument, Option, type Command } from 'commander';
import { GROUPS, example, jsonOption } from './parts.js';

export function addLook(program: Command): void {
  const status = program
    .command('status')
    .helpGroup(GROUPS.look)
    .description('tiers, feeders and programs, once')
    .option('--probe', 'measure every tier and link again first')
    .addOption(jsonOption())
    .action(async (options) => (await import('../commands/status.js')).showStatus(options));
  example(status, 'greenboost status --json | jq .tiers');
  const explain = program
    .command('explain')
    .helpGroup(GROUPS.look)
    .description('where a program lies on feeders, where its kernels ran, and why')
    .argument('<pid>', 'of a running program')
    .addOption(jsonOption())
    .action(async (pid, options) =>
      (await import('../commands/explain.js')).showExplain(pid, options),
    );
  example(explain, 'greenboost explain 4242', 'greenboost explain 4242 --json | jq .reasons');
  const cluster = program
    .command('cluster')
    .helpGroup(GROUPS.look)
    .description('the same, live and full-screen (q quits)')
    .option('--once', 'plain tables, then end (also when the output is no terminal)')
    .option('--watch', 'with --json: one document a line, as things change')
    .option('--interval <seconds>', 'time between pictures, 0.25 to 10', '1')
    .option('--no-rates', 'with --once: one sample instead of two, without rates')
    .option('--ascii', 'draw with ASCII only')
    .option('--no-color', 'draw with bold and reverse only (also: NO_COLOR)')
    .option('--readonly', 'look only: no key and no command acts (also: GREENBOOST_READONLY=1)')
    .addOption(jsonOption())
    .action(async (options) => (await import('../commands/cluster.js')).showCluster(options));
  example(
    cluster,
    'greenboost cluster --readonly',
    'greenboost cluster --watch --json | jq -c .attachments',
  );
  const events = program
    .command('events')
    .helpGroup(GROUPS.look)
    .description('what happened, oldest first')
    .option('-f, --follow', 'go on as things happen')
    .addOption(jsonOption())
    .action(async (options) => (await import('../commands/status.js')).showEvents(options));
  example(events, 'greenboost events --follow');
  addLogs(program);
}

function addLogs(program: Command): void {
  const logs = program
    .command('logs')
    .helpGroup(GROUPS.look)
    .description('what the daemons in the background have written')
    .addArgument(new Argument('[daemon]', 'default: both, by time').choices(['agent', 'feeder']))
    .option('-f, --follow', 'go on as they write')
    .option('-n, --lines <count>', 'the last so many lines, or all', '50')
    .addOption(
      new Option('--level <level>', 'from this severity on (default: everything)').choices([
        'debug',
        'info',
        'warn',
        'error',
      ]),
    )
    .addOption(jsonOption())
    .action(async (daemon, options) =>
      (await import('../commands/logs.js')).showLogs(daemon, options),
    );
  example(logs, 'greenboost logs feeder -n 200', 'greenboost logs --follow --level warn');
}

export function addDoctor(program: Command): void {
  const doctor = program
    .command('doctor')
    .helpGroup(GROUPS.look)
    .description('is this machine ready? every point is tried, each with what to do')
    .option('--host', 'as the machine that runs programs')
    .option('--feeder', 'as a machine that lends')
    .addOption(new Option('--gpu <driver>', 'which driver').choices(['none', 'cuda', 'sim']))
    .option('--fix', 'print settings that make things faster; runs nothing')
    .addOption(jsonOption())
    .action(async (options) => (await import('../commands/doctor.js')).runDoctor(options));
  example(doctor, 'greenboost doctor', 'greenboost doctor --feeder --json');
}

export function addBench(program: Command): void {
  const bench = program
    .command('bench')
    .helpGroup(GROUPS.look)
    .description('what VRAM, PCIe, RAM, a disk and each feeder carry, in one table')
    .option('--disk <folder>', 'also a disk: 512 MiB are written there, read and removed')
    .addOption(new Option('--gpu <driver>', 'which driver').choices(['none', 'cuda', 'sim']))
    .addOption(jsonOption())
    .action(async (options) => (await import('../commands/bench.js')).runBench(options));
  example(bench, 'greenboost bench', 'greenboost bench --disk /mnt/nvme --json');
}

export function addReport(program: Command): void {
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
      (await import('../commands/report.js')).showReport(run, options),
    );
  example(
    report,
    'greenboost report',
    'greenboost report --html run.html',
    'greenboost report stats.json --plan plan.json --json',
  );
}
