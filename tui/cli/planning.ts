// SPDX-License-Identifier: Apache-2.0
// A plan as data: what `plan` prints, `run --plan` keeps and `report` compares with.
import type { MachineOptions } from '../../host/plan/machine.js';
import type { ModelFacts } from '../../host/plan/model.js';
import type { Machine, Prediction } from '../../host/plan/predict.js';
import { GbError } from '../../proto/base/errors.js';
import { parseBytes } from '../../proto/base/units.js';
import { withAgent } from '../control/client.js';
import { SCHEMA_VERSION, snapshotJson } from '../model/snapshot.js';
import { parseWhole } from './numbers.js';

export interface PlanOptions {
  readonly bytes?: string;
  readonly context?: string;
  readonly vram?: string;
  readonly ram?: string;
  readonly gpuIndex?: string;
  readonly gpu?: 'cuda' | 'sim' | 'none';
}

export interface Plan extends Prediction {
  readonly schemaVersion: number;
  readonly model: ModelFacts;
  readonly machine: Machine;
}

const CONTEXT = { least: 0, most: 100_000_000 };
const GPU_INDEX = { least: 0, most: 63 };
const AGENT_TIMEOUT_MS = 3_000;

/** Memory of feeders that are there now, and the slowest of their links; nothing without an agent. */
async function feeders(): Promise<Pick<MachineOptions, 'feederBytes' | 'feederRead'>> {
  const snapshot = await withAgent((client) =>
    client.getStatus({}, { timeoutMs: AGENT_TIMEOUT_MS }),
  )
    .then(snapshotJson)
    .catch(() => undefined);
  const ready = new Set(
    snapshot?.links.filter(({ state }) => state === 'ready').map(({ feederId }) => feederId),
  );
  const tiers = snapshot?.tiers.filter(({ feederId }) => feederId !== null && ready.has(feederId));
  const rates = (tiers ?? [])
    .map((tier) => tier.readBytesPerSecond ?? 0)
    .filter((rate) => rate > 0);
  if (!tiers || rates.length === 0) return {};
  const feederBytes = tiers.reduce(
    (sum, tier) => sum + Math.max(0, tier.capacityBytes - tier.grantedBytes),
    0,
  );
  return { feederBytes, feederRead: Math.min(...rates) };
}

/** Reads the model, measures this machine (about two seconds) and predicts.
 *  @throws GbError INVALID_ARGUMENT, NOT_FOUND, UNSUPPORTED or DATA_LOSS about model and options. */
export async function makePlan(path: string | undefined, options: PlanOptions): Promise<Plan> {
  if ((path === undefined) === (options.bytes === undefined)) {
    throw new GbError('INVALID_ARGUMENT', 'give a model file or --bytes SIZE', {
      details: { hint: 'example: greenboost plan model.gguf --context 8192' },
    });
  }
  const [{ modelOfBytes, readModel }, { readMachine }, { defaultContext, predict }] =
    await Promise.all([
      import('../../host/plan/model.js'),
      import('../../host/plan/machine.js'),
      import('../../host/plan/predict.js'),
    ]);
  const model =
    path === undefined ? modelOfBytes(parseBytes(options.bytes ?? '')) : readModel(path);
  const contextTokens =
    options.context === undefined
      ? defaultContext(model)
      : parseWhole('--context', options.context, CONTEXT);
  const machine = await readMachine({
    gpu: options.gpu,
    gpuIndex: parseWhole('--gpu-index', options.gpuIndex ?? '0', GPU_INDEX),
    vramBytes: options.vram === undefined ? undefined : parseBytes(options.vram),
    ramBytes: options.ram === undefined ? undefined : parseBytes(options.ram),
    diskFile: path?.endsWith('.gguf') || path?.endsWith('.safetensors') ? path : undefined,
    ...(await feeders()),
  });
  return {
    schemaVersion: SCHEMA_VERSION,
    model,
    machine,
    ...predict(model, machine, contextTokens),
  };
}
