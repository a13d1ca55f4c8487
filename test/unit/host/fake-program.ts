// SPDX-License-Identifier: Apache-2.0
// A program under the shim, in memory: it asks for tickets and reads and writes what lies behind its
// lanes, answers moves as the shim does, and knows what it was told to be lost.
import type { Attachment } from '../../../host/attachments/attachment.js';
import type {
  MoveOutcomeName,
  MovePhaseName,
  MoveWish,
  ShimPeer,
} from '../../../host/attachments/facts.js';
import type { ByteRange } from '../../../host/placement/residency.js';
import { GbError } from '../../../proto/base/errors.js';
import { LaneRight } from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import { FakeFeeder } from './fake-feeder.js';

interface Placed extends ByteRange {
  lanes: number[];
}

export class FakeProgram implements ShimPeer {
  readonly lostRanges: (ByteRange & { feeder: string })[] = [];
  /** Everything it was asked about moves, in order. */
  readonly asked: string[] = [];
  /** Called before each answer; may break the connection. */
  onAsked: (wish: MoveWish, phase: MovePhaseName) => void | Promise<void> = () => undefined;
  private extents: Placed[] = [];
  private readonly begun = new Map<bigint, { wish: MoveWish; dirty: boolean }>();

  constructor(public attachment: Attachment) {
    this.connect();
  }

  connect(attachment = this.attachment): void {
    this.attachment = attachment;
    attachment.peer = this;
  }

  get lanesOf(): readonly Placed[] {
    return this.extents;
  }

  async place(range: ByteRange): Promise<string> {
    const extents = await this.attachment.place(range);
    for (const { offset, length, copies } of extents)
      this.extents.push({ offset, length, lanes: copies.map(({ lane }) => lane) });
    return extents[0]?.copies[0]?.feederName ?? '';
  }

  async drop(range: ByteRange): Promise<void> {
    await this.attachment.drop(range);
    this.extents = this.extents.filter(
      (e) => e.offset + e.length <= range.offset || e.offset >= range.offset + range.length,
    );
  }

  /** Writes to every copy that is left. */
  async store(offset: number, fill: number, length: number): Promise<void> {
    for (const piece of this.pieces(offset, length)) {
      for (const { wish, dirty } of this.begun.values()) {
        const entry = this.begun.get(wish.sequence);
        const hit =
          piece.offset < wish.offset + wish.length && wish.offset < piece.offset + piece.length;
        if (entry) entry.dirty = dirty || hit;
      }
      await this.eachCopy(piece, LaneRight.WRITE, (bytes) => void bytes.fill(fill), 'all');
    }
  }

  async fetched(offset: number, length: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    for (const piece of this.pieces(offset, length))
      await this.eachCopy(
        piece,
        LaneRight.READ,
        (bytes) => void parts.push(Buffer.from(bytes)),
        'one',
      );
    return Buffer.concat(parts);
  }

  // ---- ShimPeer

  lost(range: ByteRange, feeder: string): void {
    this.lostRanges.push({ offset: range.offset, length: range.length, feeder });
  }

  async move(wish: MoveWish, phase: MovePhaseName): Promise<MoveOutcomeName> {
    this.asked.push(phase);
    await this.onAsked(wish, phase);
    const behind = (lane: number): boolean =>
      this.pieces(wish.offset, wish.length).every(({ lanes }) => lanes.includes(lane));
    if (!this.knows(wish)) return 'unknown';
    if (phase === 'begin') {
      if (!behind(wish.fromLane)) return 'unknown';
      this.begun.set(wish.sequence, { wish, dirty: false });
      return 'ok';
    }
    if (behind(wish.toLane)) return 'ok';
    const begun = this.begun.get(wish.sequence);
    this.begun.delete(wish.sequence);
    if (!begun || !behind(wish.fromLane)) return 'unknown';
    if (begun.dirty) return 'dirty';
    this.cut(wish.offset);
    this.cut(wish.offset + wish.length);
    for (const extent of this.extents) {
      if (extent.offset < wish.offset || extent.offset >= wish.offset + wish.length) continue;
      extent.lanes = extent.lanes.map((lane) => (lane === wish.fromLane ? wish.toLane : lane));
    }
    return 'ok';
  }

  cancelMove(wish: MoveWish): void {
    this.asked.push('cancel');
    this.begun.delete(wish.sequence);
  }

  close(): void {
    if (this.attachment.peer === this) this.attachment.peer = undefined;
  }

  private knows({ offset, length }: ByteRange): boolean {
    try {
      this.pieces(offset, length);
      return true;
    } catch {
      return false;
    }
  }

  private cut(at: number): void {
    const extent = this.extents.find((e) => e.offset < at && at < e.offset + e.length);
    if (!extent) return;
    const length = extent.offset + extent.length - at;
    this.extents.push({ offset: at, length, lanes: [...extent.lanes] });
    this.extents = this.extents.map((e) => (e === extent ? { ...e, length: at - e.offset } : e));
  }

  /** @throws GbError NOT_FOUND when a byte was never placed. */
  private pieces(offset: number, length: number): Placed[] {
    const pieces: Placed[] = [];
    let at = offset;
    while (at < offset + length) {
      const extent = this.extents.find((e) => e.offset <= at && at < e.offset + e.length);
      if (!extent) throw new GbError('NOT_FOUND', `offset ${at} is on no feeder`);
      const end = Math.min(offset + length, extent.offset + extent.length);
      pieces.push({ offset: at, length: end - at, lanes: extent.lanes });
      at = end;
    }
    return pieces;
  }

  private async eachCopy(
    { offset, length, lanes }: Placed,
    right: LaneRight,
    use: (bytes: Buffer) => void,
    how: 'one' | 'all',
  ): Promise<void> {
    const failures: GbError[] = [];
    let count = 0;
    for (const lane of lanes) {
      try {
        const { ticket } = await this.attachment.ticket(lane);
        use(FakeFeeder.through(ticket.ticketId, offset, length, right));
        count++;
        if (how === 'one') return;
      } catch (reason) {
        failures.push(GbError.from(reason));
      }
    }
    // One copy that is gone for good does not hold up the other.
    const waits = failures.find(({ code }) => code !== 'DATA_LOSS');
    if (count === 0 || (how === 'all' && waits)) throw waits ?? (failures[0] as GbError);
  }
}
