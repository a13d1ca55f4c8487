// SPDX-License-Identifier: Apache-2.0
// Is a process still the one we met? A pid alone does not say so; pid and start time do.
import { open, readFile } from 'node:fs/promises';
import { ENVIRON_BYTES_MAX } from '../../proto/base/limits.js';

export interface ProcessIdentity {
  readonly pid: number;
  /** Clock ticks since boot, field 22 of /proc/PID/stat. */
  readonly startTicks: number;
}

/** Start time and state out of /proc/PID/stat, or undefined when the text is not of that form. The
 *  command's name is in parentheses and may hold anything, also parentheses. */
export function parseProcStat(text: string): { startTicks: number; state: string } | undefined {
  const end = text.lastIndexOf(')');
  if (end < 0) return undefined;
  const fields = text
    .slice(end + 1)
    .trim()
    .split(/\s+/);
  const state = fields[0] ?? '';
  const startTicks = Number(fields[19]);
  if (!/^[A-Za-z]$/.test(state) || !Number.isSafeInteger(startTicks) || fields[19] === undefined)
    return undefined;
  return { startTicks, state };
}

/** The identity of a running process; undefined when it is gone or a zombie. */
export async function identifyProcess(pid: number): Promise<ProcessIdentity | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
  const stat = text === undefined ? undefined : parseProcStat(text);
  if (!stat || stat.state === 'Z' || stat.state === 'X') return undefined;
  return { pid, startTicks: stat.startTicks };
}

/** True while that very process runs. */
export async function isSameProcess(identity: ProcessIdentity): Promise<boolean> {
  return (await identifyProcess(identity.pid))?.startTicks === identity.startTicks;
}

const RUN_ID = /(?:^|\0)GREENBOOST_RUN_ID=([0-9a-f]{16})(?:\0|$)/;

/** GREENBOOST_RUN_ID out of the environment the process was started with; empty when there is none. */
export async function readRunId(pid: number): Promise<string> {
  const file = await open(`/proc/${pid}/environ`, 'r').catch(() => undefined);
  if (!file) return '';
  try {
    // The kernel gives at most a page a read.
    const buffer = Buffer.alloc(ENVIRON_BYTES_MAX);
    let length = 0;
    for (;;) {
      const { bytesRead } = await file.read(buffer, length, buffer.length - length, null);
      if (bytesRead === 0) break;
      length += bytesRead;
    }
    return RUN_ID.exec(buffer.toString('latin1', 0, length))?.[1] ?? '';
  } catch {
    return '';
  } finally {
    await file.close();
  }
}
