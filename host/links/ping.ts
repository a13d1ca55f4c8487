// SPDX-License-Identifier: Apache-2.0
// `greenboost ping`: round trips of calls and of records, one after the other, then bandwidth each
// way, over the same path as a program's bytes.
import type { MessageInitShape } from '@bufbuild/protobuf';
import { sleep, type Clock } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import type { PingFeederResponseSchema } from '../../proto/gen/greenboost/v1/control_pb.js';
import type { Link } from './link.js';
import { openProbe, rates } from './measure.js';

export type PingPart = MessageInitShape<typeof PingFeederResponseSchema>;

export const PING_COUNT_MAX = 1_000;
export const PING_COUNT_DEFAULT = 5;
export const PING_INTERVAL_MS_MAX = 10_000;
export const PING_INTERVAL_MS_DEFAULT = 200;

const PING_TIMEOUT_MS = 2_000;

/** The path, each round trip, the rates: in this order. Cancel: `signal`.
 *  @throws GbError FEEDER_UNREACHABLE, INVALID_ARGUMENT. */
export async function* pingFeeder(
  link: Link,
  options: { count: number; intervalMs: number; clock: Clock; signal: AbortSignal },
): AsyncGenerator<PingPart, void, void> {
  const { clock, signal } = options;
  const count = options.count || PING_COUNT_DEFAULT;
  const intervalMs = options.intervalMs || PING_INTERVAL_MS_DEFAULT;
  if (count > PING_COUNT_MAX || intervalMs > PING_INTERVAL_MS_MAX)
    throw new GbError('INVALID_ARGUMENT', 'too many round trips, or too far apart');
  const client = link.client();
  const probe = await openProbe(client);
  try {
    const { cipher, provider, connections } = probe.lane.counters();
    const path = {
      feederName: link.name,
      address: client.address,
      localAddress: client.localAddress,
      lanePort: probe.port,
      sessionCipher: link.cipher,
      laneCipher: cipher,
      laneProvider: provider,
      laneConnections: connections,
    };
    yield { part: { case: 'path', value: path } };
    for (let sequence = 1; sequence <= count; sequence++) {
      const begin = clock.nowMs();
      await client.ping(PING_TIMEOUT_MS);
      const callMicros = (clock.nowMs() - begin) * 1000;
      const laneMicros = (await probe.lane.ping(PING_TIMEOUT_MS)) / 1000;
      yield { part: { case: 'roundTrip', value: { sequence, callMicros, laneMicros } } };
      if (sequence < count) await sleep(intervalMs, signal);
    }
    yield { part: { case: 'rate', value: await rates(probe.lane, options) } };
  } finally {
    await probe.close();
  }
}
