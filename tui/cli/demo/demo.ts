// SPDX-License-Identifier: Apache-2.0
// `greenboost demo`: two feeders and an agent on loopback, an unmodified driver-API program with a
// working set of three times its GPU memory, every byte verified, and nothing left behind. Real
// daemons, real keys, real links; the GPU is the simulated one where there is none, and then
// everything says so.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sleep, systemClock } from '../../../proto/base/clock.js';
import { GbError } from '../../../proto/base/errors.js';
import { nativePath } from '../../../proto/base/paths.js';
import { formatBytes, formatRate, GIB, MIB, parseBytes } from '../../../proto/base/units.js';
import type { FeedStatusJson } from '../../model/feed-status.js';
import { SCHEMA_VERSION, type SnapshotJson } from '../../model/snapshot.js';
import { barText, UNICODE_GLYPHS } from '../../view/lines.js';
import { EXIT_CHECK_FAILED } from '../exit.js';
import { writeJson } from '../output.js';
import { DemoMachine, type Finished, type Started } from './machine.js';
import { atLeast, atMost, DemoReport } from './report.js';

export interface DemoOptions {
  readonly vram?: string;
  readonly keep?: boolean;
  readonly json?: boolean;
}

const DEFAULT_VRAM_BYTES = 128 * MIB;
const VRAM_BYTES_MIN = 32 * MIB;
const VRAM_BYTES_MAX = 64 * GIB;
const WORKING_SET_FACTOR = 3;
const BUFFERS_PER_VRAM = 16;
const ROUNDS = 2;
const HOLD_SECONDS = 1;
const SAMPLE_INTERVAL_MS = 250;
const RUN_TIMEOUT_MS = 240_000;
/** What a program held must be free on its feeders within this time of its end. */
const RELEASE_TIMEOUT_MS = 5_000;
const RANGE_ALIGN_BYTES = 2 * MIB;

export interface Sizes {
  readonly vramBytes: number;
  readonly workingSetBytes: number;
  readonly bufferBytes: number;
  /** RAM each feeder lends: two thirds of what has to go there, so that both are needed. */
  readonly lentBytes: number;
}

interface Peak {
  feederBytes: number;
  readonly perFeeder: Map<string, number>;
}

interface DemoCluster {
  readonly host: DemoMachine;
  readonly feeders: readonly DemoMachine[];
  readonly simulated: boolean;
}

function sizesOf(options: DemoOptions): Sizes {
  const vramBytes = options.vram === undefined ? DEFAULT_VRAM_BYTES : parseBytes(options.vram);
  if (
    vramBytes < VRAM_BYTES_MIN ||
    vramBytes > VRAM_BYTES_MAX ||
    vramBytes % (BUFFERS_PER_VRAM * RANGE_ALIGN_BYTES) !== 0
  ) {
    throw new GbError('INVALID_ARGUMENT', '--vram takes a multiple of 32MiB up to 64GiB');
  }
  const remoteBytes = (WORKING_SET_FACTOR - 2) * vramBytes;
  const lentBytes = Math.ceil((remoteBytes * 0.75) / RANGE_ALIGN_BYTES) * RANGE_ALIGN_BYTES;
  return {
    vramBytes,
    workingSetBytes: WORKING_SET_FACTOR * vramBytes,
    bufferBytes: vramBytes / BUFFERS_PER_VRAM,
    lentBytes,
  };
}

function hasRealGpu(): boolean {
  const folder = '/proc/driver/nvidia/gpus';
  return existsSync('/dev/nvidiactl') && existsSync(folder) && readdirSync(folder).length > 0;
}

function createCluster(folder: string, sizes: Sizes): DemoCluster {
  const simulated = !hasRealGpu();
  const simulation = join(folder, 'sim');
  mkdirSync(simulation, { mode: 0o700 });
  const gpu: Record<string, string> = simulated
    ? {
        GREENBOOST_GPU: 'sim',
        GBSIM_GPU: 'demo',
        GBSIM_DIR: simulation,
        GBSIM_VRAM: String(sizes.vramBytes),
      }
    : { GREENBOOST_GPU: 'cuda' };
  return {
    simulated,
    host: new DemoMachine('host', join(folder, 'host'), gpu),
    feeders: ['anvil', 'forge'].map(
      (name) => new DemoMachine(name, join(folder, name), { GREENBOOST_GPU: 'none' }),
    ),
  };
}

