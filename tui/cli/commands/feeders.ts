// SPDX-License-Identifier: Apache-2.0
// `greenboost drain`, `pause`, `resume` and `ping`: what people do with one feeder of this host.
import { systemClock } from '../../../proto/base/clock.js';
import { GbError } from '../../../proto/base/errors.js';
import { formatBytes, formatMicros, formatRate } from '../../../proto/base/units.js';
import type { FeederPath, RoundTrip } from '../../../proto/gen/greenboost/v1/control_pb.js';
import { messagesOf, withAgent, type AgentClient } from '../../control/client.js';
import { drainJson, linkJson, type DrainJson } from '../../model/links.js';
import { SCHEMA_VERSION, snapshotJson } from '../../model/snapshot.js';
import { durationText } from '../../view/plain.js';
import { cleanText } from '../../view/text.js';
import { epochOf, showActionPlan, type PlannedOptions } from './action-plan.js';
import { parseSeconds, parseWhole, SECONDS_MIN } from '../numbers.js';
import { note, writeJson, writeJsonLine, writeLine } from '../output.js';
import { ProgressLine } from '../progress.js';

const CALL_TIMEOUT_MS = 5_000;
const WATCH_INTERVAL_MS = 500;
const PING_COUNT = { least: 1, most: 1_000 };
const PING_INTERVAL_SECONDS = { least: SECONDS_MIN, most: 10 };

/** Ctrl-C ends `use` by its signal, once; a second one ends the command. */
async function cancellable<T>(use: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const onInterrupt = (): void => controller.abort(new GbError('CANCELED', 'interrupted'));
  process.once('SIGINT', onInterrupt);
  process.once('SIGTERM', onInterrupt);
  try {
    return await use(controller.signal);
  } finally {
    process.removeListener('SIGINT', onInterrupt);
    process.removeListener('SIGTERM', onInterrupt);
  }
}

/** `1.20 of 3.00 GiB  410 MB/s  4s left`. */
export function drainText(drain: DrainJson): string {
  const { totalBytes, movedBytes, bytesPerSecond, etaMs } = drain;
  const left = etaMs === null ? '' : `, ${durationText(etaMs)} left`;
  return `${formatBytes(movedBytes)} of ${formatBytes(totalBytes)} moved, ${formatRate(bytesPerSecond)}${left}`;
}

/** A bar of what has moved. `lines`: told without a terminal, too. */
export function showDrain(
  line: ProgressLine,
  feeder: string,
  drain: DrainJson,
  lines: boolean,
): void {
  const share = drain.totalBytes > 0 ? drain.movedBytes / drain.totalBytes : 0;
  line.show(`${feeder}: ${drainText(drain)}`, { share, lines });
}

/** Shows what a drain that somebody else waits for has moved, until the answer is called. */
export function watchDrain(client: AgentClient, feeder: string): () => void {
  const line = new ProgressLine();
  const look = async (): Promise<void> => {
    const { links } = snapshotJson(await client.getStatus({}, { timeoutMs: CALL_TIMEOUT_MS }));
    const link = links.find((one) => [one.feederId, one.feederName, one.address].includes(feeder));
    if (link?.drain && !ended) showDrain(line, feeder, link.drain, false);
  };
  let ended = false;
  const timer = systemClock.every(WATCH_INTERVAL_MS, () => void look().catch(() => undefined));
  return () => {
    ended = true;
    timer.cancel();
    line.end();
  };
}

/** Moves what programs have on a feeder to others, with progress. Ctrl-C ends it; what has moved stays
 *  moved. @throws GbError NOT_FOUND, WRONG_STATE when others have too little room, CANCELED. */
export async function drainFeeder(feeder: string, options: PlannedOptions): Promise<void> {
  if (options.dryRun) return showActionPlan('drain', { feeder }, options);
  const epoch = epochOf(options);
  const line = new ProgressLine();
  let last: DrainJson | undefined;
  try {
    await cancellable((signal) =>
      withAgent(async (client) => {
        for await (const message of messagesOf(client.drain({ feeder, epoch }, { signal }))) {
          last = drainJson(message);
          if (options.json)
            writeJsonLine<'drain'>({ schemaVersion: SCHEMA_VERSION, feeder, ...last });
          else if (!last.done) showDrain(line, feeder, last, true);
        }
      }),
    );
  } catch (reason) {
    line.end();
    const error = GbError.from(reason);
    if (error.code !== 'CANCELED') throw error;
    const moved = last
      ? `${formatBytes(last.movedBytes)} had moved and stay there`
      : 'nothing had moved';
    throw new GbError('CANCELED', `the drain was given up; ${moved}`, {
      cause: error,
      details: { hint: `${feeder} takes placements as before` },
    });
  }
  line.end();
  if (options.json || !last) return;
  const { movedBytes, elapsedMs, bytesPerSecond } = last;
  const rate =
    movedBytes > 0 ? ` in ${durationText(elapsedMs)} (${formatRate(bytesPerSecond)})` : '';
  writeLine(`${cleanText(feeder)} is empty; moved ${formatBytes(movedBytes)}${rate}`);
  note(`nothing new is placed there until: greenboost resume ${feeder}`);
}

