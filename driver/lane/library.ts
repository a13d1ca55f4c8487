// SPDX-License-Identifier: Apache-2.0
// libgreenboost_lane.so as JavaScript sees it: functions, statuses as errors, events, refusals by name. What may wait
// runs on a worker thread of koffi's; no application byte passes through here but in measurements and tests.
import koffi from 'koffi';
import { GbError, type GbErrorCode } from '../../proto/base/errors.js';
import { nativePath } from '../../proto/base/paths.js';
import { laneCipherInfo, laneCounters, laneEvent, LaneEventKind } from './abi.js';
import { laneRefusalName, LaneStatus, laneStatusName } from './names.js';

/** Handles and addresses of C are numbers here: they are opaque, and never looked into. */
const DECLARATIONS = {
  gb_lane_open:
    'int gb_lane_open(const char *address, uint16_t port, void *ticket, void *options, void *lane)',
  gb_lane_end: 'int gb_lane_end(uint64_t lane)',
  gb_lane_close: 'int gb_lane_close(uint64_t lane, uint32_t timeout_ms)',
  gb_lane_read:
    'int gb_lane_read(uint64_t lane, uint32_t region, uint64_t at, void *to, uint64_t n, uint32_t first, uint32_t ms)',
  gb_lane_write:
    'int gb_lane_write(uint64_t lane, uint32_t region, uint64_t at, void *of, uint64_t n, uint32_t first, uint32_t ms)',
  gb_lane_offer:
    'int gb_lane_offer(uint64_t lane, uint32_t region, uint64_t at, uint64_t block, void *sha, uint32_t n, ' +
    'void *have, uint32_t ms)',
  gb_lane_ping: 'int gb_lane_ping(uint64_t lane, uint32_t timeout_ms, void *nanoseconds)',
  gb_lane_counters: 'int gb_lane_counters(uint64_t lane, void *counters)',
  gb_lane_state: 'int gb_lane_state(uint64_t lane)',
  gb_lane_server_open: 'int gb_lane_server_open(void *options, void *server)',
  gb_lane_server_close: 'int gb_lane_server_close(uint64_t server)',
  gb_lane_grant_add: 'int gb_lane_grant_add(uint64_t server, void *grant)',
  gb_lane_grant_revoke: 'int gb_lane_grant_revoke(uint64_t server, void *ticket_id)',
  gb_lane_export: 'int gb_lane_export(uint64_t server, void *ticket_id, void *region)',
  gb_lane_grant_counters:
    'int gb_lane_grant_counters(uint64_t server, void *ticket_id, void *counters)',
  gb_lane_server_counters: 'int gb_lane_server_counters(uint64_t server, void *counters)',
  gb_lane_server_events:
    'uint32_t gb_lane_server_events(uint64_t server, void *events, uint32_t count)',
  gb_lane_memory: 'uint64_t gb_lane_memory(uint64_t bytes)',
  gb_lane_memory_free: 'void gb_lane_memory_free(uint64_t memory, uint64_t bytes)',
  gb_lane_status_name: 'const char *gb_lane_status_name(int status)',
  gb_lane_refusal_name: 'const char *gb_lane_refusal_name(int reason)',
  gb_lane_ciphers: 'uint32_t gb_lane_ciphers(void *infos, uint32_t count)',
  gb_lane_door_open: 'int gb_lane_door_open(void *options, void *door)',
  gb_lane_door_listen: 'int gb_lane_door_listen(uint64_t door, const char *address, uint16_t port)',
  gb_lane_door_port: 'int gb_lane_door_port(uint64_t door)',
  gb_lane_door_route: 'int gb_lane_door_route(uint64_t door, void *ticket_id, int fd)',
  gb_lane_door_forget: 'int gb_lane_door_forget(uint64_t door, void *ticket_id)',
  gb_lane_door_counters: 'int gb_lane_door_counters(uint64_t door, void *counters)',
  gb_lane_door_events: 'uint32_t gb_lane_door_events(uint64_t door, void *events, uint32_t count)',
  gb_lane_door_close: 'int gb_lane_door_close(uint64_t door)',
} as const;

