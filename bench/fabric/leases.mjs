// SPDX-License-Identifier: Apache-2.0
// What an agent costs that has 64 feeders and 1,024 open leases and nothing to do: share of one core, resident memory.
// Feeders and programs only play their part (feeders.mjs; sockets that say HELLO and GRANT here), the agent is the real
// one, in its own process. Usage: node bench/fabric/leases.mjs [seconds]
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect as connectSocket } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import * as abi from '../../build/js/host/shim/abi.js';
import { createId } from '../../build/js/proto/base/ids.js';
import { importKey } from '../../build/js/security/keyring.js';
import { createPairingKey, formatPairingKey } from '../../build/js/security/pairing.js';
import { openAgent } from '../../build/js/tui/control/client.js';

const FEEDERS = 64;
const PROCESSES = 4;
const PROGRAMS = 16;
const GRANULE = 2 * 2 ** 20;
const CPU_SHARE_MAX = 0.05;
const RSS_BYTES_MAX = 250 * 2 ** 20;

const seconds = Number(process.argv[2] ?? 30);
const here = dirname(fileURLToPath(import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'gb-leases-'));
const env = {
  ...process.env,
  XDG_RUNTIME_DIR: join(folder, 'run'),
  XDG_CONFIG_HOME: join(folder, 'config'),
  XDG_STATE_HOME: join(folder, 'state'),
  GREENBOOST_GPU: 'none',
  GREENBOOST_LOG: 'warn',
};
const children = [];
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const note = (text) => process.stderr.write(`${text}\n`);

function start(args, options = {}) {
  const child = spawn(process.execPath, args, {
    env,
    stdio: ['pipe', 'pipe', 'inherit'],
    ...options,
  });
  children.push(child);
  return child;
}

/** Lines of a child, one at a time. */
function linesOf(child) {
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return async () => JSON.parse((await lines.next()).value);
}

async function startFeeders() {
  const feeders = [];
  const processes = [];
  for (let index = 0; index < PROCESSES; index++) {
    const keys = Array.from({ length: FEEDERS / PROCESSES }, () =>
      createPairingKey(createId('feeder')),
    );
    for (const key of keys) importKey(join(folder, 'config', 'greenboost'), key);
    const child = start([join(here, 'feeders.mjs'), `${feeders.length}`]);
    const next = linesOf(child);
    child.stdin.write(`${keys.map(formatPairingKey).join('\n')}\n\n`);
    const addresses = await next();
    addresses.forEach((address, at) => feeders.push({ address, feederId: keys[at].feederId }));
    processes.push({ child, next });
  }
  return { feeders, processes };
}

async function untilAgent(client) {
  for (let tries = 0; tries < 200; tries++) {
    const snapshot = await client.getStatus({}, { timeoutMs: 2_000 }).catch(() => undefined);
    if (snapshot) return snapshot;
    await sleep(100);
  }
  throw new Error('the agent does not answer');
}

/** A program that holds 2 MiB on each feeder. Returns its socket. */
async function startProgram(index) {
  const socket = connectSocket(join(folder, 'run', 'greenboost', 'shim.sock'));
  await once(socket, 'connect');
  const decoder = new abi.FrameDecoder();
  const waiting = new Map();
  socket.on('data', (chunk) => {
    for (const frame of decoder.push(chunk))
      waiting.get(frame.requestId)?.(Buffer.from(frame.payload));
  });
  let id = 0n;
  const request = (type, payload) =>
    new Promise((resolve) => {
      waiting.set(++id, resolve);
      socket.write(abi.encodeFrame(type, 0, id, payload));
    });
  const zero = abi.gbHello.decode(Buffer.alloc(abi.gbHello.size));
  await request(
    abi.Msg.HELLO,
    abi.gbHello.encode({
      ...zero,
      magic: abi.ABI_MAGIC,
      abi_major: abi.ABI_MAJOR,
      abi_minor: abi.ABI_MINOR,
      features: abi.FEATURE_GATED,
      attachment_id: Buffer.alloc(16, index + 1),
      pid: process.pid,
      arena_base: abi.ARENA_WINDOW_BASE,
      arena_bytes: 1n << 36n,
      vram_budget_bytes: abi.UINT64_MAX,
      ram_budget_bytes: abi.UINT64_MAX,
      command: `program ${index}`,
    }),
  );
  const budget = { tier: abi.AbiTier.T2R, reserved: 0, bytes: BigInt(FEEDERS * GRANULE) };
  for (let tries = 0; tries < 20; tries++) {
    const reply = abi.gbBudgetReply.decode(
      await request(abi.Msg.GRANT, abi.gbBudget.encode(budget)),
    );
    if (reply.status === abi.Status.OK) return socket;
    await sleep(500); // The feeders offer the next 2 MiB with their next report.
  }
  throw new Error(`program ${index} was granted nothing`);
}

function usageOf(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const cpuSeconds = (Number(fields[11]) + Number(fields[12])) / 100;
  return { cpuSeconds, rssBytes: Number(/VmRSS:\s+(\d+)/.exec(status)[1]) * 1024 };
}

async function renewals(processes) {
  const counts = [];
  for (const { child, next } of processes) {
    child.kill('SIGUSR2');
    counts.push(await next());
  }
  const sum = (key) => counts.reduce((total, count) => total + count[key], 0);
  return { messages: sum('messages'), renewed: sum('renewed'), leases: sum('leases') };
}

async function main() {
  const { feeders, processes } = await startFeeders();
  const agent = start([join(here, '..', '..', 'build', 'js', 'tui', 'cli', 'main.js'), 'agent']);
  const client = openAgent(env);
  await untilAgent(client);
  for (const feeder of feeders)
    await client.connect({ ...feeder, timeoutMs: 30_000 }, { timeoutMs: 60_000 });
  note(`${feeders.length} feeders are connected`);
  const sockets = [];
  for (let index = 0; index < PROGRAMS; index++) sockets.push(await startProgram(index));
  const { links } = await client.getStatus({}, { timeoutMs: 10_000 });
  const leases = links.reduce((sum, { leaseCount }) => sum + leaseCount, 0);
  client.close();
  note(`${leases} leases are open; settling`);
  await sleep(5_000);
  const [before, renewedBefore] = [usageOf(agent.pid), await renewals(processes)];
  const begin = performance.now();
  let rssBytes = before.rssBytes;
  while (performance.now() - begin < seconds * 1000) {
    await sleep(500);
    rssBytes = Math.max(rssBytes, usageOf(agent.pid).rssBytes);
  }
  const took = (performance.now() - begin) / 1000;
  const [after, renewedAfter] = [usageOf(agent.pid), await renewals(processes)];
  for (const socket of sockets) socket.destroy();
  const share = (after.cpuSeconds - before.cpuSeconds) / took;
  const messages = renewedAfter.messages - renewedBefore.messages;
  const result = {
    feeders: feeders.length,
    leases,
    seconds: Math.round(took),
    leasesPerRenewal: messages > 0 ? (renewedAfter.renewed - renewedBefore.renewed) / messages : 0,
    renewalsPerSecond: messages / took,
    cpuShare: Number(share.toFixed(4)),
    cpuShareMax: CPU_SHARE_MAX,
    rssBytes,
    rssBytesMax: RSS_BYTES_MAX,
  };
  process.stdout.write(`${JSON.stringify(result)}\n`);
  const good = leases >= 1_000 && share <= CPU_SHARE_MAX && rssBytes <= RSS_BYTES_MAX;
  process.exitCode = good ? 0 : 1;
}

try {
  await main();
} finally {
  for (const child of children) child.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
}
process.exit();
