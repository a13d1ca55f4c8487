// SPDX-License-Identifier: Apache-2.0
// Memory and descriptors of daemons over time, and whether they grow.
import { readdirSync, readFileSync } from 'node:fs';

export interface Sample {
  readonly atMs: number;
  readonly rssBytes: number;
  readonly descriptors: number;
  readonly threads: number;
}

/** A daemon by name and process: one that was started again is another series. */
export class Usage {
  private readonly series = new Map<string, Sample[]>();

  /** Takes one sample; nothing of a process that is gone. */
  sample(name: string, pid: number, atMs: number): void {
    try {
      const status = readFileSync(`/proc/${pid}/status`, 'utf8');
      const field = (what: string): number =>
        Number(new RegExp(`^${what}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0);
      const key = `${name} ${pid}`;
      const samples = this.series.get(key) ?? [];
      this.series.set(key, samples);
      samples.push({
        atMs,
        rssBytes: field('VmRSS') * 1024,
        descriptors: readdirSync(`/proc/${pid}/fd`).length,
        threads: field('Threads'),
      });
    } catch {
      // It has just ended.
    }
  }

  /** Lines for people, and what grew: the least of the last third against the most of the second,
   *  for processes that lived for at least `livedMs`. */
  judge(livedMs: number, slack: { rssBytes: number; descriptors: number }): Verdict {
    const lines: string[] = [];
    const grown: string[] = [];
    for (const [key, samples] of this.series) {
      const lived = samples.at(-1)!.atMs - samples[0]!.atMs;
      const third = Math.floor(samples.length / 3);
      if (lived < livedMs || third < 3) continue;
      const middle = samples.slice(third, 2 * third);
      const last = samples.slice(2 * third);
      for (const what of ['rssBytes', 'descriptors'] as const) {
        const most = Math.max(...middle.map((each) => each[what]));
        const least = Math.min(...last.map((each) => each[what]));
        const unit = what === 'rssBytes' ? 2 ** 20 : 1;
        const [high, low] = [Math.round(most / unit), Math.round(least / unit)];
        const text = `${key}: ${what} ${high} at most in the middle, ${low} at least in the end`;
        lines.push(text);
        if (least > most + slack[what]) grown.push(text);
      }
    }
    return { lines, grown };
  }

  toJSON(): Record<string, Sample[]> {
    return Object.fromEntries(this.series);
  }
}

export interface Verdict {
  readonly lines: readonly string[];
  readonly grown: readonly string[];
}
