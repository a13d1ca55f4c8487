// SPDX-License-Identifier: Apache-2.0
// Plans of `run --plan`, kept for `report`: one file a run in the state folder, the newest few.
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { GbError } from '../../proto/base/errors.js';
import { MIB } from '../../proto/base/units.js';
import { stateDir } from '../../proto/base/paths.js';
import type { PlannedJson } from '../model/report.js';

const PLANS_KEPT_MAX = 64;
const PLAN_BYTES_MAX = 1 * MIB;
const FILE = /^[0-9a-f]{16}\.json$/;

function folder(): string {
  return join(stateDir(), 'plans');
}

/** Keeps the plan of a run, and forgets the oldest. */
export function savePlan(runId: string, plan: PlannedJson): void {
  mkdirSync(folder(), { recursive: true, mode: 0o700 });
  writeFileSync(join(folder(), `${runId}.json`), `${JSON.stringify(plan)}\n`, { mode: 0o600 });
  const kept = readdirSync(folder())
    .filter((name) => FILE.test(name))
    .map((name) => ({ name, mtimeMs: statSync(join(folder(), name)).mtimeMs }))
    .sort((a, b) => b.mtimeMs - a.mtimeMs);
  for (const { name } of kept.slice(PLANS_KEPT_MAX)) rmSync(join(folder(), name), { force: true });
}

/** The plan of a run; undefined when there was none. */
export function loadPlan(runId: string): PlannedJson | undefined {
  try {
    return readPlan(join(folder(), `${runId}.json`));
  } catch {
    return undefined;
  }
}

function isNumber(value: unknown): boolean {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0;
}

/** A plan as `plan --json` prints it. @throws GbError INVALID_ARGUMENT when the file holds none. */
export function readPlan(path: string): PlannedJson {
  try {
    if (statSync(path).size > PLAN_BYTES_MAX) throw new TypeError('too large');
    const plan = JSON.parse(readFileSync(path, 'utf8')) as PlannedJson;
    const { placement: place, decode, machine, model, contextTokens } = plan;
    const figures = [
      place.vramBytes,
      place.frameBytes,
      place.ramBytes,
      place.feederBytes,
      place.nvmeBytes,
      decode.seconds,
      decode.crossingBytes,
      machine.hostToDevice.value,
      contextTokens,
    ];
    if (figures.every(isNumber) && typeof model.name === 'string') return plan;
  } catch (reason) {
    throw notAPlan(path, reason);
  }
  throw notAPlan(path);
}

function notAPlan(path: string, cause?: unknown): GbError {
  return new GbError('INVALID_ARGUMENT', `${path} holds no plan`, {
    cause,
    details: { hint: 'make one: greenboost plan MODEL --json >plan.json' },
  });
}
