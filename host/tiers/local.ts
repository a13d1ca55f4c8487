// SPDX-License-Identifier: Apache-2.0
// This machine's own tiers: VRAM of its GPUs and RAM, with what the executor's probe measured of them.
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { Clock, Timer } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import { MEMORY_POLL_INTERVAL_MS } from '../../proto/base/limits.js';
import { TierKind, type TierSchema } from '../../proto/gen/greenboost/v1/control_pb.js';
import { DeviceKind } from '../../proto/gen/greenboost/v1/feeder_pb.js';
import type { EventLog } from '../control/events.js';
import type { Ledger, MemoryFigures } from '../ledger.js';
import type { GpuSource, LocalGpu } from './gpu.js';
import { readMemoryFigures } from './memory.js';
import type { ProbeFigures } from './probe.js';

type TierInit = MessageInitShape<typeof TierSchema>;

export interface LocalTiersDeps {
  readonly clock: Clock;
  readonly events: EventLog;
  readonly ledger: Ledger;
  readonly gpus: GpuSource;
  /** Measures one GPU and its way to RAM, in a process of its own. */
  readonly runProbe: (gpuIndex: number) => Promise<ProbeFigures>;
  readonly touch: () => void;
}

export class LocalTiers {
  memory: MemoryFigures = { availableBytes: 0, pressurePercent: -1 };
  private gpus: readonly LocalGpu[] = [];
  private gpuNote = '';
  private readonly probed = new Map<number, ProbeFigures | { note: string }>();
  private probing: Promise<void> | undefined;
  private timer: Timer | undefined;
  private pressed = false;

  constructor(private readonly deps: LocalTiersDeps) {}

  /** Reads what is there, and begins to measure in the background. */
  start(): void {
    this.poll();
    this.timer = this.deps.clock.every(MEMORY_POLL_INTERVAL_MS, () => this.poll());
    void this.probe();
  }

  async stop(): Promise<void> {
    this.timer?.cancel();
    this.deps.gpus.close();
    await this.probing;
  }

  /** Measures all GPUs again; one run at a time. Failures become notes of their tiers. */
  probe(): Promise<void> {
    this.probing ??= this.probeAll().finally(() => (this.probing = undefined));
    return this.probing;
  }

  vram(grantedBytes: number, usedByPrograms: number): TierInit[] {
    return this.gpus.map((gpu, position) => {
      const probe = this.probed.get(gpu.index);
      const measured = probe && 'vram' in probe ? probe.vram : undefined;
      return {
        kind: TierKind.LOCAL_VRAM,
        name: gpu.name,
        device: { kind: DeviceKind.GPU, index: gpu.index },
        capacityBytes: BigInt(gpu.totalBytes),
        // A program names no GPU to the agent: with several, the account stands at the first.
        grantedBytes: BigInt(position === 0 ? grantedBytes : 0),
        usedBytes: BigInt(position === 0 ? Math.max(usedByPrograms, gpu.usedBytes) : gpu.usedBytes),
        readBytesPerSecond: measured?.readBytesPerSecond ?? 0,
        writeBytesPerSecond: measured?.writeBytesPerSecond ?? 0,
        latencyMicros: measured?.latencyMicros ?? 0,
        simulated: gpu.simulated,
        note: this.noteOf(gpu.index),
      };
    });
  }

  ram({ ledger, usedBytes }: { ledger: Ledger; usedBytes: number }): TierInit {
    const first = this.gpus[0];
    const probe = first ? this.probed.get(first.index) : undefined;
    const measured = probe && 'ram' in probe ? probe.ram : undefined;
    return {
      kind: TierKind.LOCAL_RAM,
      name: 'RAM',
      device: { kind: DeviceKind.RAM, index: 0 },
      capacityBytes: BigInt(ledger.budgetBytes),
      grantedBytes: BigInt(ledger.grantedBytes),
      usedBytes: BigInt(usedBytes),
      readBytesPerSecond: measured?.readBytesPerSecond ?? 0,
      writeBytesPerSecond: measured?.writeBytesPerSecond ?? 0,
      latencyMicros: measured?.latencyMicros ?? 0,
      simulated: first?.simulated ?? false,
      note: first ? this.noteOf(first.index) : this.gpuNote,
    };
  }

  private noteOf(index: number): string {
    const probe = this.probed.get(index);
    if (!probe) return 'not measured yet';
    return 'note' in probe ? probe.note : '';
  }

  private poll(): void {
    this.memory = readMemoryFigures();
    this.deps.ledger.observe(this.memory);
    const pressed = !this.deps.ledger.mayGrow;
    if (pressed !== this.pressed) {
      this.pressed = pressed;
      const figure = `memory pressure is ${this.memory.pressurePercent} %`;
      if (pressed) this.deps.events.add('warning', 'ram_growth_stopped', 'RAM', `${figure}: no more RAM is granted`);
      else this.deps.events.add('info', 'ram_growth_allowed', 'RAM', figure);
    }
    try {
      this.gpus = this.deps.gpus.list();
      this.gpuNote = this.gpus.length === 0 ? 'no GPU here to measure the way from' : '';
    } catch (reason) {
      this.gpus = [];
      this.gpuNote = GbError.from(reason).rawMessage;
    }
    this.deps.touch();
  }

  private async probeAll(): Promise<void> {
    for (const { index } of this.gpus) {
      const figures = await this.deps.runProbe(index).catch((reason: unknown) => ({
        note: `not measured: ${GbError.from(reason).rawMessage}`,
      }));
      this.probed.set(index, figures);
      this.deps.touch();
    }
  }
}
