// SPDX-License-Identifier: Apache-2.0
// A lane server inside this process, behind a door, with memory of its own: what links are measured with. Application
// bytes are served by executors, never from here.
import { GbError } from '../../proto/base/errors.js';
import {
  laneCounters,
  laneGrant,
  laneRegion,
  LaneRights,
  laneServerCounters,
  laneServerOptions,
  laneTicket,
  laneTuning,
} from './abi.js';
import { ticketIdBytes } from './door.js';
import {
  call,
  callLater,
  check,
  countersFrom,
  Out,
  refusalsFrom,
  takeEvents,
  type LaneCounters,
  type LaneEvent,
} from './library.js';
import { LaneStatus } from './names.js';

/** `id` is public, `secret` never travels on a lane. */
export interface LaneTicket {
  readonly id: Uint8Array;
  readonly secret: Uint8Array;
}

export interface LaneGrant {
  readonly ticket: LaneTicket;
  /** Region 0 of the lane. */
  readonly memory: LaneMemory;
  /** Bits of LaneRights; default: both. */
  readonly rights?: number;
  /** For bulk, 1 to 8; default 1. */
  readonly connections?: number;
  /** In which the lane must be opened; default 30,000. */
  readonly ttlMs?: number;
  /** Of payload, each way; 0, the default: no limit. */
  readonly bytesPerSecond?: number;
  /** Comes back in events. */
  readonly tag?: bigint;
}

/** Memory of a LaneServer, in C. */
export interface LaneMemory {
  readonly address: bigint;
  readonly bytes: number;
}

export interface LaneServerCounters {
  readonly accepted: number;
  readonly opened: number;
  readonly closed: number;
  readonly refused: Readonly<Record<string, number>>;
  readonly grants: number;
  readonly connections: number;
}

/** open -> closed; every call after close throws WRONG_STATE. */
export class LaneServer {
  private handle: bigint | undefined;
  private readonly memories: LaneMemory[] = [];
  private readonly running = new Set<Promise<unknown>>();

  private constructor(handle: bigint) {
    this.handle = handle;
  }

  /** A server that takes its connections from `adoptFd`, the other end of what a door's routes name. Ownership:
   *  the descriptor is the server's unless this throws. */
  static async open(options: { readonly adoptFd: number }): Promise<LaneServer> {
    const out = new Out();
    const raw = laneServerOptions.encode({
      size: laneServerOptions.size,
      fd: -1,
      address: 0n,
      port: 0,
      connections_max: 0,
      strangers_max: 0,
      stranger_ms: 0,
      adopt_fd: options.adoptFd,
      reserved: 0,
      tuning: Buffer.alloc(laneTuning.size),
    });
    check(await callLater('gb_lane_server_open', raw, out.buffer), 'a server for lanes');
    return new LaneServer(out.value);
  }

  /** Memory that lives as long as the server. @throws GbError CAPACITY_EXHAUSTED. */
  async memory(bytes: number): Promise<LaneMemory> {
    this.open();
    const address = BigInt(await this.run(callLater('gb_lane_memory', bytes)));
    if (address === 0n) {
      throw new GbError('CAPACITY_EXHAUSTED', `no ${bytes} bytes of memory for a lane`);
    }
    const memory = { address, bytes };
    this.memories.push(memory);
    return memory;
  }

  /** Makes a ticket valid, once and for its time. @throws GbError CAPACITY_EXHAUSTED beyond 4096 tickets. */
  grant(grant: LaneGrant): void {
    const server = this.open();
    const ticket = encodeTicket(grant.ticket);
    const raw = laneGrant.encode({
      size: laneGrant.size,
      connections: grant.connections ?? 0,
      ttl_ms: grant.ttlMs ?? 0,
      window: 0,
      ticket,
      tag: grant.tag ?? 0n,
      bytes_per_second: BigInt(grant.bytesPerSecond ?? 0),
    });
    const id = ticketIdBytes(grant.ticket.id);
    const status = call('gb_lane_grant_add', server, raw);
    raw.fill(0);
    ticket.fill(0);
    check(status, 'a ticket for a lane');
    const region = laneRegion.encode({
      size: laneRegion.size,
      id: 0,
      rights: grant.rights ?? LaneRights.READ | LaneRights.WRITE,
      reserved: 0,
      bytes: BigInt(grant.memory.bytes),
      base: grant.memory.address,
      backing: 0n,
      context: 0n,
    });
    const exported = call('gb_lane_export', server, id, region);
    if (exported !== LaneStatus.OK) call('gb_lane_grant_revoke', server, id); // Nobody has opened it yet.
    check(exported, 'the memory of a lane');
  }

  /** Ends the ticket and its lane. Returns whether it was known. */
  async revoke(ticketId: Uint8Array): Promise<boolean> {
    const server = this.open();
    const id = ticketIdBytes(ticketId);
    const status = await this.run(callLater('gb_lane_grant_revoke', server, id));
    if (status !== LaneStatus.NOT_FOUND) check(status, 'a ticket for a lane');
    return status === LaneStatus.OK;
  }

  /** Of one ticket's lane; undefined when nobody knows it (any more). */
  laneCounters(ticketId: Uint8Array): LaneCounters | undefined {
    const room = Buffer.alloc(laneCounters.size);
    const id = ticketIdBytes(ticketId);
    const status = call('gb_lane_grant_counters', this.open(), id, room);
    if (status === LaneStatus.NOT_FOUND) return undefined;
    check(status, 'counters of a lane');
    return countersFrom(room);
  }

  counters(): LaneServerCounters {
    const room = Buffer.alloc(laneServerCounters.size);
    check(call('gb_lane_server_counters', this.open(), room), 'counters of lanes');
    const raw = laneServerCounters.decode(room);
    return {
      accepted: Number(raw.accepted),
      opened: Number(raw.opened),
      closed: Number(raw.closed),
      refused: refusalsFrom(raw.refused),
      grants: raw.grants,
      connections: raw.connections,
    };
  }

  /** Takes what has happened since the last call; at most 256 are kept. */
  events(): LaneEvent[] {
    return takeEvents('gb_lane_server_events', this.open());
  }

  /** Ends every lane with a goodbye (up to a second), then frees its memory. A second call does nothing. */
  async close(): Promise<void> {
    const handle = this.handle;
    this.handle = undefined;
    if (handle === undefined) return;
    await Promise.allSettled(this.running);
    check(await callLater('gb_lane_server_close', handle), 'the server for lanes');
    for (const { address, bytes } of this.memories.splice(0))
      await callLater('gb_lane_memory_free', address, bytes);
  }

  /** A handle must not be used during its close: it waits for what is running. */
  private run<T>(work: Promise<T>): Promise<T> {
    this.running.add(work);
    const done = (): void => {
      this.running.delete(work);
    };
    work.then(done, done);
    return work;
  }

  private open(): bigint {
    if (this.handle === undefined) throw new GbError('WRONG_STATE', 'the lane server is closed');
    return this.handle;
  }
}

/** The C struct; the caller wipes it. @throws GbError INVALID_ARGUMENT when it has not 16 and 32 bytes. */
export function encodeTicket(ticket: LaneTicket): Buffer {
  const { id, secret } = laneTicket.fields;
  if (ticket.id.length !== id.bytes || ticket.secret.length !== secret.bytes) {
    throw new GbError('INVALID_ARGUMENT', 'a ticket is an id of 16 bytes and a secret of 32');
  }
  return laneTicket.encode(ticket);
}
