// SPDX-License-Identifier: Apache-2.0
// Feeders in memory, as strict about leases, ranges and bytes as the real one, and failing when
// told to.
import type {
  ComputeFacts,
  FeederDirectory,
  FeederView,
  GpuFacts,
} from '../../../host/attachments/holds.js';
import type { DeviceKey, FeederCalls, LeaseHandle } from '../../../host/links/feeder-client.js';
import { LaneRight } from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import type { MeasuredCost } from '../../../host/placement/policy.js';
import { GbError, type GbErrorCode } from '../../../proto/base/errors.js';

interface FakeRange {
  readonly deviceKey: DeviceKey;
  readonly offset: number;
  readonly bytes: Buffer;
}

interface FakeLease {
  token: bigint;
  limits: Map<DeviceKey, number>;
  readonly ranges: Map<number, FakeRange>;
}

interface FakeLane {
  readonly feeder: FakeFeeder;
  readonly leaseId: string;
  readonly offset: number;
  readonly length: number;
  readonly rights: LaneRight;
}

/** Every ticket that a fake feeder gave, by its id. */
const tickets = new Map<string, FakeLane>();

export class FakeFeeder {
  /** Called in the middle of every pull this feeder does. */
  onPull: () => void | Promise<void> = () => undefined;
  readonly leases = new Map<string, FakeLease>();
  away = false;
  draining = false;
  /** Kernels may run there. */
  compute: ComputeFacts | undefined;
  gpu: GpuFacts | undefined;
  /** The next call of that name fails so, once. */
  failNext: { call: string; code: GbErrorCode } | undefined;
  private serial = 0;

  constructor(
    readonly feederId: string,
    readonly name: string,
    readonly capacity: ReadonlyMap<DeviceKey, number>,
    readonly cost: MeasuredCost,
  ) {}

  leased(key: DeviceKey): number {
    return [...this.leases.values()].reduce((sum, { limits }) => sum + (limits.get(key) ?? 0), 0);
  }

  allocated(key: DeviceKey): number {
    return [...this.leases.values()].reduce((sum, lease) => sum + allocatedOf(lease, key), 0);
  }

  /** Every range it holds, with the lease it is on. */
  get ranges(): { leaseId: string; offset: number; bytes: Buffer }[] {
    return [...this.leases].flatMap(([leaseId, lease]) =>
      [...lease.ranges.values()].map(({ offset, bytes }) => ({ leaseId, offset, bytes })),
    );
  }

  /** Forgets everything, as a feeder that was restarted. */
  restart(): void {
    this.leases.clear();
  }

  /** What lies behind a ticket, as a lane would show it. @throws GbError as the lane would end. */
  static through(ticketId: Uint8Array, offset: number, length: number, right: LaneRight): Buffer {
    const lane = tickets.get(Buffer.from(ticketId).toString('hex'));
    if (!lane) throw new GbError('NOT_FOUND', 'no such ticket');
    if (lane.feeder.away) throw new GbError('FEEDER_UNREACHABLE', 'the lane is silent');
    if ((lane.rights & right) === 0) throw new GbError('PERMISSION_DENIED', 'not this right');
    if (offset + length > lane.length) throw new GbError('INVALID_ARGUMENT', 'beyond the region');
    const lease = lane.feeder.leases.get(lane.leaseId);
    if (!lease) throw new GbError('LEASE_EXPIRED', 'the lease has ended');
    const at = lane.offset + offset;
    const { bytes, offset: begin } = rangeAround(lease, { offset: at, length });
    return bytes.subarray(at - begin, at - begin + length);
  }

  readonly client: FeederCalls = {
    address: '192.0.2.2',
    localAddress: '192.0.2.1',
    ping: async () => this.enter('ping'),
    openLane: async (handle, { offset, length, rights, secret }) => {
      if (!handle) throw new GbError('UNSUPPORTED', 'no scratch memory here');
      this.enter('openLane', handle);
      const ticketId = new Uint8Array(16);
      Buffer.from(ticketId.buffer).writeUInt32LE(tickets.size + 1);
      const { leaseId } = handle;
      tickets.set(Buffer.from(ticketId).toString('hex'), {
        feeder: this,
        leaseId,
        offset,
        length,
        rights,
      });
      const address = '192.0.2.2';
      const own = secret ?? new Uint8Array(32);
      return { ticketId, secret: own, address, port: 1, ttlMs: 30_000, offers: false };
    },
    closeLane: async (ticketId) => void tickets.delete(Buffer.from(ticketId).toString('hex')),
    pull: async (handle, range, { ticketId, offset }, { signal, onBytes }) => {
      const lease = this.enter('pull', handle);
      const half = range.length / 2;
      for (const at of [0, half]) {
        const source = FakeFeeder.through(ticketId, offset + at, half, LaneRight.READ);
        const { bytes, offset: begin } = rangeAround(lease, range);
        source.copy(bytes, range.offset - begin + at);
        onBytes(half);
        if (at === 0) await this.onPull();
        signal.throwIfAborted();
        this.enter('pull', handle);
      }
    },
    acquire: async ({ limits }) => {
      this.enter('acquire');
      this.checkRoom(limits, undefined);
      const leaseId = `L-${(++this.serial).toString(16).padStart(16, '0')}`;
      this.leases.set(leaseId, { token: 1n, limits: new Map(limits), ranges: new Map() });
      return { leaseId, fencingToken: 1n };
    },
    resize: async (handle, limits) => {
      const lease = this.enter('resize', handle);
      this.checkRoom(limits, lease);
      for (const [key, bytes] of limits) {
        if (bytes < allocatedOf(lease, key))
          throw new GbError('WRONG_STATE', 'below what is allocated');
      }
      lease.limits = new Map(limits);
    },
    renew: async (handles) => {
      this.enter('renew');
      return handles.map(({ leaseId }) => {
        const lease = this.leases.get(leaseId);
        if (!lease) return { leaseId, fencingToken: 0n, outcome: 'expired' as const };
        return { leaseId, fencingToken: ++lease.token, outcome: 'ok' as const };
      });
    },
    release: async (handle) => {
      this.enter('release', handle);
      this.leases.delete(handle.leaseId);
    },
    allocate: async (handle, deviceKey, offset, length) => {
      const lease = this.enter('allocate', handle);
      if (allocatedOf(lease, deviceKey) + length > (lease.limits.get(deviceKey) ?? 0)) {
        throw new GbError('CAPACITY_EXHAUSTED', 'beyond the lease');
      }
      for (const other of lease.ranges.values()) {
        if (other.offset < offset + length && offset < other.offset + other.bytes.length) {
          throw new GbError('ALREADY_EXISTS', 'overlap');
        }
      }
      lease.ranges.set(offset, { deviceKey, offset, bytes: Buffer.alloc(length) });
    },
    free: async (handle, deviceKey, offset, length) => {
      const lease = this.enter('free', handle);
      const range = lease.ranges.get(offset);
      if (!range || range.deviceKey !== deviceKey || range.bytes.length !== length) {
        throw new GbError('NOT_FOUND', 'no such range');
      }
      lease.ranges.delete(offset);
    },
    stat: async (handle) => {
      const lease = this.enter('stat', handle);
      const ranges = [...lease.ranges.values()].map(({ deviceKey, offset, bytes }) => ({
        deviceKey,
        offset,
        length: bytes.length,
      }));
      return { limits: new Map(lease.limits), ranges };
    },
  };

