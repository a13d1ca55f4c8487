// SPDX-License-Identifier: Apache-2.0
// What the agent answers to the requests of an attached program: frames in, payloads out. An error
// becomes a status, a bug is reported and becomes INTERNAL.
import { parseUuid } from '../../driver/cuda/uuid.js';
import { GbError } from '../../proto/base/errors.js';
import type { Attachment } from '../attachments/attachment.js';
import type { GrantDesk } from '../attachments/grants.js';
import type { DeviceFacts } from '../attachments/devices.js';
import { isVram } from '../attachments/holds.js';
import type { StepAnswer, StepPart } from '../attachments/owners.js';
import { mainCopy, type Extent } from '../placement/residency.js';
import * as abi from './abi.js';
import type { MoveCalls } from './moves.js';
import { statusOf } from './status.js';

export interface AnswerDeps {
  readonly desk: GrantDesk;
  readonly moves: MoveCalls;
  readonly touch: () => void;
  readonly onBug: (error: unknown, where: string) => void;
}

const REQUESTS: ReadonlySet<number> = new Set([
  abi.Msg.GRANT,
  abi.Msg.RETURN,
  abi.Msg.PLACE,
  abi.Msg.DROP,
  abi.Msg.LANE,
  abi.Msg.MOVED,
  abi.Msg.ROOM,
  abi.Msg.DEVICE,
  abi.Msg.STEP,
  abi.Msg.SHIFT,
]);

/** Of an attribute that no driver has told. */
const UNKNOWN_ATTRIBUTE = -(2 ** 31);

type Answer = () => Promise<Buffer>;

export class Answers {
  constructor(private readonly deps: AnswerDeps) {}

  /** True for the types that are requests of a program. */
  static isRequest(type: number): boolean {
    return REQUESTS.has(type);
  }

  /** Decodes at once, answers when called. @throws GbError PROTOCOL_VIOLATION: the peer's fault. */
  of(attachment: Attachment, { type, payload }: abi.Frame): Answer {
    switch (type) {
      case abi.Msg.GRANT:
      case abi.Msg.RETURN:
        return this.budget(attachment, type, abi.gbBudget.decode(payload));
      case abi.Msg.PLACE:
        return this.place(attachment, rangeOf(payload), abi.gbPlaceRequest.decode(payload).lane);
      case abi.Msg.DROP: {
        const range = rangeOf(payload);
        return this.status(() => attachment.drop(range));
      }
      case abi.Msg.LANE:
        return this.lane(attachment, abi.gbTicketRequest.decode(payload).lane);
      case abi.Msg.ROOM: {
        const { lane, drop } = abi.gbRoomRequest.decode(payload);
        if (drop > 1) throw new GbError('PROTOCOL_VIOLATION', `drop ${drop} of ROOM`);
        const range = rangeOf(payload);
        return this.status(async () => attachment.room(range, { lane, drop: drop === 1 }));
      }
      case abi.Msg.DEVICE:
        return this.device(attachment, abi.gbDeviceRequest.decode(payload));
      case abi.Msg.STEP:
        return this.step(attachment, stepOf(payload));
      case abi.Msg.SHIFT: {
        const { lane } = abi.gbPlaceRequest.decode(payload);
        const range = rangeOf(payload);
        return this.status(async () => attachment.shift(range, lane));
      }
      case abi.Msg.MOVED:
        this.deps.moves.answer(payload);
        return this.status(() => Promise.resolve());
      default:
        throw new GbError('PROTOCOL_VIOLATION', `message type ${type}`);
    }
  }

  private status(work: () => Promise<void>): Answer {
    return async () => {
      try {
        await work();
        this.deps.touch();
        return abi.gbStatusReply.encode({ status: abi.Status.OK, tier: 0, feeder: '' });
      } catch (reason) {
        return abi.gbStatusReply.encode({ ...this.failure(reason), tier: 0 });
      }
    };
  }

  private step(attachment: Attachment, part: StepPart): Answer {
    return () => {
      try {
        return Promise.resolve(stepReply(abi.Status.OK, attachment.step(part)));
      } catch (reason) {
        return Promise.resolve(stepReply(this.failure(reason).status));
      }
    };
  }

  private place(
    attachment: Attachment,
    range: { offset: number; length: number },
    lane: number,
  ): Answer {
    return async () => {
      try {
        const extents = await attachment.place(range, lane);
        this.deps.touch();
        return placeReply(abi.Status.OK, extents);
      } catch (reason) {
        const { status, feeder } = this.failure(reason);
        return placeReply(status, [], feeder);
      }
    };
  }

  private lane(attachment: Attachment, lane: number): Answer {
    const none = {
      lane,
      port: 0,
      connections: 0,
      features: 0n,
      ticket_id: new Uint8Array(16),
      secret: new Uint8Array(32),
      address: '',
      compute_capability: 0,
      reserved: 0,
    };
    return async () => {
      try {
        const { hold, ticket, computeCapability } = await attachment.ticket(lane);
        const reply = abi.gbTicketReply.encode({
          status: abi.Status.OK,
          lane,
          port: ticket.port,
          connections: ticket.connections,
          features:
            (ticket.offers ? abi.LANE_FEATURE_OFFER : 0n) |
            (computeCapability === undefined ? 0n : abi.LANE_FEATURE_RUN),
          ticket_id: ticket.ticketId,
          secret: ticket.secret,
          address: ticket.address,
          feeder: hold.feederName,
          compute_capability: computeCapability ?? 0,
          reserved: 0,
        });
        ticket.secret.fill(0);
        return reply;
      } catch (reason) {
        return abi.gbTicketReply.encode({ ...none, ...this.failure(reason) });
      }
    };
  }

