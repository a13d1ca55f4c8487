// SPDX-License-Identifier: Apache-2.0
// Where the kernels of a program ran, and why: as `status` shows it, and as `explain` tells it range by range.
import type { MessageInitShape } from '@bufbuild/protobuf';
import { GbError } from '../../proto/base/errors.js';
import { EXPLAIN_RANGES_MAX } from '../../proto/base/limits.js';
import {
  PlacedKind,
  type AttachmentSchema,
  type ExplainResponseSchema,
  type LaunchOwnerSchema,
  type LearnedStepSchema,
  type PlacedRangeSchema,
  type RemoteDeviceSchema,
} from '../../proto/gen/greenboost/v1/control_pb.js';
import type { Attachment } from '../attachments/attachment.js';
import type { FeederDirectory } from '../attachments/holds.js';
import type { LearnedStep } from '../attachments/owners.js';
import { deviceFromKey } from '../links/feeder-client.js';
import type { Copy } from '../placement/residency.js';
import { UNDISPATCHED, type Report } from '../shim/abi.js';

type Computes = Pick<FeederDirectory, 'computeOf'>;
type AttachmentInit = MessageInitShape<typeof AttachmentSchema>;
type PlacedInit = MessageInitShape<typeof PlacedRangeSchema>;

interface DispatchFacts {
  readonly dispatch: boolean;
  readonly dispatchedCount: bigint;
  readonly undispatched: Record<string, bigint>;
  readonly launchOwners: MessageInitShape<typeof LaunchOwnerSchema>[];
  readonly remoteDevices: MessageInitShape<typeof RemoteDeviceSchema>[];
}

/** One plain sentence for each name of UNDISPATCHED. */
const REASONS: Readonly<Record<string, string>> = {
  owners: 'its operands lie on several feeders, or on one that runs no kernels',
  code: "its code or its parameters are not known, or the feeder's GPU cannot run it",
  kind: 'it is a graph, a cooperative or captured launch, uses a texture, or has an attribute that is not taken over',
  outside: "it names memory outside the arena, or mappings of the program's own",
  hidden: 'one of its operands holds addresses, so that what it uses is not known',
  room: 'the feeder has no room for copies of its other operands',
  away: 'the feeder did not answer',
};

/** Launches of one program by where they ran. */
export function dispatchFacts(attachment: Attachment, computes: Computes): DispatchFacts {
  const { report, facts } = attachment;
  return {
    dispatch: facts.dispatch,
    dispatchedCount: report?.dispatched_count ?? 0n,
    undispatched: Object.fromEntries(undispatchedOf(report)),
    launchOwners: launchOwners(attachment, computes),
    remoteDevices: remoteDevices(attachment),
  };
}

/** Everything about one program. @throws GbError NOT_FOUND. */
export function explain(
  pid: number,
  attachments: readonly Attachment[],
  tell: { readonly computes: Computes; readonly message: (a: Attachment) => AttachmentInit },
): MessageInitShape<typeof ExplainResponseSchema> {
  const attachment = attachments.find(({ facts }) => facts.identity.pid === pid);
  if (!attachment) {
    throw new GbError('NOT_FOUND', `no program with pid ${pid} is attached`, {
      details: { hint: 'greenboost status lists those that are' },
    });
  }
  const ranges = [...ownedRanges(attachment, tell.computes), ...replicaRanges(attachment)];
  ranges.sort((a, b) => Number((a.offset ?? 0n) - (b.offset ?? 0n)));
  const reasons = undispatchedOf(attachment.report)
    .sort(([, a], [, b]) => (a < b ? 1 : a > b ? -1 : 0))
    .map(([name, count]) => ({ name, count, text: REASONS[name] ?? '' }));
  return {
    attachment: tell.message(attachment),
    arenaBase: attachment.facts.arenaBase,
    ranges: ranges.slice(0, EXPLAIN_RANGES_MAX),
    totalCount: BigInt(ranges.length),
    reasons,
    ...(attachment.owners.learned ? { step: stepFacts(attachment.owners.learned) } : {}),
  };
}

function stepFacts(step: LearnedStep): MessageInitShape<typeof LearnedStepSchema> {
  return {
    launchCount: BigInt(step.launchCount),
    rangeCount: BigInt(step.ranges.size),
    crossingBeforeCount: BigInt(step.crossingsBefore),
    crossingNowCount: BigInt(step.crossingsNow),
    crossingPlannedCount: BigInt(step.crossingsPlanned),
    movedCount: BigInt(step.movedCount),
    movedBytes: BigInt(step.movedBytes),
  };
}

