// SPDX-License-Identifier: Apache-2.0
// The calls of FeederService in the agent's own words, over one authenticated connection. Bulk
// bytes stream in frames.
import { bytesFromWire } from '../../proto/base/units.js';
import { assert } from '../../proto/base/assert.js';
import { GbError } from '../../proto/base/errors.js';
import {
  CALL_TIMEOUT_MS,
  FRAME_BYTES_MAX,
  RANGES_PER_LEASE_MAX,
  TRANSFER_BYTES_MAX,
  TRANSFER_TIMEOUT_MS,
} from '../../proto/base/limits.js';
import type { DeviceKind } from '../../proto/gen/greenboost/v1/feeder_pb.js';
import {
  ErrorCodeOrOk,
  type DeviceBytes,
  type FeederService,
  type LeaseRef,
  type Range,
} from '../../proto/gen/greenboost/v1/feeder_pb.js';
import { errorFromStatus, type CallOptions, type ServiceClient } from '../../proto/grpc.js';
import type * as grpc from '@grpc/grpc-js';
import type { BulkGate } from './bulk-gate.js';

export type RawFeederClient = ServiceClient<typeof FeederService>;

/** `kind:index`, for example `1:0`: RAM, `2:1`: the second GPU. */
export type DeviceKey = string;

export interface LeaseHandle {
  readonly leaseId: string;
  readonly fencingToken: bigint;
}

export interface Renewal {
  readonly leaseId: string;
  readonly fencingToken: bigint;
  /** `fenced`: a newer session holds it. */
  readonly outcome: 'ok' | 'expired' | 'fenced';
}

export interface LeaseFacts {
  readonly limits: ReadonlyMap<DeviceKey, number>;
  readonly ranges: readonly { deviceKey: DeviceKey; offset: number; length: number }[];
}

/** What application bytes cross the link, for the account of the link. */
export interface Traffic {
  sentBytes: number;
  receivedBytes: number;
}

interface ByteSpan {
  readonly offset: number;
  readonly length: number;
}

/** Fills or takes one frame; `position` counts from the start of the transfer. */
export type FrameMover = (position: number, frame: Uint8Array) => Promise<void>;

/** Devices of one feeder that a lease may span. */
const DEVICES_PER_LEASE_MAX = 64;

/** Frames written ahead of the sink; bounds memory per read. */
const SINK_FRAMES_MAX = 4;

export function deviceKey(device: { kind: DeviceKind; index: number } | undefined): DeviceKey {
  if (!device) throw new GbError('PROTOCOL_VIOLATION', 'the feeder named no device');
  return `${device.kind}:${device.index}`;
}

export function deviceFromKey(key: DeviceKey): { kind: DeviceKind; index: number } {
  const [kind, index] = key.split(':');
  return { kind: Number(kind) as DeviceKind, index: Number(index) };
}

function deviceBytes(
  limits: ReadonlyMap<DeviceKey, number>,
): { device: DeviceBytes['device']; bytes: bigint }[] {
  return [...limits].map(([key, bytes]) => ({
    device: deviceFromKey(key) as DeviceBytes['device'],
    bytes: BigInt(bytes),
  }));
}

function rangeOf(key: DeviceKey, offset: number, length: number): Range {
  return { device: deviceFromKey(key), offset: BigInt(offset), length: BigInt(length) } as Range;
}

function refOf(lease: LeaseHandle): LeaseRef {
  return { leaseId: lease.leaseId, fencingToken: lease.fencingToken } as LeaseRef;
}

export class FeederClient {
  /** `signal` ends every call when the connection is given up. */
  constructor(
    private readonly raw: RawFeederClient,
    private readonly signal: AbortSignal,
    private readonly traffic: Traffic,
    private readonly bulk: BulkGate,
  ) {}

  private get options(): { timeoutMs: number; signal: AbortSignal } {
    return { timeoutMs: CALL_TIMEOUT_MS, signal: this.signal };
  }

  /** @throws GbError CAPACITY_EXHAUSTED when the feeder has less. */
  async acquire(request: {
    attachmentId: string;
    arenaBase: bigint;
    arenaBytes: number;
    limits: ReadonlyMap<DeviceKey, number>;
  }): Promise<LeaseHandle> {
    const { attachmentId, arenaBase, arenaBytes, limits } = request;
    const devices = deviceBytes(limits);
    const response = await this.raw.acquireLease(
      { attachmentId, arenaBase, arenaBytes: BigInt(arenaBytes), devices },
      this.options,
    );
    if (!/^L-[0-9a-f]{16}$/.test(response.lease?.leaseId ?? '') || !response.lease) {
      throw new GbError('PROTOCOL_VIOLATION', 'the feeder gave no lease');
    }
    return { leaseId: response.lease.leaseId, fencingToken: response.lease.fencingToken };
  }

  /** Sets what the lease may hold. @throws GbError CAPACITY_EXHAUSTED; WRONG_STATE below what is
   *  allocated. */
  async resize(lease: LeaseHandle, limits: ReadonlyMap<DeviceKey, number>): Promise<void> {
    await this.raw.resizeLease({ lease: refOf(lease), devices: deviceBytes(limits) }, this.options);
  }

  async renew(leases: readonly LeaseHandle[]): Promise<Renewal[]> {
    const response = await this.raw.renewLeases({ leases: leases.map(refOf) }, this.options);
    return response.leases.map(({ lease, status }) => {
      if (!lease)
        throw new GbError('PROTOCOL_VIOLATION', 'the feeder renewed a lease without a name');
      const ok = status === ErrorCodeOrOk.OK;
      const outcome = ok ? 'ok' : status === ErrorCodeOrOk.FENCED ? 'fenced' : 'expired';
      return { leaseId: lease.leaseId, fencingToken: lease.fencingToken, outcome };
    });
  }