  private device(
    attachment: Attachment,
    request: { index: number; offset: bigint; length: bigint },
  ): Answer {
    const { index } = request;
    const offset = boundedBytes(request.offset);
    const length = boundedBytes(request.length);
    return async () => {
      try {
        const device =
          length === 0
            ? await attachment.device(index)
            : await attachment.openDevice(index, { offset, length });
        this.deps.touch();
        return deviceReply(abi.Status.OK, device);
      } catch (reason) {
        const { status, feeder } = this.failure(reason);
        return deviceReply(status, { ...NO_DEVICE, feederName: feeder });
      }
    };
  }

  private budget(
    attachment: Attachment,
    type: number,
    budget: { tier: number; bytes: bigint },
  ): Answer {
    const { tier } = budget;
    const bytes = boundedBytes(budget.bytes);
    return async () => {
      try {
        const { desk } = this.deps;
        const act =
          type === abi.Msg.GRANT
            ? desk.grant(attachment, tier, bytes)
            : desk.giveBack(attachment, tier, bytes);
        const { granted, heldBytes, limitBytes } = await act;
        this.deps.touch();
        const limit = limitBytes === Number.MAX_SAFE_INTEGER ? abi.UINT64_MAX : BigInt(limitBytes);
        return abi.gbBudgetReply.encode({
          status: granted ? abi.Status.OK : abi.Status.CAPACITY,
          tier,
          held_bytes: BigInt(heldBytes),
          limit_bytes: limit,
        });
      } catch (reason) {
        const { status } = this.failure(reason);
        return abi.gbBudgetReply.encode({ status, tier, held_bytes: 0n, limit_bytes: 0n });
      }
    };
  }

  private failure(reason: unknown): { status: number; feeder: string } {
    if (!(reason instanceof GbError)) this.deps.onBug(reason, 'request of the shim');
    const feeder = GbError.from(reason).details['feeder'];
    return { status: statusOf(reason), feeder: typeof feeder === 'string' ? feeder : '' };
  }
}

function placeReply(status: number, extents: readonly Extent[], feeder = ''): Buffer {
  const wire = Buffer.alloc(abi.EXTENTS_MAX * abi.gbExtent.size);
  for (const [index, { offset, length, copies }] of extents.entries()) {
    const [first, second] = copies;
    const extent = {
      offset: BigInt(offset),
      length: BigInt(length),
      lane: first?.lane ?? 0,
      mirror: second?.lane ?? 0,
    };
    abi.gbExtent.encode(extent).copy(wire, index * abi.gbExtent.size);
  }
  const first = extents[0] && mainCopy(extents[0]);
  const tier = first ? (isVram(first.deviceKey) ? abi.AbiTier.T1R : abi.AbiTier.T2R) : 0;
  return abi.gbPlaceReply.encode({
    status,
    tier,
    feeder: first?.feederName ?? feeder,
    extent_count: extents.length,
    reserved: 0,
    extents: wire,
  });
}

const NO_DEVICE: DeviceFacts = {
  count: 0,
  lane: 0,
  feederName: '',
  gpu: undefined,
  capacityBytes: 0,
  freeBytes: 0,
};

function deviceReply(status: number, device: DeviceFacts): Buffer {
  const { count, lane, feederName, gpu, capacityBytes, freeBytes } = device;
  const attributes = Array.from(
    { length: abi.ATTRIBUTES_MAX },
    (_, which) => gpu?.attributes[which] ?? UNKNOWN_ATTRIBUTE,
  );
  return abi.gbDeviceReply.encode({
    status,
    count,
    lane,
    compute_capability: gpu?.capability ?? 0,
    total_bytes: BigInt(capacityBytes),
    free_bytes: BigInt(freeBytes),
    feeder: feederName,
    name: gpu?.name ?? '',
    uuid: gpu ? parseUuid(gpu.uuid) : new Uint8Array(16),
    attributes,
  });
}

function stepReply(status: number, answer?: StepAnswer): Buffer {
  const wire = Buffer.alloc(abi.OWNERS_MAX * abi.gbOwner.size);
  const wishes = answer?.wishes ?? [];
  for (const [index, { offset, length, lane }] of wishes.entries()) {
    const owner = { offset: BigInt(offset), length: BigInt(length), lane, reserved: 0 };
    abi.gbOwner.encode(owner).copy(wire, index * abi.gbOwner.size);
  }
  return abi.gbStepReply.encode({
    status,
    count: wishes.length,
    crossings_before: answer?.crossingsBefore ?? 0,
    crossings_after: answer?.crossingsAfter ?? 0,
    owners: wire,
  });
}

function stepOf(payload: Buffer): StepPart {
  const { first, count, total, launch_count, local_bytes, touches } = abi.gbStep.decode(payload);
  if (count > abi.TOUCHES_MAX)
    throw new GbError('PROTOCOL_VIOLATION', `${count} touches in a STEP`);
  const wire = Buffer.from(touches);
  const list = Array.from({ length: count }, (_, index) => {
    const { size } = abi.gbStepTouch;
    const touch = abi.gbStepTouch.decode(wire.subarray(index * size, (index + 1) * size));
    const { offset, length, launch, lane } = touch;
    return { offset: boundedBytes(offset), length: boundedBytes(length), launch, lane };
  });
  const localBytes = boundedBytes(local_bytes);
  return { first, total, launchCount: launch_count, localBytes, touches: list };
}

function rangeOf(payload: Buffer): { offset: number; length: number } {
  const { offset, length } = abi.gbRange.decode(payload);
  return { offset: boundedBytes(offset), length: boundedBytes(length) };
}

/** @throws GbError PROTOCOL_VIOLATION above 2^53: nothing here is that large. */
export function boundedBytes(value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER))
    throw new GbError('PROTOCOL_VIOLATION', 'a byte count above 2^53');
  return Number(value);
}
