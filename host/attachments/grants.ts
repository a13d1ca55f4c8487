// SPDX-License-Identifier: Apache-2.0
// What a program may hold in each tier, asked before memory is created. Feeder bytes of either kind
// are granted as T2R; the limit of T1R is therefore 0.
import { GbError } from '../../proto/base/errors.js';
import type { Ledger } from '../ledger.js';
import { AbiTier, RANGE_ALIGN } from '../shim/abi.js';
import type { VramArbiter } from './arbiter.js';
import type { Attachment } from './attachment.js';

/** Held and limit after the call, in bytes. `granted` is false when there is no room. */
export interface BudgetAnswer {
  readonly granted: boolean;
  readonly heldBytes: number;
  readonly limitBytes: number;
}

export class GrantDesk {
  constructor(
    private readonly ledger: Ledger,
    private readonly arbiter: VramArbiter,
  ) {}

  /** @throws GbError INVALID_ARGUMENT for another tier or feeder bytes that are no whole granules;
   *  PERMISSION_DENIED for feeder bytes of a program that does not run gated; FEEDER_UNREACHABLE when
   *  nobody has room but a feeder of the program's is not back yet, which is no "no". */
  async grant(attachment: Attachment, tier: number, bytes: number): Promise<BudgetAnswer> {
    let granted = true;
    if (tier === AbiTier.T1) attachment.t1HeldBytes += bytes;
    else if (tier === AbiTier.T3) attachment.t3HeldBytes += bytes;
    else if (tier === AbiTier.T2) granted = this.grantRam(attachment, bytes);
    else if (tier === AbiTier.T2R) granted = await this.grantFeeder(attachment, bytes);
    else throw new GbError('INVALID_ARGUMENT', `nothing is granted in tier ${tier}`);
    return this.answer(attachment, tier, granted);
  }

  /** More than is held is taken as all. @throws GbError INVALID_ARGUMENT for another tier. */
  async giveBack(attachment: Attachment, tier: number, bytes: number): Promise<BudgetAnswer> {
    if (tier === AbiTier.T1) attachment.t1HeldBytes = Math.max(0, attachment.t1HeldBytes - bytes);
    else if (tier === AbiTier.T3)
      attachment.t3HeldBytes = Math.max(0, attachment.t3HeldBytes - bytes);
    else if (tier === AbiTier.T2) this.ledger.release(attachment.id, bytes);
    else if (tier === AbiTier.T2R) await attachment.budget.shrink(bytes);
    else throw new GbError('INVALID_ARGUMENT', `nothing is held in tier ${tier}`);
    return this.answer(attachment, tier, true);
  }

  /** What could be held in all per tier, in the order of enum gb_tier; undefined: no limit of ours.
   *  */
  limits(attachment: Attachment): readonly (number | undefined)[] {
    const { facts, budget, id } = attachment;
    const ramBytes = this.ledger.heldBytes(id) + this.ledger.headroomBytes;
    return [
      this.arbiter.limitOf(attachment),
      Math.min(facts.ramBudgetBytes ?? ramBytes, ramBytes),
      0,
      facts.gated ? budget.limitBytes : 0,
      undefined,
    ];
  }

  private answer(attachment: Attachment, tier: number, granted: boolean): BudgetAnswer {
    const limitBytes = this.limits(attachment)[tier] ?? Number.MAX_SAFE_INTEGER;
    return { granted, heldBytes: this.heldBytes(attachment, tier), limitBytes };
  }

  private heldBytes(attachment: Attachment, tier: number): number {
    switch (tier) {
      case AbiTier.T1:
        return attachment.t1HeldBytes;
      case AbiTier.T2:
        return this.ledger.heldBytes(attachment.id);
      case AbiTier.T3:
        return attachment.t3HeldBytes;
      default:
        return attachment.budget.heldBytes;
    }
  }

  private grantRam({ id, facts }: Attachment, bytes: number): boolean {
    const ownLimit = facts.ramBudgetBytes ?? Number.MAX_SAFE_INTEGER;
    if (this.ledger.heldBytes(id) + bytes > ownLimit) return false;
    return this.ledger.grant(id, bytes);
  }

  private async grantFeeder({ budget, facts }: Attachment, bytes: number): Promise<boolean> {
    if (!facts.gated)
      throw new GbError('PERMISSION_DENIED', 'feeder memory needs --overcommit gated');
    if (bytes % RANGE_ALIGN !== 0)
      throw new GbError('INVALID_ARGUMENT', 'feeder bytes are granted in whole 2 MiB');
    if (bytes === 0 || (await budget.grow(bytes))) return true;
    if (budget.waits)
      throw new GbError('FEEDER_UNREACHABLE', 'a feeder that may have room is not back yet');
    return false;
  }
}