async function startFeeder(feeder: DemoMachine, host: DemoMachine, sizes: Sizes): Promise<string> {
  await feeder.call(['key', 'generate']);
  await feeder.call([
    'feed',
    'start',
    '--name',
    feeder.name,
    '--bind',
    '127.0.0.1',
    '--port',
    '0',
    '--gpu',
    'none',
    '--ram',
    String(sizes.lentBytes),
  ]);
  const [address] = (await feeder.feedStatus()).addresses;
  if (address === undefined) throw new GbError('DRIVER_ERROR', `${feeder.name} listens nowhere`);
  const key = (await feeder.call(['key', 'show'])).trim();
  await host.call(['key', 'import'], { GREENBOOST_KEY: key });
  return address;
}

async function bringUp(cluster: DemoCluster, sizes: Sizes, report: DemoReport): Promise<void> {
  const { host, feeders } = cluster;
  report.title('1. Three machines, pretended on this one');
  const addresses: string[] = [];
  for (const feeder of feeders) {
    const text = `${feeder.name} lends ${formatBytes(sizes.lentBytes)} of RAM, with a key of its own`;
    addresses.push(await report.step(text, () => startFeeder(feeder, host, sizes)));
  }
  for (const [index, feeder] of feeders.entries()) {
    const address = addresses[index] ?? '';
    const { feederId } = await feeder.feedStatus();
    await report.step(`the host connects to ${feeder.name} at ${address}`, () =>
      host.call(['connect', address, '--feeder', feederId]),
    );
  }
  const snapshot = await host.status();
  for (const link of snapshot.links) {
    const up = formatRate(link.uploadBytesPerSecond ?? 0);
    const down = formatRate(link.downloadBytesPerSecond ?? 0);
    report.line(`    ${link.feederName}: ${link.cipher}, ${up} up, ${down} down (on loopback)`);
  }
}

function usedOf(status: FeedStatusJson): number {
  return status.devices.reduce((sum, device) => sum + device.usedBytes, 0);
}

function liveLine(snapshot: SnapshotJson, statuses: readonly FeedStatusJson[]): string {
  const from = snapshot.attachments[0];
  const parts = [
    ['VRAM', from?.vramUsedBytes ?? 0] as const,
    ['RAM', from?.ramUsedBytes ?? 0] as const,
    ...statuses.map((status) => [status.feederName, usedOf(status)] as const),
  ];
  const moved = `back ${formatBytes(from?.fetchBytes ?? 0)}, out ${formatBytes(from?.evictBytes ?? 0)}`;
  return `${parts.map(([name, bytes]) => `${name} ${formatBytes(bytes)}`).join('   ')}   ${moved}`;
}

/** Samples all three machines until the program ends; keeps the highest use of the feeders, by their own counters. */
async function watchRun(
  cluster: DemoCluster,
  run: Started,
  report: DemoReport,
  peak: Peak,
): Promise<Finished> {
  let done: Finished | undefined;
  const finished = run.finished.then((result) => (done = result));
  const deadlineMs = systemClock.nowMs() + RUN_TIMEOUT_MS;
  while (done === undefined) {
    if (systemClock.nowMs() > deadlineMs) {
      run.child.kill('SIGTERM');
      throw new GbError(
        'DEADLINE_EXCEEDED',
        `the program is not done after ${RUN_TIMEOUT_MS / 1000} s`,
      );
    }
    const statuses = await Promise.all(cluster.feeders.map((feeder) => feeder.feedStatus()));
    const total = statuses.reduce((sum, status) => sum + usedOf(status), 0);
    peak.feederBytes = Math.max(peak.feederBytes, total);
    for (const status of statuses) {
      peak.perFeeder.set(
        status.feederName,
        Math.max(peak.perFeeder.get(status.feederName) ?? 0, usedOf(status)),
      );
    }
    report.progress(liveLine(await cluster.host.status(), statuses));
    await Promise.race([finished, sleep(SAMPLE_INTERVAL_MS)]);
  }
  report.endProgress();
  return done;
}

/** The shim's own last report, as its --stats-file holds it. */
interface ShimStats {
  readonly vramPeakBytes?: number;
  readonly ramPeakBytes?: number;
  readonly fetchBytes?: number;
  readonly evictBytes?: number;
  readonly cleanDropBytes?: number;
}

function readStats(path: string): ShimStats {
  if (!existsSync(path))
    throw new GbError('NOT_FOUND', 'the shim wrote no statistics: it was not loaded');
  return JSON.parse(readFileSync(path, 'utf8')) as ShimStats;
}

