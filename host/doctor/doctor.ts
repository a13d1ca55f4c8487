// SPDX-License-Identifier: Apache-2.0
// `greenboost doctor`: what this machine needs as a host, as a feeder, or as both; each point looked at or tried, none
// guessed. It changes nothing.
import { gpuDriverFromEnv, type GpuDriver } from '../../driver/library.js';
import { cacheDir, configDir, stateDir } from '../../proto/base/paths.js';
import { softwareVersion } from '../../proto/base/version.js';
import { checkDriver, checkShim } from './driver.js';
import {
  checkClocks,
  checkFeeders,
  checkOwnPorts,
  splitAddress,
  type FeederFacts,
} from './feeders.js';
import { finder, runChecks, verdictOf, type Finding, type Verdict } from './finding.js';
import { checkFeederKeys, checkKeyring } from './keys.js';
import { checkDisks, checkInterposers, checkMemlock, checkMemoryGroup } from './machine.js';

/** What the daemons of this machine said; `undefined`: none answers. */
export interface DaemonFacts {
  readonly agent:
    { readonly software: string; readonly feeders: readonly FeederFacts[] } | undefined;
  readonly feed:
    | {
        readonly software: string;
        readonly addresses: readonly string[];
        readonly lanePort: number;
      }
    | undefined;
}

export interface DoctorOptions {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Absent: what GREENBOOST_GPU says, or the machine's. */
  readonly gpu?: GpuDriver | undefined;
  /** What this machine is: asked for, or what there are traces of. */
  readonly roles: ReadonlySet<'host' | 'feeder'>;
  readonly daemons: DaemonFacts;
}

export interface Diagnosis {
  readonly verdict: Verdict;
  readonly findings: readonly Finding[];
}

/** Daemons that were started before an update run the old version until they are restarted. */
function checkVersions({ agent, feed }: DaemonFacts): Finding[] {
  const find = finder('versions', 'migration');
  const mine = softwareVersion();
  const running = [
    {
      name: 'agent',
      software: agent?.software,
      restart: 'greenboost agent stop; the next command starts it',
    },
    {
      name: 'feeder',
      software: feed?.software,
      restart: 'greenboost feed stop, then greenboost feed start',
    },
  ];
  const others = running.filter(({ software }) => software !== undefined && software !== mine);
  if (others.length === 0) return [find.ok(`everything that runs here is ${mine}`)];
  return others.map(({ name, software, restart }) =>
    find.warning(`the ${name} that runs is ${software}, this command is ${mine}`, restart),
  );
}

/** Host and lane port at each address the feeder told. */
function ownPorts({
  addresses,
  lanePort,
}: NonNullable<DaemonFacts['feed']>): { host: string; port: number }[] {
  return addresses.flatMap((address) => {
    const place = splitAddress(address);
    return place ? [place, { host: place.host, port: lanePort }] : [];
  });
}

/** Looks at everything. Takes seconds: a driver may be slow to start, a firewall silent. */
export async function diagnose(options: DoctorOptions): Promise<Diagnosis> {
  const { env, roles, daemons } = options;
  const gpu = options.gpu ?? gpuDriverFromEnv(env, 'cuda');
  const config = configDir(env);
  const findings = await runChecks({
    ...(roles.has('host') && {
      shim: { concern: 'shim', run: () => checkShim(env) },
      driver: { concern: 'shim', run: () => checkDriver(gpu, env) },
      interposer: { concern: 'shim', run: () => checkInterposers(env) },
      keyring: { concern: 'feeders', run: () => checkKeyring(config) },
      feeder: { concern: 'feeders', run: () => checkFeeders(daemons.agent?.feeders) },
      clock: { concern: 'migration', run: () => checkClocks(daemons.agent?.feeders) },
    }),
    ...(roles.has('feeder') && {
      feeder_keys: { concern: 'lending', run: () => checkFeederKeys(config) },
      own_port: {
        concern: 'lending',
        run: () => (daemons.feed ? checkOwnPorts(ownPorts(daemons.feed)) : notLending()),
      },
    }),
    memlock: { concern: 'migration', run: () => checkMemlock() },
    cgroup: { concern: 'migration', run: () => checkMemoryGroup() },
    disk: { concern: 'migration', run: () => checkDisks([stateDir(env), cacheDir(env)]) },
    versions: { concern: 'migration', run: () => checkVersions(daemons) },
  });
  return { verdict: verdictOf(findings), findings };
}

function notLending(): Finding[] {
  return [finder('own_port', 'lending').warning('no feeder runs here', 'greenboost feed start')];
}
