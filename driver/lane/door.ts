// SPDX-License-Identifier: Apache-2.0
// The door of a feeder (door.h): one TCP port for all lanes, each connection passed on to the process whose ticket it
// shows. Runs its own thread in C; here only routes, counters and events.
import { GbError } from '../../proto/base/errors.js';
import { LANE_TICKET_ID_BYTES, laneDoorCounters, laneDoorOptions } from './abi.js';
import {
  call,
  callLater,
  check,
  laneError,
  Out,
  refusalsFrom,
  takeEvents,
  type LaneEvent,
} from './library.js';
import { LaneStatus } from './names.js';

export interface DoorOptions {
  /** Refuses everybody but loopback, private, link-local and unique local addresses. */
  readonly lanOnly: boolean;
  /** Connections that have not shown a ticket, at most; the oldest makes room. Default and most: 64. */
  readonly strangersMax?: number;
  /** In which the whole opening must have come. Default: 2000. */
  readonly strangerMs?: number;
}

export interface DoorCounters {
  readonly accepted: number;
  readonly passed: number;
  /** By reason: SHORT, FORMAT, UNKNOWN, LIMIT, ADDRESS, GONE. */
  readonly refused: Readonly<Record<string, number>>;
  readonly eventsDropped: number;
  readonly routes: number;
  readonly strangers: number;
  readonly listeners: number;
}

export function ticketIdBytes(ticketId: Uint8Array): Buffer {
  if (ticketId.length !== LANE_TICKET_ID_BYTES) {
    throw new GbError('INVALID_ARGUMENT', `a ticket id has ${LANE_TICKET_ID_BYTES} bytes`);
  }
  return Buffer.from(ticketId);
}

/** open -> closed; every call after close throws WRONG_STATE. */
export class Door {
  private handle: bigint | undefined;

  private constructor(handle: bigint) {
    this.handle = handle;
  }

  /** Listens nowhere yet. @throws GbError NOT_FOUND when the library is not built. */
  static open(options: DoorOptions): Door {
    const out = new Out();
    const raw = laneDoorOptions.encode({
      size: laneDoorOptions.size,
      strangers_max: options.strangersMax ?? 0,
      stranger_ms: options.strangerMs ?? 0,
      lan_only: options.lanOnly ? 1 : 0,
    });
    check(call('gb_lane_door_open', raw, out.buffer), 'the door for lanes');
    return new Door(out.value);
  }

  /** Listens at one more numeric address, with %interface where needed; port 0: any.
   *  @throws GbError ALREADY_EXISTS when it is taken or not an address of this machine. */
  listen(address: string, port: number): void {
    const status = call('gb_lane_door_listen', this.open, address, port);
    if (status === LaneStatus.UNREACHABLE) {
      throw new GbError(
        'ALREADY_EXISTS',
        `cannot listen for lanes at ${address} port ${port}: the port is taken, or the address is not this machine's`,
      );
    }
    check(status, `listening for lanes at ${address}`);
  }

  /** The port of its first address; undefined before `listen`. */
  get port(): number | undefined {
    const port = call('gb_lane_door_port', this.open);
    return port < 0 ? undefined : port;
  }

  /** From now on connections with this ticket go over `fd` (our end of a seqpacketPair; duplicated, and kept until
   *  the last ticket of it is forgotten). @throws GbError CAPACITY_EXHAUSTED beyond 4096 tickets. */
  route(ticketId: Uint8Array, fd: number): void {
    const status = call('gb_lane_door_route', this.open, ticketIdBytes(ticketId), fd);
    check(status, 'a route for a lane');
  }

  /** Returns whether it was known. The lane, if it is open, lives on. */
  forget(ticketId: Uint8Array): boolean {
    const status = call('gb_lane_door_forget', this.open, ticketIdBytes(ticketId));
    if (status === LaneStatus.NOT_FOUND) return false;
    if (status !== LaneStatus.OK) throw laneError(status, 'a route for a lane');
    return true;
  }

  counters(): DoorCounters {
    const room = Buffer.alloc(laneDoorCounters.size);
    check(call('gb_lane_door_counters', this.open, room), 'counters of the door');
    const raw = laneDoorCounters.decode(room);
    return {
      accepted: Number(raw.accepted),
      passed: Number(raw.passed),
      refused: refusalsFrom(raw.refused),
      eventsDropped: Number(raw.events_dropped),
      routes: raw.routes,
      strangers: raw.strangers,
      listeners: raw.listeners,
    };
  }

  /** Takes what was refused since the last call; at most 256 are kept. */
  events(): LaneEvent[] {
    return takeEvents('gb_lane_door_events', this.open);
  }

  /** What it has passed on lives on. A second call does nothing. */
  async close(): Promise<void> {
    const handle = this.handle;
    this.handle = undefined;
    if (handle !== undefined) check(await callLater('gb_lane_door_close', handle), 'the door');
  }

  private get open(): bigint {
    if (this.handle === undefined) throw new GbError('WRONG_STATE', 'the door is closed');
    return this.handle;
  }
}
