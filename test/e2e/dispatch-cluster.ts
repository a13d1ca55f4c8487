// SPDX-License-Identifier: Apache-2.0
// Machines for tests of dispatch: a host with little memory, and feeders with a simulated GPU each that lend VRAM.
// The workload is gb_layers (test/c/programs): two matrices and a KV buffer for each layer, and a third of all that on
// each machine.
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { LineSettings } from './lines.js';
import { Machine, MIB, PROGRAMS, waitFor, type Running } from './machine.js';
import { createNetwork, type Network } from './namespaces.js';

const PORT = '9740';
/** Where the simulated driver keeps the state of a GPU. */
const SHARED = '/dev/shm';
export const LAYERS = 12;
export const TOKENS = 6;
/** Matrices and KV buffer of a layer. */
export const LAYER_BYTES = 6 * MIB;
/** Of the host; the rest, two thirds, goes to the feeders. */
const VRAM_BUDGET_BYTES = 24 * MIB;
const RAM_BUDGET_BYTES = 8 * MIB;
/** Of each of two feeders: half of the rest, copies of what lies on the host, and what a swap needs. */
const LENT_BYTES = 44 * MIB;

/** Bytes of a crossing over those of the activations (docs/adr/0016). */
export const OVER_ACTIVATION_MAX = 4;

/** The one line of gb_layers. */
export interface Decoded {
  readonly ok: boolean;
  readonly activation_bytes: number;
  readonly steps: number;
  readonly tokens: readonly number[];
  readonly tokens_sum: string;
  readonly logits: string;
  readonly weights: string;
  readonly launches: number;
  readonly weight_launches: number;
  readonly mismatches: number;
  readonly milliseconds: number;
  readonly token_milliseconds: number;
}

/** What the shim counted, as the program ended. */
export interface Stats {
  readonly dispatchedCount: number;
  readonly undispatchedOwnersCount: number;
  readonly undispatchedCodeCount: number;
  readonly undispatchedKindCount: number;
  readonly undispatchedOutsideCount: number;
  readonly undispatchedHiddenCount: number;
  readonly undispatchedRoomCount: number;
  readonly undispatchedAwayCount: number;
  readonly launchOwners: readonly {
    readonly feederName: string;
    readonly launchCount: number;
    readonly crossingCount: number;
    readonly crossingSentBytes: number;
    readonly crossingReceivedBytes: number;
    /** Answers that the program stood still for. */
    readonly waitCount: number;
    readonly batchCount: number;
    /** Commands and answers, with the blocks of crossings. */
    readonly batchSentBytes: number;
    readonly batchReceivedBytes: number;
    /** Bytes of ranges, and the batches. */
    readonly laneSentBytes: number;
    readonly laneReceivedBytes: number;
    /** All of it, sealed. */
    readonly wireSentBytes: number;
    readonly wireReceivedBytes: number;
  }[];
  readonly fetchBytes: number;
  readonly evictBytes: number;
  readonly refusedLaunchCount: number;
  readonly unaccountedLaunchCount: number;
}

export interface RunOptions {
  /** Of `greenboost run`. */
  readonly run?: readonly string[];
  /** Of gb_layers. */
  readonly program?: readonly string[];
  readonly vramBudgetBytes?: number;
  readonly ramBudgetBytes?: number;
  readonly statsFile?: string;
}

type LaunchOwner = Stats['launchOwners'][number];

/** Of all feeders together. */
export function total(stats: Stats, name: keyof Omit<LaunchOwner, 'feederName'>): number {
  return stats.launchOwners.reduce((sum, owner) => sum + owner[name], 0);
}

export interface ClusterOptions {
  /** Of each feeder, a delay link instead of a cable. */
  readonly lines?: readonly LineSettings[];
  /** VRAM of each feeder. */
  readonly lentBytes?: number;
}

export interface DispatchCluster {
  readonly network: Network;
  readonly host: Machine;
  readonly feeders: readonly Machine[];
  /** The feeder daemons, in the order of `feeders`. */
  readonly daemons: Running[];
  startFeeder(index: number, options?: readonly string[]): Promise<void>;
  /** gb_layers on a GPU that holds all of it, without GreenBoost. */
  native(program?: readonly string[]): Promise<Decoded>;
  /** gb_layers under `greenboost run`, beyond the host's memory. */
  start(options?: RunOptions): Running;
  /** The same with `--remote merged`, to its end. */
  merged(options?: RunOptions): Promise<{ result: Decoded; stats: Stats }>;
  close(): Promise<void>;
}

