// SPDX-License-Identifier: Apache-2.0
// `--dry-run` of drain, pause, resume, disconnect and evict: the agent's plan, with the epoch that `--epoch` takes.
import { GbError } from '../../../proto/base/errors.js';
import { formatBytes } from '../../../proto/base/units.js';
import { withAgent } from '../../control/client.js';
import { planJson, WIRE_ACTIONS, type ActionName } from '../../model/plans.js';
import { SCHEMA_VERSION } from '../../model/snapshot.js';
import { planLines } from '../../view/plans.js';
import { cleanText } from '../../view/text.js';
import { note, writeJson, writeLine } from '../output.js';

const CALL_TIMEOUT_MS = 5_000;

export interface PlannedOptions {
  readonly json?: boolean;
  readonly dryRun?: boolean;
  readonly epoch?: string;
}

/** The epoch an action is bound to; 0: none. @throws GbError INVALID_ARGUMENT. */
export function epochOf({ epoch }: PlannedOptions): bigint {
  if (epoch === undefined) return 0n;
  if (/^[1-9]\d{0,15}$/.test(epoch)) return BigInt(epoch);
  throw new GbError('INVALID_ARGUMENT', `--epoch takes the number that --dry-run printed`);
}

/** Prints what an action would do. @throws GbError NOT_FOUND; AGENT_UNREACHABLE. */
export async function showActionPlan(
  action: ActionName,
  target: { readonly feeder?: string; readonly pid?: number; readonly bytes?: number },
  options: PlannedOptions,
): Promise<void> {
  const { feeder = '', pid = 0, bytes = 0 } = target;
  const request = { action: WIRE_ACTIONS[action], feeder, pid, bytes: BigInt(bytes) };
  const response = await withAgent((client) =>
    client.plan(request, { timeoutMs: CALL_TIMEOUT_MS }),
  );
  const plan = planJson(response, action);
  if (options.json) return writeJson<'dry-run'>({ schemaVersion: SCHEMA_VERSION, ...plan });
  for (const line of planLines(plan)) writeLine(cleanText(line));
  for (const program of plan.programs) {
    const more = program.note === '' ? '' : `; ${program.note}`;
    writeLine(
      cleanText(`affects ${program.pid} ${program.command}: ${formatBytes(program.bytes)}${more}`),
    );
  }
  if (plan.lostBytes > 0)
    writeLine(`--force would lose ${formatBytes(plan.lostBytes)} of running programs`);
  if (plan.refusal !== null) writeLine(`it would be refused: ${cleanText(plan.refusal)}`);
  note(`nothing was done; the plan holds in this epoch: --epoch ${plan.epoch}`);
}
