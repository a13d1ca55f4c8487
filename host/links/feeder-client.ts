// SPDX-License-Identifier: Apache-2.0
// The calls of FeederService in the agent's own words, over one authenticated connection. Bytes of
// programs never pass here.
import { bytesFromWire } from '../../proto/base/units.js';
import type { Clock, Timer } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import { CALL_TIMEOUT_MS, PULL_SILENCE_MS, RANGES_PER_LEASE_MAX } from '../../proto/base/limits.js';
import { deriveLaneSecret, type Exporter } from '../../security/derive.js';
import type { DeviceKind } from '../../proto/gen/greenboost/v1/feeder_pb.js';
import {
  ErrorCodeOrOk,
  FeatureBit,
  type LaneRight,
  type DeviceBytes,
  type FeederService,
  type LeaseRef,
  type PullProgress,
  type Range,
} from '../../proto/gen/greenboost/v1/feeder_pb.js';
import { errorFromStatus, type ServiceClient } from '../../proto/grpc.js';
import type * as grpc from '@grpc/grpc-js';

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

/** Bytes to a feeder and from it. */
export interface Traffic {
  sentBytes: number;
  receivedBytes: number;
}

/** What the session of a connection is good for beyond its calls. */
export interface SessionFacts {
  /** Of the TLS session, for the secrets of lanes. */
  readonly exporter: Exporter;
  /** Numeric: where the feeder was reached, and from where. */
  readonly address: string;
  readonly localAddress: string;
  /** Of Hello. */
  readonly features: bigint;
}

/** What opens one lane. Ownership of the secret: whoever asked wipes it. */
export interface LaneTicket {
  readonly ticketId: Uint8Array;
  readonly secret: Uint8Array;
  /** Numeric. */
  readonly address: string;
  readonly port: number;
  readonly ttlMs: number;
  /** The feeder has a content cache: OFFER may be used. */
  readonly offers: boolean;
}

export interface LaneWish extends ByteSpan {
  readonly rights: LaneRight;
  /** For bulk. */
  readonly connections: number;
  /** For a lane between two feeders: 32 bytes; undefined: derived from this session. */
  readonly secret?: Uint8Array;
}

/** Where a feeder pulls from. */
export interface PullSource {
  readonly address: string;
  readonly port: number;
  readonly ticketId: Uint8Array;
  readonly secret: Uint8Array;
  /** In region 0 of that lane. */
  readonly offset: number;
}

interface ByteSpan {
  readonly offset: number;
  readonly length: number;
}

const TICKET_ID_BYTES = 16;
/** Devices of one feeder that a lease may span. */
const DEVICES_PER_LEASE_MAX = 64;

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
    private readonly session: SessionFacts,
  ) {}

  /** The feeder's numeric address on this connection. */
  get address(): string {
    return this.session.address;
  }

  /** One round trip of a call. */
  async ping(timeoutMs: number): Promise<void> {
    await this.raw.ping({}, { timeoutMs, signal: this.signal });
  }

  /** Our own numeric address on this connection. */
  get localAddress(): string {
    return this.session.localAddress;
  }

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

  /** A ticket for one lane to a range of a lease, offset 0 of its region 0 being the first byte of the
   *  range; or, without a lease, to scratch memory for measurements. */
  async openLane(lease: LeaseHandle | undefined, wish: LaneWish): Promise<LaneTicket> {
    const { offset, length, rights, connections, secret } = wish;
    const response = await this.raw.openLane(
      {
        ...(lease ? { lease: refOf(lease) } : { probe: true }),
        offset: BigInt(offset),
        length: BigInt(length),
        rights,
        connections,
        ...(secret ? { brokeredSecret: secret } : {}),
      },
      this.options,
    );
    const { ticketId, port, ttlMs } = response;
    if (ticketId.length !== TICKET_ID_BYTES || port < 1 || port > 65_535)
      throw new GbError('PROTOCOL_VIOLATION', 'the feeder gave no ticket');
    return {
      ticketId,
      secret: secret ?? deriveLaneSecret(this.session.exporter, ticketId),
      address: this.session.address,
      port,
      ttlMs,
      offers: (this.session.features & BigInt(FeatureBit.CONTENT_CACHE)) !== 0n,
    };
  }

  /** Takes a ticket back; its lane ends. */
  async closeLane(ticketId: Uint8Array): Promise<void> {
    await this.raw.closeLane({ ticketId }, this.options);
  }

  /** Has the feeder fetch `range` of `lease` from another one. Cancel: `signal`. `onBytes`: what more
   *  has arrived. @throws GbError DEADLINE_EXCEEDED when it is silent for PULL_SILENCE_MS. */
  async pull(
    lease: LeaseHandle,
    range: ByteSpan,
    source: PullSource,
    options: { signal: AbortSignal; clock: Clock; onBytes: (bytes: number) => void },
  ): Promise<void> {
    const { offset, length } = range;
    const { address, port, ticketId, secret } = source;
    const silence = new AbortController();
    const signal = AbortSignal.any([this.signal, options.signal, silence.signal]);
    const call = this.raw.pull(
      {
        lease: refOf(lease),
        offset: BigInt(offset),
        length: BigInt(length),
        address,
        port,
        ticketId,
        secret,
        sourceOffset: BigInt(source.offset),
      },
      { signal },
    );
    const watch = (): Timer => options.clock.after(PULL_SILENCE_MS, () => silence.abort());
    let timer = watch();
    let done = 0;
    try {
      for await (const message of call) {
        const bytes = bytesFromWire((message as PullProgress).bytes);
        if (bytes < done || bytes > length)
          throw new GbError('PROTOCOL_VIOLATION', 'the feeder pulled bytes nobody asked for');
        options.onBytes(bytes - done);
        done = bytes;
        timer.cancel();
        timer = watch();
      }
    } catch (reason) {
      call.cancel();
      if (silence.signal.aborted)
        throw new GbError('DEADLINE_EXCEEDED', `no progress for ${PULL_SILENCE_MS / 1000} s`);
      throw reason instanceof GbError ? reason : fromStream(reason);
    } finally {
      timer.cancel();
    }
    if (done !== length)
      throw new GbError('PROTOCOL_VIOLATION', `the feeder pulled ${done} of ${length} bytes`);
  }
}

/** What attachments may ask of a feeder; tests bring their own. */
export type FeederCalls = { readonly [K in keyof FeederClient]: FeederClient[K] };

/** A broken stream as GbError; errors that are no gRPC status keep their text. */
export function fromStream(reason: unknown): GbError {
  const status = reason as Partial<grpc.ServiceError>;
  if (reason instanceof Error && typeof status.code === 'number') {
    return errorFromStatus(reason as grpc.ServiceError, 'FEEDER_UNREACHABLE');
  }
  return GbError.from(reason);
}
