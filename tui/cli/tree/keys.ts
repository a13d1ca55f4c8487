// SPDX-License-Identifier: Apache-2.0
// Keys, who was let in, and the services.
import type { Command } from 'commander';
import { AGENT, METRICS } from '../../../proto/settings/host.js';
import { addConfigOption, addSettings } from '../settings.js';
import { GROUPS, example, jsonOption } from './parts.js';

export function addKeys(program: Command): void {
  const key = program
    .command('key')
    .helpGroup(GROUPS.keys)
    .description('pairing keys: show, import, rotate, revoke, list, remove');
  const load = () => import('../commands/key.js');
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

export function addAudit(program: Command): void {
  const audit = program
    .command('audit')
    .helpGroup(GROUPS.keys)
    .description('who was let in and who was not: sessions, refusals, keys, tickets')
    .option('-f, --follow', 'go on as things happen')
    .addOption(jsonOption())
    .action(async (options) => (await import('../commands/audit.js')).showAudit(options));
  example(audit, 'greenboost audit --json | grep session_refused', 'greenboost audit --follow');
}

export function addServices(program: Command): void {
  const agent = program
    .command('agent')
    .helpGroup(GROUPS.keys)
    .description('the host agent in the foreground; stop, status (connect and run start it)')
    .action(async (options) => (await import('../commands/agent.js')).agentStart(options));
  addConfigOption(addSettings(agent, AGENT), 'host');
  agent
    .command('status')
    .description('is it running')
    .addOption(jsonOption())
    .action(async (options) => (await import('../commands/agent.js')).agentStatus(options));
  agent
    .command('stop')
    .description('stop it (refused while programs run)')
    .option(
      '--force',
      'stop although programs run; they keep their local memory, and `run` starts it again',
    )
    .action(async (options) => (await import('../commands/agent.js')).agentStop(options));
}

export function addMetrics(program: Command): void {
  const metrics = program
    .command('metrics')
    .helpGroup(GROUPS.keys)
    .description('metrics of this machine’s daemons for Prometheus, on loopback, until Ctrl-C')
    .option('--once', 'print them instead')
    .action(async (options) => (await import('../commands/metrics.js')).serveMetrics(options));
  addConfigOption(addSettings(metrics, METRICS), 'host');
  example(metrics, 'greenboost metrics', 'greenboost metrics --once');
}
