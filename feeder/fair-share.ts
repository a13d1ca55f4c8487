// SPDX-License-Identifier: Apache-2.0
// Shares of the hosts that keep this feeder busy together, where the network, the CPU and the
// memory would favour who has more lanes and connections. Nobody knows what the machine could
// carry, so it is found by feedback, max-min:
//   - a host that gets much less than the busiest one is a victim: those above the average of all
//     that are not content are pressed down to it;
//   - a victim that does not grow although others were pressed is content: it asks for no more, and
//     is left alone while it keeps what it had;
//   - without victims pressure is relaxed step by step, until the limits limit nothing, and at once
//     when it has helped nobody.
// Pure: time and rates are arguments.

/** Below this a host is not busy. Bytes per second. */
const BUSY_RATE = 1e6;
/** What the busiest host may have of the least busy one's rate before that is a victim. */
const UNFAIR_RATIO = 1.4;
/** A pressed host keeps at least this. Bytes per second. */
const PRESSED_RATE_MIN = 2e6;
/** A host that reaches this part of its limit would take more. */
const PRESSED_SHARE = 0.9;
const GROWTH = 1.1;
const KEPT_SHARE = 0.8;
/** How long a host that asked for no more is believed to; longer each time it was right. */
const CONTENT_MS_MIN = 4_000;
const CONTENT_MS_MAX = 64_000;

interface HostState {
  /** Bytes per second; undefined: no limit. */
  cap: number | undefined;
  /** Its rate when others were last pressed for it; undefined: they were not. */
  helpedAt: number | undefined;
  contentRate: number;
  contentUntilMs: number;
  contentMs: number;
}

export class FairShare<Host> {
  private readonly states = new Map<Host, HostState>();
  /** The last pressure helped nobody. */
  private inVain = false;

  /** `rates`: what each host moved per second since the last turn. Returns the limits from now on,
   *  of the hosts that have one. */
  turn(rates: ReadonlyMap<Host, number>, nowMs: number): ReadonlyMap<Host, number> {
    const busy = [...rates].filter(([, rate]) => rate >= BUSY_RATE);
    for (const host of this.states.keys())
      if (!((rates.get(host) ?? 0) >= BUSY_RATE)) this.states.delete(host);
    if (busy.length < 2) this.states.clear();
    else if (this.findVictims(busy, nowMs)) this.press(busy, nowMs);
    else this.relax(busy);
    return new Map([...this.states].flatMap(([host, { cap }]) => (cap ? [[host, cap]] : [])));
  }

  /** Marks those for whom others shall be pressed. */
  private findVictims(busy: readonly (readonly [Host, number])[], nowMs: number): boolean {
    const most = Math.max(...busy.map(([, rate]) => rate));
    let found = false;
    const helped = busy.filter(([host]) => this.stateOf(host).helpedAt !== undefined);
    this.inVain = helped.length > 0 && helped.every(([host, rate]) => !this.hasGrown(host, rate));
    for (const [host, rate] of busy) {
      const state = this.stateOf(host);
      const stayed = state.helpedAt !== undefined && !this.hasGrown(host, rate);
      state.helpedAt = undefined;
      const isPressed = state.cap !== undefined && rate >= state.cap * PRESSED_SHARE;
      if (rate * UNFAIR_RATIO >= most || isPressed) continue;
      if (stayed) {
        state.contentMs = Math.min(CONTENT_MS_MAX, Math.max(CONTENT_MS_MIN, state.contentMs * 2));
        state.contentUntilMs = nowMs + state.contentMs;
        state.contentRate = rate;
      }
      if (this.isContent(host, rate, nowMs)) continue;
      state.helpedAt = rate;
      state.cap = undefined;
      found = true;
    }
    return found;
  }

  private press(busy: readonly (readonly [Host, number])[], nowMs: number): void {
    const asking = busy.filter(([host, rate]) => !this.isContent(host, rate, nowMs));
    const average = asking.reduce((sum, [, rate]) => sum + rate, 0) / asking.length;
    for (const [host, rate] of busy) {
      const state = this.stateOf(host);
      if (state.helpedAt === undefined && (rate > average || state.cap !== undefined))
        state.cap = Math.max(PRESSED_RATE_MIN, average);
    }
  }

  private relax(busy: readonly (readonly [Host, number])[]): void {
    for (const [host, rate] of busy) {
      const state = this.stateOf(host);
      if (this.inVain) state.cap = undefined;
      if (state.cap === undefined) continue;
      state.cap *= GROWTH;
      if (rate < state.cap / 2) state.cap = undefined; // It limits nothing any more.
    }
  }

  private isContent(host: Host, rate: number, nowMs: number): boolean {
    const { contentUntilMs, contentRate } = this.stateOf(host);
    return nowMs < contentUntilMs && rate >= contentRate * KEPT_SHARE;
  }

  private hasGrown(host: Host, rate: number): boolean {
    return rate >= (this.stateOf(host).helpedAt ?? 0) * GROWTH;
  }

  private stateOf(host: Host): HostState {
    let state = this.states.get(host);
    if (!state) {
      state = {
        cap: undefined,
        helpedAt: undefined,
        contentRate: 0,
        contentUntilMs: -Infinity,
        contentMs: 0,
      };
      this.states.set(host, state);
    }
    return state;
  }
}
