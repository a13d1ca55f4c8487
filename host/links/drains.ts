// SPDX-License-Identifier: Apache-2.0
// Emptying a feeder: what it holds for programs goes to others, program by program, with progress.
// Cancelled or failed, what has moved stays moved.
import type { Clock } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import { DRAIN_PASSES_MAX, DRAIN_RATE_WINDOW_MS } from '../../proto/base/limits.js';
import { formatBytes } from '../../proto/base/units.js';
import type { Attachment } from '../attachments/attachment.js';
import { sumHolds, type FeederView } from '../attachments/holds.js';
import type { AttachmentRegistry } from '../attachments/registry.js';
import type { Link } from './link.js';

export interface DrainProgress {
  readonly totalBytes: number;
  /** Elsewhere for good. */
  readonly movedBytes: number;
  /** Over the last seconds. */
  readonly bytesPerSecond: number;
  /** undefined: not known yet. */
  readonly etaMs: number | undefined;
  readonly elapsedMs: number;
  /** Which program is at work; empty: none. */
  readonly waitsFor: string;
}

export interface DrainDeps {
  readonly clock: Clock;
  readonly registry: () => AttachmentRegistry;
  /** Feeders that take new leases. */
  readonly usable: () => readonly FeederView[];
  readonly touch: () => void;
}

export interface DrainOptions {
  readonly signal: AbortSignal;
  /** One program that cannot be moved does not stop the others. */
  readonly tolerant: boolean;
}

class Drain implements DrainProgress {
  movedBytes = 0;
  waitsFor = '';
  private readonly samples: { atMs: number; bytes: number }[] = [];

  constructor(
    readonly totalBytes: number,
    private readonly startedMs: number,
    private readonly nowMs: () => number,
  ) {}

  get elapsedMs(): number {
    return this.nowMs() - this.startedMs;
  }

  pulled(bytes: number): void {
    this.samples.push({ atMs: this.nowMs(), bytes });
    this.forget();
  }

  get bytesPerSecond(): number {
    this.forget();
    const [first] = this.samples;
    if (!first) return 0;
    const bytes = this.samples.reduce((sum, sample) => sum + sample.bytes, 0);
    return (bytes * 1000) / Math.max(100, this.nowMs() - first.atMs);
  }

  get etaMs(): number | undefined {
    const rate = this.bytesPerSecond;
    if (rate <= 0) return undefined;
    return (Math.max(0, this.totalBytes - this.movedBytes) / rate) * 1000;
  }

  private forget(): void {
    const oldest = this.nowMs() - DRAIN_RATE_WINDOW_MS;
    while (this.samples[0] && this.samples[0].atMs < oldest) this.samples.shift();
  }
}

export class Drains {
  private readonly running = new Map<string, Drain>();

  constructor(private readonly deps: DrainDeps) {}

  /** undefined: none is under way. */
  progressOf(feederId: string): DrainProgress | undefined {
    return this.running.get(feederId);
  }

  /** Puts a link into `draining` and empties it; on failure, unless tolerated, it is ready again.
   *  Returns the bytes moved. @throws as run, in words for people. */
  async empty(link: Link, options: DrainOptions): Promise<number> {
    link.drain();
    try {
      return (await this.run(link, options)).movedBytes;
    } catch (reason) {
      link.undrain();
      throw asWrongState(reason, link.name);
    }
  }

  /** Empties a feeder that is `draining`. Returns the bytes moved and, if tolerant, why others were
   *  not.
   *  @throws GbError WRONG_STATE when it is being drained already, or others have too little room;
   *  CANCELED; what the first program that could not be moved met, unless tolerant. */
  async run(
    { feederId, name }: Link,
    options: DrainOptions,
  ): Promise<{ movedBytes: number; failure: GbError | undefined }> {
    if (this.running.has(feederId))
      throw new GbError('WRONG_STATE', `feeder ${name} is being drained already`);
    const { registry, clock } = this.deps;
    const totalBytes = registry().all.reduce((sum, a) => sum + a.bytesOn(feederId), 0);
    const leasedBytes = sumHolds(
      registry()
        .leasesOn(feederId)
        .map(({ hold }) => hold),
      ({ limitBytes }) => limitBytes,
    );
    if (!options.tolerant && leasedBytes > this.roomOutside(feederId)) {
      throw new GbError(
        'WRONG_STATE',
        `no other feeder has room for the ${formatBytes(leasedBytes)} it holds`,
      );
    }
    const drain = new Drain(totalBytes, clock.nowMs(), () => clock.nowMs());
    this.running.set(feederId, drain);
    try {
      const failure = await this.emptyAll(feederId, drain, options);
      return { movedBytes: drain.movedBytes, failure };
    } finally {
      this.running.delete(feederId);
      this.deps.touch();
    }
  }

  private roomOutside(feederId: string): number {
    let bytes = 0;
    for (const view of this.deps.usable()) {
      if (view.feederId === feederId) continue;
      for (const { freeBytes } of view.devices) bytes += Math.max(0, freeBytes);
    }
    return bytes;
  }

  /** Placements that were under way when it began land, and are found by another pass. */
  private async emptyAll(
    feederId: string,
    drain: Drain,
    options: DrainOptions,
  ): Promise<GbError | undefined> {
    for (let pass = 0; pass < DRAIN_PASSES_MAX; pass++) {
      const holders = this.deps.registry().leasesOn(feederId);
      if (holders.length === 0) return undefined;
      const failures: GbError[] = [];
      for (const attachment of new Set(holders.map((holder) => holder.attachment))) {
        options.signal.throwIfAborted();
        await this.emptyOne(attachment, feederId, drain, options.signal).catch(
          (reason: unknown) => void failures.push(GbError.from(reason)),
        );
        if (failures[0] && !options.tolerant) throw failures[0];
      }
      if (failures[0]) return failures[0];
    }
    return new GbError('WRONG_STATE', 'programs keep placing bytes there');
  }

  private async emptyOne(
    attachment: Attachment,
    feederId: string,
    drain: Drain,
    signal: AbortSignal,
  ): Promise<void> {
    const { touch } = this.deps;
    drain.waitsFor = `pid ${attachment.facts.identity.pid}`;
    await attachment.evacuate(feederId, {
      signal,
      onPulled(bytes) {
        drain.pulled(bytes);
        touch();
      },
      onMoved(bytes) {
        drain.movedBytes += bytes;
        touch();
      },
    });
    drain.waitsFor = '';
  }
}

/** Why a feeder cannot be emptied, with what to do. */
function asWrongState(reason: unknown, name: string): GbError {
  const error = GbError.from(reason);
  if (error.code !== 'WRONG_STATE' && error.code !== 'CAPACITY_EXHAUSTED') return error;
  return new GbError('WRONG_STATE', `feeder ${name} cannot be drained: ${error.rawMessage}`, {
    cause: error,
    details: {
      hint: 'connect another feeder or end the programs; `disconnect --force` loses the bytes',
    },
  });
}
