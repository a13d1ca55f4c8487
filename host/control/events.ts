// SPDX-License-Identifier: Apache-2.0
// What happened, for people: a ring of events with stable names, and those who follow it.
import type { Clock } from '../../proto/base/clock.js';
import { EVENTS_KEPT_MAX } from '../../proto/base/limits.js';
import type { Logger } from '../../proto/base/log.js';

export const SEVERITY = { info: 0, warning: 1, error: 2 } as const;
export type Severity = keyof typeof SEVERITY;

export interface AgentEvent {
  readonly sequence: bigint;
  readonly unixMs: bigint;
  readonly severity: number;
  /** Stable, snake_case. */
  readonly name: string;
  readonly subject: string;
  readonly text: string;
}

export class EventLog {
  private readonly ring: AgentEvent[] = [];
  private readonly followers = new Set<() => void>();
  private sequence = 0n;

  constructor(
    private readonly clock: Clock,
    private readonly log: Logger,
  ) {}

  add(severity: Severity, name: string, subject: string, text: string): void {
    const unixMs = BigInt(Math.floor(this.clock.unixMs()));
    this.ring.push({
      sequence: ++this.sequence,
      unixMs,
      severity: SEVERITY[severity],
      name,
      subject,
      text,
    });
    if (this.ring.length > EVENTS_KEPT_MAX) this.ring.shift();
    const level = severity === 'info' ? 'info' : severity === 'warning' ? 'warn' : 'error';
    this.log[level]({ event: name, subject }, text);
    for (const follower of this.followers) follower();
  }

  /** Events after `sequence`, oldest first, as far as they are kept. */
  after(sequence: bigint, countMax = EVENTS_KEPT_MAX): AgentEvent[] {
    return this.ring.filter((event) => event.sequence > sequence).slice(0, countMax);
  }

  /** The newest, oldest of them first. */
  recent(count: number): AgentEvent[] {
    return this.ring.slice(-count);
  }

  /** Calls `follower` after each new event. Returns how to stop. */
  follow(follower: () => void): () => void {
    this.followers.add(follower);
    return () => void this.followers.delete(follower);
  }
}

/** Text from a program or a peer without control characters: it ends on somebody's terminal. */
export function plainText(text: string, charactersMax: number): string {
  return text
    .replace(/[\u0000-\u001f\u007f-\u009f]/g, ' ')
    .trim()
    .slice(0, charactersMax);
}
