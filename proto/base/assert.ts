// SPDX-License-Identifier: Apache-2.0
// Broken invariants crash the daemon (its supervisor restarts it); expected failures are GbError, never this.

/** Throws when `condition` is false. `text` says which invariant is broken. */
export function assert(condition: boolean, text: string): asserts condition {
  if (!condition) throw new Error(`invariant broken: ${text}`);
}

/** For the default branch of a switch over a union: a compile error when a case is missing. */
export function assertNever(value: never): never {
  throw new Error(`invariant broken: unexpected value ${JSON.stringify(value)}`);
}
