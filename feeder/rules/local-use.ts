// SPDX-License-Identifier: Apache-2.0
// Does anybody but this feeder use the GPUs that it lends? Judges what NVML told of one look.
import { readFileSync } from 'node:fs';
import type { GpuUse } from '../../driver/nvml/use.js';

/** What a desktop takes while nobody works on it stays below this. */
export const FOREIGN_PERCENT_MIN = 10;

/** A process that is not this feeder's. */
export interface Process {
  readonly pid: number;
  /** Undefined: it is not among this machine's processes, or no more. */
  readonly name: string | undefined;
}

/** Who somebody is; undefined: a process of this feeder itself. */
export type Identify = (pid: number) => Process | undefined;

/** By /proc: this daemon and its children are its own. */
export const identifyProcess: Identify = (pid) => {
  if (pid === process.pid) return undefined;
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const end = stat.lastIndexOf(')');
    const parent = Number(stat.slice(end + 2).split(' ')[1]);
    if (parent === process.pid) return undefined;
    return { pid, name: stat.slice(stat.indexOf('(') + 1, end) };
  } catch {
    return { pid, name: undefined };
  }
};

/** One look after the other: a process that was gone when it was looked up counts only when it is told again. */
export class LocalUse {
  private unseen: ReadonlySet<number> = new Set();

  constructor(private readonly identify: Identify) {}

  /** Who uses one of these GPUs, in words; undefined: nobody. */
  judge(uses: readonly GpuUse[]): string | undefined {
    const unseen = new Set<number>();
    const found = uses.map((use) => this.judgeOne(use, unseen)).find((text) => text !== undefined);
    this.unseen = unseen;
    return found;
  }

  private judgeOne(use: GpuUse, unseen: Set<number>): string | undefined {
    for (const process of this.strangers(use.computing)) {
      if (process.name !== undefined) return `${process.name} (pid ${process.pid}) computes on it`;
      unseen.add(process.pid);
      if (this.unseen.has(process.pid))
        return `pid ${process.pid} of another container computes on it`;
    }
    const { percent, by } = this.foreignShare(use);
    if (percent < FOREIGN_PERCENT_MIN) return undefined;
    return `${by} ${percent} % of it`;
  }

  private strangers(pids: readonly number[]): Process[] {
    return pids.flatMap((pid) => this.identify(pid) ?? []);
  }

  /** Without shares of each process the GPU's own counts while nothing of this feeder computes. */
  private foreignShare({ percents, percent, computing }: GpuUse): { percent: number; by: string } {
    if (!percents) {
      const ours = computing.some((pid) => this.identify(pid) === undefined);
      return { percent: ours ? 0 : percent, by: 'programs take' };
    }
    const shares = [...percents].flatMap(([pid, share]) => {
      const stranger = this.identify(pid);
      return stranger ? [{ ...stranger, share }] : [];
    });
    const most = shares.toSorted((a, b) => b.share - a.share)[0];
    const total = shares.reduce((sum, { share }) => sum + share, 0);
    const name = most?.name === undefined ? 'a program' : `${most.name} (pid ${most.pid})`;
    return {
      percent: Math.min(100, total),
      by: shares.length > 1 ? 'programs take' : `${name} takes`,
    };
  }
}
