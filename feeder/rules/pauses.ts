// SPDX-License-Identifier: Apache-2.0
// Why a feeder lends nothing new: its owner's word, its hours, or its owner at the GPU. Each holds by itself; it lends
// when none does.
import { FeederState, PauseCause } from '../../proto/gen/greenboost/v1/feeder_pb.js';

export interface Pause {
  readonly cause: PauseCause;
  /** Hosts are asked to move away what they hold. */
  readonly drain: boolean;
  readonly sinceUnixMs: number;
  /** When it ends by itself, where that is known. */
  readonly untilUnixMs?: number | undefined;
  /** For the feeder's own user; hosts are not told what somebody does on his machine. */
  readonly text: string;
}

/** Stable words of logs and JSON. */
export const CAUSE_WORDS: Readonly<Record<PauseCause, string>> = {
  [PauseCause.UNSPECIFIED]: 'unknown',
  [PauseCause.OWNER]: 'owner',
  [PauseCause.HOURS]: 'hours',
  [PauseCause.LOCAL_USE]: 'local_use',
};

export class Pauses {
  private readonly held = new Map<PauseCause, Pause>();

  /** In the order in which they began. */
  all(): readonly Pause[] {
    return [...this.held.values()];
  }

  get state(): FeederState {
    const all = this.all();
    if (all.length === 0) return FeederState.LENDING;
    return all.some(({ drain }) => drain) ? FeederState.DRAINING : FeederState.PAUSED;
  }

  /** Holds, or tells more of what holds already. Returns true when that is new to hosts. */
  hold(pause: Pause): boolean {
    const before = this.held.get(pause.cause);
    this.held.set(pause.cause, before ? { ...pause, sinceUnixMs: before.sinceUnixMs } : pause);
    return before?.drain !== pause.drain || before.untilUnixMs !== pause.untilUnixMs;
  }

  /** Returns false when it was not held. */
  lift(cause: PauseCause): boolean {
    return this.held.delete(cause);
  }

  /** For whoever asks for memory meanwhile. */
  get reason(): string {
    const [first] = this.all();
    switch (first?.cause) {
      case undefined:
        return 'it lends';
      case PauseCause.HOURS:
        return `it lends at other hours${untilText(first.untilUnixMs)}`;
      case PauseCause.LOCAL_USE:
        return 'its owner uses its GPU; it lends again when that is idle';
      case PauseCause.UNSPECIFIED:
      case PauseCause.OWNER:
        return 'the feeder was paused by its owner; it lends nothing new until "greenboost feed resume"';
    }
  }
}

function untilText(unixMs: number | undefined): string {
  return unixMs === undefined ? '' : `, again from ${clockText(new Date(unixMs))}`;
}

/** `Sat 22:00`, local time. */
export function clockText(at: Date): string {
  const day = at.toLocaleDateString('en-GB', { weekday: 'short' });
  const two = (value: number): string => String(value).padStart(2, '0');
  return `${day} ${two(at.getHours())}:${two(at.getMinutes())}`;
}