function undispatchedOf(report: Report | undefined): [string, bigint][] {
  return UNDISPATCHED.flatMap((name, index): [string, bigint][] => {
    const count = report?.undispatched_count[index] ?? 0n;
    return name === '' || count === 0n ? [] : [[name, count]];
  });
}

/** Leases whose feeder runs kernels, and those where some ran. */
function launchOwners(
  { budget, lanes, replicas, facts }: Attachment,
  computes: Computes,
): MessageInitShape<typeof LaunchOwnerSchema>[] {
  const reports = new Map(lanes.all.map(({ report }) => [report.lane, report]));
  return budget.holds.flatMap(({ feederId, feederName, lane, state }) => {
    const report = reports.get(lane);
    const launchCount = report?.launch_count ?? 0n;
    const runs = facts.dispatch && computes.computeOf(feederId) !== undefined;
    if (state === 'lost' || (launchCount === 0n && !runs)) return [];
    const replicaBytes = replicas.all
      .filter((copy) => copy.lane === lane)
      .reduce((sum, { length }) => sum + length, 0);
    return {
      feederId,
      feederName,
      lane,
      launchCount,
      crossingCount: report?.crossing_count ?? 0n,
      crossingSentBytes: report?.crossing_bytes_out ?? 0n,
      crossingReceivedBytes: report?.crossing_bytes_in ?? 0n,
      replicaBytes: BigInt(replicaBytes),
    };
  });
}

function ownedRanges({ copies, facts, owners }: Attachment, computes: Computes): PlacedInit[] {
  return copies.residency.all.flatMap((extent) =>
    extent.copies.map((copy) => ({
      ...placed(copy),
      offset: BigInt(extent.offset),
      length: BigInt(extent.length),
      kind: PlacedKind.OWNED,
      why: whyOwned(copy, facts.dispatch, computes) + whenUsed(extent.offset, owners.learned),
    })),
  );
}

function whyOwned(copy: Copy, dispatch: boolean, computes: Computes): string {
  const { feederName, feederId, deviceKey } = copy;
  if (copy.lost) return `its bytes are gone with feeder ${feederName}`;
  if (!dispatch) return 'it is brought back before a kernel that names it (no --remote merged)';
  const compute = computes.computeOf(feederId);
  if (compute?.deviceKeys.includes(deviceKey)) return 'kernels that name it run there';
  const why = compute ? 'kernels there cannot use that device' : 'that feeder runs no kernels';
  return `${why}: it is brought back before one that names it`;
}

/** Where in the learned step a range is used. */
function whenUsed(offset: number, step: LearnedStep | undefined): string {
  const used = step?.ranges.get(offset);
  if (!step || !used) return '';
  const launches =
    used.first === used.last
      ? `launch ${used.first + 1}`
      : `launches ${used.first + 1} to ${used.last + 1}`;
  return `; used by ${launches} of the ${step.launchCount} of a step`;
}

function replicaRanges({ replicas, facts }: Attachment): PlacedInit[] {
  const [kind, why] = facts.devices
    ? [PlacedKind.DEVICE, 'the program allocated it on that device (--remote devices)']
    : [
        PlacedKind.REPLICA,
        'its bytes lie with the program, too, for kernels here; only blocks that changed travel',
      ];
  return replicas.all.map((copy) => ({
    ...placed(copy),
    offset: BigInt(copy.offset),
    length: BigInt(copy.length),
    kind,
    why,
  }));
}

/** GPUs of feeders that the program sees as its own. */
function remoteDevices({
  devices,
  replicas,
}: Attachment): MessageInitShape<typeof RemoteDeviceSchema>[] {
  return devices.all.map(({ feederName, gpu, lane, capacityBytes }, index) => {
    const own = replicas.all.filter((copy) => copy.lane === lane && lane !== 0);
    return {
      index,
      feederId: devices.feederIds[index] ?? '',
      feederName,
      name: gpu?.name ?? '',
      lane,
      capacityBytes: BigInt(capacityBytes),
      usedBytes: BigInt(own.reduce((sum, { length }) => sum + length, 0)),
    };
  });
}

function placed({ feederId, feederName, deviceKey, lane, lost }: Copy): PlacedInit {
  const device = deviceKey === '' ? {} : { device: deviceFromKey(deviceKey) };
  return { feederId, feederName, lane, lost, ...device };
}
