// SPDX-License-Identifier: Apache-2.0
// The agent and the feeder daemons while a program moves 10 GB to two feeders and back: what the agent's calls carry,
// what any daemon reads or writes at all, their CPU seconds and memory. The program is real (a simulated GPU), all
// daemons are processes of their own. Usage: node bench/fabric/agent-flat.mjs [GB]
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createLogger } from '../../build/js/proto/base/log.js';
import { openFeederKeys } from '../../build/js/security/key-file.js';
import { importKey } from '../../build/js/security/keyring.js';
import { openAgent } from '../../build/js/tui/control/client.js';

const MIB = 2 ** 20;
const gigabytes = Number(process.argv[2] ?? 10);
const wanted = gigabytes * 1e9;
/** A round of the working set below moves about this much. */
const ROUND_BYTES = 300e6;
const VRAM = 64 * MIB;
const RAM = 32 * MIB;
const WORKING_SET = 192 * MIB;
/** Of what was moved: what calls and daemons may have carried. */
const CONTROL_SHARE_MAX = 0.001;
const GROWTH_BYTES_MAX = 48 * MIB;

const here = dirname(fileURLToPath(import.meta.url));
const build = join(here, '..', '..', 'build');
const cli = join(build, 'js', 'tui', 'cli', 'main.js');
const folder = mkdtempSync(join(tmpdir(), 'gb-flat-'));
const log = createLogger({ name: 'bench', level: 'silent' });
const children = [];
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function machine(name, extra = {}) {
  const env = { ...process.env, GREENBOOST_LOG: 'warn', GREENBOOST_RAM_RESERVE: '0', ...extra };
  for (const kind of ['config', 'state', 'cache', 'runtime']) {
    const path = join(folder, name, kind);
    mkdirSync(path, { recursive: true, mode: 0o700 });
    env[kind === 'runtime' ? 'XDG_RUNTIME_DIR' : `XDG_${kind.toUpperCase()}_HOME`] = path;
  }
  return env;
}

function start(env, args) {
  const child = spawn(process.execPath, [cli, ...args], {
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  child.output = '';
  child.stdout.on('data', (chunk) => (child.output += chunk));
  return child;
}

async function until(what, check) {
  for (let tries = 0; tries < 300; tries++) {
    const value = await check();
    if (value) return value;
    await sleep(100);
  }
  throw new Error(`${what}: not in 30 s`);
}

async function startFeeder(name, host) {
  const env = machine(name);
  const key = openFeederKeys(join(env.XDG_CONFIG_HOME, 'greenboost'), log).current().keys[0];
  importKey(join(host.XDG_CONFIG_HOME, 'greenboost'), key);
  const lend = ['--ram', '192MiB', '--port', '0', '--bind', '127.0.0.1', '--gpu', 'none'];
  const child = start(env, ['feed', 'start', '--foreground', '--name', name, ...lend]);
  const address = await until(name, () => /127\.0\.0\.1:\d+/.exec(child.output)?.[0]);
  return { child, address, feederId: key.feederId };
}

/** CPU seconds, resident bytes, and bytes of system calls of its own threads. */
function usageOf({ pid }) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const rss = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1];
  let ioBytes = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const text = readFileSync(`/proc/${pid}/task/${thread}/io`, 'utf8');
    for (const name of ['rchar', 'wchar'])
      ioBytes += Number(new RegExp(`${name}: (\\d+)`).exec(text)[1]);
  }
  return {
    cpuSeconds: (Number(fields[11]) + Number(fields[12])) / 100,
    rssBytes: rss * 1024,
    ioBytes,
  };
}

async function totals(client) {
  const { links, probeBytes } = await client.getStatus({}, { timeoutMs: 10_000 });
  const sum = (...names) =>
    links.reduce(
      (all, link) => all + names.reduce((bytes, name) => bytes + Number(link[name]), 0),
      0,
    );
  return {
    moved: sum('sentBytes', 'receivedBytes'),
    calls: sum('callSentBytes', 'callReceivedBytes'),
    probes: Number(probeBytes),
  };
}

