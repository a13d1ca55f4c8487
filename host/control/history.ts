// SPDX-License-Identifier: Apache-2.0
// Programs after their end: what they last reported, and how long they were in each phase. Bounded;
// lives as long as the agent.
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { Clock } from '../../proto/base/clock.js';
import { PROGRAM_SAMPLES_MAX, PROGRAMS_KEPT_MAX } from '../../proto/base/limits.js';
import type {
  AttachmentSchema,
  ProgramSampleSchema,
  ProgramSchema,
} from '../../proto/gen/greenboost/v1/control_pb.js';
import type { Attachment } from '../attachments/attachment.js';
import { AbiTier, PHASES, type Report } from '../shim/abi.js';

type ProgramInit = MessageInitShape<typeof ProgramSchema>;
type SampleInit = MessageInitShape<typeof ProgramSampleSchema>;
type Message = (attachment: Attachment) => MessageInitShape<typeof AttachmentSchema>;

/** Times of one running program, up to its last report. */
interface Course {
  phase: string;
  sinceMs: number;
  readonly phaseMs: Map<string, number>;
  readonly firstMs: number;
  /** Samples are at least this far apart. */
  intervalMs: number;
  samples: SampleInit[];
}

/** The first distance of samples; it doubles whenever there are too many. */
const SAMPLE_INTERVAL_MS = 500;

export class ProgramHistory {
  private readonly courses = new Map<string, Course>();
  private readonly ended: ProgramInit[] = [];

  /** `message`: how an attachment is told. */
  constructor(
    private readonly clock: Clock,
    private readonly message: Message,
  ) {}

  /** The program has reported. */
  note(attachment: Attachment): void {
    const phase = PHASES[attachment.report?.phase ?? 0] ?? 'unknown';
    const nowMs = this.clock.nowMs();
    const course = this.courses.get(attachment.id);
    const begun = course ?? newCourse(phase, nowMs);
    if (!course) this.courses.set(attachment.id, begun);
    else if (course.phase !== phase) {
      addPhase(course, nowMs);
      course.phase = phase;
      course.sinceMs = nowMs;
    }
    if (attachment.report) addSample(begun, attachment.report, nowMs);
  }

  /** Takes the last account of a program that ends. */
  end(attachment: Attachment): void {
    const endedUnixMs = BigInt(Math.floor(this.clock.unixMs()));
    this.ended.push({ ...this.programOf(attachment), endedUnixMs });
    if (this.ended.length > PROGRAMS_KEPT_MAX) this.ended.shift();
    this.courses.delete(attachment.id);
  }

  /** Ended ones first, each oldest first. */
  programs(running: readonly Attachment[]): ProgramInit[] {
    return [...this.ended, ...running.map((attachment) => this.programOf(attachment))];
  }

  private programOf(attachment: Attachment): ProgramInit {
    const course = this.courses.get(attachment.id);
    const phaseMs = new Map(course?.phaseMs);
    if (course) addPhase({ ...course, phaseMs }, this.clock.nowMs());
    return {
      attachment: this.message(attachment),
      samples: course?.samples ?? [],
      runId: attachment.facts.runId,
      phaseMs: Object.fromEntries(
        [...phaseMs].map(([phase, ms]) => [phase, BigInt(Math.round(ms))]),
      ),
    };
  }
}

function newCourse(phase: string, nowMs: number): Course {
  return {
    phase,
    sinceMs: nowMs,
    phaseMs: new Map(),
    firstMs: nowMs,
    intervalMs: SAMPLE_INTERVAL_MS,
    samples: [],
  };
}

/** The last sample is always the newest report; it stays only if it is far enough from the one before. */
function addSample(course: Course, report: Report, nowMs: number): void {
  const { samples, intervalMs, firstMs } = course;
  const bytes = (tier: number): bigint => report.used_bytes[tier] ?? 0n;
  const sample: SampleInit = {
    atMs: BigInt(Math.round(nowMs - firstMs)),
    vramBytes: bytes(AbiTier.T1),
    ramBytes: bytes(AbiTier.T2),
    feederBytes: bytes(AbiTier.T1R) + bytes(AbiTier.T2R),
    nvmeBytes: bytes(AbiTier.T3),
    fetchBytes: report.fetch_bytes,
    evictBytes: report.evict_bytes,
    stagedInBytes: report.stage_in_bytes,
    stagedOutBytes: report.stage_out_bytes,
    stallMicros: report.stall_micros,
    launchCount: report.launch_count,
  };
  const [before, last] = [samples.at(-2), samples.at(-1)];
  if (before && last && Number(last.atMs) - Number(before.atMs) < intervalMs) samples.pop();
  samples.push(sample);
  if (samples.length < PROGRAM_SAMPLES_MAX) return;
  course.samples = samples.filter((_, index) => index % 2 === 0 || index === samples.length - 1);
  course.intervalMs *= 2;
}

function addPhase({ phase, sinceMs, phaseMs }: Course, nowMs: number): void {
  phaseMs.set(phase, (phaseMs.get(phase) ?? 0) + nowMs - sinceMs);
}