  private enter(call: string): void;
  private enter(call: string, handle: LeaseHandle): FakeLease;
  private enter(call: string, handle?: LeaseHandle): FakeLease | void {
    if (this.away) throw new GbError('FEEDER_UNREACHABLE', `${this.name} is away`);
    if (this.failNext?.call === call) {
      const { code } = this.failNext;
      this.failNext = undefined;
      throw new GbError(code, `told to fail ${call}`);
    }
    if (!handle) return;
    const lease = this.leases.get(handle.leaseId);
    if (!lease || lease.token !== handle.fencingToken)
      throw new GbError('LEASE_EXPIRED', 'unknown or fenced');
    return lease;
  }

  private checkRoom(limits: ReadonlyMap<DeviceKey, number>, except: FakeLease | undefined): void {
    for (const [key, bytes] of limits) {
      const others = this.leased(key) - (except?.limits.get(key) ?? 0);
      if (others + bytes > (this.capacity.get(key) ?? 0))
        throw new GbError('CAPACITY_EXHAUSTED', 'full');
    }
  }
}

function allocatedOf(lease: FakeLease, key: DeviceKey): number {
  return [...lease.ranges.values()].reduce(
    (sum, r) => sum + (r.deviceKey === key ? r.bytes.length : 0),
    0,
  );
}

function rangeAround(lease: FakeLease, range: { offset: number; length: number }): FakeRange {
  for (const candidate of lease.ranges.values()) {
    const end = candidate.offset + candidate.bytes.length;
    if (candidate.offset <= range.offset && range.offset + range.length <= end) return candidate;
  }
  throw new GbError('NOT_FOUND', 'not inside one range');
}

/** What the link manager is to attachments, over fake feeders. */
export class FakeDirectory implements FeederDirectory {
  constructor(readonly feeders: readonly FakeFeeder[]) {}

  usable(): FeederView[] {
    return this.feeders
      .filter(({ away, draining }) => !away && !draining)
      .map((feeder) => ({
        feederId: feeder.feederId,
        name: feeder.name,
        cost: feeder.cost,
        devices: [...feeder.capacity].map(([key, bytes]) => ({
          key,
          freeBytes: bytes - feeder.leased(key),
          capacityBytes: bytes,
        })),
      }));
  }

  accepts(feederId: string): boolean {
    const feeder = this.find(feederId);
    return !feeder.away && !feeder.draining;
  }

  costOf(feederId: string): MeasuredCost {
    return this.find(feederId).cost;
  }

  computeOf(feederId: string): ComputeFacts | undefined {
    return this.find(feederId).compute;
  }

  gpuOf(feederId: string): GpuFacts | undefined {
    return this.find(feederId).gpu;
  }

  settled(): Promise<void> {
    return Promise.resolve();
  }

  client(feederId: string): FeederCalls {
    const feeder = this.find(feederId);
    if (feeder.away) throw new GbError('FEEDER_UNREACHABLE', `${feeder.name} is away`);
    return feeder.client;
  }

  noteLeased(): void {
    // usable() counts the leases themselves.
  }

  readonly traffic = new Map<string, { sent: number; received: number }>();
  readonly suspects: string[] = [];

  noteTraffic(feederId: string, sent: number, received: number): void {
    const before = this.traffic.get(feederId) ?? { sent: 0, received: 0 };
    this.traffic.set(feederId, {
      sent: before.sent + sent,
      received: before.received + received,
    });
  }

  suspect(feederId: string): void {
    this.suspects.push(feederId);
  }

  releaseLease(feederId: string, lease: LeaseHandle): void {
    this.find(feederId)
      .client.release(lease)
      .catch(() => undefined);
  }

  private find(feederId: string): FakeFeeder {
    const feeder = this.feeders.find((other) => other.feederId === feederId);
    if (!feeder) throw new Error(`no feeder ${feederId}`);
    return feeder;
  }
}
