// SPDX-License-Identifier: Apache-2.0
// Why a feeder lends nothing new.
import { PauseCause, type FeederPause } from '../../proto/gen/greenboost/v1/feeder_pb.js';

export type PauseCauseJson = 'owner' | 'hours' | 'local_use' | 'unknown';

export interface PauseJson {
  cause: PauseCauseJson;
  /** Hosts are asked to move away what they hold. */
  drain: boolean;
  /** By the feeder's clock. */
  sinceUnixMs: number;
  /** When it ends by itself. */
  untilUnixMs: number | null;
  /** Of the feeder's own user only. */
  text: string | null;
}

const CAUSES: Readonly<Record<PauseCause, PauseCauseJson>> = {
  [PauseCause.UNSPECIFIED]: 'unknown',
  [PauseCause.OWNER]: 'owner',
  [PauseCause.HOURS]: 'hours',
  [PauseCause.LOCAL_USE]: 'local_use',
};

export function pauseJson({
  cause,
  drain,
  sinceUnixMs,
  untilUnixMs,
  text,
}: FeederPause): PauseJson {
  return {
    cause: CAUSES[cause] ?? 'unknown',
    drain,
    sinceUnixMs: Number(sinceUnixMs),
    untilUnixMs: untilUnixMs === 0n ? null : Number(untilUnixMs),
    text: text || null,
  };
}