function layers(program: readonly string[]): string[] {
  return [
    join(PROGRAMS, 'gb_layers'),
    '--layers',
    String(LAYERS),
    '--tokens',
    String(TOKENS),
    '--verify',
    ...program,
  ];
}

/** What a run of gb_layers has printed; a run that failed throws with all it said. */
export async function decoded(running: Running): Promise<Decoded> {
  const done = await running.finished;
  if (done.code !== 0)
    throw new Error(`gb_layers ended with ${done.code}: ${done.stdout}${done.stderr}`);
  return JSON.parse(done.stdout.trim().split('\n').at(-1) as string) as Decoded;
}

/** Waits until the program has begun with a token. */
export async function untilToken(
  running: Running,
  token: number,
  timeoutMs = 60_000,
): Promise<void> {
  await waitFor(
    `token ${token}`,
    () => {
      if (running.child.exitCode !== null) throw new Error(`ended: ${running.output()}`);
      return running.output().includes(`token ${token}\n`);
    },
    timeoutMs,
    20,
  );
}

export async function createDispatchCluster(
  feederCount = 2,
  { lines, lentBytes = LENT_BYTES }: ClusterOptions = {},
): Promise<DispatchCluster> {
  const network = await createNetwork(feederCount, lines);
  const tag = randomBytes(4).toString('hex');
  const gpu = (name: string, vram: string): Record<string, string> => ({
    GREENBOOST_GPU: 'sim',
    GBSIM_GPU: `e2e-${tag}-${name}`,
    GBSIM_VRAM: vram,
  });
  const host = new Machine('host', network.host, gpu('host', '512MiB'));
  const feeders = network.feeders.map(
    (namespace, index) =>
      new Machine(`feeder${index + 1}`, namespace, gpu(`feeder${index + 1}`, '512MiB')),
  );
  const daemons: Running[] = [];
  const startFeeder = async (index: number, options: readonly string[] = []): Promise<void> => {
    const lends = ['--gpu', 'sim', '--vram', `0=${lentBytes}`, '--ram', '0'];
    daemons[index] = await feeders[index]!.startFeeder([...lends, '--port', PORT, ...options]);
  };
  const close = async (): Promise<void> => {
    await host.close();
    for (const feeder of feeders) await feeder.close();
    network.close();
    for (const name of readdirSync(SHARED).filter((file) => file.includes(`e2e-${tag}-`)))
      rmSync(join(SHARED, name));
  };
  try {
    for (const [index, feeder] of feeders.entries()) {
      await startFeeder(index);
      await host.connect(feeder, PORT);
    }
  } catch (error) {
    await close();
    throw error;
  }
  let runs = 0;
  const cluster: DispatchCluster = {
    network,
    host,
    feeders,
    daemons,
    startFeeder,
    merged: async (options = {}) => {
      const statsFile = join(host.folder, `stats-${++runs}.json`);
      const run = ['--remote', 'merged', ...(options.run ?? [])];
      const result = await decoded(cluster.start({ ...options, run, statsFile }));
      return { result, stats: JSON.parse(readFileSync(statsFile, 'utf8')) as Stats };
    },
    native: (program = []) => {
      const environment = { LD_LIBRARY_PATH: join(PROGRAMS, '..', 'lib', 'sim') };
      return decoded(host.start(layers(program), environment));
    },
    start: ({ run = [], program = [], vramBudgetBytes, ramBudgetBytes, statsFile } = {}) =>
      host.greenboost([
        'run',
        '--gpu',
        'sim',
        '--vram-budget',
        String(vramBudgetBytes ?? VRAM_BUDGET_BYTES),
        '--ram-budget',
        String(ramBudgetBytes ?? RAM_BUDGET_BYTES),
        '--overcommit',
        'gated',
        ...(statsFile === undefined ? [] : ['--stats-file', statsFile]),
        ...run,
        '--',
        ...layers(program),
      ]),
    close,
  };
  return cluster;
}
