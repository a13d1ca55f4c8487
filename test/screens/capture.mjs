// SPDX-License-Identifier: Apache-2.0
// `make screenshots`: docs/images/*.svg from a real run: three feeder daemons, an agent, two programs and the cluster
// screen in tmux, all on this machine and on the simulated driver, which the pictures say. Nothing is drawn by hand.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { terminalSvg } from './svg.mjs';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const { DemoMachine } = await import(join(ROOT, 'build/js/tui/cli/demo/machine.js'));
const IMAGES = join(ROOT, 'docs', 'images');
const SOCKET = `greenboost-screens-${process.pid}`;
const SIZE = { cols: 120, rows: 35 };
const PATIENCE_MS = 120_000;
const LENT = { anvil: '192MiB', forge: '320MiB', kiln: '256MiB' };

function tmux(...args) {
  return execFileSync('tmux', ['-L', SOCKET, '-f', '/dev/null', ...args], { encoding: 'utf8' });
}

function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(String(port)));
    });
  });
}

async function until(what, probe) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const value = await probe();
    if (value) return value;
    if (Date.now() > deadline)
      throw new Error(`not in time: ${what}\n${tmux('capture-pane', '-p')}`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

const shows = (pattern) =>
  until(`the screen shows ${pattern}`, () => pattern.test(tmux('capture-pane', '-p')));
const keys = (...names) => tmux('send-keys', ...names);

function save(name, what, { cols, rows } = SIZE) {
  const caption = `${what} A real run, on one machine and a simulated GPU: no figure is a GPU's.`;
  const capture = tmux('capture-pane', '-p', '-e');
  writeFileSync(join(IMAGES, `${name}.svg`), terminalSvg(capture, { cols, rows, caption }));
  process.stdout.write(`docs/images/${name}.svg\n`);
}

async function done(started) {
  const { code, stdout, stderr } = await started.finished;
  if (code !== 0) throw new Error(`ended with ${code}: ${stdout}${stderr}`);
  return stdout.trim();
}

async function startFeeders(folder, host) {
  const feeders = [];
  for (const [name, ram] of Object.entries(LENT)) {
    const feeder = new DemoMachine(name, join(folder, name), { GREENBOOST_GPU: 'none' });
    feeders.push(feeder);
    const port = await freePort();
    const address = ['--bind', '127.0.0.1', '--port', port, '--lane-port', '0'];
    await done(
      feeder.start(['feed', 'start', '--name', name, '--ram', ram, '--gpu', 'none', ...address]),
    );
    const key = (await done(feeder.start(['key', 'show']))).split('\n').at(-1);
    await done(host.start(['connect', `127.0.0.1:${port}`], { GREENBOOST_KEY: key }));
  }
  return feeders;
}

function startProgram(host, bytes, vram) {
  const limits = ['--vram-budget', vram, '--ram-budget', '64MiB', '--overcommit', 'gated'];
  const load = ['--bytes', bytes, '--buffer-bytes', '8MiB', '--rounds', '1000000'];
  return host.start(['run', '--gpu', 'sim', ...limits, '--', 'gb_workset', ...load], {
    PATH: `${join(ROOT, 'build', 'bin')}:${process.env.PATH}`,
  });
}

async function pictures() {
  await shows(/4 Processes \(2\)/);
  keys('4', 'j');
  // Graphs need samples; kiln has bytes once the second program spilled there.
  await shows(/fetch +[ ▁▂▃▄▅▆▇█]*[▁▂▃▄▅▆▇█]{9} /);
  save('cluster', 'greenboost cluster.');
  keys('Enter');
  await shows(/Ranges on feeders/);
  save('cluster-process', 'Details of a process (Enter).');
  keys('Escape');
  await shows(/1 Tiers/);
  const busiest = await until('a feeder with bytes', () => {
    const line = tmux('capture-pane', '-p').match(/\+ (\w+) .* (0\.[0-9]*[1-9][0-9]*)\//);
    return line?.[1];
  });
  keys(':');
  await shows(/Tab completes/);
  keys('-l', `drain ${busiest}`);
  keys('Enter');
  await shows(/plan: .*\[ Cancel \]|\[ Cancel \] +Drain/s);
  save('cluster-drain', 'The plan of a drain, before anything is done.');
  keys('Tab');
  await shows(/\[ Drain \]/);
  keys('Enter');
  await shows(/drain +\d+%/);
  save('cluster-draining', 'A drain under way.');
  // The shell of the pane keeps the size; the screen follows it.
  tmux('resize-window', '-x', '80', '-y', '24');
  await shows(/D P E X act/);
  save('cluster-80x24', 'The same at 80x24.', { cols: 80, rows: 24 });
}

const folder = mkdtempSync(join(tmpdir(), 'greenboost-screens-'));
const sim = { GREENBOOST_GPU: 'sim', GBSIM_GPU: `screens-${process.pid}`, GBSIM_VRAM: '256MiB' };
const host = new DemoMachine('host', join(folder, 'host'), { ...sim, LANG: 'C.UTF-8' });
const programs = [];
let feeders = [];
mkdirSync(IMAGES, { recursive: true });
try {
  feeders = await startFeeders(folder, host);
  programs.push(startProgram(host, '224MiB', '64MiB'), startProgram(host, '160MiB', '48MiB'));
  const { NO_COLOR: _none, ...env } = host.env;
  const shell = 'bash --noprofile --norc';
  execFileSync(
    'tmux',
    ['-L', SOCKET, '-f', '/dev/null', 'new-session', '-d', '-x', '120', '-y', '35', shell],
    { env: { ...env, TERM: 'xterm-256color', PS1: '$ ' } },
  );
  keys(`TERM=xterm-256color ${join(ROOT, 'greenboost')} cluster`, 'Enter');
  await pictures();
} finally {
  for (const { child } of programs) child.kill('SIGTERM');
  execFileSync('tmux', ['-L', SOCKET, 'kill-server']);
  for (const { finished } of programs) await finished;
  await done(host.start(['agent', 'stop', '--force'])).catch(() => undefined);
  for (const feeder of feeders) await done(feeder.start(['feed', 'stop', '--grace', '0']));
  rmSync(folder, { recursive: true, force: true });
}
