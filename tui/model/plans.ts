// SPDX-License-Identifier: Apache-2.0
// What an action would do, as the agent plans it, for dialogs, `--dry-run` and `--json`.
import { bytesFromWire } from '../../proto/base/units.js';
import { Action, type PlanResponse } from '../../proto/gen/greenboost/v1/control_pb.js';
import { DeviceKind } from '../../proto/gen/greenboost/v1/feeder_pb.js';

export type ActionName = 'drain' | 'pause' | 'resume' | 'disconnect' | 'evict';

export const WIRE_ACTIONS: Readonly<Record<ActionName, Action>> = {
  drain: Action.DRAIN,
  pause: Action.PAUSE,
  resume: Action.RESUME,
  disconnect: Action.DISCONNECT,
  evict: Action.EVICT,
};

export interface PlannedMoveJson {
  /** Null: this machine. */
  feederId: string | null;
  feederName: string | null;
  /** `ram`, `vram 0`. */
  device: string;
  bytes: number;
}

export interface AffectedProgramJson {
  pid: number;
  command: string;
  bytes: number;
  note: string;
}

export interface ActionPlanJson {
  action: ActionName;
  /** The plan holds in this one. */
  epoch: number;
  feederId: string | null;
  feederName: string | null;
  pid: number | null;
  moveBytes: number;
  missingBytes: number;
  lostBytes: number;
  rangeCount: number;
  leaseCount: number;
  moves: PlannedMoveJson[];
  bytesPerSecond: number | null;
  etaMs: number | null;
  programs: AffectedProgramJson[];
  /** Why it would be refused now; null: it would begin. */
  refusal: string | null;
}

/** @throws GbError PROTOCOL_VIOLATION on a counter above 2^53. */
export function planJson(plan: PlanResponse, action: ActionName): ActionPlanJson {
  return {
    action,
    epoch: bytesFromWire(plan.epoch),
    feederId: plan.feederId || null,
    feederName: plan.feederName || null,
    pid: plan.pid || null,
    moveBytes: bytesFromWire(plan.moveBytes),
    missingBytes: bytesFromWire(plan.missingBytes),
    lostBytes: bytesFromWire(plan.lostBytes),
    rangeCount: plan.rangeCount,
    leaseCount: plan.leaseCount,
    moves: plan.moves.map(({ feederId, feederName, device, bytes }) => ({
      feederId: feederId || null,
      feederName: feederName || null,
      device: device?.kind === DeviceKind.GPU ? `vram ${device.index}` : 'ram',
      bytes: bytesFromWire(bytes),
    })),
    bytesPerSecond: plan.bytesPerSecond > 0 ? plan.bytesPerSecond : null,
    etaMs: plan.etaMs < 0n ? null : Number(plan.etaMs),
    programs: plan.programs.map(({ pid, command, bytes, note }) => ({
      pid,
      command,
      bytes: bytesFromWire(bytes),
      note,
    })),
    refusal: plan.refusal || null,
  };
}
