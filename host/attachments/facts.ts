// SPDX-License-Identifier: Apache-2.0
// What is known of a program when it attaches, and what its socket session does for it.
import type { ByteRange } from '../placement/residency.js';
import type { ProcessIdentity } from './process.js';

export interface AttachmentFacts {
  readonly attachmentId: string;
  readonly identity: ProcessIdentity;
  readonly command: string;
  readonly deviceName: string;
  /** `GPU-` and a UUID; empty: not told yet (restored after a restart). */
  readonly deviceUuid: string;
  readonly deviceTotalBytes: number;
  readonly arenaBase: bigint;
  readonly arenaBytes: number;
  /** Ranges beyond T1 + T2 may live on feeders. */
  readonly gated: boolean;
  /** Of every byte on feeders: 1, or 2 on two feeders. */
  readonly copies: 1 | 2;
  /** Its kernels run on the feeders that hold their data. */
  readonly dispatch: boolean;
  /** GPUs of feeders are CUDA devices of it, and nothing else of it lies on feeders; then `dispatch`, too. */
  readonly devices: boolean;
  /** undefined: none set. */
  readonly vramBudgetBytes: number | undefined;
  readonly ramBudgetBytes: number | undefined;
  readonly startedUnixMs: number;
  /** Of the `greenboost run` that started it; empty: none. */
  readonly runId: string;
}

/** A copy of `range` that goes from one lane to another, as the program is told of it. */
export interface MoveWish extends ByteRange {
  readonly sequence: bigint;
  readonly fromLane: number;
  readonly toLane: number;
  /** Where the bytes are pulled from. */
  readonly sourceLane: number;
}

export type MovePhaseName = 'begin' | 'commit';
export type MoveOutcomeName = 'ok' | 'dirty' | 'unknown';

/** What the socket session does for its attachment. */
export interface ShimPeer {
  lost(range: ByteRange, feederName: string): void;
  /** The program's answer. @throws GbError WRONG_STATE when the socket ends first,
   *  DEADLINE_EXCEEDED. */
  move(wish: MoveWish, phase: MovePhaseName): Promise<MoveOutcomeName>;
  /** The program forgets the move. */
  cancelMove(wish: MoveWish): void;
  /** Ends the connection; `why` is for the log. */
  close(why: string): void;
}
