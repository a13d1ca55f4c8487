// SPDX-License-Identifier: Apache-2.0
// This machine's own tiers: VRAM of its GPUs and RAM, with what the executor's probe measured of
// them.
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { MemoryProbe } from '../../driver/executor/probe.js';
import type { Clock, Timer } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import { GPU_POLL_INTERVAL_MS, MEMORY_POLL_INTERVAL_MS } from '../../proto/base/limits.js';
import { TierKind, type TierSchema } from '../../proto/gen/greenboost/v1/control_pb.js';
import { DeviceKind } from '../../proto/gen/greenboost/v1/feeder_pb.js';
import type { EventLog } from '../control/events.js';
import type { Ledger, MemoryFigures } from '../ledger.js';
import type { GpuSource, LocalGpu } from './gpu.js';
import { readMemoryFigures } from './memory.js';
import { figuresFromProbe, type ProbeFigures, type TierFigures } from './probe.js';

type TierInit = MessageInitShape<typeof TierSchema>;

const UNMEASURED: TierFigures = { readBytesPerSecond: 0, writeBytesPerSecond: 0, latencyMicros: 0 };

export interface LocalTiersDeps {
  readonly clock: Clock;
  readonly events: EventLog;
  readonly ledger: Ledger;
  readonly gpus: GpuSource;
  /** Measures one GPU and its way to RAM (undefined: RAM alone), in a process of its own. */
  readonly runProbe: (gpuIndex: number | undefined, signal: AbortSignal) => Promise<MemoryProbe>;
  readonly touch: () => void;
  /** After every reading of the GPUs. */
  readonly onGpus: (gpus: readonly LocalGpu[]) => void;
}

export class LocalTiers {
  memory: MemoryFigures = { availableBytes: 0, pressurePercent: -1 };
  private gpus: readonly LocalGpu[] = [];
  private gpuNote = '';
  private readonly probed = new Map<number | undefined, ProbeFigures>();
  private readonly stopped = new AbortController();
  private probing: Promise<void> | undefined;
  private polling: Promise<void> | undefined;
  private readonly timers: Timer[] = [];
  private pressed = false;

  constructor(private readonly deps: LocalTiersDeps) {}

  /** Reads what is there, and begins to measure in the background. */
  start(): void {
    const { clock } = this.deps;
    this.pollMemory();
    this.timers.push(clock.every(MEMORY_POLL_INTERVAL_MS, () => this.pollMemory()));
    this.timers.push(clock.every(GPU_POLL_INTERVAL_MS, () => void this.pollGpus()));
    void this.probe();
  }

  async stop(): Promise<void> {
    this.timers.splice(0).forEach((timer) => timer.cancel());
    this.stopped.abort();
    await Promise.allSettled([this.probing, this.polling]);
  }

  /** Measures all GPUs again; one run at a time. Failures become notes of their tiers. */
  probe(): Promise<void> {
    this.probing ??= this.probeAll().finally(() => (this.probing = undefined));
    return this.probing;
  }

  /** `programs`: what programs were granted and use on the GPU of that UUID. */
  vram(programs: (uuid: string) => { grantedBytes: number; usedBytes: number }): TierInit[] {
    return this.gpus.map((gpu) => {
      const { grantedBytes, usedBytes } = programs(gpu.uuid);
      const probe = this.probed.get(gpu.index);
      const measured = probe?.vram;
      return {
        kind: TierKind.LOCAL_VRAM,
        name: gpu.name,
        device: { kind: DeviceKind.GPU, index: gpu.index },
        capacityBytes: BigInt(gpu.totalBytes),
        grantedBytes: BigInt(grantedBytes),
        usedBytes: BigInt(gpu.usedBytes ?? usedBytes),
        readBytesPerSecond: measured?.readBytesPerSecond ?? 0,
        writeBytesPerSecond: measured?.writeBytesPerSecond ?? 0,
        latencyMicros: measured?.latencyMicros ?? 0,
        simulated: gpu.simulated,
        load: gpu.load,
        note: this.noteOf(gpu.index),
      };
    });
  }

  ram({ ledger, usedBytes }: { ledger: Ledger; usedBytes: number }): TierInit {
    const first = this.gpus[0];
    const probe = this.probed.get(first?.index);
    const measured = probe?.ram;
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
      note: [this.gpuNote, this.noteOf(first?.index)].filter((note) => note !== '').join('; '),
    };
  }

  private noteOf(index: number | undefined): string {
    const probe = this.probed.get(index);
    return probe ? probe.note : 'not measured yet';
  }

  private pollMemory(): void {
    this.memory = readMemoryFigures();
    this.deps.ledger.observe(this.memory);
    const pressed = !this.deps.ledger.mayGrow;
    if (pressed !== this.pressed) {
      this.pressed = pressed;
      const figure = `memory pressure is ${this.memory.pressurePercent} %`;
      if (pressed)
        this.deps.events.add(
          'warning',
          'ram_growth_stopped',
          'RAM',
          `${figure}: no more RAM is granted`,
        );
      else this.deps.events.add('info', 'ram_growth_allowed', 'RAM', figure);
    }
    this.deps.touch();
  }

  /** One at a time: a driver that hangs is asked no second time. */
  private pollGpus(): Promise<void> {
    this.polling ??= this.readGpus().finally(() => (this.polling = undefined));
    return this.polling;
  }

  private async readGpus(): Promise<void> {
    try {
      this.gpus = await this.deps.gpus.list();
      this.deps.onGpus(this.gpus);
      this.gpuNote = this.gpus.length === 0 ? 'no GPU: as the CPU sees it' : '';
    } catch (reason) {
      this.gpus = [];
      this.gpuNote = GbError.from(reason).rawMessage;
    }
    this.deps.touch();
  }

  private async probeAll(): Promise<void> {
    await this.pollGpus();
    const indexes = this.gpus.length > 0 ? this.gpus.map(({ index }) => index) : [undefined];
    for (const index of indexes) {
      if (this.stopped.signal.aborted) return;
      const figures = await this.deps
        .runProbe(index, this.stopped.signal)
        .then(figuresFromProbe)
        .catch((reason: unknown) => ({
          vram: undefined,
          ram: UNMEASURED,
          note: `not measured: ${GbError.from(reason).rawMessage}`,
        }));
      this.probed.set(index, figures);
      this.deps.touch();
    }
  }
}