async function main() {
  const simulation = join(folder, 'sim');
  mkdirSync(simulation);
  const sim = { GBSIM_GPU: 'flat', GBSIM_DIR: simulation, GBSIM_VRAM: `${VRAM}` };
  const host = machine('host', {
    GREENBOOST_GPU: 'none',
    GREENBOOST_AGENT_RAM_BUDGET: '64MiB',
    ...sim,
  });
  const agent = start(host, ['agent']);
  const client = openAgent(host);
  await until('the agent', () => client.getStatus({}, { timeoutMs: 1_000 }).catch(() => undefined));
  const feeders = [];
  for (const name of ['anvil', 'forge']) feeders.push(await startFeeder(name, host));
  for (const { address, feederId } of feeders)
    await client.connect({ address, feederId, timeoutMs: 30_000 }, { timeoutMs: 60_000 });
  const daemons = [agent, ...feeders.map(({ child }) => child)];
  await sleep(2_000);
  const [before, usedBefore] = [await totals(client), daemons.map(usageOf)];
  const rss = usedBefore.map(({ rssBytes }) => rssBytes);
  const begin = performance.now();
  const rounds = Math.ceil(wanted / ROUND_BYTES);
  const budgets = ['--vram-budget', `${VRAM}`, '--ram-budget', `${RAM}`, '--overcommit', 'gated'];
  const program = [join(build, 'bin', 'gb_workset'), '--bytes', `${WORKING_SET}`];
  const shape = ['--buffer-bytes', `${8 * MIB}`, '--rounds', `${rounds}`];
  const run = start(host, ['run', '--gpu', 'sim', ...budgets, '--', ...program, ...shape]);
  while (run.exitCode === null && run.signalCode === null) {
    await sleep(250);
    daemons.forEach((child, index) => (rss[index] = Math.max(rss[index], usageOf(child).rssBytes)));
  }
  const seconds = (performance.now() - begin) / 1000;
  const [after, usedAfter] = [await totals(client), daemons.map(usageOf)];
  client.close();
  const each = daemons.map((_, index) => ({
    cpuSeconds: Number((usedAfter[index].cpuSeconds - usedBefore[index].cpuSeconds).toFixed(2)),
    ioBytes: usedAfter[index].ioBytes - usedBefore[index].ioBytes,
    rssBytes: usedBefore[index].rssBytes,
    rssGrowthBytes: rss[index] - usedBefore[index].rssBytes,
  }));
  const movedBytes = after.moved - before.moved;
  const callBytes = after.calls - before.calls;
  const flat =
    each.every(
      (use) =>
        use.ioBytes < CONTROL_SHARE_MAX * movedBytes && use.rssGrowthBytes < GROWTH_BYTES_MAX,
    ) &&
    callBytes < CONTROL_SHARE_MAX * movedBytes &&
    after.probes === before.probes;
  const right = run.exitCode === 0 && run.output.includes('"mismatches":0') && movedBytes >= wanted;
  const [agentUse, ...feederUse] = each;
  process.stdout.write(
    `${JSON.stringify({
      movedBytes,
      seconds: Math.round(seconds),
      callBytes,
      agentProbeBytes: after.probes - before.probes,
      controlShareMax: CONTROL_SHARE_MAX,
      agent: {
        ...agentUse,
        cpuSecondsPerGB: Number((agentUse.cpuSeconds / (movedBytes / 1e9)).toFixed(3)),
      },
      feeders: feederUse,
      right,
      flat,
    })}\n`,
  );
  process.exitCode = right && flat ? 0 : 1;
}

try {
  await main();
} finally {
  for (const child of children) child.kill('SIGKILL');
  await sleep(200);
  rmSync(folder, { recursive: true, force: true });
}
process.exit();
