// SPDX-License-Identifier: Apache-2.0
// What a daemon says to an executor about lanes, and what it hears: the messages of abi.ts as plain values.
import {
  gbxCache,
  gbxGrant,
  gbxLaneEvent,
  gbxLimit,
  gbxPull,
  gbxTicket,
  type gbxLaneStat,
} from './abi.js';

export interface LaneRights {
  readonly read: boolean;
  readonly write: boolean;
  /** Kernels (gb_run.h); of a lane to the whole arena. */
  readonly call?: boolean;
}

/** A ticket for one lane to a part of the arena. */
export interface LaneGrant {
  /** 16 bytes, public. */
  readonly ticketId: Uint8Array;
  /** 32 bytes; never logged, never sent on. */
  readonly secret: Uint8Array;
  /** From the arena's base; offset 0 of region 0 of the lane. */
  readonly offset: bigint;
  readonly length: bigint;
  readonly rights: LaneRights;
  /** Of bulk bytes, 1 to 8. */
  readonly connections?: number;
  /** In which the lane has to be opened. */
  readonly ttlMs?: number;
  /** Requests each connection may have outstanding. */
  readonly window?: number;
  /** Each way; undefined: no limit. */
  readonly bytesPerSecond?: number;
  /** The daemon's own number, comes back in events. */
  readonly tag?: bigint;
}

/** How a lane is. */
export interface LaneStat {
  /** LaneStatus of driver/lane/names.ts: OK while open, PENDING before, else how it ended. */
  readonly state: number;
  readonly connections: number;
  /** Arrived from the peer. */
  readonly bytesRead: number;
  /** Sent to the peer. */
  readonly bytesWritten: number;
  readonly wireBytesIn: number;
  readonly wireBytesOut: number;
  /** Filled from the block cache instead. */
  readonly cachedBytes: number;
  readonly roundTripNanos: number;
  readonly keyAgeMs: number;
  /** "AES-256-GCM"; empty before it is opened. */
  readonly cipher: string;
  readonly provider: string;
}

/** Something happened to a lane, or to somebody who wanted one. */
export interface LaneEvent {
  readonly kind: 'opened' | 'closed' | 'refused';
  /** Of a refusal: enum gb_lane_refusal. */
  readonly reason: number;
  /** Of a closed one: enum gb_lane_status. */
  readonly status: number;
  /** "2.0": what a refused stranger said that it speaks; empty: nothing. */
  readonly version: string;
  readonly tag: bigint;
  /** As shown; of a refused stranger it may be anything. */
  readonly ticketId: Uint8Array;
  /** "192.168.1.7:51234". */
  readonly address: string;
}

/** Bytes to be fetched over another feeder's lane. */
export interface Pull {
  readonly ticketId: Uint8Array;
  readonly secret: Uint8Array;
  /** Numeric, as the ticket's feeder is reached from here. */
  readonly address: string;
  readonly port: number;
  readonly connections?: number;
  /** In region 0 of that lane. */
  readonly sourceOffset: bigint;
  /** From the arena's base; allocated. */
  readonly offset: bigint;
  readonly length: bigint;
}

export interface BlockCache {
  /** 32 bytes: names and contents on the disk are keyed with it. */
  readonly key: Uint8Array;
  readonly budgetBytes: bigint;
  /** A folder that exists. */
  readonly path: string;
}

const MAY_READ = 1;
const MAY_WRITE = 2;
const MAY_CALL = 4;
const EVENT_KINDS = { 1: 'opened', 2: 'closed', 3: 'refused' } as const;

function rightsBits({ read, write, call }: LaneRights): number {
  return (read ? MAY_READ : 0) | (write ? MAY_WRITE : 0) | (call === true ? MAY_CALL : 0);
}

/** The payload of GRANT. Ownership: holds the secret; the caller wipes it. */
export function encodeGrant(grant: LaneGrant): Buffer {
  return gbxGrant.encode({
    ticket_id: grant.ticketId,
    secret: grant.secret,
    offset: grant.offset,
    length: grant.length,
    bytes_per_second: BigInt(Math.ceil(grant.bytesPerSecond ?? 0)),
    tag: grant.tag ?? 0n,
    rights: rightsBits(grant.rights),
    connections: grant.connections ?? 0,
    ttl_ms: grant.ttlMs ?? 0,
    window: grant.window ?? 0,
  });
}

export function encodeTicket(ticketId: Uint8Array): Buffer {
  return gbxTicket.encode({ ticket_id: ticketId });
}

/** The payload of LIMIT; `bytesPerSecond` 0: no limit. */
export function encodeLimit(ticketId: Uint8Array, bytesPerSecond: number): Buffer {
  const rate = BigInt(Math.ceil(bytesPerSecond));
  return gbxLimit.encode({ ticket_id: ticketId, bytes_per_second: rate });
}

/** The payload of PULL. Ownership: as of encodeGrant. */
export function encodePull(pull: Pull): Buffer {
  return gbxPull.encode({
    ticket_id: pull.ticketId,
    secret: pull.secret,
    source_offset: pull.sourceOffset,
    offset: pull.offset,
    length: pull.length,
    port: pull.port,
    connections: pull.connections ?? 0,
    address: pull.address,
  });
}

/** The payload of CACHE. Ownership: as of encodeGrant. */
export function encodeCache(cache: BlockCache): Buffer {
  return gbxCache.encode({
    key: cache.key,
    budget_bytes: cache.budgetBytes,
    path: cache.path,
  });
}

/** Undefined: of a kind that this version does not know. */
export function decodeLaneEvent(payload: Buffer): LaneEvent | undefined {
  const event = gbxLaneEvent.decode(payload);
  const { kind, reason, status, version: said, tag, ticket_id, address } = event;
  const name = EVENT_KINDS[kind as keyof typeof EVENT_KINDS] as LaneEvent['kind'] | undefined;
  const version = said === 0 ? '' : `${said >>> 16}.${said & 0xffff}`;
  return name && { kind: name, reason, status, version, tag, ticketId: ticket_id, address };
}

type WireStat = ReturnType<typeof gbxLaneStat.decode>;

export function laneStatFrom(stat: WireStat): LaneStat {
  return {
    state: stat.state,
    connections: stat.connections,
    bytesRead: Number(stat.bytes_read),
    bytesWritten: Number(stat.bytes_written),
    wireBytesIn: Number(stat.wire_bytes_in),
    wireBytesOut: Number(stat.wire_bytes_out),
    cachedBytes: Number(stat.cached_bytes),
    roundTripNanos: Number(stat.round_trip_ns),
    keyAgeMs: Number(stat.key_age_ms),
    cipher: stat.cipher,
    provider: stat.provider,
  };
}