  async release(lease: LeaseHandle): Promise<void> {
    await this.raw.releaseLease({ lease: refOf(lease) }, this.options);
  }

  async allocate(
    lease: LeaseHandle,
    key: DeviceKey,
    offset: number,
    length: number,
  ): Promise<void> {
    await this.raw.allocate(
      { lease: refOf(lease), range: rangeOf(key, offset, length) },
      this.options,
    );
  }

  async free(lease: LeaseHandle, key: DeviceKey, offset: number, length: number): Promise<void> {
    await this.raw.free({ lease: refOf(lease), range: rangeOf(key, offset, length) }, this.options);
  }

  async stat(lease: LeaseHandle): Promise<LeaseFacts> {
    const response = await this.raw.statLease({ lease: refOf(lease) }, this.options);
    if (
      response.limits.length > DEVICES_PER_LEASE_MAX ||
      response.ranges.length > RANGES_PER_LEASE_MAX
    ) {
      throw new GbError('PROTOCOL_VIOLATION', 'the lease holds more than a lease may');
    }
    const limits = response.limits.map(
      ({ device, bytes }) => [deviceKey(device), bytesFromWire(bytes)] as const,
    );
    const ranges = response.ranges.map(({ device, offset, length }) => ({
      deviceKey: deviceKey(device),
      offset: bytesFromWire(offset),
      length: bytesFromWire(length),
    }));
    return { limits: new Map(limits), ranges };
  }

  /** Streams `length` bytes to the feeder; `source` fills each frame. pre: length <=
   *  TRANSFER_BYTES_MAX. Cancel: `signal`; the bytes on the feeder are then partly old, partly new.
   *  */
  write(
    lease: LeaseHandle,
    range: ByteSpan,
    source: FrameMover,
    signal: AbortSignal,
  ): Promise<void> {
    return this.bulk.run('upload', () => this.writeNow(lease, range, source, signal));
  }

  /** Streams `length` bytes from the feeder into `sink`, in order, a few frames ahead. pre: as
   *  write. */
  read(lease: LeaseHandle, range: ByteSpan, sink: FrameMover, signal: AbortSignal): Promise<void> {
    return this.bulk.run('download', () => this.readNow(lease, range, sink, signal));
  }

  private transferOptions(length: number, signal: AbortSignal): CallOptions {
    assert(length > 0 && length <= TRANSFER_BYTES_MAX, 'a transfer fits into one call');
    return { timeoutMs: TRANSFER_TIMEOUT_MS, signal: AbortSignal.any([this.signal, signal]) };
  }

  private async writeNow(
    lease: LeaseHandle,
    range: ByteSpan,
    source: FrameMover,
    signal: AbortSignal,
  ): Promise<void> {
    const { offset, length } = range;
    const { call, response } = this.raw.write(this.transferOptions(length, signal));
    let settled = false;
    const end = response.then(
      () => (settled = true),
      () => (settled = true),
    );
    const send = async (message: Parameters<typeof call.write>[0]): Promise<void> => {
      if (call.write(message)) return;
      await Promise.race([new Promise((resolve) => call.once('drain', resolve)), end]);
    };
    try {
      await send({
        part: {
          case: 'header',
          value: { lease: refOf(lease), offset: BigInt(offset), length: BigInt(length) },
        },
      });
      for (let position = 0; position < length && !settled; position += FRAME_BYTES_MAX) {
        const frame = Buffer.allocUnsafe(Math.min(FRAME_BYTES_MAX, length - position));
        await source(position, frame);
        await send({ part: { case: 'data', value: frame } });
      }
    } catch (reason) {
      call.cancel();
      throw reason;
    }
    call.end();
    const { bytes } = await response;
    if (bytes !== BigInt(length))
      throw new GbError('PROTOCOL_VIOLATION', `the feeder took ${bytes} of ${length} bytes`);
    this.traffic.sentBytes += length;
  }

  private async readNow(
    lease: LeaseHandle,
    range: ByteSpan,
    sink: FrameMover,
    signal: AbortSignal,
  ): Promise<void> {
    const { offset, length } = range;
    const request = { lease: refOf(lease), offset: BigInt(offset), length: BigInt(length) };
    const call = this.raw.read(request, this.transferOptions(length, signal));
    const writing: Promise<void>[] = [];
    let position = 0;
    try {
      for await (const message of call) {
        const { data } = message as { data: Uint8Array };
        if (position + data.length > length)
          throw new GbError('PROTOCOL_VIOLATION', 'the feeder sent too many bytes');
        const written = sink(position, data);
        written.catch(() => undefined);
        writing.push(written);
        position += data.length;
        if (writing.length >= SINK_FRAMES_MAX) await writing.shift();
      }
      await Promise.all(writing);
    } catch (reason) {
      call.cancel();
      await Promise.allSettled(writing);
      throw reason instanceof GbError ? reason : fromStream(reason);
    }
    if (position !== length)
      throw new GbError('PROTOCOL_VIOLATION', `the feeder sent ${position} of ${length} bytes`);
    this.traffic.receivedBytes += length;
  }
}

/** What attachments may ask of a feeder; tests bring their own. */
export type FeederCalls = { readonly [K in keyof FeederClient]: FeederClient[K] };

/** A broken stream as GbError; errors that are no gRPC status (a staging file, say) keep their
 *  text. */
export function fromStream(reason: unknown): GbError {
  const status = reason as Partial<grpc.ServiceError>;
  if (reason instanceof Error && typeof status.code === 'number') {
    return errorFromStatus(reason as grpc.ServiceError, 'FEEDER_UNREACHABLE');
  }
  return GbError.from(reason);
}
