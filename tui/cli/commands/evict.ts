// SPDX-License-Identifier: Apache-2.0
// `greenboost evict`: takes VRAM from a program, once; what it uses again comes back.
import { GbError } from '../../../proto/base/errors.js';
import { formatBytes, parseBytes } from '../../../proto/base/units.js';
import { withAgent } from '../../control/client.js';
import { SCHEMA_VERSION } from '../../model/snapshot.js';
import { writeJson, writeLine } from '../output.js';
import { epochOf, showActionPlan, type PlannedOptions } from './action-plan.js';

const PID_MAX = 2 ** 22;
const TIMEOUT_SECONDS_MAX = 600;
/** For the answer, after the agent has given up waiting. */
const ANSWER_MS = 5_000;

export interface EvictOptions extends PlannedOptions {
  readonly bytes?: string;
  readonly timeout: string;
}

/** Moves bytes of a program from VRAM to RAM. @throws GbError NOT_FOUND, CAPACITY_EXHAUSTED when RAM has no room,
 *  DEADLINE_EXCEEDED, EPOCH_STALE, INVALID_ARGUMENT. */
export async function evictProgram(pidText: string, options: EvictOptions): Promise<void> {
  const pid = Number(pidText);
  if (!Number.isInteger(pid) || pid < 1 || pid > PID_MAX)
    throw new GbError('INVALID_ARGUMENT', 'evict takes the pid of a running program');
  const seconds = Number(options.timeout);
  if (!(seconds > 0 && seconds <= TIMEOUT_SECONDS_MAX)) {
    const text = `--timeout takes seconds up to ${TIMEOUT_SECONDS_MAX}`;
    throw new GbError('INVALID_ARGUMENT', text);
  }
  const bytes = options.bytes === undefined ? 0 : parseBytes(options.bytes);
  if (options.dryRun) return showActionPlan('evict', { pid, bytes }, options);
  const timeoutMs = Math.ceil(seconds * 1000);
  const request = { pid, bytes: BigInt(bytes), timeoutMs, epoch: epochOf(options) };
  const { evictedBytes, vramUsedBytes } = await withAgent((client) =>
    client.evict(request, { timeoutMs: timeoutMs + ANSWER_MS }),
  );
  if (options.json) {
    const figures = { evictedBytes: Number(evictedBytes), vramUsedBytes: Number(vramUsedBytes) };
    writeJson<'evict'>({ schemaVersion: SCHEMA_VERSION, pid, ...figures });
    return;
  }
  writeLine(
    `pid ${pid}: ${formatBytes(evictedBytes)} left VRAM, ${formatBytes(vramUsedBytes)} there`,
  );
}
