// SPDX-License-Identifier: Apache-2.0
// `greenboost connect` and `disconnect`: which key a feeder needs, progress for people, and what
// changed.
import { GbError } from '../../../proto/base/errors.js';
import { parseId, type FeederId } from '../../../proto/base/ids.js';
import { DEFAULT_PORT } from '../../../proto/base/limits.js';
import { configDir } from '../../../proto/base/paths.js';
import { formatBytes, formatMicros, formatRate } from '../../../proto/base/units.js';
import type { ConnectResponse } from '../../../proto/gen/greenboost/v1/control_pb.js';
import { findKey, importKey, listKeyring, removeKey } from '../../../security/keyring.js';
import { keyFingerprint, type PairingKey } from '../../../security/pairing.js';
import { withAgent } from '../../control/client.js';
import type { FoundFeeder } from '../../control/discover.js';
import { linkJson } from '../../model/links.js';
import {
  SCHEMA_VERSION,
  snapshotJson,
  tiersJson,
  type SnapshotJson,
} from '../../model/snapshot.js';
import { totalsOf } from '../../view/plain.js';
import { cleanText } from '../../view/text.js';
import { epochOf, showActionPlan, type PlannedOptions } from './action-plan.js';
import { ensureAgent } from '../daemon.js';
import { note, painters, writeJson, writeLine } from '../output.js';
import { chooseFeeder, findFeeders } from '../find-feeder.js';
import { parseSeconds, SECONDS_MIN } from '../numbers.js';
import { whileWorking } from '../progress.js';
import { noteKeyAdded, noteKeyRemoved } from '../key-audit.js';
import { watchDrain } from './feeders.js';
import { addToKeyring, readKey } from './key.js';

export interface ConnectOptions {
  readonly keyFile?: string;
  readonly feeder?: string;
  readonly timeout: string;
  /** Seconds, where no address is given. */
  readonly look: string;
  readonly json?: boolean;
}

const STATUS_TIMEOUT_MS = 5_000;
const CONNECT_SECONDS = { least: SECONDS_MIN, most: 600 };
const LOOK_SECONDS = { least: SECONDS_MIN, most: 60 };
/** Draining moves bytes over a LAN; a feeder full of them takes minutes. */
const DISCONNECT_TIMEOUT_MS = 600_000;