/** Places nothing new on a feeder, or does so again. @throws GbError NOT_FOUND. */
export async function setFeederPaused(
  feeder: string,
  paused: boolean,
  options: PlannedOptions,
): Promise<void> {
  if (options.dryRun) return showActionPlan(paused ? 'pause' : 'resume', { feeder }, options);
  const epoch = epochOf(options);
  const link = await withAgent(async (client) => {
    const call = paused ? client.pause : client.resume;
    return (await call({ feeder, epoch }, { timeoutMs: CALL_TIMEOUT_MS })).link;
  });
  if (options.json) {
    writeJson<'pause' | 'resume'>({
      schemaVersion: SCHEMA_VERSION,
      link: link ? linkJson(link) : null,
    });
    return;
  }
  const name = cleanText(link?.feederName || feeder);
  writeLine(paused ? `${name} is paused: nothing new is placed there` : `${name} takes placements`);
}

function describePath(path: FeederPath): string {
  const peer = `${path.feederName} at ${path.address}, from ${path.localAddress}`;
  const lane = `lanes at port ${path.lanePort}: ${path.laneCipher} by ${path.laneProvider}`;
  return cleanText(
    `${peer}; ${lane}, ${path.laneConnections} connections; calls: ${path.sessionCipher}`,
  );
}

/** `120 / 131 / 402 us` would mislead: each figure keeps its unit. */
function spread(values: readonly number[]): string {
  const sorted = [...values].sort((a, b) => a - b);
  const [least, middle, most] = [0, sorted.length >>> 1, sorted.length - 1].map(
    (index) => sorted[index] ?? 0,
  );
  return `${formatMicros(least ?? 0)} / ${formatMicros(middle ?? 0)} / ${formatMicros(most ?? 0)}`;
}

/** Round trips of calls and lanes, then bandwidth each way. @throws GbError NOT_FOUND,
 *  FEEDER_UNREACHABLE, INVALID_ARGUMENT. */
export async function pingFeeder(
  feeder: string,
  options: { count: string; interval: string; json?: boolean },
): Promise<void> {
  const count = parseWhole('--count', options.count, PING_COUNT);
  const intervalMs = parseSeconds('--interval', options.interval, PING_INTERVAL_SECONDS);
  const request = { feeder, count, intervalMs };
  let path: FeederPath | undefined;
  const trips: RoundTrip[] = [];
  let rates = { uploadBytesPerSecond: 0, downloadBytesPerSecond: 0 };
  await cancellable((signal) =>
    withAgent(async (client) => {
      for await (const { part } of messagesOf(client.pingFeeder(request, { signal }))) {
        if (part.case === 'path') {
          path = part.value;
          if (!options.json) writeLine(describePath(path));
        } else if (part.case === 'roundTrip') {
          trips.push(part.value);
          const { sequence, callMicros, laneMicros } = part.value;
          const times = `call ${formatMicros(callMicros)}, lane ${formatMicros(laneMicros)}`;
          if (!options.json) writeLine(`${sequence}: ${times}`);
        } else if (part.case === 'rate') {
          rates = part.value;
        }
      }
    }),
  );
  const { uploadBytesPerSecond, downloadBytesPerSecond } = rates;
  const roundTrips = trips.map(({ callMicros, laneMicros }) => ({ callMicros, laneMicros }));
  if (options.json) {
    if (!path)
      throw new GbError('PROTOCOL_VIOLATION', 'the agent did not say which way bytes take');
    const { $typeName: _type, $unknown: _more, ...where } = path;
    writeJson<'ping'>({
      schemaVersion: SCHEMA_VERSION,
      ...where,
      roundTrips,
      uploadBytesPerSecond,
      downloadBytesPerSecond,
    });
    return;
  }
  const calls = spread(trips.map(({ callMicros }) => callMicros));
  const lanes = spread(trips.map(({ laneMicros }) => laneMicros));
  writeLine(`least / median / most: call ${calls}, lane ${lanes}`);
  writeLine(`up ${formatRate(uploadBytesPerSecond)}, down ${formatRate(downloadBytesPerSecond)}`);
}
