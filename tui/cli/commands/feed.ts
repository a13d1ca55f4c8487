// SPDX-License-Identifier: Apache-2.0
// `greenboost feed start|stop|pause|resume|status`: lending this machine's memory.
import { GbError } from '../../../proto/base/errors.js';
import { DEFAULT_PORT } from '../../../proto/base/limits.js';
import { formatAge, formatBytes } from '../../../proto/base/units.js';
import { FEEDER } from '../../../proto/settings/feeder.js';
import { settle } from '../../../proto/settings/settle.js';
import { withFeed } from '../../control/client.js';
import { feedStatusJson, type FeedStatusJson } from '../../model/feed-status.js';
import { feedDeviceTable, feedLaneTable, feedLeaseTable } from '../../view/plain.js';
import { cleanText } from '../../view/text.js';
import { daemonLogPath, startFeedDaemon, waitForExit } from '../daemon.js';
import { parseSeconds } from '../numbers.js';
import { note, painters, tableLines, writeJson, writeLine } from '../output.js';
import { whileWorking } from '../progress.js';
import { qrForTerminal } from '../qr.js';
import { flagArgs, flagsOf, settingsFile, settingsPath, type GivenOptions } from '../settings.js';

/** As commander gives them: the options of FEEDER, and these. */
export interface FeedStartOptions extends GivenOptions {
  readonly config?: string;
  /** No QR code. */
  readonly ascii?: boolean;
  readonly foreground?: boolean;
}

const CALL_TIMEOUT_MS = 5_000;
const GRACE_SECONDS = { least: 0, most: 3_600 };
const STOP_MARGIN_MS = 10_000;

function lentWords(status: FeedStatusJson): string {
  const words = status.devices
    .filter((device) => device.capacityBytes > 0)
    .map((device) => {
      const what = device.kind === 'gpu' ? `VRAM of ${cleanText(device.name)}` : 'RAM';
      return `${formatBytes(device.capacityBytes)} of ${what}${device.simulated ? ' (simulated)' : ''}`;
    });
  return words.join(' and ') || 'nothing';
}

