// SPDX-License-Identifier: Apache-2.0
// The audit log: who was let in and who was not, which keys and tickets came and went. One JSON object a line, appended
// by every daemon and command of this user to `audit.jsonl` (0600) in the state folder; files that are full are kept
// under numbers, and the oldest goes. It holds names of keys, never keys. A log that cannot be written stops nobody.
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { systemClock, type Clock, type Timer } from '../proto/base/clock.js';
import { GbError } from '../proto/base/errors.js';
import {
  AUDIT_FILE_BYTES_MAX,
  AUDIT_FILES_MAX,
  AUDIT_LINE_BYTES_MAX,
  AUDIT_REFUSALS_MAX,
  AUDIT_REFUSAL_INTERVAL_MS,
} from '../proto/base/limits.js';
import type { Logger } from '../proto/base/log.js';
import { ensurePrivateDir } from '../proto/base/paths.js';
import { withPrivateFileLock } from './private-file.js';

/** Who wrote a line. */
export type AuditWriter = 'feeder' | 'agent' | 'command';

/** What may be written; new kinds may come, the present ones stay. */
export type AuditKind =
  | 'feeder_started' // fingerprints of the keys it accepts
  | 'feeder_stopped'
  | 'session_opened' // a peer proved that it holds a key
  | 'session_named' // and said in Hello which host it is
  | 'session_closed'
  | 'session_refused' // before or after the proof; the reason is told to nobody else
  | 'keys_changed' // fingerprints of the keys a running feeder accepts from now on
  | 'key_added'
  | 'key_removed'
  | 'lane_ticket' // a ticket for bulk bytes was given to a session
  | 'lane_opened'
  | 'lane_closed'
  | 'lane_refused'
  | 'link_opened' // the host's side of a session
  | 'link_closed'
  | 'link_refused';

/** Facts beside the kind: identifiers, addresses, fingerprints, counts. */
export type AuditFacts = Readonly<
  Record<string, string | number | boolean | readonly string[] | undefined>
>;

export interface AuditLog {
  /** Writes a line now; its time is UTC in ISO 8601. Never throws. */
  record(event: AuditKind, facts: AuditFacts): void;
  /** The same for what strangers can cause: the first of each address and reason at once, those that follow within a
   *  minute as one line with their `count`. */
  refused(
    event: AuditKind,
    facts: AuditFacts & { readonly address: string; readonly reason: string },
  ): void;
  /** Writes what is still counted. Nothing may be recorded afterwards. */
  close(): void;
}

export interface AuditOptions {
  readonly stateDir: string;
  readonly by: AuditWriter;
  readonly clock?: Clock;
  /** Told once when the file cannot be written. */
  readonly log?: Logger;
}

/** A link, a pipe or somebody else's file is not written to. */
const FLAGS =
  constants.O_WRONLY |
  constants.O_APPEND |
  constants.O_CREAT |
  constants.O_NOFOLLOW |
  constants.O_NONBLOCK;
const NEWLINE = Buffer.from('\n');

interface Refusal {
  readonly event: AuditKind;
  readonly facts: AuditFacts;
  count: number;
}

export function auditPath(stateDir: string): string {
  return join(stateDir, 'audit.jsonl');
}

/** Opens the log for one daemon or command; nothing is written yet. */
export function openAudit(options: AuditOptions): AuditLog {
  return new FileAudit(options);
}

class FileAudit implements AuditLog {
  private readonly path: string;
  private readonly clock: Clock;
  /** What has been refused in this interval, by address and reason. */
  private readonly refusals = new Map<string, Refusal>();
  private timer: Timer | undefined;
  private complained = false;
  private cut = false;

  constructor(private readonly options: AuditOptions) {
    this.path = auditPath(options.stateDir);
    this.clock = options.clock ?? systemClock;
  }

  record(event: AuditKind, facts: AuditFacts): void {
    const time = new Date(this.clock.unixMs()).toISOString();
    const text = lineOf({ time, by: this.options.by, event, ...facts });
    try {
      ensurePrivateDir(this.options.stateDir);
      this.append(Buffer.from(text, 'utf8'));
      this.complained = false;
    } catch (err) {
      if (this.complained) return;
      this.complained = true;
      this.options.log?.error(
        { event: 'audit_unwritable', err, path: this.path },
        'the audit log cannot be written',
      );
    }
  }

  refused(event: AuditKind, facts: AuditFacts & { address: string; reason: string }): void {
    const key = `${event} ${facts.address} ${facts.reason}`;
    const known = this.refusals.get(key);
    if (known) return void (known.count += 1);
    this.timer ??= this.clock.after(AUDIT_REFUSAL_INTERVAL_MS, () => this.flush());
    if (this.refusals.size >= AUDIT_REFUSALS_MAX) {
      // So many at once are a flood: from here on they are only counted, whoever they are.
      const rest = this.refusals.get('') ?? {
        event,
        facts: { address: '*', reason: 'flood' },
        count: 1,
      };
      this.refusals.set('', { ...rest, count: rest.count + 1 });
      return;
    }
    this.refusals.set(key, { event, facts, count: 1 });
    this.record(event, { ...facts, count: 1 });
  }

  close(): void {
    this.flush();
  }

  /** The first of each was written when it came. */
  private flush(): void {
    this.timer?.cancel();
    this.timer = undefined;
    const counted = [...this.refusals.values()];
    this.refusals.clear();
    for (const { event, facts, count } of counted) {
      if (count > 1) this.record(event, { ...facts, count: count - 1 });
    }
  }

  /** One write with O_APPEND: lines of several processes never mix. */
  private append(line: Buffer): void {
    const file = openSync(this.path, FLAGS, 0o600);
    let size: number;
    try {
      const stat = fstatSync(file);
      if (!stat.isFile() || stat.uid !== process.getuid?.() || (stat.mode & 0o077) !== 0) {
        throw new GbError(
          'PERMISSION_DENIED',
          `${this.path} must be a file of yours with mode 0600`,
        );
      }
      // What a full disk has cut short ends before the next line begins.
      const whole = this.cut ? Buffer.concat([NEWLINE, line]) : line;
      this.cut = writeSync(file, whole) < whole.length;
      if (this.cut) throw new GbError('CAPACITY_EXHAUSTED', `${this.path}: the disk is full`);
      size = stat.size + whole.length;
    } finally {
      closeSync(file);
    }
    if (size > AUDIT_FILE_BYTES_MAX) this.rotate();
  }

  private rotate(): void {
    withPrivateFileLock(this.path, () => {
      const size = statSync(this.path, { throwIfNoEntry: false })?.size ?? 0;
      if (size <= AUDIT_FILE_BYTES_MAX) return; // Another process was faster.
      rmSync(`${this.path}.${AUDIT_FILES_MAX - 1}`, { force: true });
      for (let number = AUDIT_FILES_MAX - 2; number >= 0; number--) {
        const from = number === 0 ? this.path : `${this.path}.${number}`;
        if (statSync(from, { throwIfNoEntry: false }))
          renameSync(from, `${this.path}.${number + 1}`);
      }
    });
  }
}

/** A line that fits; one that would not keeps its first facts and says so. */
function lineOf(facts: Readonly<Record<string, unknown>>): string {
  const text = `${JSON.stringify(facts)}\n`;
  if (Buffer.byteLength(text) <= AUDIT_LINE_BYTES_MAX) return text;
  const { time, by, event } = facts;
  return `${JSON.stringify({ time, by, event, cut: true, text: text.slice(0, 256) })}\n`;
}
