// SPDX-License-Identifier: Apache-2.0
// The gRPC edge of lanes: OpenLane, CloseLane, Pull. Every field is checked here, before anything
// is done.
import { isIP } from 'node:net';
import { GbError } from '../proto/base/errors.js';
import {
  LANE_CONNECTIONS_MAX,
  LANE_PROBE_BYTES,
  LANE_PROBES_PER_SESSION_MAX,
  LANE_TICKET_MS,
  PULLS_PER_SESSION_MAX,
} from '../proto/base/limits.js';
import {
  LaneRight,
  type FeederService,
  type OpenLaneRequest,
  type PullRequest,
} from '../proto/gen/greenboost/v1/feeder_pb.js';
import type { ServiceHandlers } from '../proto/grpc.js';
import type { LaneGrant, Pull } from '../driver/executor/lanes.js';
import { isLanAddress } from '../security/bind.js';
import { LANE_TICKET_ID_BYTES } from '../security/derive.js';
import type { Feeder } from './feeder.js';
import type { Lanes } from './lanes.js';
import type { Lease } from './lease.js';
import { authorized } from './messages.js';
import type { ProbeLanes } from './probe-lanes.js';
import { PullCalls } from './pulls.js';
import type { Session, Sessions } from './sessions.js';
import { callSignal, sendMessage } from './streams.js';

export interface LaneCallsOptions {
  readonly feeder: Feeder;
  readonly sessions: Sessions;
  readonly lanes: Lanes;
  readonly probes: ProbeLanes;
  /** Pull from feeders beyond the LAN. */
  readonly allowWan: boolean;
}

type Handlers = ServiceHandlers<typeof FeederService>;

const SECRET_BYTES = 32;
const PORT_MAX = 65_535;

export function laneHandlers(
  options: LaneCallsOptions,
): Pick<Handlers, 'openLane' | 'closeLane' | 'pull'> {
  const { feeder, sessions, lanes } = options;
  const pulls = new PullCalls();
  return {
    async openLane(request, { peer, signal }) {
      const session = sessions.get(peer);
      const ticketId = request.probe
        ? await openProbe(options, session, request, signal)
        : await openLeaseLane(options, session, request, signal);
      return { ticketId, port: lanes.port, ttlMs: LANE_TICKET_MS };
    },
    async closeLane({ ticketId }, { peer }) {
      const session = sessions.get(peer);
      checkBytes('a ticket id', ticketId, LANE_TICKET_ID_BYTES);
      await lanes.close(session, ticketId);
      return {};
    },
    async pull(call) {
      const session = sessions.get(call.getPeer());
      const lease = authorized(feeder, session, call.request.lease);
      const pull = pullFrom(call.request, lease, options.allowWan);
      const { executor } = feeder.attachments.get(lease.id);
      const release = session.count('pulls', PULLS_PER_SESSION_MAX);
      const signal = callSignal(call);
      let behind = false;
      try {
        await pulls.run(executor, pull, signal, (bytes) => {
          if (behind || bytes >= Number(pull.length)) return; // The last message is sent below.
          behind = !call.write({ bytes: BigInt(bytes) });
          if (behind) call.once('drain', () => (behind = false));
        });
        await sendMessage(call, { bytes: pull.length }, signal);
      } finally {
        release();
      }
    },
  };
}

async function openLeaseLane(
  { feeder, lanes }: LaneCallsOptions,
  session: Session,
  request: OpenLaneRequest,
  signal: AbortSignal,
): Promise<Buffer> {
  const lease = authorized(feeder, session, request.lease);
  const { offset, length, brokeredSecret } = request;
  checkSpan(lease, offset, length);
  if (brokeredSecret.length > 0) checkBytes('a brokered secret', brokeredSecret, SECRET_BYTES);
  const rights = rightsFrom(request.rights);
  if (rights.call) checkCalls(feeder, lease, request);
  const wish = {
    holder: feeder.attachments.get(lease.id).executor,
    leaseId: lease.id,
    offset,
    length,
    rights,
    connections: connectionsFrom(request.connections),
    brokeredSecret: brokeredSecret.length > 0 ? brokeredSecret : undefined,
  };
  return lanes.open(session, wish, signal);
}