function drawResidency(stats: ShimStats, peak: Peak, report: DemoReport): void {
  const rows: [string, number][] = [
    ['VRAM of the host', stats.vramPeakBytes ?? 0],
    ['RAM of the host', stats.ramPeakBytes ?? 0],
    ...[...peak.perFeeder].map(([name, bytes]): [string, number] => [`RAM of ${name}`, bytes]),
  ];
  const most = Math.max(1, ...rows.map(([, bytes]) => bytes));
  for (const [name, bytes] of rows) {
    report.line(
      `    ${name.padEnd(18)} ${formatBytes(bytes).padStart(9)}  ${barText(bytes / most, 32, UNICODE_GLYPHS)}`,
    );
  }
}

async function checkReleased(cluster: DemoCluster, report: DemoReport): Promise<void> {
  const deadlineMs = systemClock.nowMs() + RELEASE_TIMEOUT_MS;
  for (;;) {
    const statuses = await Promise.all(cluster.feeders.map((feeder) => feeder.feedStatus()));
    const snapshot = await cluster.host.status();
    const used = statuses.reduce((sum, status) => sum + usedOf(status), 0);
    const leases = statuses.reduce((sum, status) => sum + status.leases.length, 0);
    const programs = snapshot.attachments.length;
    // VRAM is read from the card, where the driver and other programs hold some too: the program
    // being gone frees its own.
    const ours = snapshot.tiers.filter((tier) => tier.kind !== 'local_vram');
    const hostUsed = ours.reduce((sum, tier) => sum + tier.usedBytes + tier.grantedBytes, 0);
    const zero = used === 0 && leases === 0 && programs === 0 && hostUsed === 0;
    if (zero || systemClock.nowMs() > deadlineMs) {
      const held = `feeders ${formatBytes(used)} in ${leases} leases`;
      const found = `${held}, host ${formatBytes(hostUsed)}, ${programs} programs`;
      report.check('everything is free again on all three', zero, found);
      return;
    }
    await sleep(SAMPLE_INTERVAL_MS);
  }
}

function checkStats(stats: ShimStats, peak: Peak, sizes: Sizes, report: DemoReport): void {
  const third = sizes.workingSetBytes / 3;
  const add = (name: string, result: { ok: boolean; found: string }): void =>
    report.check(name, result.ok, result.found);
  add('VRAM stayed within its budget', atMost(stats.vramPeakBytes ?? Number.NaN, sizes.vramBytes));
  add(
    'local RAM stayed within its budget',
    atMost(stats.ramPeakBytes ?? Number.NaN, sizes.vramBytes),
  );
  add('a third of the bytes lived on feeders, by their counters', atLeast(peak.feederBytes, third));
  const everyFeeder =
    [...peak.perFeeder.values()].every((bytes) => bytes > 0) && peak.perFeeder.size === 2;
  report.check('both feeders held some of it', everyFeeder, [...peak.perFeeder.keys()].join(', '));
  const out = (stats.evictBytes ?? 0) + (stats.cleanDropBytes ?? 0);
  add('bytes sent out to feeders: two round trips', atLeast(out, 2 * third));
  add(
    'bytes brought back from feeders: two round trips',
    atLeast(stats.fetchBytes ?? 0, 2 * third),
  );
}

async function runProgram(
  cluster: DemoCluster,
  sizes: Sizes,
  folder: string,
  report: DemoReport,
  signal: AbortSignal,
): Promise<void> {
  const budget = formatBytes(sizes.vramBytes);
  const gpu = cluster.simulated ? `a simulated GPU of ${budget}` : `this GPU, limited to ${budget}`;
  report.title(`2. An unmodified CUDA driver-API program on ${gpu}`);
  report.line(
    `    needs ${formatBytes(sizes.workingSetBytes)}; may use ${budget} of VRAM and ${budget} of RAM;` +
      ' the rest must live on feeders',
  );
  const statsFile = join(folder, 'stats.json');
  const budgets = [
    '--vram-budget',
    String(sizes.vramBytes),
    '--ram-budget',
    String(sizes.vramBytes),
  ];
  const program = [
    nativePath('bin', 'gb_workset'),
    '--bytes',
    String(sizes.workingSetBytes),
    '--buffer-bytes',
    String(sizes.bufferBytes),
    '--rounds',
    String(ROUNDS),
    '--hold-seconds',
    String(HOLD_SECONDS),
  ];
  const gpuArgs = ['--gpu', cluster.simulated ? 'sim' : 'cuda'];
  const peak: Peak = { feederBytes: 0, perFeeder: new Map() };
  const startMs = systemClock.nowMs();
  const run = cluster.host.start([
    'run',
    ...gpuArgs,
    ...budgets,
    '--overcommit',
    'gated',
    '--stats-file',
    statsFile,
    '--',
    ...program,
  ]);
  const stop = (): boolean => run.child.kill('SIGTERM');
  signal.addEventListener('abort', stop, { once: true });
  let done: Finished;
  try {
    done = await watchRun(cluster, run, report, peak);
  } finally {
    run.child.kill('SIGTERM');
    signal.removeEventListener('abort', stop);
  }
  signal.throwIfAborted();
  const said = `${done.stdout}\n${done.stderr}`
    .trim()
    .split('\n')
    .filter((line) => line.trim() !== '');
  for (const line of said.slice(-4)) report.line(`    | ${line.trim()}`);
  report.line(`    ${((systemClock.nowMs() - startMs) / 1000).toFixed(1)} s`);
  report.title('3. Where the bytes lived (highest)');
  const stats = done.code === 0 ? readStats(statsFile) : {};
  drawResidency(stats, peak, report);
  report.title('4. Checks');
  report.check(
    'the program ended well: every chunk as it was written',
    done.code === 0,
    `exit code ${done.code}`,
  );
  if (done.code === 0) checkStats(stats, peak, sizes, report);
  await checkReleased(cluster, report);
  for (const feeder of cluster.feeders) {
    const status = await feeder.feedStatus();
    report.line(
      `    ${feeder.name}: took ${formatBytes(status.writeBytes)}, ` +
        `gave back ${formatBytes(status.readBytes)}, holds ${formatBytes(usedOf(status))}`,
    );
  }
}

