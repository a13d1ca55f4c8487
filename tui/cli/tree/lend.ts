// SPDX-License-Identifier: Apache-2.0
// `greenboost feed`: what a machine that lends needs.
import type { Command } from 'commander';
import { FEEDER } from '../../../proto/settings/feeder.js';
import { addConfigOption, addSettings } from '../settings.js';
import { GROUPS, example, jsonOption } from './parts.js';

export function addFeed(program: Command): void {
  const feed = program
    .command('feed')
    .helpGroup(GROUPS.lend)
    .description('lend RAM and VRAM of this machine: start, pause, resume, stop, status');
  const start = feed
    .command('start')
    .description('start lending (in the background, unless --foreground)');
  addConfigOption(addSettings(start, FEEDER), 'feeder')
    .option('--ascii', 'no QR code')
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
