// SPDX-License-Identifier: Apache-2.0
// The feeders of this host: their ports are tried, what the agent knows of them is judged.
import { connect } from 'node:net';
import { finder, type Finding } from './finding.js';

/** What is to be known of one feeder; see tui/model/snapshot.ts. */
export interface FeederFacts {
  readonly name: string;
  /** `host:port`, `[v6]:port`. */
  readonly address: string;
  readonly state: string;
  readonly detail: string;
  /** Why lanes cannot be opened; empty: they can. */
  readonly laneDetail: string;
  readonly paused: boolean;
  /** Null: not known. */
  readonly clockSkewMs: number | null;
}

/** Audit logs of two machines cannot be laid side by side beyond this. */
const CLOCK_SKEW_MS_MAX = 60_000;

export type PortAnswer = 'open' | 'refused' | 'silent' | 'unreachable';

const PORT_TIMEOUT_MS = 3_000;
const WORKING = new Set(['ready', 'draining']);

/** One TCP connection, closed at once. */
export function tryPort(
  host: string,
  port: number,
  timeoutMs = PORT_TIMEOUT_MS,
): Promise<PortAnswer> {
  return new Promise((resolve) => {
    const socket = connect({ host, port });
    const done = (answer: PortAnswer): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(timeoutMs, () => done('silent'));
    socket.on('connect', () => done('open'));
    socket.on('error', (error: NodeJS.ErrnoException) =>
      done(error.code === 'ECONNREFUSED' ? 'refused' : 'unreachable'),
    );
  });
}

/** Host and port of `host:port` or `[v6]:port`; undefined for anything else. */
export function splitAddress(address: string): { host: string; port: number } | undefined {
  const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(address);
  const host = match?.[1] ?? match?.[2];
  return match && host ? { host, port: Number(match[3]) } : undefined;
}

const FIXES: Readonly<Record<PortAnswer, (port: number) => string>> = {
  open: () => 'see `greenboost events`; on the feeder: greenboost feed status',
  refused: () => 'nothing listens there: on the feeder run greenboost feed start',
  silent: (port) =>
    `a firewall drops it, or the machine is off: allow TCP ${port} and ${port + 1} on the feeder`,
  unreachable: () => 'the address does not answer: has it changed? greenboost connect NEW-ADDRESS',
};

async function checkOne(feeder: FeederFacts): Promise<Finding> {
  const find = finder('feeder', 'feeders');
  const name = `${feeder.name} (${feeder.address})`;
  if (WORKING.has(feeder.state)) {
    if (feeder.laneDetail !== '')
      return find.failure(
        `${name}: lanes cannot be opened: ${feeder.laneDetail}`,
        'allow the lane port, one above the feeder’s, in its firewall',
      );
    return find.ok(`${name}: ${feeder.state}${feeder.paused ? ', paused' : ''}`);
  }
  const place = splitAddress(feeder.address);
  if (!place) return find.failure(`${name}: ${feeder.state}: ${feeder.detail}`, '');
  const answer = await tryPort(place.host, place.port);
  const why = feeder.detail ? `: ${feeder.detail}` : '';
  return find.failure(
    `${name}: ${feeder.state}${why}; its port is ${answer}`,
    FIXES[answer](place.port),
  );
}

/** `undefined`: no agent answers. One feeder that works is enough: the others are warnings. */
export async function checkFeeders(
  feeders: readonly FeederFacts[] | undefined,
): Promise<Finding[]> {
  const find = finder('feeder', 'feeders');
  if (feeders === undefined)
    return [
      find.warning('no agent runs, so no feeder was asked', 'greenboost connect HOST starts one'),
    ];
  if (feeders.length === 0)
    return [
      find.failure(
        'no feeder is connected',
        'greenboost connect HOST, the line `feed start` printed',
      ),
    ];
  const findings = await Promise.all(feeders.map(checkOne));
  const works = findings.some(({ outcome }) => outcome === 'ok');
  return findings.map((finding) =>
    works && finding.outcome === 'failure' ? { ...finding, outcome: 'warning' as const } : finding,
  );
}

/** The daemon on this machine accepts at the addresses it told hosts. */
export async function checkOwnPorts(
  addresses: readonly { readonly host: string; readonly port: number }[],
): Promise<Finding[]> {
  const find = finder('own_port', 'lending');
  return Promise.all(
    addresses.map(async ({ host, port }) => {
      const answer = await tryPort(host, port);
      return answer === 'open'
        ? find.ok(`${host} port ${port} accepts`)
        : find.failure(`${host} port ${port} is ${answer}`, FIXES[answer](port));
    }),
  );
}

/** Clocks of feeders that are far from this machine's: nothing fails by it, but logs and key ages mislead. */
export function checkClocks(feeders: readonly FeederFacts[] | undefined): Finding[] {
  const find = finder('clock', 'migration');
  const known = (feeders ?? []).filter(({ clockSkewMs }) => clockSkewMs !== null);
  if (known.length === 0) return [find.skipped('no feeder told its time')];
  const off = known.filter(({ clockSkewMs }) => Math.abs(clockSkewMs ?? 0) > CLOCK_SKEW_MS_MAX);
  if (off.length === 0) return [find.ok('the clocks of the feeders agree with this one')];
  return off.map(({ name, clockSkewMs }) => {
    const minutes = ((clockSkewMs ?? 0) / 60_000).toFixed(1);
    return find.warning(
      `the clock of ${name} is ${minutes} min off this one: audit logs and key ages mislead`,
      'turn on time synchronisation on both: timedatectl set-ntp true',
    );
  });
}
