// SPDX-License-Identifier: Apache-2.0
// What a link can do: round trips and bandwidth of a lane to scratch memory of the feeder. Bounded in
// bytes and time; the bytes move on threads of the lane library, not on ours.
import { LaneClient } from '../../driver/lane/client.js';
import { sleep, type Clock } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import {
  LINK_MEASURES_MAX,
  LINK_PROBE_BYTES,
  LINK_PROBE_MS,
  LINK_PROBE_PINGS,
  LINK_PROBE_PINGS_MS,
} from '../../proto/base/limits.js';
import { MIB } from '../../proto/base/units.js';
import { LaneRight } from '../../proto/gen/greenboost/v1/feeder_pb.js';
import { LANE_CONNECTIONS } from '../attachments/lanes.js';
import type { FeederCalls } from './feeder-client.js';

export interface LinkMeasurement {
  readonly rttMicros: number;
  readonly uploadBytesPerSecond: number;
  readonly downloadBytesPerSecond: number;
}

export interface Probe {
  readonly lane: LaneClient;
  readonly port: number;
  close(): Promise<void>;
}

/** One request over the probe's lane; many records of it are under way at once. */
const PIECE_BYTES = 8 * MIB;
const PING_TIMEOUT_MS = 2_000;
const PIECE_TIMEOUT_MS = 10_000;

/** So that few workers of Node's are kept, and figures are not those of measurements side by side. */
class Turns {
  private busy = 0;
  private readonly waiting: (() => void)[] = [];

  async take<T>(work: () => Promise<T>): Promise<T> {
    if (this.busy >= LINK_MEASURES_MAX)
      await new Promise<void>((resolve) => this.waiting.push(resolve));
    this.busy++;
    try {
      return await work();
    } finally {
      this.busy--;
      this.waiting.shift()?.();
    }
  }
}

const turns = new Turns();

/** Opens a lane to the feeder's scratch memory. Ownership: the caller closes it.
 *  @throws GbError FEEDER_UNREACHABLE when its lane port cannot be reached, and as the feeder says. */
export async function openProbe(client: FeederCalls): Promise<Probe> {
  const ticket = await client.openLane(undefined, {
    offset: 0,
    length: LINK_PROBE_BYTES,
    rights: LaneRight.READ_WRITE,
    connections: LANE_CONNECTIONS,
  });
  const { ticketId: id, secret, address, port } = ticket;
  try {
    const lane = await LaneClient.open({
      address,
      port,
      ticket: { id, secret },
      connections: LANE_CONNECTIONS,
    });
    return { lane, port, close: () => lane.close() };
  } catch (reason) {
    client.closeLane(id).catch(() => undefined);
    const error = GbError.from(reason);
    throw new GbError(error.code, `lanes to port ${port} cannot be opened: ${error.rawMessage}`, {
      cause: error,
      details: { noLanes: true },
    });
  } finally {
    secret.fill(0);
  }
}

/** Round trip and bandwidth. Cancel: `signal`. @throws as openProbe. */
export function measureLink(
  client: FeederCalls,
  options: { clock: Clock; signal: AbortSignal },
): Promise<LinkMeasurement> {
  return turns.take(async () => {
    options.signal.throwIfAborted();
    const probe = await openProbe(client);
    try {
      const rttMicros = await roundTrip(probe.lane, options);
      return { rttMicros, ...(await rates(probe.lane, options)) };
    } finally {
      await probe.close();
    }
  });
}

/** Bandwidth each way. */
export async function rates(
  lane: LaneClient,
  options: { clock: Clock; signal: AbortSignal },
): Promise<Pick<LinkMeasurement, 'uploadBytesPerSecond' | 'downloadBytesPerSecond'>> {
  const room = Buffer.allocUnsafeSlow(PIECE_BYTES);
  const transfer = { deadlineMs: PIECE_TIMEOUT_MS };
  const uploadBytesPerSecond = await rate(options, (at) => lane.write(0, at, room, transfer));
  const downloadBytesPerSecond = await rate(options, (at) => lane.read(0, at, room, transfer));
  return { uploadBytesPerSecond, downloadBytesPerSecond };
}

/** The median: some meet a busy machine. */
async function roundTrip(
  lane: LaneClient,
  { clock, signal }: { clock: Clock; signal: AbortSignal },
): Promise<number> {
  const samples: number[] = [];
  const begin = clock.nowMs();
  while (samples.length < LINK_PROBE_PINGS && clock.nowMs() - begin < LINK_PROBE_PINGS_MS) {
    signal.throwIfAborted();
    samples.push((await lane.ping(PING_TIMEOUT_MS)) / 1000);
    await sleep(0);
  }
  samples.sort((a, b) => a - b);
  return samples[samples.length >>> 1] as number;
}

async function rate(
  { clock, signal }: { clock: Clock; signal: AbortSignal },
  move: (at: number) => Promise<void>,
): Promise<number> {
  const begin = clock.nowMs();
  let bytes = 0;
  while (bytes < LINK_PROBE_BYTES && clock.nowMs() - begin < LINK_PROBE_MS) {
    signal.throwIfAborted();
    await move(bytes);
    bytes += PIECE_BYTES;
  }
  const elapsedMs = clock.nowMs() - begin;
  return elapsedMs > 0 ? (bytes / elapsedMs) * 1000 : 0;
}
