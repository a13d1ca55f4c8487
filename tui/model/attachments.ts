// SPDX-License-Identifier: Apache-2.0
// A program under the shim, as people's scripts and our own screens read it.
import { bytesFromWire } from '../../proto/base/units.js';
import type { Attachment } from '../../proto/gen/greenboost/v1/control_pb.js';
import { dispatchJson, type DispatchJson } from './dispatch.js';

export interface AttachmentJson {
  attachmentId: string;
  pid: number;
  command: string;
  deviceName: string;
  deviceUuid: string | null;
  vramUsedBytes: number;
  ramUsedBytes: number;
  feederVramUsedBytes: number;
  feederRamUsedBytes: number;
  vramPeakBytes: number;
  ramPeakBytes: number;
  feederVramPeakBytes: number;
  feederRamPeakBytes: number;
  vramBudgetBytes: number | null;
  vramLimitBytes: number | null;
  ramGrantedBytes: number;
  feederGrantedBytes: number;
  allocationCount: number;
  allocatedBytes: number;
  launchCount: number;
  copyCount: number;
  fetchBytes: number;
  evictBytes: number;
  cleanDropBytes: number;
  unaccountedLaunchCount: number;
  refusedLaunchCount: number;
  stallMicros: number;
  nvmeUsedBytes: number;
  nvmePeakBytes: number;
  nvmeReadBytes: number;
  nvmeWriteBytes: number;
  stagedInBytes: number;
  stageOutBytes: number;
  stageCleanBytes: number;
  remapCount: number;
  switchCount: number;
  switchAbandonedCount: number;
  switchMicros: number;
  frameBytes: number;
  graphSplitCount: number;
  staging: string;
  orderPercent: number;
  phase: string;
  stickyCudaError: number;
  startedUnixMs: number;
  connected: boolean;
  gated: boolean;
  dispatch: DispatchJson;
}

/** One program. */
export function attachmentJson(from: Attachment): AttachmentJson {
  return {
    attachmentId: from.attachmentId,
    pid: from.pid,
    command: from.command,
    deviceName: from.deviceName,
    deviceUuid: from.deviceUuid === '' ? null : from.deviceUuid,
    vramUsedBytes: bytesFromWire(from.vramUsedBytes),
    ramUsedBytes: bytesFromWire(from.ramUsedBytes),
    feederVramUsedBytes: bytesFromWire(from.feederVramUsedBytes),
    feederRamUsedBytes: bytesFromWire(from.feederRamUsedBytes),
    vramPeakBytes: bytesFromWire(from.vramPeakBytes),
    ramPeakBytes: bytesFromWire(from.ramPeakBytes),
    feederVramPeakBytes: bytesFromWire(from.feederVramPeakBytes),
    feederRamPeakBytes: bytesFromWire(from.feederRamPeakBytes),
    vramBudgetBytes: from.vramBudgetBytes === 0n ? null : bytesFromWire(from.vramBudgetBytes),
    vramLimitBytes: from.vramLimitBytes === 0n ? null : bytesFromWire(from.vramLimitBytes),
    ramGrantedBytes: bytesFromWire(from.ramGrantedBytes),
    feederGrantedBytes: bytesFromWire(from.feederGrantedBytes),
    allocationCount: bytesFromWire(from.allocationCount),
    allocatedBytes: bytesFromWire(from.allocatedBytes),
    launchCount: bytesFromWire(from.launchCount),
    copyCount: bytesFromWire(from.copyCount),
    fetchBytes: bytesFromWire(from.fetchBytes),
    evictBytes: bytesFromWire(from.evictBytes),
    cleanDropBytes: bytesFromWire(from.cleanDropBytes),
    unaccountedLaunchCount: bytesFromWire(from.unaccountedLaunchCount),
    refusedLaunchCount: bytesFromWire(from.refusedLaunchCount),
    stallMicros: bytesFromWire(from.stallMicros),
    nvmeUsedBytes: bytesFromWire(from.nvmeUsedBytes),
    nvmePeakBytes: bytesFromWire(from.nvmePeakBytes),
    nvmeReadBytes: bytesFromWire(from.nvmeReadBytes),
    nvmeWriteBytes: bytesFromWire(from.nvmeWriteBytes),
    stagedInBytes: bytesFromWire(from.stageInBytes),
    stageOutBytes: bytesFromWire(from.stageOutBytes),
    stageCleanBytes: bytesFromWire(from.stageCleanBytes),
    remapCount: bytesFromWire(from.remapCount),
    switchCount: bytesFromWire(from.switchCount),
    switchAbandonedCount: bytesFromWire(from.switchAbandonedCount),
    switchMicros: bytesFromWire(from.switchMicros),
    frameBytes: bytesFromWire(from.frameBytes),
    graphSplitCount: bytesFromWire(from.graphSplitCount),
    staging: from.staging,
    orderPercent: from.orderPercent,
    phase: from.phase,
    stickyCudaError: from.stickyCudaError,
    startedUnixMs: Number(from.startedUnixMs),
    connected: from.connected,
    gated: from.gated,
    dispatch: dispatchJson(from),
  };
}