export type LaneFunction = keyof typeof DECLARATIONS;

interface Native {
  (...args: readonly unknown[]): unknown;
  async(...args: unknown[]): void;
}

let loaded: Readonly<Record<LaneFunction, Native>> | undefined;

/** @throws GbError NOT_FOUND when it is not built. */
function library(): Readonly<Record<LaneFunction, Native>> {
  if (loaded) return loaded;
  // deep: what it loads itself must not find Node's OpenSSL first.
  const handle = koffi.load(nativePath('lib', 'libgreenboost_lane.so'), { deep: true });
  const entries = Object.entries<string>(DECLARATIONS).map(([name, declaration]) => [
    name,
    handle.func(declaration),
  ]);
  loaded = Object.fromEntries(entries) as Readonly<Record<LaneFunction, Native>>;
  return loaded;
}

/** Calls what never waits. */
export function call(name: LaneFunction, ...args: readonly unknown[]): number {
  return Number(library()[name](...args));
}

/** Calls what may wait, on a worker thread. The arguments' memory stays where it is until then. */
export function callLater(name: LaneFunction, ...args: readonly unknown[]): Promise<number> {
  return new Promise((resolve, reject) => {
    library()[name].async(...args, (error: Error | null, result: unknown) => {
      if (error) reject(GbError.from(error));
      else resolve(args.length >= 0 ? Number(result) : 0); // `args` live until here
    });
  });
}

const CODES: Readonly<Partial<Record<string, GbErrorCode>>> = {
  BUSY: 'CAPACITY_EXHAUSTED',
  INVALID: 'INVALID_ARGUMENT',
  NO_MEMORY: 'CAPACITY_EXHAUSTED',
  NO_CRYPTO: 'UNSUPPORTED',
  UNREACHABLE: 'FEEDER_UNREACHABLE',
  REFUSED: 'PERMISSION_DENIED',
  TIMEOUT: 'DEADLINE_EXCEEDED',
  DEADLINE: 'DEADLINE_EXCEEDED',
  CANCELED: 'CANCELED',
  LOST: 'FEEDER_UNREACHABLE',
  DISCONNECTED: 'FEEDER_UNREACHABLE',
  CLOSED: 'FEEDER_UNREACHABLE',
  FORGED: 'PROTOCOL_VIOLATION',
  PROTOCOL: 'PROTOCOL_VIOLATION',
  NOT_FOUND: 'NOT_FOUND',
  DENIED: 'PERMISSION_DENIED',
  RANGE: 'INVALID_ARGUMENT',
  REVOKED: 'LEASE_EXPIRED',
  LIMIT: 'CAPACITY_EXHAUSTED',
};

const HINTS: Readonly<Partial<Record<string, string>>> = {
  NO_CRYPTO: 'OpenSSL’s libcrypto is missing: sudo apt-get install libssl3',
  UNREACHABLE: 'no TCP connection: is the port open in the firewall of that machine?',
  REFUSED: 'the ticket is wrong, used or expired',
  LOST: 'the peer is silent',
};

/** What a status means here; `details.lane` is its name. */
export function laneError(status: number, what: string): GbError {
  const name = laneStatusName(status);
  const hint = HINTS[name];
  return new GbError(CODES[name] ?? 'DRIVER_ERROR', `${what}: ${hint ?? name}`, {
    details: { lane: name },
  });
}

/** @throws GbError unless `status` is GB_LANE_OK. */
export function check(status: number, what: string): void {
  if (status !== LaneStatus.OK) throw laneError(status, what);
}

/** Memory for a handle that C writes. */
export class Out {
  readonly buffer = Buffer.alloc(8);

  get value(): bigint {
    return this.buffer.readBigUInt64LE(0);
  }
}

export interface LaneCounters {
  /** Payload that arrived from the peer, and that went to it. */
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly wireBytesIn: number;
  readonly wireBytesOut: number;
  readonly requests: number;
  readonly requestsFailed: number;
  readonly rekeys: number;
  readonly roundTripNanosMin: number;
  readonly keyAgeMs: number;
  readonly connections: number;
  /** OK while it is open, PENDING before, else why it ended. */
  readonly state: string;
  readonly cipher: string;
  readonly provider: string;
  readonly congestion: string;
}

