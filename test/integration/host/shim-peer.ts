// SPDX-License-Identifier: Apache-2.0
// A shim played by a script: speaks gb_abi.h over the socket, opens lanes to feeders by itself, and
// answers moves as the shim does.
import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { LaneClient } from '../../../driver/lane/client.js';
import { Mutex } from '../../../host/attachments/range-queue.js';
import * as abi from '../../../host/shim/abi.js';
import { GbError } from '../../../proto/base/errors.js';
import { reportOf, type ReportFields } from './reports.js';

export const CHUNK = 2 * 2 ** 20;
export const ARENA_BASE = 0x500000000000n;
export const ARENA_BYTES = 1n << 36n;

export interface PeerExtent {
  readonly offset: number;
  readonly length: number;
  lanes: number[];
}

interface Fetched {
  readonly status: number;
  readonly feeder: string;
  readonly bytes: Buffer;
}

type OpenedLane = { client: LaneClient } | { status: number; feeder: string };

interface Watched {
  readonly move: ReturnType<typeof abi.gbMove.decode>;
  written: boolean;
  committed: boolean;
}

export type HelloOverrides = Partial<Parameters<typeof abi.gbHello.encode>[0]>;

export class ShimPeer {
  readonly id: Buffer;
  readonly lost: { offset: number; length: number; feeder: string }[] = [];
  readonly limits: bigint[][] = [];
  closed = false;
  extents: PeerExtent[] = [];
  /** What it was asked about moves, in order; and what answers. */
  readonly moves: string[] = [];
  onMove: (phase: number) => void | Promise<void> = () => undefined;
  private readonly lanes = new Map<number, LaneClient>();
  private readonly opening = new Map<number, Promise<OpenedLane>>();
  private readonly watched = new Map<bigint, Watched>();
  private readonly decoder = new abi.FrameDecoder();
  private readonly calls = new Map<bigint, (payload: Buffer) => void>();
  private nextId = 0n;
  /** As in the shim: where bytes lie does not change while they are read or written. */
  private readonly lock = new Mutex();

