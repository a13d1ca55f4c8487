// SPDX-License-Identifier: Apache-2.0
// Shares the VRAM of each GPU among the programs on it. Decides with placement/shares; knows what
// programs report and what NVML counts. One program alone has no limit of ours.
import type { Clock } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import {
  VRAM_IDLE_MS,
  VRAM_OTHERS_SAMPLES,
  VRAM_RESERVE_BYTES,
  VRAM_RESERVE_PART,
  VRAM_SHARE_INTERVAL_MS,
} from '../../proto/base/limits.js';
import { formatBytes } from '../../proto/base/units.js';
import type { EventLog } from '../control/events.js';
import { nextShares, type ShareMember, type Shares } from '../placement/shares.js';
import { AbiTier, PHASES } from '../shim/abi.js';
import type { LocalGpu } from '../tiers/gpu.js';
import type { Attachment } from './attachment.js';

interface DeviceShares {
  shares: Shares;
  changedMs: number;
  /** VRAM used by programs that are not ours, as last seen; the smallest counts, because NVML and
   *  the programs' reports are not of the same moment. */
  othersBytes: number[];
}

export interface ArbiterDeps {
  readonly clock: Clock;
  readonly events: EventLog;
  readonly attachments: () => readonly Attachment[];
}

export class VramArbiter {
  private readonly devices = new Map<string, DeviceShares>();
  private readonly idleSinceMs = new Map<string, number>();
  /** By attachment, while bytes of it are being evicted. */
  private readonly ceilings = new Map<string, number>();

  constructor(private readonly deps: ArbiterDeps) {}

  /** What the program may hold in VRAM now, its own budget included; undefined: no limit. */
  limitOf({ id, facts }: Attachment): number | undefined {
    const share = this.devices.get(facts.deviceUuid)?.shares.get(id);
    const limits = [share, facts.vramBudgetBytes, this.ceilings.get(id)];
    const known = limits.filter((limit) => limit !== undefined);
    return known.length > 0 ? Math.min(...known) : undefined;
  }

  /** Holds a program at `bytes` of VRAM until the result is called. One at a time for each program.
   *  @throws GbError WRONG_STATE when it is held already. */
  hold({ id, facts }: Attachment, bytes: number): () => void {
    if (this.ceilings.has(id)) {
      const text = `bytes of pid ${facts.identity.pid} are being evicted already`;
      throw new GbError('WRONG_STATE', text, { details: { hint: 'wait until that is done' } });
    }
    this.ceilings.set(id, bytes);
    return () => void this.ceilings.delete(id);
  }

  /** GPUs as NVML counts them now. */
  observe(gpus: readonly LocalGpu[]): void {
    for (const { uuid, usedBytes } of gpus) {
      if (usedBytes === undefined) continue;
      const ours = this.on(uuid).reduce((sum, attachment) => sum + vramOf(attachment), 0);
      const { othersBytes } = this.entry(uuid);
      othersBytes.push(Math.max(0, usedBytes - ours));
      if (othersBytes.length > VRAM_OTHERS_SAMPLES) othersBytes.shift();
    }
  }

  /** Decides anew: after a program came, and every so often. */
  update(): void {
    const nowMs = this.deps.clock.nowMs();
    const known = this.deps.attachments();
    this.noteIdle(known, nowMs);
    const uuids = new Set([...known.map(({ facts }) => facts.deviceUuid), ...this.devices.keys()]);
    for (const uuid of uuids) if (uuid !== '') this.share(uuid, nowMs);
  }

  private share(uuid: string, nowMs: number): void {
    const attachments = this.on(uuid);
    const entry = this.entry(uuid);
    if (attachments.length < 2) {
      if (entry.shares.size > 0) this.tell(uuid, attachments, 'one program has it alone again');
      entry.shares = new Map();
      return;
    }
    const members = attachments.map((attachment) => this.memberOf(attachment, nowMs));
    const totalBytes = Math.max(...attachments.map(({ facts }) => facts.deviceTotalBytes));
    const capacityBytes = this.capacity(entry, totalBytes);
    const next = nextShares(entry.shares, capacityBytes, members);
    if (next === entry.shares) return;
    const sameMembers =
      next.size === entry.shares.size && [...next.keys()].every((key) => entry.shares.has(key));
    const sum = [...entry.shares.values()].reduce((total, share) => total + share, 0);
    const mayWait = sameMembers && sum <= capacityBytes;
    if (mayWait && nowMs - entry.changedMs < VRAM_SHARE_INTERVAL_MS) return;
    entry.shares = next;
    entry.changedMs = nowMs;
    if (!sameMembers) this.tell(uuid, attachments, describe(attachments, next));
  }

  private capacity({ othersBytes }: DeviceShares, totalBytes: number): number {
    const reserveBytes = Math.min(VRAM_RESERVE_BYTES, totalBytes / VRAM_RESERVE_PART);
    const others = othersBytes.length > 0 ? Math.min(...othersBytes) : 0;
    return Math.max(0, totalBytes - reserveBytes - others);
  }

  private memberOf(attachment: Attachment, nowMs: number): ShareMember {
    const since = this.idleSinceMs.get(attachment.id);
    return {
      key: attachment.id,
      demandBytes: demandOf(attachment),
      ceilingBytes: attachment.facts.vramBudgetBytes,
      idle: since !== undefined && nowMs - since >= VRAM_IDLE_MS,
    };
  }

  private noteIdle(attachments: readonly Attachment[], nowMs: number): void {
    const known = new Set(attachments.map(({ id }) => id));
    for (const id of this.idleSinceMs.keys()) if (!known.has(id)) this.idleSinceMs.delete(id);
    for (const { id, report } of attachments) {
      if (PHASES[report?.phase ?? 0] !== 'idle') this.idleSinceMs.delete(id);
      else if (!this.idleSinceMs.has(id)) this.idleSinceMs.set(id, nowMs);
    }
  }

  private on(uuid: string): Attachment[] {
    return this.deps.attachments().filter(({ facts }) => facts.deviceUuid === uuid);
  }

  private entry(uuid: string): DeviceShares {
    const found = this.devices.get(uuid);
    if (found) return found;
    const created = { shares: new Map(), changedMs: 0, othersBytes: [] };
    this.devices.set(uuid, created);
    return created;
  }

  private tell(uuid: string, attachments: readonly Attachment[], text: string): void {
    const subject = attachments[0]?.facts.deviceName || uuid;
    this.deps.events.add('info', 'vram_shared', subject, text);
  }
}

function vramOf({ report }: Attachment): number {
  return Number(report?.used_bytes[AbiTier.T1] ?? 0n);
}

/** What it would hold in VRAM: all its bytes wherever they lie. Frames hold copies of bytes that
 *  have a place in RAM. */
function demandOf({ report }: Attachment): number {
  if (!report) return 0;
  const all = report.used_bytes.reduce((sum, bytes) => sum + bytes, 0n);
  return Math.max(0, Number(all - report.frame_bytes));
}

function describe(attachments: readonly Attachment[], shares: Shares): string {
  const parts = attachments
    .slice(0, 4)
    .map(({ id, facts }) => `pid ${facts.identity.pid} ${formatBytes(shares.get(id) ?? 0)}`);
  const more = attachments.length > 4 ? `, and ${attachments.length - 4} more` : '';
  return `shared by ${attachments.length} programs: ${parts.join(', ')}${more}`;
}
