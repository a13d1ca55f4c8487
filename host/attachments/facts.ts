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
  /** undefined: none set. */
  readonly vramBudgetBytes: number | undefined;
  readonly ramBudgetBytes: number | undefined;
  readonly startedUnixMs: number;
  /** Of the `greenboost run` that started it; empty: none. */
  readonly runId: string;
}

/** What the socket session does for its attachment. */
export interface ShimPeer {
  lost(range: ByteRange, feederName: string): void;
  /** Ends the connection; `why` is for the log. */
  close(why: string): void;
}
