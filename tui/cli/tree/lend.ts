// SPDX-License-Identifier: Apache-2.0
// `greenboost feed`: what a machine that lends needs.
import { Option, type Command } from 'commander';
import { GROUPS, collect, example, jsonOption } from './parts.js';

export function addFeed(program: Command): void {
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
    .action(async (options) => (await import('../commands/feed.js')).feedStart(options));
  example(
    start,
    'greenboost feed start --ram 16GiB',
    'greenboost feed start --ram 8GiB --vram 0=12GiB --port 9750',
  );
  const pause = feed
    .command('pause')
    .description('lend nothing new; what is lent goes on')
    .option('--drain', 'also ask hosts to move what they hold to other feeders')
    .action(async (options) => (await import('../commands/feed.js')).feedPause(options));
  example(pause, 'greenboost feed pause --drain');
  feed
    .command('resume')
    .description('lend again after pause')
    .action(async () => (await import('../commands/feed.js')).feedResume());
  const stop = feed
    .command('stop')
    .description('stop lending: says goodbye to hosts, scrubs and frees everything')
    .option('--grace <seconds>', 'how long hosts may take to fetch their bytes', '10')
    .action(async (options) => (await import('../commands/feed.js')).feedStop(options));
  example(stop, 'greenboost feed stop --grace 30');
  const status = feed
    .command('status')
    .description('what is lent, to whom')
    .addOption(jsonOption())
    .action(async (options) => (await import('../commands/feed.js')).feedStatus(options));
  example(status, 'greenboost feed status --json');
}
