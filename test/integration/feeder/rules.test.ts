// SPDX-License-Identifier: Apache-2.0
// The owner goes first, with a real feeder on a simulated GPU: real programs of his on it, his hours, kernels that run
// too long, and the priority of what the feeder starts.
import { afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { getPriority } from 'node:os';
import { join } from 'node:path';
import koffi from 'koffi';
import { systemClock } from '../../../proto/base/clock.js';
import { nativePath } from '../../../proto/base/paths.js';
import { parseHours } from '../../../proto/settings/hours.js';
import {
  FeederState,
  LaneRight,
  PauseCause,
  type FeederPause,
  type LeaseRef,
} from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import { useSimulatedGpu } from '../simulated-gpu.js';
import {
  codeOf,
  executorsOf,
  firstStats,
  GPU,
  MIB,
  openFeeder,
  pattern,
  until,
  type TestFeeder,
  type TestHost,
} from './harness.js';
import { batch, callOver, Command, words } from './run-batch.js';

const vram = new Map([[0, 64 * MIB]]);
const gpu = { gpu: 'sim' as const, vramBytes: vram };
const PATIENT_MS = 120_000;

let feeder: TestFeeder | undefined;
let program: ChildProcess | undefined;
let drawn: string;

beforeAll(() => {
  useSimulatedGpu();
  const name = process.env['GBSIM_GPU'] ?? '';
  drawn = join(
    process.env['GBSIM_DIR'] ?? '/dev/shm',
    `gbsim-${process.getuid!()}-${name}-0.drawn`,
  );
});

/** Ends the program of the owner, which is in a group of its own. */
function endProgram(): void {
  if (program?.pid !== undefined) process.kill(-program.pid, 'SIGKILL');
  program = undefined;
}

afterEach(async () => {
  endProgram();
  rmSync(drawn, { force: true });
  await feeder?.stop();
  feeder = undefined;
}, PATIENT_MS);

/** A CUDA program of the owner: no child of this process, as the feeder's executors are. */
function startProgram(): void {
  const command = `"$0" --bytes 4MiB --buffer-bytes 2MiB --rounds 1 --hold-seconds 600 & wait`;
  const library = join(nativePath('lib', 'sim', 'libcuda.so.1'), '..');
  const bin = nativePath('bin', 'gb_workset');
  program = spawn('sh', ['-c', command, bin], {
    detached: true,
    stdio: 'ignore',
    env: { ...process.env, LD_LIBRARY_PATH: library },
  });
}

async function stateOf(host: TestHost): Promise<{ state: number; pauses: FeederPause[] }> {
  return (await firstStats(host.client)) as unknown as { state: number; pauses: FeederPause[] };
}

const reaches = (host: TestHost, wanted: FeederState): Promise<void> =>
  until(`state ${wanted}`, async () => (await stateOf(host)).state === wanted, PATIENT_MS);

describe('a feeder that lends only an idle GPU', () => {
  test(
    'asks for it back when its owner computes on it, keeps what is there meanwhile, and lends again',
    async () => {
      feeder = await openFeeder({ ...gpu, idleOnly: true, idleMs: 1_000 });
      const host = await feeder.connect();
      const lease = await host.lease({ gpu: 4 * MIB });
      await host.allocate(lease, 0, 2 * MIB, GPU);
      await host.write(lease, 0, pattern(2 * MIB, 7));
      expect((await stateOf(host)).state).toBe(FeederState.LENDING); // Its own executor is no owner.

      startProgram();
      await reaches(host, FeederState.DRAINING);
      const { pauses } = await stateOf(host);
      expect(pauses).toMatchObject([{ cause: PauseCause.LOCAL_USE, drain: true, text: '' }]);
      const status = await feeder.control().getFeedStatus({});
      expect(status.stats?.pauses[0]?.text).toMatch(/gb_workset \(pid \d+\) computes on it/);
      await expect(host.lease({ gpu: 2 * MIB })).rejects.toMatchObject({
        code: 'WRONG_STATE',
        rawMessage: expect.stringContaining('its owner uses its GPU') as unknown,
      });
      expect((await host.read(lease, 0, 2 * MIB)).equals(pattern(2 * MIB, 7))).toBe(true);

      await feeder.control().resumeFeed({}); // His word is not what holds it.
      expect((await stateOf(host)).state).toBe(FeederState.DRAINING);
      endProgram();
      await reaches(host, FeederState.LENDING);
      expect(await codeOf(host.lease({ gpu: 2 * MIB }))).toBe('OK');
      const log = readFileSync(join(feeder.folder, 'feeder.log'), 'utf8');
      expect(log).toMatch(/"event":"feeder_paused","by":"local_use"/);
      expect(log).toMatch(/"event":"feeder_resumed","by":"local_use"/);
    },
    PATIENT_MS,
  );

  test(
    'does not mind a desktop that draws a little, and one that draws a lot',
    async () => {
      writeFileSync(drawn, '1 5\n');
      feeder = await openFeeder({ ...gpu, idleOnly: true, idleMs: 1_000 });
      const host = await feeder.connect();
      expect((await stateOf(host)).state).toBe(FeederState.LENDING);
      writeFileSync(drawn, '1 60\n');
      await reaches(host, FeederState.DRAINING);
      const { stats } = await feeder.control().getFeedStatus({});
      expect(stats?.pauses[0]?.text).toMatch(/\(pid 1\) takes 60 % of it/);
      writeFileSync(drawn, '1 5\n');
      await reaches(host, FeederState.LENDING);
    },
    PATIENT_MS,
  );

  test('needs VRAM to lend', async () => {
    expect(await codeOf(openFeeder({ idleOnly: true }))).toBe('INVALID_ARGUMENT');
  });
});

test(
  'outside of its hours it asks for its memory back; within them it lends',
  async () => {
    const noon = new Date(2026, 2, 4, 12).getTime();
    let shiftMs = noon - Date.now();
    const clock = { ...systemClock, unixMs: () => Date.now() + shiftMs };
    feeder = await openFeeder({ hours: [parseHours('22:00-07:00')] }, { clock });
    const host = await feeder.connect();
    const { state, pauses } = await stateOf(host);
    expect(state).toBe(FeederState.DRAINING);
    expect(pauses).toMatchObject([{ cause: PauseCause.HOURS, drain: true }]);
    expect(Number(pauses[0]!.untilUnixMs)).toBe(new Date(2026, 2, 4, 22).getTime());
    await expect(host.lease({ ram: 2 * MIB })).rejects.toMatchObject({
      code: 'WRONG_STATE',
      rawMessage: expect.stringContaining('again from Wed 22:00') as unknown,
    });
    shiftMs += 10 * 3_600_000 + 60_000;
    await reaches(host, FeederState.LENDING);
    expect(await codeOf(host.lease({ ram: 2 * MIB }))).toBe('OK');
    shiftMs += 9 * 3_600_000;
    await reaches(host, FeederState.DRAINING);
  },
  PATIENT_MS,
);

/** The kernel `gb_held` of the simulated driver, loaded and launched once for so many nanoseconds: two batches. */
function heldKernel(nanoseconds: number): [Buffer, Buffer] {
  const text = Buffer.from(
    '.version 7.0\n.target sm_70\n.address_size 64\n' +
      '.visible .entry gb_held(.param .u64 p, .param .u64 ns)\n{\n ret;\n}\n\0',
  );
  const sha = (data: Buffer): Buffer => createHash('sha256').update(data).digest();
  const padded = (data: Buffer): Buffer =>
    Buffer.concat([data, Buffer.alloc((8 - (data.length % 8)) % 8)]);
  const digest = sha(text);
  const block = sha(Buffer.concat([text, Buffer.alloc(MIB - text.length)]));
  const counts = (...values: number[]): Buffer => {
    const buffer = Buffer.alloc(values.length * 4);
    values.forEach((value, index) => buffer.writeUInt32LE(value, index * 4));
    return buffer;
  };
  const name = Buffer.from('gb_held');
  const address = 0x500000000000n;
  // What answers is the last of its batch.
  const image = Buffer.concat([digest, words(text.length), counts(1, 0), block]);
  const part = Buffer.concat([digest, words(0, text.length), padded(text)]);
  const called = Buffer.concat([digest, counts(1, 0, name.length, 0), padded(name)]);
  const grid = counts(1, 1, 1, 1, 1, 1, 1, 0, 16, 0);
  return [
    batch(1, [Command.IMAGE, image]),
    batch(
      2,
      [Command.IMAGE_PART, part],
      [Command.FUNCTION, called],
      [Command.LAUNCH, Buffer.concat([grid, words(address, nanoseconds)])],
      [Command.SYNC, Buffer.alloc(0)],
    ),
  ];
}

/** Runs it on a lease of its own executor. Returns the status that the executor answers. */
async function runHeld(host: TestHost, lease: LeaseRef, nanoseconds: number): Promise<number> {
  const rights = LaneRight.READ_WRITE_CALL;
  const [image, launch] = heldKernel(nanoseconds);
  await callOver(await host.ticket(lease, { rights }), image);
  const { answer } = await callOver(await host.ticket(lease, { rights }), launch);
  return answer.readUInt32LE(0);
}

const GB_RUN_OK = 0;
const GB_RUN_TIME = 6;

test(
  'a kernel that runs longer than it may ends what its program holds, and nobody else’s',
  async () => {
    feeder = await openFeeder({ ...gpu, kernelMs: 1_500 });
    const host = await feeder.connect();
    const [bad, good] = [await host.lease({ gpu: 2 * MIB }), await host.lease({ gpu: 2 * MIB })];
    for (const lease of [bad, good]) await host.allocate(lease, 0, 2 * MIB, GPU);
    await host.write(good, 0, pattern(MIB, 3));
    expect(await runHeld(host, good, 1_000_000)).toBe(GB_RUN_OK);
    expect(await runHeld(host, bad, 3_600e9)).toBe(GB_RUN_TIME);
    await until(
      'its executor has ended',
      async () => (await codeOf(host.client.statLease({ lease: bad }))) === 'DATA_LOSS',
      PATIENT_MS,
    );
    expect(executorsOf(process.pid)).toHaveLength(1);
    const kept = await host.read(good, 0, MIB);
    expect(kept.readBigUInt64LE()).toBe(1n); // By the kernel that was short.
    expect(kept.subarray(8).equals(pattern(MIB, 3).subarray(8))).toBe(true);
    const log = readFileSync(join(feeder.folder, 'feeder.log'), 'utf8');
    expect(log).toMatch(/kernel \\"gb_held\\" has run for longer than 1500 ms/);
  },
  PATIENT_MS,
);

/** ioprio_get(2) on x86-64. */
const IOPRIO_GET = 252;
const WHO_PROCESS = 1;
const IDLE_CLASS = 3;

test(
  'executors run at the priority that the owner gives them, with every thread',
  async () => {
    feeder = await openFeeder({ nice: 17, io: { class: 'idle', level: 0 } });
    const host = await feeder.connect();
    await host.lease({ ram: 2 * MIB });
    const [pid] = executorsOf(process.pid);
    const ioPriority = koffi
      .load('libc.so.6')
      .func('long syscall(long number, long which, long who)');
    const threads = readdirSync(`/proc/${pid}/task`).map(Number);
    expect(threads.length).toBeGreaterThan(1);
    for (const thread of threads) {
      expect(getPriority(thread)).toBe(17);
      expect(ioPriority(IOPRIO_GET, WHO_PROCESS, thread)).toBe(IDLE_CLASS << 13);
    }
  },
  PATIENT_MS,
);
