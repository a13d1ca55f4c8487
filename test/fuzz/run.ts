// SPDX-License-Identifier: Apache-2.0
// Runs a property for GB_FUZZ_SECONDS (default 5). On failure fast-check prints the seed and the smallest input.
import fc from 'fast-check';

export const FUZZ_SECONDS = Number(process.env['GB_FUZZ_SECONDS'] ?? '5');

/** For jest: the property's own time and some for shrinking. */
export const FUZZ_TIMEOUT_MS = FUZZ_SECONDS * 1000 + 30_000;

/** Checks `property` on new inputs until the time is over. Throws when no input was tried. Returns how many were. */
export function fuzz<T>(property: fc.IPropertyWithHooks<T>): number {
  const details = fc.check(property, {
    numRuns: Number.MAX_SAFE_INTEGER,
    interruptAfterTimeLimit: FUZZ_SECONDS * 1000,
    markInterruptAsFailure: false,
  });
  if (details.failed)
    throw new Error(fc.defaultReportMessage(details as fc.RunDetailsFailureProperty<T>));
  if (details.numRuns === 0) throw new Error('no input was tried');
  return details.numRuns;
}
