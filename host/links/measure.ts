// SPDX-License-Identifier: Apache-2.0
// What a link can do: round trip by small calls, bandwidth by throw-away bytes. Bounded in bytes
// and time.
import type { Clock } from '../../proto/base/clock.js';
import {
  FRAME_BYTES_MAX,
  LINK_PROBE_BYTES,
  LINK_PROBE_MS,
  LINK_PROBE_PINGS,
  LINK_PROBE_PINGS_MS,
} from '../../proto/base/limits.js';
import type { BulkGate } from './bulk-gate.js';
import { fromStream, type RawFeederClient, type Traffic } from './feeder-client.js';

export interface LinkMeasurement {
  readonly rttMicros: number;
  readonly uploadBytesPerSecond: number;
  readonly downloadBytesPerSecond: number;
}

const PING_TIMEOUT_MS = 2_000;
/** A probe that could not stop by itself is cut here. */
const PROBE_TIMEOUT_MS = 10_000;

export async function measureLink(
  client: RawFeederClient,
  options: { clock: Clock; signal: AbortSignal; traffic: Traffic; bulk: BulkGate },
): Promise<LinkMeasurement> {
  const rttMicros = await measureRtt(client, options);
  const { bulk } = options;
  const uploadBytesPerSecond = await bulk.run('upload', () => measureUpload(client, options));
  const downloadBytesPerSecond = await bulk.run('download', () => measureDownload(client, options));
  return { rttMicros, uploadBytesPerSecond, downloadBytesPerSecond };
}

type Options = Parameters<typeof measureLink>[1];

/** The median of the later half: the first calls of a process measure its compiler. */
async function measureRtt(client: RawFeederClient, { clock, signal }: Options): Promise<number> {
  const samples: number[] = [];
  const begin = clock.nowMs();
  while (samples.length < LINK_PROBE_PINGS && clock.nowMs() - begin < LINK_PROBE_PINGS_MS) {
    const start = clock.nowMs();
    await client.ping({ payload: new Uint8Array(8) }, { timeoutMs: PING_TIMEOUT_MS, signal });
    samples.push((clock.nowMs() - start) * 1000);
  }
  const settled = samples.slice(samples.length >>> 1).sort((a, b) => a - b);
  return settled[settled.length >>> 1] as number;
}

async function measureUpload(
  client: RawFeederClient,
  { clock, signal, traffic }: Options,
): Promise<number> {
  const start = clock.nowMs();
  const { call, response } = client.probeUpload({ timeoutMs: PROBE_TIMEOUT_MS, signal });
  let settled = false;
  const end = response.then(
    () => (settled = true),
    () => (settled = true),
  );
  const data = new Uint8Array(FRAME_BYTES_MAX);
  let sent = 0;
  while (!settled && sent < LINK_PROBE_BYTES && clock.nowMs() - start < LINK_PROBE_MS) {
    sent += data.length;
    if (!call.write({ data }))
      await Promise.race([new Promise((resolve) => call.once('drain', resolve)), end]);
  }
  call.end();
  const { bytes } = await response;
  traffic.sentBytes += Number(bytes);
  return rate(Number(bytes), clock.nowMs() - start);
}

async function measureDownload(
  client: RawFeederClient,
  { clock, signal, traffic }: Options,
): Promise<number> {
  const start = clock.nowMs();
  const call = client.probeDownload(
    { bytes: BigInt(LINK_PROBE_BYTES) },
    { timeoutMs: PROBE_TIMEOUT_MS, signal },
  );
  let received = 0;
  try {
    for await (const message of call) {
      received += (message as { data: Uint8Array }).data.length;
      if (clock.nowMs() - start >= LINK_PROBE_MS) break;
    }
  } catch (reason) {
    throw fromStream(reason);
  } finally {
    call.cancel();
  }
  const elapsedMs = clock.nowMs() - start;
  traffic.receivedBytes += received;
  // Cut short by time: the answer comes after the rest, and nothing goes the other way before it.
  if (received < LINK_PROBE_BYTES) await client.ping({}, { timeoutMs: PROBE_TIMEOUT_MS, signal });
  return rate(received, elapsedMs);
}

function rate(bytes: number, elapsedMs: number): number {
  return elapsedMs > 0 ? (bytes / elapsedMs) * 1000 : 0;
}