async function openProbe(
  { probes }: LaneCallsOptions,
  session: Session,
  request: OpenLaneRequest,
  signal: AbortSignal,
): Promise<Buffer> {
  const { lease, offset, length, brokeredSecret } = request;
  if (lease || brokeredSecret.length > 0)
    throw new GbError('INVALID_ARGUMENT', 'a probe has neither a lease nor a brokered secret');
  if (offset !== 0n || length > BigInt(LANE_PROBE_BYTES))
    throw new GbError('INVALID_ARGUMENT', `a probe has at most ${LANE_PROBE_BYTES} bytes, from 0`);
  const wish = {
    length: length === 0n ? BigInt(LANE_PROBE_BYTES) : length,
    rights: memoryRights(request.rights),
    connections: connectionsFrom(request.connections),
  };
  const release = session.count('probes', LANE_PROBES_PER_SESSION_MAX);
  return probes.open(session, wish, signal, release);
}

function rightsFrom(rights: LaneRight): LaneGrant['rights'] {
  if (rights === LaneRight.READ_WRITE_CALL) return { read: true, write: true, call: true };
  return memoryRights(rights);
}

/** Kernels use the whole arena, and run for the host itself only: whatever else one sends is its own fault.
 *  @throws GbError INVALID_ARGUMENT; PERMISSION_DENIED when no compute is lent. */
function checkCalls(feeder: Feeder, lease: Lease, request: OpenLaneRequest): void {
  if (!feeder.lendsCompute)
    throw new GbError(
      'PERMISSION_DENIED',
      'this feeder lends memory, and no GPU to run kernels on',
    );
  const whole = request.offset === 0n && request.length === lease.arenaBytes;
  if (!whole || request.brokeredSecret.length > 0)
    throw new GbError('INVALID_ARGUMENT', "a lane for kernels is a host's own, to the whole arena");
}

function memoryRights(rights: LaneRight): LaneGrant['rights'] {
  if (rights < LaneRight.READ || rights > LaneRight.READ_WRITE)
    throw new GbError('INVALID_ARGUMENT', 'a lane is for reading, for writing, or for both');
  return { read: (rights & LaneRight.READ) !== 0, write: (rights & LaneRight.WRITE) !== 0 };
}

function connectionsFrom(connections: number): number {
  if (connections > LANE_CONNECTIONS_MAX)
    throw new GbError('INVALID_ARGUMENT', `a lane has at most ${LANE_CONNECTIONS_MAX} connections`);
  return connections === 0 ? 1 : connections;
}

function checkSpan(lease: Lease, offset: bigint, length: bigint): void {
  if (length > 0n && offset <= lease.arenaBytes && length <= lease.arenaBytes - offset) return;
  throw new GbError(
    'INVALID_ARGUMENT',
    `${length} bytes at offset ${offset} are not a part of the lease's arena`,
  );
}

function checkBytes(what: string, bytes: Uint8Array, count: number): void {
  if (bytes.length !== count)
    throw new GbError('INVALID_ARGUMENT', `${what} has ${count} bytes, not ${bytes.length}`);
}

function pullFrom(request: PullRequest, lease: Lease, allowWan: boolean): Pull {
  const { offset, length, address, port, ticketId, secret, sourceOffset } = request;
  checkSpan(lease, offset, length);
  checkBytes('a ticket id', ticketId, LANE_TICKET_ID_BYTES);
  checkBytes('the secret of a ticket', secret, SECRET_BYTES);
  if (isIP(address.replace(/%[\w.-]+$/, '')) === 0)
    throw new GbError('INVALID_ARGUMENT', 'the address of the other feeder must be numeric');
  if (!allowWan && !isLanAddress(address))
    throw new GbError('PERMISSION_DENIED', `${address} is beyond the LAN (--allow-wan permits it)`);
  if (port < 1 || port > PORT_MAX) throw new GbError('INVALID_ARGUMENT', `${port} is not a port`);
  if (sourceOffset + length >= 1n << 64n)
    throw new GbError('INVALID_ARGUMENT', 'the range of the other feeder wraps around');
  return { offset, length, address, port, ticketId, secret, sourceOffset };
}
