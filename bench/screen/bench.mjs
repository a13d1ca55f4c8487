// SPDX-License-Identifier: Apache-2.0
// What the cluster screen costs: `make bench-screen`. CPU time of a frame at 120x35 with 64 feeders and 512 processes
// (a new snapshot taken in, and the frame drawn as text), and CPU time of a real, idle screen as a part of one core.
// CPU time, not elapsed time: a busy machine does not make it longer.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const built = (path) => import(join(ROOT, 'build', 'js', path));
const { create } = await import('@bufbuild/protobuf');
const { SnapshotSchema } = await built('proto/gen/greenboost/v1/control_pb.js');
const { snapshotJson } = await built('tui/model/snapshot.js');
const { reduce } = await built('tui/model/reducer.js');
const { initialState } = await built('tui/model/state.js');
const { renderScreen } = await built('tui/view/screen.js');
const { lineText, UNICODE_GLYPHS } = await built('tui/view/lines.js');
const { DemoMachine } = await built('tui/cli/demo/machine.js');

const FEEDERS = 64;
const PROCESSES = 512;
const WARM_UP = 50;
const FRAMES = 200;
const IDLE_SECONDS = Number(process.env.GB_IDLE_SECONDS ?? 30);
const GIB = 2n ** 30n;

/** The agent's message as it would come, `step` seconds in. */
function message(step) {
  const at = BigInt(1_760_000_000_000 + step * 1000);
  const bytes = BigInt(step) * 1_000_003n;
  return create(SnapshotSchema, {
    software: 'bench',
    agentPid: 1,
    unixMs: at,
    epoch: 12n,
    hostName: 'bench',
    tiers: Array.from({ length: FEEDERS }, (_, index) => ({
      kind: 4,
      name: `feeder-${index}: RAM`,
      feederId: `F-${index}`,
      capacityBytes: 64n * GIB,
      usedBytes: GIB,
      readBytesPerSecond: 1e9 + index,
    })),
    links: Array.from({ length: FEEDERS }, (_, index) => ({
      feederId: `F-${index}`,
      feederName: `feeder-${index}`,
      address: `10.0.0.${index}:9740`,
      state: 3,
      rttMicros: 200 + index,
      receivedBytes: bytes * BigInt(index),
      lastSeenUnixMs: at,
      devices: [{ id: { kind: 1, index: 0 }, capacityBytes: 64n * GIB, usedBytes: GIB }],
    })),
    attachments: Array.from({ length: PROCESSES }, (_, index) => ({
      attachmentId: String(index),
      pid: 1000 + index,
      command: `python train.py --shard ${index} ${'--option value '.repeat(10)}`,
      vramUsedBytes: GIB,
      ramUsedBytes: 2n * GIB,
      feederRamUsedBytes: GIB,
      allocatedBytes: 4n * GIB + BigInt(index),
      fetchBytes: bytes * BigInt(index + 1),
      startedUnixMs: at,
      connected: true,
      dispatch: index % 2 === 0,
      launchCount: bytes,
      launchOwners: [
        { feederId: `F-${index % FEEDERS}`, feederName: 'x', lane: 1, launchCount: bytes },
      ],
    })),
    recentEvents: Array.from({ length: 50 }, (_, index) => ({
      sequence: BigInt(index),
      unixMs: at,
      name: 'bench',
      text: `event ${index}`,
    })),
  });
}

const cpuMs = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
};

function frames() {
  let state = initialState({ cols: 120, rows: 35 }, 0, 0);
  const figures = { reduceMs: 0, drawMs: 0, characters: 0 };
  for (let step = 0; step < WARM_UP + FRAMES; step += 1) {
    const snapshot = snapshotJson(message(step));
    const begin = cpuMs();
    state = reduce(state, { t: 'snapshot', snapshot, atMs: step * 1000 });
    const between = cpuMs();
    const text = renderScreen(state, UNICODE_GLYPHS).map(lineText).join('\n');
    const end = cpuMs();
    if (step < WARM_UP) continue;
    figures.reduceMs += (between - begin) / FRAMES;
    figures.drawMs += (end - between) / FRAMES;
    figures.characters = text.length;
  }
  return figures;
}

/** CPU seconds a process has used. */
function cpuSeconds(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
  const ticks = Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));
  return (Number(fields[11]) + Number(fields[12])) / ticks;
}

function screenPid(folder) {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .find((pid) => {
      try {
        const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
        return (
          command.includes('cluster') &&
          readFileSync(`/proc/${pid}/environ`, 'utf8').includes(folder)
        );
      } catch {
        return false;
      }
    });
}

async function idle() {
  const folder = mkdtempSync(join(tmpdir(), 'greenboost-bench-'));
  const socket = `greenboost-bench-${process.pid}`;
  const tmux = (...args) =>
    execFileSync('tmux', ['-L', socket, '-f', '/dev/null', ...args], { encoding: 'utf8' });
  const host = new DemoMachine('bench', folder, { GREENBOOST_GPU: 'none' });
  const agent = host.start(['agent']);
  try {
    const command = `TERM=xterm-256color ${join(ROOT, 'greenboost')} cluster`;
    execFileSync(
      'tmux',
      ['-L', socket, '-f', '/dev/null', 'new-session', '-d', '-x', '120', '-y', '35', command],
      {
        env: { ...host.env, LANG: 'C.UTF-8' },
      },
    );
    const deadline = Date.now() + 60_000;
    while (!/ram local/.test(tmux('capture-pane', '-p'))) {
      if (Date.now() > deadline) throw new Error('no screen within a minute');
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    const pid = screenPid(folder);
    const before = cpuSeconds(pid);
    const begin = process.hrtime.bigint();
    await new Promise((resolve) => setTimeout(resolve, IDLE_SECONDS * 1000));
    const seconds = Number(process.hrtime.bigint() - begin) / 1e9;
    return { seconds, percent: (100 * (cpuSeconds(pid) - before)) / seconds };
  } finally {
    tmux('kill-server');
    agent.child.kill('SIGTERM');
    await agent.finished;
    rmSync(folder, { recursive: true, force: true });
  }
}

const frame = frames();
process.stdout.write(
  `frame, 120x35, ${FEEDERS} feeders, ${PROCESSES} processes: ` +
    `${(frame.reduceMs + frame.drawMs).toFixed(2)} ms of CPU ` +
    `(take the snapshot in ${frame.reduceMs.toFixed(2)}, draw ${frame.drawMs.toFixed(2)}; mean of ${FRAMES})\n`,
);
const quiet = await idle();
process.stdout.write(
  `idle screen: ${quiet.percent.toFixed(2)} % of a core over ${quiet.seconds.toFixed(0)} s\n`,
);
