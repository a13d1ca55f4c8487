// SPDX-License-Identifier: Apache-2.0
// A run after the fact: what was predicted and what was measured, side by side. Pure; the shapes are
// those of `report --json`.
import { bytesFromWire } from '../../proto/base/units.js';
import type { Program, ProgramSample } from '../../proto/gen/greenboost/v1/control_pb.js';
import type { AttachmentJson } from './attachments.js';
import { attachmentJson } from './attachments.js';

/** What a shim tells of a program; the statistics file holds the same names. */
export type Measured = Pick<
  AttachmentJson,
  | 'pid'
  | 'vramPeakBytes'
  | 'ramPeakBytes'
  | 'feederVramPeakBytes'
  | 'feederRamPeakBytes'
  | 'nvmePeakBytes'
  | 'launchCount'
  | 'copyCount'
  | 'fetchBytes'
  | 'evictBytes'
  | 'stallMicros'
  | 'stagedInBytes'
  | 'stageOutBytes'
  | 'stageCleanBytes'
  | 'remapCount'
  | 'switchCount'
  | 'switchAbandonedCount'
  | 'switchMicros'
  | 'graphSplitCount'
  | 'nvmeReadBytes'
  | 'nvmeWriteBytes'
  | 'staging'
  | 'orderPercent'
  | 'stickyCudaError'
>;

/** A program at one moment; counters since its start. */
export interface SampleJson {
  readonly atMs: number;
  readonly vramBytes: number;
  readonly ramBytes: number;
  readonly feederBytes: number;
  readonly nvmeBytes: number;
  readonly fetchBytes: number;
  readonly evictBytes: number;
  readonly stagedInBytes: number;
  readonly stagedOutBytes: number;
  readonly stallMicros: number;
  readonly launchCount: number;
}

/** One program of the agent's record, or of a statistics file. */
export interface ProgramJson extends Measured {
  readonly command: string;
  readonly deviceName: string;
  readonly startedUnixMs: number | null;
  /** null: it runs, or is not known. */
  readonly endedUnixMs: number | null;
  readonly runId: string | null;
  /** Time spent in each phase; null: not known. */
  readonly phaseMs: Readonly<Record<string, number>> | null;
  /** Its course, oldest first; empty: not known. */
  readonly samples: readonly SampleJson[];
}

/** As much of a plan as is compared. */
export interface PlannedJson {
  readonly model: { readonly name: string };
  readonly contextTokens: number;
  readonly machine: { readonly hostToDevice: { readonly value: number } };
  readonly placement: {
    readonly vramBytes: number;
    readonly frameBytes: number;
    readonly ramBytes: number;
    readonly feederBytes: number;
    readonly nvmeBytes: number;
  };
  readonly decode: { readonly seconds: number; readonly crossingBytes: number };
}

export type Unit = 'bytes' | 'bytesPerSecond' | 'seconds' | 'perSecond' | 'count' | 'percent';

export interface Comparison {
  readonly name: string;
  readonly unit: Unit;
  readonly predicted: number | null;
  readonly measured: number | null;
  readonly note: string;
}

/** The agent's record of one program. */
export function programJson(from: Program): ProgramJson {
  if (!from.attachment) throw new TypeError('a program without an account');
  return {
    ...attachmentJson(from.attachment),
    endedUnixMs: from.endedUnixMs === 0n ? null : Number(from.endedUnixMs),
    runId: from.runId === '' ? null : from.runId,
    phaseMs: Object.fromEntries(
      Object.entries(from.phaseMs).map(([name, ms]) => [name, Number(ms)]),
    ),
    samples: from.samples.map(sampleJson),
  };
}

function sampleJson(sample: ProgramSample): SampleJson {
  return {
    atMs: bytesFromWire(sample.atMs),
    vramBytes: bytesFromWire(sample.vramBytes),
    ramBytes: bytesFromWire(sample.ramBytes),
    feederBytes: bytesFromWire(sample.feederBytes),
    nvmeBytes: bytesFromWire(sample.nvmeBytes),
    fetchBytes: bytesFromWire(sample.fetchBytes),
    evictBytes: bytesFromWire(sample.evictBytes),
    stagedInBytes: bytesFromWire(sample.stagedInBytes),
    stagedOutBytes: bytesFromWire(sample.stagedOutBytes),
    stallMicros: bytesFromWire(sample.stallMicros),
    launchCount: bytesFromWire(sample.launchCount),
  };
}