/** `host:port` with the port written out; IPv6 in brackets. @throws GbError INVALID_ARGUMENT. */
export function normalizeAddress(text: string): string {
  const trimmed = text.trim();
  const bracketed = /^\[([0-9a-fA-F:.%\w]+)\](?::(\d{1,5}))?$/.exec(trimmed);
  const bareIpv6 = bracketed === null && trimmed.split(':').length > 2;
  const plain = bareIpv6 ? null : /^([A-Za-z0-9._-]+)(?::(\d{1,5}))?$/.exec(trimmed);
  const host =
    bracketed?.[1] ?? (bareIpv6 && /^[0-9a-fA-F:.]+(%\w+)?$/.test(trimmed) ? trimmed : plain?.[1]);
  const port = Number(bracketed?.[2] ?? plain?.[2] ?? DEFAULT_PORT);
  if (host === undefined || port < 1 || port > 65535) {
    throw new GbError('INVALID_ARGUMENT', `"${trimmed.slice(0, 80)}" is not an address`, {
      details: { hint: 'write host, host:9740 or [fd00::21]:9740' },
    });
  }
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

/** What was put into the keyring for this connect, so that a wrong key can be taken out again. */
interface ChosenKey {
  readonly feederId: FeederId;
  undo(): void;
}

function keep(key: PairingKey): ChosenKey {
  const before = findKey(configDir(), key.feederId);
  const outcome = addToKeyring(key, 'connect');
  return {
    feederId: key.feederId,
    undo() {
      if (outcome === 'unchanged') return;
      if (outcome === 'added') removeKey(configDir(), key.feederId);
      // It has the age it had.
      else if (before) importKey(configDir(), before, { unixMs: () => before.createdUnixMs });
      noteKeyRemoved('keyring', key, 'connect refused');
      if (before) noteKeyAdded('keyring', before, 'connect refused');
    },
  };
}

/** The key for `address`: the one given now; else the one it claims by mDNS, or this link used before; else the only
 *  one of the keyring that no link uses, unless it claims another; else a person is asked. */
async function chooseKey(
  address: string,
  claimed: string | undefined,
  options: ConnectOptions,
  snapshot: SnapshotJson,
): Promise<ChosenKey> {
  const nothing = { undo: () => undefined };
  const given = options.keyFile !== undefined || (process.env['GREENBOOST_KEY'] ?? '') !== '';
  if (!given) {
    if (options.feeder !== undefined)
      return { feederId: parseId('feeder', options.feeder), ...nothing };
    const keyring = listKeyring(configDir());
    const known = snapshot.links.find((link) => link.address === address);
    const same =
      keyring.find((key) => keyFingerprint(key) === claimed) ??
      keyring.find(
        (key) => key.feederId === known?.feederId || keyFingerprint(key) === known?.keyFingerprint,
      );
    if (same) return { feederId: same.feederId, ...nothing };
    const live = snapshot.links.filter(({ state }) => state === 'ready' || state === 'draining');
    const used = new Set(live.map((link) => link.feederId));
    const free = keyring.filter(
      (key) => claimed === undefined && (key.shared || !used.has(key.feederId)),
    );
    const [only] = free;
    if (only && free.length === 1) return { feederId: only.feederId, ...nothing };
    if (free.length > 1) {
      note(
        `the keyring holds ${free.length} keys that fit; name one with --feeder, or give this feeder's key now`,
      );
    }
  }
  const question = `Pairing key of ${address} (on it: greenboost key show): `;
  return keep(
    await readKey({
      ...(options.keyFile === undefined ? {} : { keyFile: options.keyFile }),
      question,
    }),
  );
}

function describeLink(
  response: ConnectResponse,
  before: SnapshotJson,
  after: SnapshotJson,
): string[] {
  const paint = painters(process.stdout);
  const link = response.link ? linkJson(response.link) : undefined;
  const added = tiersJson(response.tiers);
  const peer = `${link?.feederName ?? ''} ${link?.address ?? ''}  ${link?.cipher ?? ''}`;
  const lines = [
    `${paint.green('connected')} ${cleanText(peer)}`,
    ...added.map((tier) => {
      const kind = tier.kind === 'feeder_vram' ? 'VRAM' : 'RAM';
      const name = `${cleanText(tier.name)}${tier.simulated ? ', simulated' : ''}`;
      return `  adds ${formatBytes(tier.capacityBytes)} of ${kind}  (${name})`;
    }),
  ];
  if (link?.laneDetail) {
    lines.push(`  ${paint.yellow('of no use to programs yet:')} ${cleanText(link.laneDetail)}`);
  } else if (link) {
    lines.push(
      `  link: ${formatMicros(link.rttMicros ?? 0)} round trip, ${formatRate(link.uploadBytesPerSecond ?? 0)} up, ` +
        `${formatRate(link.downloadBytesPerSecond ?? 0)} down (measured)`,
    );
  }
  // The agent may have learned of local tiers meanwhile: only what this feeder adds is counted as new.
  const total = totalsOf(after).capacityBytes;
  const wasThere = before.links.some(
    ({ feederId, state }) => feederId === link?.feederId && state === 'ready',
  );
  const news = wasThere ? 0 : added.reduce((sum, tier) => sum + tier.capacityBytes, 0);
  const was = news === 0 ? '' : ` (was ${formatBytes(total - news)})`;
  lines.push(`  total: ${formatBytes(total)}${was}`);
  return lines.map((line) => line.trimEnd());
}

/** Without an address: who is there, as JSON, or as a question. @throws GbError as chooseFeeder. */
async function lookAround(options: ConnectOptions): Promise<FoundFeeder | undefined> {
  const lookMs = parseSeconds('--look', options.look, LOOK_SECONDS);
  const snapshot = await withAgent((client) =>
    client.getStatus({}, { timeoutMs: STATUS_TIMEOUT_MS }),
  ).catch(() => undefined);
  const feeders = await findFeeders(lookMs, snapshot ? snapshotJson(snapshot).links : []);
  if (!options.json) return chooseFeeder(feeders);
  writeJson<'connect'>({ schemaVersion: SCHEMA_VERSION, feeders });
  return undefined;
}

/** Opens the link and waits until it is measured; without an address, to a feeder that answers on this network and that
 *  a person has chosen. @throws GbError UNAUTHENTICATED when the key is not the feeder's (a key given now leaves the
 *  keyring again), FEEDER_UNREACHABLE, DEADLINE_EXCEEDED. */
export async function connectFeeder(
  addressText: string | undefined,
  options: ConnectOptions,
): Promise<void> {
  const timeoutMs = parseSeconds('--timeout', options.timeout, CONNECT_SECONDS);
  const found = addressText === undefined ? await lookAround(options) : undefined;
  const addressGiven = addressText ?? found?.address;
  if (addressGiven === undefined) return;
  const address = normalizeAddress(addressGiven);
  const agent = await ensureAgent();
  if (agent.started) note(`agent started (pid ${agent.snapshot.agentPid})`);
  const before = snapshotJson(agent.snapshot);
  const key = await chooseKey(address, found?.keyFingerprint, options, before);
  note(`connecting to ${address} …`);
  const { response, after } = await withAgent(async (client) => {
    const request = { address, feederId: key.feederId, timeoutMs };
    try {
      const answer = await whileWorking(
        () => 'connecting, then measuring the link',
        client.connect(request, { timeoutMs: timeoutMs + STATUS_TIMEOUT_MS }),
      );
      return {
        response: answer,
        after: snapshotJson(await client.getStatus({}, { timeoutMs: STATUS_TIMEOUT_MS })),
      };
    } catch (reason) {
      if (GbError.from(reason).code === 'UNAUTHENTICATED') key.undo();
      throw reason;
    }
  });
  if (options.json) {
    const link = response.link ? linkJson(response.link) : null;
    writeJson<'connect'>({
      schemaVersion: SCHEMA_VERSION,
      link,
      tiers: tiersJson(response.tiers),
      totals: totalsOf(after),
    });
    return;
  }
  for (const line of describeLink(response, before, after)) writeLine(line);
}

/** Leaves a feeder after its bytes are back. @throws GbError NOT_FOUND, WRONG_STATE when they have
 *  no room here. */
export async function disconnectFeeder(
  feeder: string,
  options: PlannedOptions & { force?: boolean },
): Promise<void> {
  if (options.dryRun) return showActionPlan('disconnect', { feeder }, options);
  const epoch = epochOf(options);
  const response = await withAgent(async (client) => {
    const unwatch = process.stderr.isTTY ? watchDrain(client, feeder) : () => undefined;
    const request = { feeder, force: options.force === true, epoch };
    try {
      return await client.disconnect(request, { timeoutMs: DISCONNECT_TIMEOUT_MS });
    } finally {
      unwatch();
    }
  });
  const movedBytes = Number(response.movedBytes);
  const lostBytes = Number(response.lostBytes);
  if (options.json)
    writeJson<'disconnect'>({ schemaVersion: SCHEMA_VERSION, feeder, movedBytes, lostBytes });
  else {
    writeLine(`disconnected ${cleanText(feeder)}; brought back ${formatBytes(movedBytes)}`);
    if (lostBytes > 0)
      note(`greenboost: ${formatBytes(lostBytes)} were lost; their programs get CUDA error 911`);
  }
}
