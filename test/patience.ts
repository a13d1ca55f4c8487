// SPDX-License-Identifier: Apache-2.0
// How long tests wait for what comes sooner or later.

/** Asserts nothing: what is waited for comes at once on an idle machine, and late on one that is busy with something
 *  else. A time that the product promises is named where it is asserted instead. */
export const PATIENCE_MS = 60_000;
