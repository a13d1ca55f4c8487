// SPDX-License-Identifier: Apache-2.0
// `greenboost doctor`: whether this machine is ready, and what to do when it is not.
import type { DaemonFacts, Diagnosis } from '../../../host/doctor/doctor.js';
import type { Outcome, Verdict } from '../../../host/doctor/finding.js';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { configDir } from '../../../proto/base/paths.js';
import { withAgent, withFeed } from '../../control/client.js';
import { feedStatusJson } from '../../model/feed-status.js';
import { SCHEMA_VERSION, snapshotJson } from '../../model/snapshot.js';
import { cleanText } from '../../view/text.js';
import { painters, writeJson, writeLine } from '../output.js';

export interface DoctorCliOptions {
  readonly host?: boolean;
  readonly feeder?: boolean;
  readonly gpu?: 'cuda' | 'sim' | 'none';
  readonly fix?: boolean;
  readonly json?: boolean;
}

const CALL_TIMEOUT_MS = 3_000;

/** A machine that is not ready is no error of the command; one that cannot work at all is. */
const EXIT: Readonly<Record<Verdict, number>> = { Ready: 0, Degraded: 0, ShimOnly: 3, Failed: 10 };

const MEANING: Readonly<Record<Verdict, string>> = {
  Ready: 'everything was tried and works',
  Degraded: 'programs run; what is marked ✗ makes them slower or smaller',
  ShimOnly: 'programs get the memory of this machine, and no feeder’s',
  Failed: 'nothing can run or be lent before what is marked ✗ is mended',
};

const MARKS: Readonly<Record<Outcome, string>> = {
  ok: '✓',
  warning: '!',
  failure: '✗',
  skipped: '-',
};

/** Settings that make things faster; printed, never run. */
const TUNING = [
  '# RAM in huge pages: fewer page table walks for lanes and DMA',
  'echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled',
  'sudo sysctl vm.nr_hugepages=$(( LENT_GIB * 512 ))   # 2 MiB each, for a feeder without a GPU',
  '# lent RAM is never swapped out',
  'printf \'%s - memlock unlimited\\n\' "$USER" | sudo tee /etc/security/limits.d/greenboost.conf',
  '# larger socket buffers for links of 10 Gbit/s and more',
  'sudo sysctl net.core.rmem_max=16777216 net.core.wmem_max=16777216',
];

async function daemonFacts(): Promise<DaemonFacts> {
  const options = { timeoutMs: CALL_TIMEOUT_MS };
  const agent = await withAgent((client) => client.getStatus({}, options))
    .then(snapshotJson)
    .catch(() => undefined);
  const feed = await withFeed((client) => client.getFeedStatus({}, options))
    .then(feedStatusJson)
    .catch(() => undefined);
  return {
    agent: agent && {
      software: agent.software,
      feeders: agent.links.map(
        ({ feederName: name, address, state, detail, laneDetail, paused, clockSkewMs }) => ({
          name,
          address,
          state,
          detail,
          laneDetail,
          paused,
          clockSkewMs,
        }),
      ),
    },
    feed: feed && { software: feed.software, addresses: feed.addresses, lanePort: feed.lanePort },
  };
}

/** What was asked for; else a feeder where one runs or has keys, and a host unless that is all. */
function rolesOf(options: DoctorCliOptions, daemons: DaemonFacts): ReadonlySet<'host' | 'feeder'> {
  const config = configDir();
  const lends = daemons.feed !== undefined || existsSync(join(config, 'feeder-keys.json'));
  const hosts = daemons.agent !== undefined || existsSync(join(config, 'keyring.json'));
  const feeder = options.feeder ?? (!options.host && lends);
  const host = options.host ?? (!options.feeder && (hosts || !lends));
  return new Set([...(host ? (['host'] as const) : []), ...(feeder ? (['feeder'] as const) : [])]);
}

function writeDiagnosis({ verdict, findings }: Diagnosis): void {
  const paint = painters(process.stdout);
  const paints = { ok: paint.green, warning: paint.yellow, failure: paint.red, skipped: paint.dim };
  for (const { outcome, detail, fix } of findings) {
    writeLine(`${paints[outcome](MARKS[outcome])} ${cleanText(detail)}`);
    if (fix !== '') writeLine(`    ${cleanText(fix)}`);
  }
  writeLine();
  writeLine(`${paint.bold(verdict)}: ${MEANING[verdict]}`);
}

/** Prints the findings and the verdict. Exit code: 0 for Ready and Degraded, 3 for ShimOnly, 10 for Failed. */
export async function runDoctor(options: DoctorCliOptions): Promise<void> {
  if (options.fix) {
    for (const line of TUNING) writeLine(line);
    return;
  }
  const { diagnose } = await import('../../../host/doctor/doctor.js');
  const daemons = await daemonFacts();
  const diagnosis = await diagnose({
    env: process.env,
    gpu: options.gpu,
    roles: rolesOf(options, daemons),
    daemons,
  });
  if (options.json) writeJson<'doctor'>({ schemaVersion: SCHEMA_VERSION, ...diagnosis });
  else writeDiagnosis(diagnosis);
  process.exitCode = EXIT[diagnosis.verdict];
}