  private constructor(
    readonly socket: Socket,
    id: Buffer | undefined,
  ) {
    this.id = id ?? randomBytes(16);
    socket.on('data', (chunk: Buffer) =>
      this.decoder.push(chunk).forEach((frame) => this.onFrame(frame)),
    );
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.closed = true;
      for (const settle of this.calls.values()) settle(Buffer.alloc(0));
      this.calls.clear();
    });
  }

  static async open(path: string, options: { id?: Buffer } = {}): Promise<ShimPeer> {
    const socket = connect(path);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    return new ShimPeer(socket, options.id);
  }

  /** Opens and says HELLO. `like`: the same program after its socket broke; it keeps its lanes and
   *  knows where its bytes are. @throws when it is refused. */
  static async attach(
    path: string,
    options: { like?: ShimPeer; hello?: HelloOverrides } = {},
  ): Promise<ShimPeer> {
    const { like } = options;
    const peer = await ShimPeer.open(path, like ? { id: like.id } : {});
    if (like) {
      peer.extents = like.extents;
      for (const [lane, client] of like.lanes) peer.lanes.set(lane, client);
      for (const [sequence, watched] of like.watched) peer.watched.set(sequence, watched);
    }
    const ack = await peer.hello(options.hello);
    if (ack.status !== abi.Status.OK) throw new Error(`HELLO refused: ${ack.status}`);
    return peer;
  }

  async hello(overrides: HelloOverrides = {}): Promise<ReturnType<typeof abi.gbHelloAck.decode>> {
    const payload = abi.gbHello.encode({
      magic: abi.ABI_MAGIC,
      abi_major: abi.ABI_MAJOR,
      abi_minor: abi.ABI_MINOR,
      features: abi.FEATURE_GATED,
      attachment_id: this.id,
      pid: process.pid,
      reserved: 0,
      arena_base: ARENA_BASE,
      arena_bytes: ARENA_BYTES,
      vram_budget_bytes: abi.UINT64_MAX,
      ram_budget_bytes: abi.UINT64_MAX,
      held_bytes: [0n, 0n, 0n, 0n, 0n],
      device_total_bytes: 1n << 30n,
      device_name: 'scripted GPU',
      device_uuid: new Uint8Array(16),
      command: 'scripted shim',
      features_required: 0n,
      ...overrides,
    });
    return abi.gbHelloAck.decode(await this.request(abi.Msg.HELLO, payload));
  }

  /** The reply's payload. @throws when the agent closes instead. */
  async request(type: number, payload: Uint8Array): Promise<Buffer> {
    const requestId = ++this.nextId;
    const reply = new Promise<Buffer>((resolve) => this.calls.set(requestId, resolve));
    this.socket.write(abi.encodeFrame(type, 0, requestId, payload));
    const answer = await reply;
    if (answer.length === 0) throw new Error('the agent closed the socket');
    return answer;
  }

  notice(type: number, payload: Uint8Array): void {
    this.socket.write(abi.encodeFrame(type, 0, 0n, payload));
  }

  report(fields: ReportFields): void {
    this.notice(abi.Msg.REPORT, abi.gbReport.encode(reportOf(fields)));
  }

  async budget(
    type: number,
    tier: number,
    bytes: number,
  ): Promise<{ status: number; heldBytes: number; limitBytes: bigint }> {
    const payload = abi.gbBudget.encode({ tier, reserved: 0, bytes: BigInt(bytes) });
    const reply = abi.gbBudgetReply.decode(await this.request(type, payload));
    return {
      status: reply.status,
      heldBytes: Number(reply.held_bytes),
      limitBytes: reply.limit_bytes,
    };
  }

  grant(tier: number, bytes: number): ReturnType<ShimPeer['budget']> {
    return this.budget(abi.Msg.GRANT, tier, bytes);
  }

  giveBack(tier: number, bytes: number): ReturnType<ShimPeer['budget']> {
    return this.budget(abi.Msg.RETURN, tier, bytes);
  }

  async range(
    type: number,
    offset: number,
    length: number,
  ): Promise<ReturnType<typeof abi.gbStatusReply.decode>> {
    const payload = abi.gbRange.encode({ offset: BigInt(offset), length: BigInt(length) });
    return abi.gbStatusReply.decode(await this.request(type, payload));
  }

  async place(offset: number, length: number): Promise<ReturnType<typeof abi.gbPlaceReply.decode>> {
    const range = { offset: BigInt(offset), length: BigInt(length) };
    const payload = abi.gbPlaceRequest.encode({ ...range, lane: 0, reserved: 0 });
    const reply = abi.gbPlaceReply.decode(await this.request(abi.Msg.PLACE, payload));
    this.forget(offset, reply.status === abi.Status.OK ? length : 0);
    for (let index = 0; index < reply.extent_count; index++) {
      const at = index * abi.gbExtent.size;
      const extent = abi.gbExtent.decode(Buffer.from(reply.extents).subarray(at));
      const lanes = [extent.lane, extent.mirror].filter((lane) => lane !== 0);
      this.extents.push({ offset: Number(extent.offset), length: Number(extent.length), lanes });
    }
    return reply;
  }

  async drop(offset: number, length: number): ReturnType<ShimPeer['range']> {
    const reply = await this.range(abi.Msg.DROP, offset, length);
    if (reply.status === abi.Status.OK) this.forget(offset, length);
    return reply;
  }

  /** Room for a copy of a range on the lease of a lane; or back. Returns the status. */
  async room(offset: number, length: number, lane: number, drop = false): Promise<number> {
    const payload = abi.gbRoomRequest.encode({
      offset: BigInt(offset),
      length: BigInt(length),
      lane,
      drop: drop ? 1 : 0,
    });
    return abi.gbStatusReply.decode(await this.request(abi.Msg.ROOM, payload)).status;
  }

  async ticket(lane: number): Promise<ReturnType<typeof abi.gbTicketReply.decode>> {
    const payload = abi.gbTicketRequest.encode({ lane, attempt: 0 });
    return abi.gbTicketReply.decode(await this.request(abi.Msg.LANE, payload));
  }

  /** Writes to every copy. Returns the status of the first that failed, DATA_LOSS only if all did. */
  store(offset: number, bytes: Uint8Array): Promise<number> {
    return this.lock.run(() => this.storeNow(offset, bytes));
  }

  private async storeNow(offset: number, bytes: Uint8Array): Promise<number> {
    for (const piece of this.pieces(offset, bytes.length)) {
      const part = Buffer.from(bytes)
        .subarray(piece.offset - offset)
        .subarray(0, piece.length);
      for (const watched of this.watched.values()) {
        const { move } = watched;
        const end = Number(move.offset + move.length);
        if (piece.offset < end && Number(move.offset) < piece.offset + piece.length)
          watched.written = true;
      }
      const all = await Promise.all(
        piece.lanes.map((lane) =>
          this.overLane(lane, (client) => client.write(0, piece.offset, part)),
        ),
      );
      const failed = all.filter(({ status }) => status !== abi.Status.OK);
      const gone = failed.filter(({ status }) => status === abi.Status.DATA_LOSS);
      if (failed.length > gone.length || gone.length === all.length)
        return (
          failed.find(({ status }) => status !== abi.Status.DATA_LOSS)?.status ?? gone[0]!.status
        );
    }
    return abi.Status.OK;
  }

  /** Reads from the first copy that answers. */
  fetch(offset: number, length: number): Promise<Fetched> {
    return this.lock.run(() => this.fetchNow(offset, length));
  }

  private async fetchNow(offset: number, length: number): Promise<Fetched> {
    const bytes = Buffer.alloc(length);
    for (const piece of this.pieces(offset, length)) {
      const part = bytes.subarray(piece.offset - offset, piece.offset - offset + piece.length);
      let last: { status: number; feeder: string } = { status: abi.Status.NOT_FOUND, feeder: '' };
      for (const lane of piece.lanes) {
        last = await this.overLane(lane, (client) => client.read(0, piece.offset, part));
        if (last.status === abi.Status.OK) break;
      }
      if (last.status !== abi.Status.OK) return { ...last, bytes };
    }
    return { status: abi.Status.OK, feeder: '', bytes };
  }

  /** How one lane is, as REPORT time would tell. */
  reportLane(lane: number, fields: Partial<ReturnType<typeof abi.gbLaneReport.decode>> = {}): void {
    const counters = this.lanes.get(lane)?.counters();
    const report = {
      lane,
      state: 0,
      bytes_read: BigInt(counters?.bytesRead ?? 0),
      bytes_written: BigInt(counters?.bytesWritten ?? 0),
      wire_bytes_in: BigInt(counters?.wireBytesIn ?? 0),
      wire_bytes_out: BigInt(counters?.wireBytesOut ?? 0),
      cached_bytes: 0n,
      round_trip_ns: BigInt(Math.round(counters?.roundTripNanosMin ?? 0)),
      key_age_ms: BigInt(counters?.keyAgeMs ?? 0),
      connections: counters?.connections ?? 0,
      opened_count: 1,
      cipher: counters?.cipher ?? '',
      provider: counters?.provider ?? '',
      launch_count: 0n,
      crossing_count: 0n,
      crossing_bytes_out: 0n,
      crossing_bytes_in: 0n,
      replica_bytes: 0n,
      ...fields,
    };
    this.notice(abi.Msg.LANES, abi.gbLaneReport.encode(report));
  }

  /** The program ends: its socket and its lanes. */
  async end(): Promise<void> {
    this.socket.destroy();
    await this.closeLanes();
  }

  /** What is needed next is opened with a new ticket. */
  async closeLanes(): Promise<void> {
    const open = [...this.lanes.values()];
    this.lanes.clear();
    await Promise.all(open.map((client) => client.close(100)));
  }

  private async overLane(
    lane: number,
    use: (client: LaneClient) => Promise<void>,
  ): Promise<{ status: number; feeder: string }> {
    const opened = await this.openedLane(lane);
    if (!('client' in opened)) return opened;
    const { client } = opened;
    try {
      await use(client);
      return { status: abi.Status.OK, feeder: '' };
    } catch (reason) {
      if (client.state === 'OK' && GbError.from(reason).code !== 'LEASE_EXPIRED') throw reason;
      if (this.lanes.get(lane) === client) this.lanes.delete(lane);
      await client.close(0);
      // A new lane says whether the bytes are gone or only away.
      const { status, feeder } = await this.ticket(lane);
      return { status: status === abi.Status.OK ? abi.Status.UNREACHABLE : status, feeder };
    }
  }

  /** One at a time for each lane. */
  private openedLane(lane: number): Promise<OpenedLane> {
    const client = this.lanes.get(lane);
    if (client) return Promise.resolve({ client });
    const opening = this.opening.get(lane) ?? this.openLane(lane);
    this.opening.set(lane, opening);
    return opening.finally(() => this.opening.delete(lane));
  }

  private async openLane(lane: number): Promise<OpenedLane> {
    const { status, address, port, ticket_id: id, secret, feeder } = await this.ticket(lane);
    if (status !== abi.Status.OK) return { status, feeder };
    try {
      const client = await LaneClient.open({ address, port, ticket: { id, secret } });
      this.lanes.set(lane, client);
      return { client };
    } catch (reason) {
      if (!(reason instanceof GbError)) throw reason;
      return { status: abi.Status.UNREACHABLE, feeder };
    }
  }

  private pieces(offset: number, length: number): PeerExtent[] {
    const pieces: PeerExtent[] = [];
    for (let at = offset; at < offset + length;) {
      const extent = this.extents.find((e) => e.offset <= at && at < e.offset + e.length);
      if (!extent) throw new Error(`offset ${at} was never placed`);
      const end = Math.min(offset + length, extent.offset + extent.length);
      pieces.push({ offset: at, length: end - at, lanes: extent.lanes });
      at = end;
    }
    return pieces;
  }

  private forget(offset: number, length: number): void {
    this.extents = this.extents.filter(
      (e) => e.offset + e.length <= offset || e.offset >= offset + length,
    );
  }

  private cut(at: number): void {
    const extent = this.extents.find((e) => e.offset < at && at < e.offset + e.length);
    if (!extent) return;
    const length = extent.offset + extent.length - at;
    this.extents = this.extents.map((e) => (e === extent ? { ...e, length: at - e.offset } : e));
    this.extents.push({ offset: at, length, lanes: [...extent.lanes] });
  }

  private async onMoveFrame(move: Watched['move']): Promise<void> {
    const { sequence, phase } = move;
    await this.onMove(phase);
    const outcome = await this.lock.run(async () => this.moveOutcome(move));
    if (outcome === undefined || this.closed) return;
    const payload = abi.gbMoveReply.encode({ sequence, phase, outcome });
    await this.request(abi.Msg.MOVED, payload).catch(() => undefined);
  }

  /** undefined: it wants no answer. */
  private moveOutcome(move: Watched['move']): number | undefined {
    const { sequence, phase } = move;
    const [offset, length] = [Number(move.offset), Number(move.length)];
    this.moves.push(['', 'begin', 'commit', 'cancel'][phase] ?? `${phase}`);
    if (phase === abi.MovePhase.CANCEL) {
      this.watched.delete(sequence);
      return undefined;
    }
    const known = this.extents.some(
      (e) => e.offset <= offset && offset + length <= e.offset + e.length,
    );
    const behind =
      known && this.pieces(offset, length).every((e) => e.lanes.includes(move.from_lane));
    let outcome: number = abi.MoveOutcome.UNKNOWN;
    const watched = this.watched.get(sequence);
    if (phase === abi.MovePhase.BEGIN && behind) {
      this.watched.set(sequence, { move, written: false, committed: false });
      outcome = abi.MoveOutcome.OK;
    } else if (watched?.committed) {
      outcome = abi.MoveOutcome.OK;
    } else if (watched && behind) {
      outcome = watched.written ? abi.MoveOutcome.DIRTY : abi.MoveOutcome.OK;
      if (watched.written) this.watched.delete(sequence);
      else this.carryOut(watched);
    }
    return outcome;
  }

  private carryOut(watched: Watched): void {
    const { offset, length, from_lane: from, to_lane: to } = watched.move;
    this.cut(Number(offset));
    this.cut(Number(offset + length));
    for (const extent of this.extents) {
      const inside = extent.offset >= Number(offset) && extent.offset < Number(offset + length);
      if (inside) extent.lanes = extent.lanes.map((lane) => (lane === from ? to : lane));
    }
    watched.committed = true;
  }

  close(): void {
    this.socket.destroy();
  }

  private onFrame(frame: abi.Frame): void {
    if ((frame.flags & abi.FRAME_REPLY) !== 0) {
      this.calls.get(frame.requestId)?.(Buffer.from(frame.payload));
      this.calls.delete(frame.requestId);
    } else if (frame.type === abi.Msg.LOST) {
      const { offset, length, feeder } = abi.gbLost.decode(frame.payload);
      this.lost.push({ offset: Number(offset), length: Number(length), feeder });
    } else if (frame.type === abi.Msg.MOVE) {
      void this.onMoveFrame(abi.gbMove.decode(frame.payload));
    } else if (frame.type === abi.Msg.LIMITS) {
      this.limits.push([...abi.gbLimits.decode(frame.payload).limit_bytes]);
    }
  }
}
