// SPDX-License-Identifier: Apache-2.0
// Programs after their end: what they last reported, and how long they were in each phase. Bounded;
// lives as long as the agent.
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { Clock } from '../../proto/base/clock.js';
import { PROGRAMS_KEPT_MAX } from '../../proto/base/limits.js';
import type { AttachmentSchema, ProgramSchema } from '../../proto/gen/greenboost/v1/control_pb.js';
import type { Attachment } from '../attachments/attachment.js';
import { PHASES } from '../shim/abi.js';

type ProgramInit = MessageInitShape<typeof ProgramSchema>;
type Message = (attachment: Attachment) => MessageInitShape<typeof AttachmentSchema>;

/** Times of one running program, up to its last report. */
interface Course {
  phase: string;
  sinceMs: number;
  readonly phaseMs: Map<string, number>;
}

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
    if (!course) this.courses.set(attachment.id, { phase, sinceMs: nowMs, phaseMs: new Map() });
    else if (course.phase !== phase) {
      addPhase(course, nowMs);
      course.phase = phase;
      course.sinceMs = nowMs;
    }
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
      runId: attachment.facts.runId,
      phaseMs: Object.fromEntries(
        [...phaseMs].map(([phase, ms]) => [phase, BigInt(Math.round(ms))]),
      ),
    };
  }
}

function addPhase({ phase, sinceMs, phaseMs }: Course, nowMs: number): void {
  phaseMs.set(phase, (phaseMs.get(phase) ?? 0) + nowMs - sinceMs);
}
