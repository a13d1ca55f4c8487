// SPDX-License-Identifier: Apache-2.0
// GPUs of feeders as CUDA devices of one program (docs/adr/0014): which there are, in an order that never changes, and
// the first range of each, which makes its lease and its lane. All memory on them is room on those lanes (replicas.ts).
import { GbError } from '../../proto/base/errors.js';
import { DEVICES_SETTLE_MS } from '../../proto/base/limits.js';
import type { ByteRange } from '../placement/residency.js';
import { DEVICES_MAX } from '../shim/abi.js';
import type { FeederBudget } from './feeder-budget.js';
import type { FeederDirectory, GpuFacts } from './holds.js';
import type { Replicas } from './replicas.js';

/** A device as its program is told of it. */
export interface DeviceFacts {
  /** Of all of them. */
  readonly count: number;
  /** 0: not opened. */
  readonly lane: number;
  readonly feederName: string;
  /** undefined: there is no such device, or its feeder is away. */
  readonly gpu: GpuFacts | undefined;
  readonly capacityBytes: number;
  /** That the program could get now. */
  readonly freeBytes: number;
}

export interface DevicesDeps {
  readonly budget: FeederBudget;
  readonly replicas: Replicas;
  readonly directory: FeederDirectory;
  readonly persist: () => Promise<void>;
}

export class Devices {
  private feeders: readonly string[] | undefined;
  private listing: Promise<readonly string[]> | undefined;

  constructor(private readonly deps: DevicesDeps) {}

  restore(feeders: readonly string[] | null): void {
    this.feeders = feeders ?? undefined;
  }

  /** For the state file. */
  save(): string[] | null {
    return this.feeders ? [...this.feeders] : null;
  }

  /** Of those that were asked for. */
  get all(): readonly DeviceFacts[] {
    return (this.feeders ?? []).map((_, index) => this.facts(index));
  }

  get feederIds(): readonly string[] {
    return this.feeders ?? [];
  }

  /** What is known of one; waits a moment for links that are being made when nobody has asked before. */
  async describe(index: number): Promise<DeviceFacts> {
    await this.list();
    return this.facts(index);
  }

  /** Makes `range` the first memory on it, and with it a lease; the same again is answered alike.
   *  @throws GbError NOT_FOUND, DATA_LOSS, FEEDER_UNREACHABLE, CAPACITY_EXHAUSTED. */
  async open(index: number, range: ByteRange): Promise<DeviceFacts> {
    const feederId = (await this.list())[index];
    if (feederId === undefined) throw new GbError('NOT_FOUND', `there is no device ${index}`);
    const gpu = this.deps.directory.gpuOf(feederId);
    if (!gpu) throw new GbError('FEEDER_UNREACHABLE', `feeder ${feederId} is away`);
    await this.deps.replicas.open(feederId, gpu.key, range);
    return this.facts(index);
  }

  private async list(): Promise<readonly string[]> {
    if (this.feeders) return this.feeders;
    this.listing ??= this.look().finally(() => (this.listing = undefined));
    return this.listing;
  }

  private async look(): Promise<readonly string[]> {
    const { directory, persist } = this.deps;
    await directory.settled(DEVICES_SETTLE_MS);
    const able = directory.usable().filter(({ feederId, devices }) => {
      const key = directory.gpuOf(feederId)?.key;
      return devices.some((device) => device.key === key);
    });
    // By name: the same feeders are the same devices in every run.
    able.sort((a, b) => compare(a.name, b.name) || compare(a.feederId, b.feederId));
    this.feeders = able.slice(0, DEVICES_MAX).map(({ feederId }) => feederId);
    await persist();
    return this.feeders;
  }

  private facts(index: number): DeviceFacts {
    const { directory, budget } = this.deps;
    const feederId = this.feeders?.[index] ?? '';
    const count = this.feeders?.length ?? 0;
    const view = directory.usable().find((candidate) => candidate.feederId === feederId);
    const hold = budget.holds.find((h) => h.feederId === feederId && h.state !== 'lost');
    const gpu = feederId === '' ? undefined : directory.gpuOf(feederId);
    const device = view?.devices.find(({ key }) => key === gpu?.key);
    return {
      count,
      lane: hold?.lane ?? 0,
      feederName: view?.name ?? hold?.feederName ?? feederId,
      gpu,
      capacityBytes: device?.capacityBytes ?? 0,
      freeBytes: device?.freeBytes ?? 0,
    };
  }
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