/** The address a host should use: the first that is not loopback, else the first. */
function bestAddress(addresses: readonly string[]): string {
  const outside = addresses.find((address) => !/^(127\.|\[::1\]|\[fe80:)/.test(address));
  return outside ?? addresses[0] ?? `THIS-MACHINE:${DEFAULT_PORT}`;
}

/** `192.168.1.21:9740, lanes on port 9741`. */
function listeningWords({ addresses, lanePort }: FeedStatusJson): string {
  return `${addresses.join(', ')}, lanes on port ${lanePort}`;
}

/** `ports 9740 and 9741`: what a firewall has to let in. */
function portsOf({ addresses, lanePort }: FeedStatusJson): string {
  const ports = new Set(addresses.map((address) => Number(/:(\d+)$/.exec(address)?.[1])));
  return `ports ${[...ports, lanePort].join(' and ')}`;
}

/** `qr`: the host's line as a QR code, too, where the terminal takes it. It holds no key. */
function writeStarted(status: FeedStatusJson, qr: boolean): void {
  const paint = painters(process.stdout);
  writeLine(
    `${paint.green('lending')} ${lentWords(status)} as "${cleanText(status.feederName)}" (pid ${status.pid})`,
  );
  writeLine(`listening on ${listeningWords(status)}`);
  writeLine(`firewall: hosts need TCP ${portsOf(status)}`);
  if (status.lockNote) writeLine(`note: ${cleanText(status.lockNote)}`);
  if (status.pauses.length > 0) writeLine(`for now nothing: ${pausesText(status.pauses)}`);
  writeLine();
  const line = `greenboost connect ${bestAddress(status.addresses)}`;
  writeLine('On the host, once:');
  writeLine(`  ${paint.bold(line)}`);
  if (qr) for (const row of qrForTerminal(line, process.stdout)) writeLine(`  ${row}`);
  writeLine('It asks for the pairing key, which this prints:');
  writeLine(`  ${paint.bold('greenboost key show')}    (fingerprint ${status.keyFingerprint})`);
}

/** Starts lending. In the background it returns when the daemon is ready; in the foreground when it
 *  was stopped. @throws GbError ALREADY_EXISTS when a feeder of this user runs already; what the
 *  daemon said when it does not start. */
export async function feedStart(options: FeedStartOptions): Promise<void> {
  const flags = flagsOf(FEEDER, options);
  const configFile = await settingsPath('feeder', options.config);
  // What is wrong is said here, before anything is started.
  const file = await settingsFile('feeder', options.config);
  settle(FEEDER, { flags, env: process.env, file });
  if (options.foreground) {
    await (await import('./daemons.js')).feedForeground({ ...flags, configFile });
    return;
  }
  const running = await readStatus().catch(() => undefined);
  if (running) {
    throw new GbError('ALREADY_EXISTS', `a feeder is running here already (pid ${running.pid})`, {
      details: { hint: 'see it: greenboost feed status; stop it: greenboost feed stop' },
    });
  }
  const named = options.config === undefined ? [] : ['--config', configFile];
  const args = [...flagArgs(FEEDER, options), ...named];
  const started = await whileWorking(() => 'starting the feeder', startFeedDaemon(args));
  writeStarted(feedStatusJson(started), options.ascii !== true);
  note(`log: ${daemonLogPath('feeder')}`);
}

async function readStatus(): Promise<FeedStatusJson> {
  return feedStatusJson(
    await withFeed((client) => client.getFeedStatus({}, { timeoutMs: CALL_TIMEOUT_MS })),
  );
}

/** Stops lending and waits until the daemon is gone. @throws GbError FEEDER_UNREACHABLE when none runs. */
export async function feedStop(options: { grace: string }): Promise<void> {
  const graceMs = parseSeconds('--grace', options.grace, GRACE_SECONDS);
  const { pid } = await readStatus();
  await withFeed((client) =>
    client.stopFeed({ graceMs }, { timeoutMs: graceMs + CALL_TIMEOUT_MS }),
  );
  if (!(await waitForExit(pid, graceMs + STOP_MARGIN_MS))) {
    throw new GbError('DEADLINE_EXCEEDED', `the feeder (pid ${pid}) is still stopping`, {
      details: { hint: `its log: ${daemonLogPath('feeder')}` },
    });
  }
  writeLine('feeder stopped; everything lent is scrubbed and free');
}

/** No new leases until feedResume. @throws GbError FEEDER_UNREACHABLE when none runs, WRONG_STATE when it stops. */
export async function feedPause(options: { drain?: boolean }): Promise<void> {
  const drain = options.drain === true;
  await withFeed((client) => client.pauseFeed({ drain }, { timeoutMs: CALL_TIMEOUT_MS }));
  const { leaseCount } = await readStatus();
  writeLine('paused: nothing new is lent until "greenboost feed resume"');
  if (leaseCount === 0) return;
  writeLine(
    drain
      ? `${leaseCount} leases: their hosts are asked to move away; watch "greenboost feed status"`
      : `${leaseCount} leases go on; --drain asks their hosts to move away`,
  );
}

/** `outside of its hours (22:00-07:00), until Sat 22:00; …` */
function pausesText(pauses: FeedStatusJson['pauses']): string {
  return pauses.map(({ text, cause }) => cleanText(text ?? cause)).join('; ');
}

/** Lends again. @throws as feedPause. */
export async function feedResume(): Promise<void> {
  await withFeed((client) => client.resumeFeed({}, { timeoutMs: CALL_TIMEOUT_MS }));
  const { pauses } = await readStatus();
  if (pauses.length === 0) writeLine('lending again');
  else writeLine(`no longer paused by you, but: ${pausesText(pauses)}`);
}

/** What is lent to whom. @throws GbError FEEDER_UNREACHABLE (exit 3) when none runs. */
export async function feedStatus(options: { json?: boolean }): Promise<void> {
  const status = await readStatus();
  if (options.json) {
    writeJson<'feed status'>(status);
    return;
  }
  const paint = painters(process.stdout);
  const uptime = formatAge(Date.now() - status.startedUnixMs);
  writeLine(
    `${paint.bold(cleanText(status.feederName))} ${status.feederId} ${status.state}, up ${uptime}, pid ${status.pid}`,
  );
  if (status.pauses.length > 0) writeLine(`lends nothing new: ${pausesText(status.pauses)}`);
  writeLine(`listening on ${listeningWords(status)}, key ${status.keyFingerprint}`);
  if (status.cacheDir !== null)
    writeLine(`block cache: up to ${formatBytes(status.cacheBudgetBytes)} in ${status.cacheDir}`);
  if (status.lockNote) writeLine(`note: ${cleanText(status.lockNote)}`);
  writeLine(
    `served ${formatBytes(status.readBytes)} to hosts and took ${formatBytes(status.writeBytes)} from them; ` +
      `${status.sessionCount} sessions, ${status.authFailureCount} failed authentications`,
  );
  writeLine();
  tableLines(feedDeviceTable(status)).forEach((line) => writeLine(line));
  if (status.leases.length > 0) {
    writeLine();
    tableLines(feedLeaseTable(status)).forEach((line) => writeLine(line));
  }
  if (status.lanes.length > 0) {
    writeLine();
    tableLines(feedLaneTable(status)).forEach((line) => writeLine(line));
  }
}
