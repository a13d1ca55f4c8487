// SPDX-License-Identifier: Apache-2.0
// Takes VRAM from one program, once: its limit is lowered until it has shrunk to it, then given back. The program moves
// its bytes itself, when its GPU is idle for a moment, and brings back what it uses again.
import type { Clock } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import { EVICT_TIMEOUT_MS, EVICT_TIMEOUT_MS_MAX } from '../../proto/base/limits.js';
import { formatBytes } from '../../proto/base/units.js';
import type { VramArbiter } from '../attachments/arbiter.js';
import type { Attachment } from '../attachments/attachment.js';
import type { AttachmentRegistry } from '../attachments/registry.js';
import type { Ledger } from '../ledger.js';
import { evictable, programOf, ramRoom } from './plans.js';
import { until, type ChangeBus } from './stream.js';

export interface EvictionDeps {
  readonly registry: AttachmentRegistry;
  readonly ledger: Ledger;
  readonly arbiter: VramArbiter;
  readonly changes: ChangeBus;
  readonly clock: Clock;
}

export interface EvictionRequest {
  readonly pid: number;
  /** 0: all it has in VRAM. */
  readonly bytes: number;
  /** 0: EVICT_TIMEOUT_MS. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** Resolves when the program has shrunk. Cancel: `signal`; what has moved stays moved until it is used.
 *  @throws GbError NOT_FOUND; CAPACITY_EXHAUSTED when RAM has no room; WRONG_STATE while another eviction of it is
 *  under way; DEADLINE_EXCEEDED; CANCELED. */
export async function evict(
  request: EvictionRequest,
  deps: EvictionDeps,
): Promise<{ evictedBytes: bigint; vramUsedBytes: bigint }> {
  const attachment = programOf(request.pid, deps.registry);
  const { vramBytes, wantedBytes } = evictable(attachment, request.bytes);
  const roomBytes = ramRoom(attachment, deps.ledger);
  if (wantedBytes > roomBytes) {
    const text = `local RAM has room for ${formatBytes(roomBytes)} of ${formatBytes(wantedBytes)}`;
    const hint = 'evict less, or end a program that holds RAM';
    throw new GbError('CAPACITY_EXHAUSTED', text, { details: { hint } });
  }
  const targetBytes = vramBytes - wantedBytes;
  const release = deps.arbiter.hold(attachment, targetBytes);
  try {
    await shrunk(attachment, targetBytes, request, deps);
  } finally {
    release();
  }
  const left = evictable(attachment, 0).vramBytes;
  return { evictedBytes: BigInt(Math.max(0, vramBytes - left)), vramUsedBytes: BigInt(left) };
}

async function shrunk(
  attachment: Attachment,
  targetBytes: number,
  { pid, timeoutMs, signal }: EvictionRequest,
  { registry, changes, clock }: EvictionDeps,
): Promise<void> {
  const late = new AbortController();
  const limitMs = Math.min(timeoutMs || EVICT_TIMEOUT_MS, EVICT_TIMEOUT_MS_MAX);
  const timer = clock.after(limitMs, () => late.abort());
  const either = AbortSignal.any([signal, late.signal]);
  try {
    while (evictable(attachment, 0).vramBytes > targetBytes) {
      if (!registry.all.includes(attachment))
        throw new GbError('NOT_FOUND', `pid ${pid} has ended`);
      signal.throwIfAborted();
      if (late.signal.aborted) {
        const left = formatBytes(evictable(attachment, 0).vramBytes - targetBytes);
        throw new GbError('DEADLINE_EXCEEDED', `pid ${pid} still has ${left} too much in VRAM`, {
          details: { hint: 'its GPU was not idle long enough, or what it has there is pinned' },
        });
      }
      await until(either, (done) => changes.listen(done));
    }
  } finally {
    timer.cancel();
  }
}
