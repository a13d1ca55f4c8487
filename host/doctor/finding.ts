// SPDX-License-Identifier: Apache-2.0
// What a check found, and what all of them together mean.

/** `skipped`: it does not apply here, and `detail` says why. */
export type Outcome = 'ok' | 'warning' | 'failure' | 'skipped';

/** What stops working because of a failure. */
export type Concern = 'shim' | 'migration' | 'feeders' | 'lending';

export interface Finding {
  /** Stable, snake_case; docs/operating.md lists them. */
  readonly check: string;
  readonly outcome: Outcome;
  readonly concern: Concern;
  /** What was seen, in one line. */
  readonly detail: string;
  /** What to do about it; empty when there is nothing to do. */
  readonly fix: string;
}

/** A check may find several things: one for each GPU, feeder, file. */
export type Check = () => Promise<readonly Finding[]> | readonly Finding[];

export type Verdict = 'Ready' | 'Degraded' | 'ShimOnly' | 'Failed';

/** Worst first: nothing works; programs get local memory only; memory does not move; everything works. */
export function verdictOf(findings: readonly Finding[]): Verdict {
  const failed = new Set(
    findings.filter(({ outcome }) => outcome === 'failure').map(({ concern }) => concern),
  );
  if (failed.has('shim') || failed.has('lending')) return 'Failed';
  if (failed.has('feeders')) return 'ShimOnly';
  return failed.has('migration') ? 'Degraded' : 'Ready';
}

/** Makes the findings of one check. */
export function finder(
  check: string,
  concern: Concern,
): Readonly<Record<'ok' | 'skipped', (detail: string) => Finding>> &
  Readonly<Record<'warning' | 'failure', (detail: string, fix: string) => Finding>> {
  const make =
    (outcome: Outcome) =>
    (detail: string, fix = ''): Finding => ({ check, outcome, concern, detail, fix });
  return {
    ok: make('ok'),
    skipped: make('skipped'),
    warning: make('warning'),
    failure: make('failure'),
  };
}

/** Runs checks one after the other. A check that cannot be made is a finding, too. */
export async function runChecks(
  checks: Readonly<Record<string, { concern: Concern; run: Check }>>,
): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const [name, { concern, run }] of Object.entries(checks)) {
    try {
      findings.push(...(await run()));
    } catch (reason) {
      const why = reason instanceof Error ? reason.message : String(reason);
      findings.push(finder(name, concern).failure(`this could not be looked at: ${why}`, ''));
    }
  }
  return findings;
}