async function cleanUp(
  cluster: DemoCluster,
  report: DemoReport,
  folder: string,
  keep: boolean,
): Promise<void> {
  const stopped = await Promise.all(
    [cluster.host, ...cluster.feeders].map((machine) => machine.stop()),
  );
  report.check(
    'every daemon stopped when asked',
    stopped.every(Boolean),
    `${stopped.filter(Boolean).length} of ${stopped.length}`,
  );
  if (keep) report.line(`  kept: ${folder}`);
  else rmSync(folder, { recursive: true, force: true });
}

/** Runs the demo. Returns 0 when every check held, 1 when one failed, 130 or 143 when it was stopped; cleans up in all
 *  cases. @throws GbError when a part does not start. */
export async function runDemo(options: DemoOptions): Promise<number> {
  const sizes = sizesOf(options);
  const report = new DemoReport(options.json === true);
  const folder = mkdtempSync(join(tmpdir(), 'greenboost-demo-'));
  const cluster = createCluster(folder, sizes);
  const stop = new AbortController();
  let stoppedBy: number | undefined;
  const handlers = (
    [
      ['SIGINT', 130],
      ['SIGTERM', 143],
      ['SIGHUP', 129],
    ] as const
  ).map(([signal, code]) => {
    const handler = (): void => {
      stoppedBy = code;
      stop.abort();
    };
    process.on(signal, handler);
    return () => process.off(signal, handler);
  });
  try {
    await bringUp(cluster, sizes, report);
    stop.signal.throwIfAborted();
    await runProgram(cluster, sizes, folder, report, stop.signal);
  } catch (reason) {
    if (!stop.signal.aborted) throw reason;
  } finally {
    report.endProgress();
    await cleanUp(cluster, report, folder, options.keep === true);
    for (const remove of handlers) remove();
  }
  if (stoppedBy !== undefined) {
    report.line(`stopped; nothing is left running${options.keep ? '' : ' and the folder is gone'}`);
    return stoppedBy;
  }
  finish(report, cluster, sizes, options);
  return report.allOk ? 0 : EXIT_CHECK_FAILED;
}

function finish(
  report: DemoReport,
  cluster: DemoCluster,
  sizes: Sizes,
  options: DemoOptions,
): void {
  if (options.json) {
    const { checks, seconds, allOk: ok } = report;
    writeJson<'demo'>({
      schemaVersion: SCHEMA_VERSION,
      ok,
      simulated: cluster.simulated,
      seconds,
      ...sizes,
      checks,
    });
    return;
  }
  const failed = report.checks.filter((check) => !check.ok).length;
  report.line();
  if (failed > 0)
    report.line(
      `${failed} of ${report.checks.length} checks failed; run with --keep to see the logs`,
    );
  else {
    const where = cluster.simulated
      ? 'on a simulated GPU (no figure here is a GPU figure)'
      : 'on the real GPU';
    report.line(`All ${report.checks.length} checks hold, ${where}, in ${report.seconds} s.`);
    report.line(
      'Next, for real: greenboost feed start on a spare machine, then greenboost connect from this one.',
    );
  }
}