export function countersFrom(bytes: Buffer): LaneCounters {
  const raw = laneCounters.decode(bytes);
  return {
    bytesRead: Number(raw.bytes_read),
    bytesWritten: Number(raw.bytes_written),
    wireBytesIn: Number(raw.wire_bytes_in),
    wireBytesOut: Number(raw.wire_bytes_out),
    requests: Number(raw.requests),
    requestsFailed: Number(raw.requests_failed),
    rekeys: Number(raw.rekeys),
    roundTripNanosMin: Number(raw.round_trip_ns_min),
    keyAgeMs: Number(raw.key_age_ms),
    connections: raw.connections,
    state: laneStatusName(raw.state),
    cipher: raw.cipher,
    provider: raw.provider,
    congestion: raw.congestion,
  };
}

export interface LaneEvent {
  readonly kind: 'opened' | 'closed' | 'refused';
  /** Of a stranger who was refused: UNKNOWN, SHORT, MAC, … */
  readonly reason: string;
  /** How a lane was closed. */
  readonly status: string;
  readonly tag: bigint;
  readonly ticketId: Uint8Array;
  /** "192.168.1.7:51234" */
  readonly address: string;
}

const EVENTS_PER_CALL = 64;
const KINDS: Readonly<Record<number, LaneEvent['kind']>> = {
  [LaneEventKind.OPENED]: 'opened',
  [LaneEventKind.CLOSED]: 'closed',
  [LaneEventKind.REFUSED]: 'refused',
};

/** The library's own words, which names.ts repeats. */
export function nativeNames(status: number, reason: number): readonly [string, string] {
  return [
    String(library().gb_lane_status_name(status)),
    String(library().gb_lane_refusal_name(reason)),
  ];
}

/** Takes all events there are of a server or a door. */
export function takeEvents(
  name: 'gb_lane_server_events' | 'gb_lane_door_events',
  handle: bigint,
): LaneEvent[] {
  const events: LaneEvent[] = [];
  const room = Buffer.alloc(EVENTS_PER_CALL * laneEvent.size);
  for (let count = EVENTS_PER_CALL; count === EVENTS_PER_CALL;) {
    count = call(name, handle, room, EVENTS_PER_CALL);
    for (let i = 0; i < count; i++) {
      const raw = laneEvent.decode(room.subarray(i * laneEvent.size, (i + 1) * laneEvent.size));
      events.push({
        kind: KINDS[raw.kind] ?? 'refused',
        reason: laneRefusalName(raw.reason),
        status: laneStatusName(raw.status),
        tag: raw.tag,
        ticketId: raw.ticket,
        address: raw.address,
      });
    }
  }
  return events;
}

/** Refusals by their names, without those that never happened. */
export function refusalsFrom(counts: readonly bigint[]): Readonly<Record<string, number>> {
  const entries = counts
    .map((count, reason) => [laneRefusalName(reason), Number(count)] as const)
    .filter(([, count]) => count > 0);
  return Object.fromEntries(entries);
}

export interface LaneCipher {
  readonly cipher: string;
  readonly megabytesPerSecond: number;
  readonly chosen: boolean;
}

/** What this process can encrypt with, the choice first; measured once. @throws GbError UNSUPPORTED: nothing. */
export async function laneCiphers(): Promise<LaneCipher[]> {
  const most = 8;
  const room = Buffer.alloc(most * laneCipherInfo.size);
  const count = await callLater('gb_lane_ciphers', room, most);
  if (count === 0) throw laneError(LaneStatus.NO_CRYPTO, 'no lane can be encrypted');
  return Array.from({ length: count }, (_, i) => {
    const raw = laneCipherInfo.decode(room.subarray(i * laneCipherInfo.size));
    return {
      cipher: raw.name,
      megabytesPerSecond: raw.megabytes_per_second,
      chosen: raw.chosen !== 0,
    };
  });
}
