// SPDX-License-Identifier: Apache-2.0
// `greenboost evict`: takes VRAM from a program, once; what it uses again comes back.
import { formatBytes, parseBytes } from '../../../proto/base/units.js';
import { withAgent } from '../../control/client.js';
import { SCHEMA_VERSION } from '../../model/snapshot.js';
import { parsePid, parseSeconds, SECONDS_MIN } from '../numbers.js';
import { writeJson, writeLine } from '../output.js';
import { epochOf, showActionPlan, type PlannedOptions } from './action-plan.js';

const TIMEOUT_SECONDS = { least: SECONDS_MIN, most: 600 };
/** For the answer, after the agent has given up waiting. */
const ANSWER_MS = 5_000;

export interface EvictOptions extends PlannedOptions {
  readonly bytes?: string;
  readonly timeout: string;
}

/** Moves bytes of a program from VRAM to RAM. @throws GbError NOT_FOUND, CAPACITY_EXHAUSTED when RAM has no room,
 *  DEADLINE_EXCEEDED, EPOCH_STALE, INVALID_ARGUMENT. */
export async function evictProgram(pidText: string, options: EvictOptions): Promise<void> {
  const pid = parsePid(pidText);
  const timeoutMs = parseSeconds('--timeout', options.timeout, TIMEOUT_SECONDS);
  const bytes = options.bytes === undefined ? 0 : parseBytes(options.bytes);
  if (options.dryRun) return showActionPlan('evict', { pid, bytes }, options);
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
