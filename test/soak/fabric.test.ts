// SPDX-License-Identifier: Apache-2.0
// Mixed load with random faults on delay links for FABRIC_SOAK_SECONDS (120): two programs at any
// time and a bystander, every byte compared; in the end every counter is zero, and agent and
// feeders have grown neither in memory nor in descriptors. FABRIC_SOAK_SEED plays one again.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ROOT } from '../arch/files.js';
import { leasedBytes, lentUsedBytes, waitFor } from '../e2e/machine.js';
import { FAULTS, type Fault, type FaultName } from '../e2e/matrix/faults.js';
import { OTHER, Stage, TTL_SECONDS, VICTIM } from '../e2e/matrix/stage.js';
import { load, type Period, type Tally } from './load.js';
import { Random } from './random.js';
import { Usage } from './usage.js';

const SECONDS = Number(process.env['FABRIC_SOAK_SECONDS'] ?? '120');
const SEED = Number(process.env['FABRIC_SOAK_SEED'] ?? String(Date.now() % 1_000_000));
const RESULT = join(ROOT, 'build', 'test', 'fabric-soak.json');
const PROGRAMS_AT_A_TIME = 2;
const ROUND_SECONDS = Math.max(1, Math.ceil(SECONDS / 900));
const SAMPLE_MS = 5_000;
/** After a deadly fault a program may learn of it this late. */
const AFTERMATH_MS = 60_000;
/** Less time says nothing about growth. */
const LIVED_MS = Math.min(600_000, (SECONDS * 1000) / 2);
const SLACK = { rssBytes: 24 * 2 ** 20, descriptors: 4 };

/** The agent lives on, so that its growth can be seen; the matrix has its restarts. */
const CHOICE: readonly FaultName[] = [
  'kill',
  'killExecutor',
  'freeze',
  'freezeLong',
  'stop',
  'cut',
  'cutLong',
  'halfOpenTo',
  'halfOpenFrom',
  'loss',
  'jitter',
  'disk',
  'clock',
  'suspend',
];
const DEADLY: ReadonlySet<FaultName> = new Set([
  'kill',
  'killExecutor',
  'freezeLong',
  'cutLong',
  'stop',
]);

let stage: Stage;

beforeAll(async () => {
  stage = await Stage.open(ROUND_SECONDS);
}, 120_000);
afterAll(async () => (stage as Stage | undefined)?.close(), 120_000);

function sampler(usage: Usage): () => void {
  const timer = setInterval(() => {
    const pid = stage.state.latest?.agentPid;
    if (pid) usage.sample('agent', pid, Date.now());
    for (const index of [VICTIM, OTHER]) {
      const { child } = stage.daemons[index]!;
      if (child.exitCode === null) usage.sample(stage.feeders[index]!.name, child.pid!, Date.now());
    }
  }, SAMPLE_MS);
  return () => clearInterval(timer);
}

/** One fault after the other. Each must have been there. */
async function trouble(random: Random, periods: Period[], untilMs: number): Promise<string[]> {
  const played: string[] = [];
  while (Date.now() < untilMs) {
    await sleep(3_000 + random.below(12_000));
    const name = random.from(CHOICE);
    const fault: Fault = FAULTS[name];
    if (name === 'killExecutor' && (await stage.victimBytes()) === 0) continue;
    const period: Period = {
      name,
      fromMs: Date.now(),
      untilMs: Number.POSITIVE_INFINITY,
      deadly: DEADLY.has(name),
    };
    periods.push(period);
    const planted = await fault.plant(stage);
    await sleep(fault.holdMs ?? 5_000 + random.below(5_000));
    const proof = await planted.proof();
    await planted.lift();
    await stage.restore();
    period.untilMs = Date.now() + AFTERMATH_MS;
    played.push(`${name}: ${proof}`);
  }
  return played;
}

async function left(): Promise<Record<string, number>> {
  const status = await stage.host.status();
  const feeders = await Promise.all(stage.feeders.map((feeder) => feeder.feedStatus()));
  const lent = feeders.map(
    (feeder) => leasedBytes(feeder) + lentUsedBytes(feeder) + feeder.leaseCount,
  );
  const tiers = status.tiers
    .filter(({ kind }) => kind !== 'local_vram')
    .map(({ usedBytes, grantedBytes }) => usedBytes + grantedBytes);
  return {
    programs: status.attachments.length,
    lent: lent.reduce((sum, each) => sum + each, 0),
    tiers: tiers.reduce((sum, each) => sum + each, 0),
    leases: status.links.reduce((sum, { leaseCount }) => sum + leaseCount, 0),
  };
}

test(
  `mixed load with random faults for ${SECONDS} s, seed ${SEED}`,
  async () => {
    const random = new Random(SEED);
    const usage = new Usage();
    const stopSampling = sampler(usage);
    const tally: Tally = { right: 0, lost: 0, refused: 0, killed: 0 };
    const periods: Period[] = [];
    const untilMs = Date.now() + SECONDS * 1000;
    const [played] = await Promise.all([
      trouble(random.fork(), periods, untilMs),
      ...Array.from({ length: PROGRAMS_AT_A_TIME }, () =>
        load(stage, random.fork(), periods, tally, untilMs),
      ),
    ]);
    stopSampling();
    await stage.endBystander();
    const zero = { programs: 0, lent: 0, tiers: 0, leases: 0 };
    const counters = await waitFor(
      'every counter is zero',
      async () => {
        const now = await left();
        return Object.values(now).every((value) => value === 0) && now;
      },
      (TTL_SECONDS + 5) * 1000,
      1_000,
    ).catch(left);
    const verdict = usage.judge(LIVED_MS, SLACK);
    const result = { seed: SEED, seconds: SECONDS, tally, played, counters, growth: verdict.lines };
    mkdirSync(dirname(RESULT), { recursive: true });
    writeFileSync(RESULT, JSON.stringify({ ...result, usage }, null, 1));
    process.stdout.write(`${JSON.stringify(result, null, 1)}\n`);
    expect(counters).toEqual(zero);
    expect(verdict.grown).toEqual([]);
    expect(tally.right).toBeGreaterThan(0);
    expect(played.length).toBeGreaterThan(0);
  },
  (SECONDS + 600) * 1000,
);
