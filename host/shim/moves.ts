// SPDX-License-Identifier: Apache-2.0
// MOVE notices that wait for the program's MOVED.
import type { Clock, Timer } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import { MOVE_ANSWER_TIMEOUT_MS } from '../../proto/base/limits.js';
import type { MoveOutcomeName, MovePhaseName, MoveWish } from '../attachments/facts.js';
import { gbMove, gbMoveReply, MoveOutcome, MovePhase } from './abi.js';

interface Waiting {
  resolve(outcome: MoveOutcomeName): void;
  reject(reason: GbError): void;
  readonly timer: Timer;
}

const PHASES: Readonly<Record<MovePhaseName | 'cancel', number>> = {
  begin: MovePhase.BEGIN,
  commit: MovePhase.COMMIT,
  cancel: MovePhase.CANCEL,
};

const OUTCOMES: Readonly<Record<number, MoveOutcomeName>> = {
  [MoveOutcome.OK]: 'ok',
  [MoveOutcome.DIRTY]: 'dirty',
  [MoveOutcome.UNKNOWN]: 'unknown',
};

export class MoveCalls {
  private readonly waiting = new Map<string, Waiting>();

  constructor(
    private readonly clock: Clock,
    private readonly send: (payload: Buffer) => void,
  ) {}

  /** Asks, and resolves with the answer. @throws GbError DEADLINE_EXCEEDED; the reason of `end`. */
  ask(wish: MoveWish, phase: MovePhaseName): Promise<MoveOutcomeName> {
    const key = keyOf(wish.sequence, PHASES[phase]);
    return new Promise((resolve, reject) => {
      const timer = this.clock.after(MOVE_ANSWER_TIMEOUT_MS, () => {
        this.waiting.delete(key);
        reject(new GbError('DEADLINE_EXCEEDED', 'the program does not answer about a move'));
      });
      this.waiting.get(key)?.reject(new GbError('CANCELED', 'it was asked again'));
      this.waiting.set(key, { resolve, reject, timer });
      this.send(this.encode(wish, PHASES[phase]));
    });
  }

  cancel(wish: MoveWish): void {
    for (const phase of ['begin', 'commit'] as const) {
      const key = keyOf(wish.sequence, PHASES[phase]);
      const waiting = this.waiting.get(key);
      this.waiting.delete(key);
      waiting?.timer.cancel();
      waiting?.reject(new GbError('CANCELED', 'the move was given up'));
    }
    this.send(this.encode(wish, PHASES.cancel));
  }

  /** A MOVED of the program. Answers nobody waits for any more are right, too.
   *  @throws GbError PROTOCOL_VIOLATION for an outcome there is not. */
  answer(payload: Buffer): void {
    const { sequence, phase, outcome } = gbMoveReply.decode(payload);
    const name = OUTCOMES[outcome];
    if (!name) throw new GbError('PROTOCOL_VIOLATION', `a move ended with ${outcome}`);
    const key = keyOf(sequence, phase);
    const waiting = this.waiting.get(key);
    this.waiting.delete(key);
    waiting?.timer.cancel();
    waiting?.resolve(name);
  }

  /** The socket has ended. */
  end(): void {
    for (const { timer, reject } of this.waiting.values()) {
      timer.cancel();
      reject(new GbError('WRONG_STATE', 'the program is not connected'));
    }
    this.waiting.clear();
  }

  private encode(wish: MoveWish, phase: number): Buffer {
    return gbMove.encode({
      sequence: wish.sequence,
      offset: BigInt(wish.offset),
      length: BigInt(wish.length),
      phase,
      from_lane: wish.fromLane,
      to_lane: wish.toLane,
      source_lane: wish.sourceLane,
    });
  }
}

const keyOf = (sequence: bigint, phase: number): string => `${sequence}/${phase}`;
