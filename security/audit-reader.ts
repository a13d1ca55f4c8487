// SPDX-License-Identifier: Apache-2.0
// Reads the audit log from its oldest line on, while others write and rotate it.
import { closeSync, fstatSync, openSync, readSync, statSync } from 'node:fs';
import { AUDIT_FILES_MAX } from '../proto/base/limits.js';
import { auditPath, type AuditWriter } from './audit.js';

export interface AuditLine {
  /** ISO 8601, UTC. */
  readonly time: string;
  readonly by: AuditWriter;
  readonly event: string;
  readonly [fact: string]: unknown;
}

const CHUNK_BYTES = 64 * 1024;
/** More without a newline is not ours. */
const LINE_BYTES_MAX = 1024 * 1024;

interface Place {
  readonly inode: bigint;
  offset: number;
  /** Read and not yet ended by a newline. */
  rest: Buffer;
}

/** Reads one line; undefined when it is none of ours (half written, edited by hand). */
export function parseAuditLine(text: string): AuditLine | undefined {
  try {
    const line = JSON.parse(text) as AuditLine;
    const { time, by, event } = line;
    return [time, by, event].every((field) => typeof field === 'string') ? line : undefined;
  } catch {
    return undefined;
  }
}

export class AuditReader {
  private place: Place | undefined;
  /** Lines that could not be read. */
  brokenCount = 0;

  constructor(private readonly stateDir: string) {}

  /** The lines since the last call, oldest first; all that are kept, the first time.
   *  @throws when a file cannot be read. */
  next(): AuditLine[] {
    const files = this.files();
    const known = files.findIndex(({ inode }) => inode === this.place?.inode);
    // A file that is gone meanwhile was read or has been rotated away: go on with the oldest that is left.
    return files.slice(Math.max(0, known)).flatMap((file) => {
      if (this.place?.inode !== file.inode)
        this.place = { inode: file.inode, offset: 0, rest: Buffer.alloc(0) };
      return this.read(file.path, this.place);
    });
  }

  /** Oldest first. */
  private files(): { path: string; inode: bigint }[] {
    const path = auditPath(this.stateDir);
    const numbers = Array.from(
      { length: AUDIT_FILES_MAX - 1 },
      (_, index) => AUDIT_FILES_MAX - 1 - index,
    );
    return [...numbers.map((number) => `${path}.${number}`), path].flatMap((file) => {
      const stat = statSync(file, { throwIfNoEntry: false, bigint: true });
      return stat?.isFile() ? [{ path: file, inode: stat.ino }] : [];
    });
  }

  private read(path: string, place: Place): AuditLine[] {
    const file = openSync(path, 'r');
    const lines: AuditLine[] = [];
    try {
      // Rotated this moment: the next call finds it.
      if (fstatSync(file, { bigint: true }).ino !== place.inode) return [];
      for (;;) {
        const chunk = Buffer.alloc(CHUNK_BYTES);
        const count = readSync(file, chunk, 0, CHUNK_BYTES, place.offset);
        if (count === 0) return lines;
        place.offset += count;
        this.cut(place, chunk.subarray(0, count), lines);
      }
    } finally {
      closeSync(file);
    }
  }

  private cut(place: Place, chunk: Buffer, lines: AuditLine[]): void {
    const texts = Buffer.concat([place.rest, chunk]).toString('latin1').split('\n');
    const rest = Buffer.from(texts.pop() as string, 'latin1');
    place.rest = rest.length > LINE_BYTES_MAX ? Buffer.alloc(0) : rest;
    for (const text of texts) {
      if (text === '') continue;
      const line = parseAuditLine(Buffer.from(text, 'latin1').toString('utf8'));
      if (line) lines.push(line);
      else this.brokenCount += 1;
    }
  }
}
