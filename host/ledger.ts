// SPDX-License-Identifier: Apache-2.0
// The only account of T2. HOST_NUMA memory shows in no process's RSS, memlock or cgroup figure, so
// every byte is granted here before it is created and returned here after it was destroyed. No I/O;
// the figures are brought in.
import { assert } from '../proto/base/assert.js';
import { MEMORY_PRESSURE_PERCENT_MAX } from '../proto/base/limits.js';

export interface MemoryFigures {
  /** MemAvailable of /proc/meminfo. */
  readonly availableBytes: number;
  /** PSI memory some avg10 in percent, or -1 where the kernel has none. */
  readonly pressurePercent: number;
}

export interface LedgerOptions {
  /** Left to the machine's own user. */
  readonly reserveBytes: number;
  /** A budget that holds whatever MemAvailable says; undefined: MemAvailable decides. */
  readonly fixedBudgetBytes?: number | undefined;
}

interface Account {
  grantedBytes: number;
  /** What the shim last said it holds; the rest of the grant is not in MemAvailable yet. */
  createdBytes: number;
}

/** Invariant: grantedBytes is the sum over accounts, and a grant never raised it above the budget
 *  of that moment. */
export class Ledger {
  private readonly accounts = new Map<string, Account>();
  private figures: MemoryFigures = { availableBytes: 0, pressurePercent: -1 };

  constructor(private readonly options: LedgerOptions) {}

  /** Sum of all grants. */
  get grantedBytes(): number {
    return sum(this.accounts, (account) => account.grantedBytes);
  }

  get reserveBytes(): number {
    return this.options.reserveBytes;
  }

  /** False while the machine stalls for memory: nothing is granted then. */
  get mayGrow(): boolean {
    return this.figures.pressurePercent <= MEMORY_PRESSURE_PERCENT_MAX;
  }

  /** What all grants together may reach at this moment. MemAvailable has fallen by what was
   *  created, so a grant that was not created yet is taken off once more. */
  get budgetBytes(): number {
    const { fixedBudgetBytes, reserveBytes } = this.options;
    if (fixedBudgetBytes !== undefined) return Math.max(fixedBudgetBytes, this.grantedBytes);
    return this.grantedBytes + this.headroomByMemory(reserveBytes);
  }

  /** What could be granted now. */
  get headroomBytes(): number {
    if (!this.mayGrow) return 0;
    return Math.max(0, this.budgetBytes - this.grantedBytes);
  }

  observe(figures: MemoryFigures): void {
    this.figures = figures;
  }

  heldBytes(account: string): number {
    return this.accounts.get(account)?.grantedBytes ?? 0;
  }

  /** True when granted; all or nothing. */
  grant(account: string, bytes: number): boolean {
    assert(Number.isSafeInteger(bytes) && bytes >= 0, 'a grant is a byte count');
    if (bytes > this.headroomBytes) return false;
    this.entry(account).grantedBytes += bytes;
    return true;
  }

  /** Returns what was taken off: never more than was held. */
  release(account: string, bytes: number): number {
    assert(Number.isSafeInteger(bytes) && bytes >= 0, 'a return is a byte count');
    const entry = this.accounts.get(account);
    if (!entry) return 0;
    const taken = Math.min(bytes, entry.grantedBytes);
    entry.grantedBytes -= taken;
    entry.createdBytes = Math.min(entry.createdBytes, entry.grantedBytes);
    return taken;
  }

  /** A program that came back says what it holds: that memory exists, so it is booked whatever the
   *  budget says. */
  adopt(account: string, bytes: number): void {
    const entry = this.entry(account);
    entry.grantedBytes = bytes;
    entry.createdBytes = bytes;
  }

  /** The program reported what it has created of its grant. */
  report(account: string, createdBytes: number): void {
    const entry = this.accounts.get(account);
    if (entry) entry.createdBytes = Math.min(createdBytes, entry.grantedBytes);
  }

  /** The program is gone and its memory with it. */
  close(account: string): void {
    this.accounts.delete(account);
  }

  private headroomByMemory(reserveBytes: number): number {
    const uncreatedBytes = sum(
      this.accounts,
      (account) => account.grantedBytes - account.createdBytes,
    );
    return Math.max(0, this.figures.availableBytes - reserveBytes - uncreatedBytes);
  }

  private entry(account: string): Account {
    const found = this.accounts.get(account);
    if (found) return found;
    const created = { grantedBytes: 0, createdBytes: 0 };
    this.accounts.set(account, created);
    return created;
  }
}

function sum(accounts: ReadonlyMap<string, Account>, value: (account: Account) => number): number {
  let total = 0;
  for (const account of accounts.values()) total += value(account);
  return total;
}