const NUMBERS = [
  'pid',
  'vramPeakBytes',
  'ramPeakBytes',
  'feederVramPeakBytes',
  'feederRamPeakBytes',
  'nvmePeakBytes',
  'launchCount',
  'copyCount',
  'fetchBytes',
  'evictBytes',
  'stallMicros',
  'stagedInBytes',
  'stageOutBytes',
  'stageCleanBytes',
  'remapCount',
  'switchCount',
  'switchAbandonedCount',
  'switchMicros',
  'graphSplitCount',
  'nvmeReadBytes',
  'nvmeWriteBytes',
  'orderPercent',
  'stickyCudaError',
] as const satisfies readonly (keyof Measured)[];

/** A statistics file of the shim; figures that it does not have are 0. Returns undefined when the
 *  text is none. */
export function programOfStats(text: string): ProgramJson | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const stats = value as Readonly<Record<string, unknown>>;
  if (typeof stats['pid'] !== 'number' || typeof stats['launchCount'] !== 'number')
    return undefined;
  const figure = (name: string): number => {
    const found = stats[name];
    return typeof found === 'number' && Number.isFinite(found) && found >= 0 ? found : 0;
  };
  const figures = Object.fromEntries(NUMBERS.map((name) => [name, figure(name)]));
  return {
    ...(figures as Record<(typeof NUMBERS)[number], number>),
    staging: typeof stats['staging'] === 'string' ? stats['staging'] : 'off',
    command: '',
    deviceName: '',
    startedUnixMs: null,
    endedUnixMs: null,
    runId: null,
    phaseMs: null,
    samples: [],
  };
}

/** Seconds in which the program worked: phases that launch, without loading and idling. */
export function workSeconds({ phaseMs }: ProgramJson): number | null {
  if (!phaseMs) return null;
  return ((phaseMs['inference'] ?? 0) + (phaseMs['steady'] ?? 0)) / 1000;
}

/** a / b; null when either is unknown or b is 0. */
function ratio(a: number | null | undefined, b: number | null | undefined): number | null {
  return a === null || a === undefined || !b ? null : a / b;
}

/** What can be compared, and beside it what only was measured. */
export function compare(program: ProgramJson, plan: PlannedJson | null): Comparison[] {
  const work = workSeconds(program);
  const held = program.switchMicros / 1e6;
  const passes = plan ? ratio(program.stagedInBytes, plan.decode.crossingBytes) : null;
  const passSeconds = passes !== null && passes >= 1 ? ratio(work, passes) : null;
  const place = plan?.placement;
  const row = (
    name: string,
    unit: Unit,
    measured: number | null,
    predicted: number | null = null,
    note = '',
  ): Comparison => ({ name, unit, predicted, measured, note });
  return [
    row(
      'VRAM, peak',
      'bytes',
      program.vramPeakBytes,
      place ? place.vramBytes + place.frameBytes : null,
    ),
    row('RAM, peak', 'bytes', program.ramPeakBytes, place?.ramBytes ?? null),
    row(
      'feeders, peak',
      'bytes',
      program.feederVramPeakBytes + program.feederRamPeakBytes,
      place?.feederBytes ?? null,
    ),
    row('NVMe, peak', 'bytes', program.nvmePeakBytes, place?.nvmeBytes ?? null),
    row(
      'passes',
      'count',
      passes,
      null,
      'estimated: bytes staged over the bytes that cross in a predicted pass',
    ),
    row(
      'seconds a pass',
      'seconds',
      passSeconds,
      plan?.decode.seconds ?? null,
      'in phases of work',
    ),
    row('passes a second', 'perSecond', ratio(1, passSeconds), ratio(1, plan?.decode.seconds)),
    row(
      'link while switching',
      'bytesPerSecond',
      ratio(program.stagedInBytes + program.stageOutBytes, held),
      plan?.machine.hostToDevice.value ?? null,
      'bytes staged over the time the GPU was held',
    ),
    row('GPU held by switches', 'percent', percent(ratio(held, work)), null, 'of the time of work'),
    row('staged in', 'bytes', program.stagedInBytes),
    row('written back', 'bytes', program.stageOutBytes),
    row('given up unchanged', 'bytes', program.stageCleanBytes),
    row('remaps', 'count', program.remapCount),
    row('switches', 'count', program.switchCount),
    row('switches abandoned', 'count', program.switchAbandonedCount),
    row('touches as predicted', 'percent', program.orderPercent),
    row('graphs that run in pieces', 'count', program.graphSplitCount),
    row('program waited', 'seconds', program.stallMicros / 1e6),
    row('from feeders', 'bytes', program.fetchBytes),
    row('to feeders', 'bytes', program.evictBytes),
    row('from NVMe', 'bytes', program.nvmeReadBytes),
    row('to NVMe', 'bytes', program.nvmeWriteBytes),
  ];
}

function percent(share: number | null): number | null {
  return share === null ? null : Math.min(100, share * 100);
}
