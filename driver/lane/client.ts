// SPDX-License-Identifier: Apache-2.0
// A lane that this process opens: to measure a link. Programs open theirs in the shim (C).
import { GbError } from '../../proto/base/errors.js';
import { laneCounters, laneOptions, LanePriority, laneTuning } from './abi.js';
import { call, callLater, check, countersFrom, Out, type LaneCounters } from './library.js';
import { LaneStatus, laneStatusName } from './names.js';
import { encodeTicket, type LaneTicket } from './server.js';

const CLOSE_MS = 1000;

export interface LaneClientOptions {
  /** Numeric, with %interface where needed. */
  readonly address: string;
  readonly port: number;
  readonly ticket: LaneTicket;
  /** For bulk, 1 to 8; default 1. One more carries demand requests, unless `express` is false. */
  readonly connections?: number;
  readonly express?: boolean;
  /** For opening; default 5000. */
  readonly timeoutMs?: number;
}

export interface LaneTransferOptions {
  /** Of LanePriority; default NORMAL. */
  readonly priority?: number;
  /** Default 30,000 and one second more for every 4 MiB. */
  readonly deadlineMs?: number;
}

let movedBytes = 0;

/** Bytes that reads and writes of LaneClients of this process were for, since it started. */
export function laneClientBytes(): number {
  return movedBytes;
}

/** open -> closed; every call after close throws WRONG_STATE. Each call under way keeps one of Node's few worker
 *  threads until it is done. */
export class LaneClient {
  private handle: bigint | undefined;
  private readonly running = new Set<Promise<number>>();

  private constructor(handle: bigint) {
    this.handle = handle;
  }

  /** @throws GbError FEEDER_UNREACHABLE, PERMISSION_DENIED (the ticket), DEADLINE_EXCEEDED, UNSUPPORTED (no
   *  libcrypto), INVALID_ARGUMENT. */
  static async open(options: LaneClientOptions): Promise<LaneClient> {
    const out = new Out();
    const ticket = encodeTicket(options.ticket);
    const raw = laneOptions.encode({
      size: laneOptions.size,
      connections: options.connections ?? 0,
      no_express: options.express === false ? 1 : 0,
      window: 0,
      open_timeout_ms: options.timeoutMs ?? 0,
      reserved: 0,
      tuning: Buffer.alloc(laneTuning.size),
    });
    const { address, port } = options;
    try {
      const status = await callLater('gb_lane_open', address, port, ticket, raw, out.buffer);
      check(status, `a lane to ${address} port ${port}`);
    } finally {
      ticket.fill(0);
    }
    return new LaneClient(out.value);
  }

  /** Fills `into` from `offset` of a region. On failure its contents are undefined. */
  async read(
    region: number,
    offset: number | bigint,
    into: Uint8Array,
    options: LaneTransferOptions = {},
  ): Promise<void> {
    await this.transfer('gb_lane_read', region, offset, into, options);
  }

  /** Writes all of `from` to `offset` of a region; done when it is there. */
  async write(
    region: number,
    offset: number | bigint,
    from: Uint8Array,
    options: LaneTransferOptions = {},
  ): Promise<void> {
    await this.transfer('gb_lane_write', region, offset, from, options);
  }

  /** Asks which blocks of `blockBytes`, the first at `offset`, need not be written: the server has filled in those
   *  whose SHA-256 it knows. Returns for each whether it has. */
  async offer(
    region: number,
    offset: number | bigint,
    blockBytes: number,
    digests: readonly Uint8Array[],
  ): Promise<boolean[]> {
    const have = Buffer.alloc(Math.ceil(digests.length / 8));
    const all = Buffer.concat(digests);
    const args = [region, offset, blockBytes, all, digests.length, have, 0] as const;
    check(await this.run('gb_lane_offer', ...args), 'offering blocks over a lane');
    return digests.map((_, index) => (((have[index >> 3] ?? 0) >> (index & 7)) & 1) === 1);
  }

  /** One round trip. Units: nanoseconds. */
  async ping(timeoutMs = 2000): Promise<number> {
    const out = new Out();
    check(await this.run('gb_lane_ping', timeoutMs, out.buffer), 'a round trip');
    return Number(out.value);
  }

  counters(): LaneCounters {
    const room = Buffer.alloc(laneCounters.size);
    check(call('gb_lane_counters', this.open, room), 'counters of a lane');
    return countersFrom(room);
  }

  /** OK while it is open, else why it ended. */
  get state(): string {
    return this.handle === undefined
      ? 'CLOSED'
      : laneStatusName(call('gb_lane_state', this.handle));
  }

  /** What is under way ends with FEEDER_UNREACHABLE first. A second call does nothing. */
  async close(timeoutMs = CLOSE_MS): Promise<void> {
    const handle = this.handle;
    this.handle = undefined;
    if (handle === undefined) return;
    check(call('gb_lane_end', handle), 'a lane');
    await Promise.allSettled(this.running);
    const status = await callLater('gb_lane_close', handle, timeoutMs);
    if (status !== LaneStatus.TIMEOUT) check(status, 'a lane'); // TIMEOUT: the peer did not answer the goodbye
  }

  private async transfer(
    name: 'gb_lane_read' | 'gb_lane_write',
    region: number,
    offset: number | bigint,
    bytes: Uint8Array,
    options: LaneTransferOptions,
  ): Promise<void> {
    movedBytes += bytes.length;
    const priority = options.priority ?? LanePriority.NORMAL;
    const deadlineMs = options.deadlineMs ?? 0;
    const status = await this.run(name, region, offset, bytes, bytes.length, priority, deadlineMs);
    check(status, name === 'gb_lane_read' ? 'reading over a lane' : 'writing over a lane');
  }

  private run(
    name: 'gb_lane_read' | 'gb_lane_write' | 'gb_lane_offer' | 'gb_lane_ping',
    ...args: readonly unknown[]
  ): Promise<number> {
    const work = callLater(name, this.open, ...args);
    this.running.add(work);
    const done = (): void => {
      this.running.delete(work);
    };
    work.then(done, done);
    return work;
  }

  private get open(): bigint {
    if (this.handle === undefined) throw new GbError('WRONG_STATE', 'the lane is closed');
    return this.handle;
  }
}
