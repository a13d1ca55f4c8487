// SPDX-License-Identifier: Apache-2.0
// The lanes of one program: tickets for it, and what it tells of them. Its bytes go to feeders by
// themselves; here they are only counted.
import { LaneStatus } from '../../driver/lane/names.js';
import { GbError } from '../../proto/base/errors.js';
import { LaneRight } from '../../proto/gen/greenboost/v1/feeder_pb.js';
import type { LaneTicket } from '../links/feeder-client.js';
import type { LaneReport } from '../shim/abi.js';
import type { Copies } from './copies.js';
import type { FeederBudget } from './feeder-budget.js';
import type { FeederDirectory, Hold } from './holds.js';
import { lossOf } from './pieces.js';

/** A lane of a program as it last told of it. */
export interface LaneFacts {
  readonly feederId: string;
  readonly feederName: string;
  readonly report: LaneReport;
}

export interface LaneOpening {
  readonly hold: Hold;
  /** It takes calls; on which GPU: major * 10 + minor. */
  readonly computeCapability: number | undefined;
  readonly ticket: LaneTicket & { readonly connections: number };
}

/** Sockets for bulk of one lane; one more carries small demand requests. */
export const LANE_CONNECTIONS = 1;

export class LaneBook {
  private readonly reports = new Map<number, LaneReport>();
  /** Lanes of an earlier agent: what they moved before we first hear of them was its account. */
  private readonly inherited = new Set<number>();

  constructor(
    private readonly budget: FeederBudget,
    private readonly copies: Copies,
    private readonly directory: FeederDirectory,
    private readonly facts: () => { readonly arenaBytes: number; readonly dispatch: boolean },
    /** A lane has broken. */
    private readonly onBroken: (hold: Hold, report: LaneReport) => void,
  ) {}

  /** A lease that an earlier agent made. */
  inherit(lane: number): void {
    this.inherited.add(lane);
  }

  /** A ticket for the lane of that number, to the whole arena. @throws GbError FEEDER_UNREACHABLE:
   *  ask again; DATA_LOSS: the lease is gone; NOT_FOUND. */
  async ticket(lane: number): Promise<LaneOpening> {
    const hold = this.budget.holds.find((candidate) => candidate.lane === lane && lane !== 0);
    if (!hold) throw new GbError('NOT_FOUND', `lane ${lane} is none of this program's`);
    if (hold.state === 'lost') throw lossOf(hold);
    const { arenaBytes, dispatch } = this.facts();
    const compute = dispatch ? this.directory.computeOf(hold.feederId) : undefined;
    const wish = {
      offset: 0,
      length: arenaBytes,
      rights: compute ? LaneRight.READ_WRITE_CALL : LaneRight.READ_WRITE,
      connections: LANE_CONNECTIONS,
    };
    const ticket = await this.copies.onLease(hold, (client) => client.openLane(hold, wish));
    const computeCapability = compute?.capability;
    return { hold, computeCapability, ticket: { ...ticket, connections: wish.connections } };
  }

  /** What the program says of one lane: counters since the lease was made. */
  note(report: LaneReport): void {
    const hold = this.budget.holds.find(({ lane }) => lane === report.lane && lane !== 0);
    if (!hold) return;
    const inherited = this.inherited.delete(report.lane);
    const before = this.reports.get(report.lane) ?? (inherited ? report : undefined);
    this.reports.set(report.lane, report);
    const sent = grown(report.bytes_written, before?.bytes_written);
    const received = grown(report.bytes_read, before?.bytes_read);
    this.directory.noteTraffic(hold.feederId, sent, received);
    const broken = report.state !== LaneStatus.OK && report.state !== LaneStatus.CLOSED;
    if (broken && (before?.state ?? LaneStatus.OK) !== report.state) {
      this.onBroken(hold, report);
      this.directory.suspect(hold.feederId);
    }
  }

  /** Lanes of leases that have ended are forgotten. */
  get all(): LaneFacts[] {
    const facts: LaneFacts[] = [];
    for (const [lane, report] of this.reports) {
      const hold = this.budget.holds.find((candidate) => candidate.lane === lane);
      if (hold && hold.state !== 'lost') facts.push({ ...nameOf(hold), report });
      else this.reports.delete(lane);
    }
    return facts;
  }
}

/** A counter that fell has begun anew. */
function grown(now: bigint, before = 0n): number {
  return Number(now >= before ? now - before : now);
}

const nameOf = ({ feederId, feederName }: Hold): { feederId: string; feederName: string } => ({
  feederId,
  feederName,
});
