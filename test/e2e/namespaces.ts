// SPDX-License-Identifier: Apache-2.0
// Network namespaces for end-to-end tests: each "machine" is a namespace held open by one sleeping
// process, joined to the host's namespace by a veth pair. Works as root, and without root inside a
// user namespace. Nothing is named, so nothing is left behind: when the holders end, the kernel
// removes interfaces and namespaces. The host's namespace forwards, so feeders reach each other.
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { readdirSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Line, type LineSettings } from './lines.js';

const AS_ROOT = process.getuid?.() === 0;

export interface Namespace {
  /** Address of this machine on its link to the host; for the host itself its first one. */
  readonly address: string;
  /** Command and arguments that run `command` inside. */
  wrap(command: readonly string[]): [string, string[]];
  /** Processes that run inside. */
  pids(): number[];
}

export interface Network {
  readonly host: Namespace;
  readonly feeders: readonly Namespace[];
  /** Of feeder i, when the network was asked for with lines. */
  readonly lines: readonly Line[];
  /** Cuts (false) or restores (true) the link between the host and feeder `index`. */
  setLink(index: number, up: boolean): void;
  close(): void;
}

function enterArguments(pid: number): string[] {
  const user = AS_ROOT ? [] : ['--user', '--preserve-credentials'];
  return ['-t', String(pid), ...user, '--net', '--'];
}

function inside(pid: number, ...command: string[]): void {
  execFileSync('nsenter', [...enterArguments(pid), ...command], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
}

/** The kernel reports the carrier of a new link a moment later; until then its addresses do not
 *  count. */
async function carrier(pid: number, link: string): Promise<void> {
  for (let attempt = 0; attempt < 200; attempt++) {
    const text = execFileSync(
      'nsenter',
      [...enterArguments(pid), 'ip', '-o', 'link', 'show', link],
      { encoding: 'utf8' },
    );
    if (text.includes('state UP')) return;
    await sleep(20);
  }
  throw new Error(`${link} never came up`);
}

async function holder(within: number | undefined): Promise<ChildProcess & { pid: number }> {
  const enter = within === undefined ? [] : ['nsenter', ...enterArguments(within)];
  const user = within === undefined && !AS_ROOT ? ['--user', '--map-root-user'] : [];
  const [command, ...args] = [...enter, 'unshare', ...user, '--net', 'sleep', 'infinity'];
  const child = spawn(command as string, args, { stdio: 'ignore' });
  const outside = readlinkSync(`/proc/${within ?? 'self'}/ns/net`);
  for (let attempt = 0; attempt < 200; attempt++) {
    await sleep(10);
    try {
      if (readlinkSync(`/proc/${child.pid}/ns/net`) !== outside)
        return child as ChildProcess & { pid: number };
    } catch {
      break; // The holder has ended: unshare said why on stderr.
    }
  }
  throw new Error(
    'network namespaces are not available here (needs root, or unprivileged user namespaces)',
  );
}

/** Processes of the network namespace that `pid` holds, but for itself. */
function pidsOf(pid: number): number[] {
  const space = readlinkSync(`/proc/${pid}/ns/net`);
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== pid)
    .filter((name) => {
      try {
        return readlinkSync(`/proc/${name}/ns/net`) === space;
      } catch {
        return false; // It has ended, or is somebody else's.
      }
    })
    .map(Number);
}

async function joinByCable(host: number, feeder: number, link: string, net: string): Promise<void> {
  const peer = ['type', 'veth', 'peer', 'name', 'gb0', 'netns', String(feeder)];
  inside(host, 'ip', 'link', 'add', link, ...peer);
  inside(host, 'ip', 'addr', 'add', `${net}.1/24`, 'dev', link);
  inside(host, 'ip', 'link', 'set', link, 'up');
  inside(feeder, 'ip', 'addr', 'add', `${net}.2/24`, 'dev', 'gb0');
  inside(feeder, 'ip', 'link', 'set', 'gb0', 'up');
  await carrier(feeder, 'gb0');
  await carrier(host, link);
}

async function joinByLine(
  host: number,
  feeder: number,
  link: string,
  net: string,
  settings: LineSettings,
): Promise<Line> {
  const enter = AS_ROOT
    ? []
    : ['nsenter', '-t', String(host), '--user', '--preserve-credentials', '--'];
  const line = await Line.open(enter, host, feeder, link, settings);
  inside(host, 'ip', 'addr', 'add', `${net}.1/24`, 'dev', link);
  inside(feeder, 'ip', 'addr', 'add', `${net}.2/24`, 'dev', link);
  return line;
}

/** A host and `count` feeders, feeder i at 10.77.(i+1).2 and the host at 10.77.(i+1).1. With
 *  `lines` each feeder is behind a delay link instead of a cable. */
export async function createNetwork(
  count: number,
  lineSettings?: readonly LineSettings[],
): Promise<Network> {
  const host = await holder(undefined);
  const holders = [host];
  const lines: Line[] = [];
  inside(host.pid, 'ip', 'link', 'set', 'lo', 'up');
  inside(host.pid, 'sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward');
  for (let index = 0; index < count; index++) {
    const feeder = await holder(host.pid);
    holders.push(feeder);
    const net = `10.77.${index + 1}`;
    const link = `gbh${index}`;
    inside(feeder.pid, 'ip', 'link', 'set', 'lo', 'up');
    const settings = lineSettings?.[index];
    if (settings) lines.push(await joinByLine(host.pid, feeder.pid, link, net, settings));
    else await joinByCable(host.pid, feeder.pid, link, net);
    inside(feeder.pid, 'ip', 'route', 'add', 'default', 'via', `${net}.1`);
  }
  const namespace = (pid: number, address: string): Namespace => ({
    address,
    wrap: (command) => ['nsenter', [...enterArguments(pid), ...command]],
    pids: () => pidsOf(pid),
  });
  return {
    host: namespace(host.pid, '10.77.1.1'),
    feeders: holders.slice(1).map((child, index) => namespace(child.pid, `10.77.${index + 1}.2`)),
    lines,
    setLink: (index, up) =>
      inside(host.pid, 'ip', 'link', 'set', `gbh${index}`, up ? 'up' : 'down'),
    close() {
      for (const line of lines) line.close();
      for (const child of holders.reverse()) child.kill('SIGKILL');
    },
  };
}
