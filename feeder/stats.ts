// SPDX-License-Identifier: Apache-2.0
// What a feeder tells about itself, and who is told when it changes. A slow watcher gets fewer,
// newer messages.
import type { Clock, Timer } from '../proto/base/clock.js';
import { STATS_COALESCE_MS } from '../proto/base/limits.js';
import { DeviceKind, type DeviceId } from '../proto/gen/greenboost/v1/feeder_pb.js';
import type { LentGpu } from './config.js';
import { gpuKey, RAM_KEY, type DeviceKey, type Pool } from './pool.js';

export type DeviceIdInit = Pick<DeviceId, 'kind' | 'index'>;

export interface LentDeviceFacts {
  readonly id: DeviceIdInit;
  readonly name: string;
  readonly uuid: string;
  readonly capacityBytes: bigint;
  readonly leasedBytes: bigint;
  readonly usedBytes: bigint;
  readonly lockedBytes: bigint;
  readonly computeCapability: number;
  readonly simulated: boolean;
  readonly compute: boolean;
  /** Of the GPU that runs kernels, where they are asked for. */
  readonly attributes?: number[];
}

/** How a device of the account is named on the wire. */
export function deviceIdOf(key: DeviceKey): DeviceIdInit {
  if (key === RAM_KEY) return { kind: DeviceKind.RAM, index: 0 };
  return { kind: DeviceKind.GPU, index: Number(key.slice('gpu:'.length)) };
}

/** `compute`: kernels of hosts may run on the first GPU. It uses its own memory, and RAM where the driver maps that
 *  for it; other GPUs' memory is theirs alone. */
export function lentDevices(
  pool: Pool,
  gpus: readonly LentGpu[],
  lockedBytes: number,
  compute: boolean,
): LentDeviceFacts[] {
  const [first] = gpus;
  const reaches = (key: DeviceKey): boolean =>
    first !== undefined &&
    (key === RAM_KEY ? first.gpu.hostNumaVmm : key === gpuKey(first.gpu.index));
  return pool.devices.map((key) => {
    const { capacityBytes, leasedBytes, usedBytes } = pool.account(key);
    const gpu = gpus.find((lent) => gpuKey(lent.gpu.index) === key)?.gpu;
    return {
      id: deviceIdOf(key),
      name: gpu?.name ?? 'RAM',
      uuid: gpu?.uuid ?? '',
      capacityBytes: BigInt(capacityBytes),
      leasedBytes: BigInt(leasedBytes),
      usedBytes: BigInt(usedBytes),
      lockedBytes: BigInt(gpu ? 0 : lockedBytes),
      computeCapability: gpu?.computeCapability ?? 0,
      simulated: gpu?.simulated ?? false,
      compute: compute && reaches(key),
    };
  });
}

/** The same with the attributes of the GPU that runs kernels. */
export function describedDevices(
  devices: readonly LentDeviceFacts[],
  gpus: readonly LentGpu[],
): LentDeviceFacts[] {
  return devices.map((device) => {
    const lent = gpus.find(({ gpu }) => device.compute && gpu.uuid === device.uuid);
    return lent ? { ...device, attributes: [...lent.gpu.attributes] } : device;
  });
}

export interface Watcher {
  /** Sends the present state. Returns false when the peer is behind; then `resume` is awaited. */
  send(): boolean;
  /** Calls back once, when the peer has caught up. */
  resume(callback: () => void): void;
}

interface Watching {
  readonly watcher: Watcher;
  readonly heartbeat: Timer;
  behind: boolean;
}

/** Tells watchers: now, at least every interval, and soon after a change. */
export class StatsHub {
  private readonly watchings = new Set<Watching>();
  private pending: Timer | undefined;

  constructor(private readonly clock: Clock) {}

  /** Returns a function that ends the watch. */
  watch(watcher: Watcher, intervalMs: number): () => void {
    const heartbeat = this.clock.every(intervalMs, () => this.tell(watching));
    const watching: Watching = { watcher, heartbeat, behind: false };
    this.watchings.add(watching);
    this.tell(watching);
    return () => {
      heartbeat.cancel();
      this.watchings.delete(watching);
    };
  }

  /** Something has changed; many changes at once become one message. */
  changed(): void {
    this.pending ??= this.clock.after(STATS_COALESCE_MS, () => this.flush());
  }

  /** Tells everybody without waiting. */
  flush(): void {
    this.pending?.cancel();
    this.pending = undefined;
    for (const watching of this.watchings) this.tell(watching);
  }

  private tell(watching: Watching): void {
    if (watching.behind) return;
    watching.behind = !watching.watcher.send();
    if (watching.behind) watching.watcher.resume(() => (watching.behind = false));
  }
}
