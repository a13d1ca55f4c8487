// SPDX-License-Identifier: Apache-2.0
// Where kernels ran and where ranges lie, in lines and tables.
import { formatBytes } from '../../proto/base/units.js';
import type { AttachmentJson } from '../model/attachments.js';
import type { DispatchJson, ExplainJson } from '../model/dispatch.js';
import type { Picture, ProcessRate } from '../model/state.js';
import { percent } from './units.js';
import { left, right, shrinking, type Table } from './plain.js';

/** Kernels of some program may run on feeders: the columns about them have something to say. */
export function hasKernels({ snapshot }: Pick<Picture, 'snapshot'>): boolean {
  return snapshot.attachments.some(({ dispatch }) => dispatch.on || dispatch.dispatchedCount > 0);
}

/** `388`, `12k`, `1.4M`; `-` when unknown. */
export function countPerSecond(rate: number | undefined): string {
  if (rate === undefined) return '-';
  if (rate < 10_000) return rate.toFixed(rate > 0 && rate < 10 ? 1 : 0);
  return rate < 1e6 ? `${Math.round(rate / 1e3)}k` : `${(rate / 1e6).toFixed(1)}M`;
}

/** Which part of the launches of the last moment ran on feeders. */
export function remoteShare(rate: ProcessRate | undefined): string {
  if (!rate || rate.launchesPerSecond === 0) return '-';
  return percent(Math.min(1, rate.dispatchedPerSecond / rate.launchesPerSecond));
}

const counted = (count: number): string => count.toLocaleString('en-US');

/** `2,000 launches here, 1,000 on kiln (…)`; a second line when launches of a feeder's ranges ran here. Empty:
 *  kernels of it run here only. */
export function dispatchLines({
  pid,
  dispatch,
}: Pick<AttachmentJson, 'pid' | 'dispatch'>): string[] {
  if (!dispatch.on && dispatch.dispatchedCount === 0) return [];
  if (dispatch.devices.length > 0) return deviceLines(pid, dispatch);
  const reasons = Object.entries(dispatch.undispatched).map(
    ([name, count]) => `${name} ${counted(count)}`,
  );
  return [
    `pid ${pid}: ${launchesText(dispatch)}`,
    ...(reasons.length > 0
      ? [`pid ${pid}: brought back and run here, by reason: ${reasons.join(', ')}`]
      : []),
  ];
}

/** Where kernels of a program ran, for `explain`, which has a sentence of its own for each reason. */
export function ranLines(told: Pick<AttachmentJson, 'pid' | 'dispatch'>): string[] {
  const lines = dispatchLines(told);
  if (lines.length === 0)
    return ['its kernels run here: --remote is not in force for this program'];
  return told.dispatch.devices.length > 0 ? lines : lines.slice(0, 1);
}

/** One line for each device of a feeder's that the program sees. */
function deviceLines(pid: number, { devices, owners }: DispatchJson): string[] {
  return devices.map((device) => {
    const { feederName, name, usedBytes, capacityBytes } = device;
    const owner = owners.find(({ lane }) => lane === device.lane);
    const launches = owner ? `, ${counted(owner.launchCount)} launches` : ', not used';
    const bytes = `${formatBytes(usedBytes)} of ${formatBytes(capacityBytes)}`;
    return `pid ${pid}: device +${device.index} is ${name} of ${feederName}: ${bytes}${launches}`;
  });
}

function launchesText({ hereCount, owners }: DispatchJson): string {
  const there = owners.map((owner) => {
    const { feederName, launchCount, crossingCount, replicaBytes } = owner;
    const bytes = `${formatBytes(owner.crossingSentBytes)} out, ${formatBytes(owner.crossingReceivedBytes)} in`;
    return (
      `${counted(launchCount)} on ${feederName} ` +
      `(${counted(crossingCount)} crossings, ${bytes}; copies ${formatBytes(replicaBytes)})`
    );
  });
  return [`${counted(hereCount)} launches here`, ...there].join(', ');
}

/** What was learned of the program's steps; undefined: nothing. */
export function stepLine({ step }: ExplainJson): string | undefined {
  if (!step) return undefined;
  const crossings =
    step.crossingNowCount === step.crossingBeforeCount
      ? `crosses ${counted(step.crossingNowCount)} times`
      : `crosses ${counted(step.crossingNowCount)} times, ${counted(step.crossingBeforeCount)} before`;
  const moved =
    step.movedCount === 0
      ? 'nothing had to move'
      : `${counted(step.movedCount)} ranges have moved (${formatBytes(step.movedBytes)})`;
  const planned =
    step.crossingPlannedCount < step.crossingNowCount
      ? `; ${counted(step.crossingPlannedCount)} were planned, and not every range could move`
      : '';
  return (
    `a step of ${counted(step.launchCount)} launches over ${counted(step.rangeCount)} ranges ${crossings}: ` +
    moved +
    planned
  );
}

export function explainTable({ ranges }: ExplainJson): Table {
  return {
    columns: [
      left('ADDRESS'),
      right('BYTES'),
      left('KIND'),
      shrinking('FEEDER'),
      left('DEVICE'),
      left('WHY'),
    ],
    rows: ranges.map((range) => [
      range.address,
      formatBytes(range.bytes),
      range.lost ? 'lost' : range.kind === 'replica' ? 'copy' : range.kind,
      range.feederName,
      range.device ?? '-',
      range.why,
    ]),
  };
}
