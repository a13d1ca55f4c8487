// SPDX-License-Identifier: Apache-2.0
// `greenboost plan`: what of a model fits where, how fast that would be, and what would be better.
import { formatBytes, formatRate } from '../../../proto/base/units.js';
import type { Table } from '../../view/plain.js';
import { cleanText } from '../../view/text.js';
import { painters, tableLines, writeJson, writeLine } from '../output.js';
import { makePlan, type Plan, type PlanOptions } from '../planning.js';

type Figure = Plan['machine']['vramBytes'];

const sourced = (figure: Figure, text: string): string => `${text} (${figure.source})`;

/** `14.3 tok/s`, `0.92 tok/s`. */
export function tokenRate(perSecond: number): string {
  return `${perSecond >= 100 ? perSecond.toFixed(0) : perSecond.toPrecision(3)} tok/s`;
}

/** `1.20 s`, `0.064 s`. */
export function secondsText(seconds: number): string {
  return `${seconds >= 1 ? seconds.toFixed(2) : seconds.toPrecision(2)} s`;
}

function modelLines({ model, contextTokens, placement }: Plan): string[] {
  const parts = [
    `${formatBytes(model.weightBytes)} of weights`,
    model.tensorCount > 0 ? `${model.tensorCount} tensors` : '',
    model.layers > 0 ? `${model.layers} layers` : '',
    model.expertBytes > 0
      ? `experts ${formatBytes(model.expertBytes)}, ${(model.expertShare * 100).toFixed(0)} % of them a token`
      : '',
  ].filter(Boolean);
  return [
    `${model.name}  ${parts.join(', ')}`,
    `context of ${contextTokens} tokens  ${formatBytes(placement.kvBytes)} of KV cache` +
      ` (${formatBytes(model.kvBytesPerToken)} a token, f16)`,
    ...model.notes,
  ];
}

function machineLines({ machine }: Plan): string[] {
  const flops = `${(machine.gpuFlops.value / 1e12).toFixed(0)} TFLOPS f16`;
  const gpu = [
    `VRAM ${sourced(machine.vramBytes, formatBytes(machine.vramBytes.value))}`,
    `read ${sourced(machine.vramRead, formatRate(machine.vramRead.value))}`,
    `H2D ${sourced(machine.hostToDevice, formatRate(machine.hostToDevice.value))}`,
    sourced(machine.gpuFlops, flops),
  ];
  const rest = [
    `RAM ${sourced(machine.ramBytes, formatBytes(machine.ramBytes.value))}`,
    `read by ${machine.cores} cores ${sourced(machine.ramRead, formatRate(machine.ramRead.value))}`,
    `NVMe ${sourced(machine.nvmeRead, formatRate(machine.nvmeRead.value))}`,
    machine.feederRead
      ? `feeders ${formatBytes(machine.feederBytes)} at ${formatRate(machine.feederRead.value)}`
      : 'no feeder connected',
  ];
  const name = machine.simulated
    ? `${machine.gpuName} (simulated: no figure means anything)`
    : machine.gpuName;
  return [name, gpu.join(', '), rest.join(', ')];
}

function placeTable({ placement: place }: Plan): Table {
  const row = (name: string, bytes: number, what: string): string[] => [
    name,
    formatBytes(bytes),
    what,
  ];
  const rows = [
    row('VRAM', place.vramBytes, placeText(place)),
    ...(place.ramBytes > 0 ? [row('RAM', place.ramBytes, 'weights, first to cross the link')] : []),
    ...(place.feederBytes > 0
      ? [row('feeders', place.feederBytes, 'with --overcommit gated')]
      : []),
    ...(place.nvmeBytes > 0 ? [row('NVMe', place.nvmeBytes, 'with GREENBOOST_NVME_DIR')] : []),
    ...(place.missingBytes > 0 ? [row('nowhere', place.missingBytes, 'no room')] : []),
  ];
  return {
    columns: [{ title: 'PLACE' }, { title: 'BYTES', align: 'right' }, { title: 'WHAT' }],
    rows,
  };
}

function placeText(place: Plan['placement']): string {
  const workspace = `${formatBytes(place.workspaceBytes)} of workspaces (assumed)`;
  if (place.fits) return `everything: weights, KV cache, ${workspace}`;
  return `KV cache, ${workspace}, weights; and ${formatBytes(place.frameBytes)} of frames for staging`;
}

/** The plan as text. */
export function planLines(plan: Plan, bold: (text: string) => string): string[] {
  const { decode, prefill, ways, advice } = plan;
  const indent = (lines: readonly string[]): string[] =>
    lines.map((line) => cleanText(`  ${line}`));
  const wayLine = (way: Plan['ways'][number]): string[] => [
    way.text,
    ...(way.decodePerSecond === null || way.prefillSeconds === null
      ? []
      : [
          `  decode ${tokenRate(way.decodePerSecond)}, prefill ${secondsText(way.prefillSeconds)} per 1000 tokens`,
        ]),
  ];
  return [
    bold('Model'),
    ...indent(modelLines(plan)),
    bold('Machine'),
    ...indent(machineLines(plan)),
    bold('Where it lies'),
    ...tableLines(placeTable(plan)).map((line) => `  ${line}`),
    bold('Predicted under greenboost run'),
    ...indent([
      `decode   ${tokenRate(decode.perSecond)}`,
      `         = ${decode.formula}`,
      `prefill  ${secondsText(prefill.seconds)} per 1000 tokens`,
      `         = ${prefill.formula}`,
    ]),
    ...(ways.length > 0 ? [bold('Other ways'), ...indent(ways.flatMap(wayLine))] : []),
    bold('Advice'),
    ...indent([advice]),
  ];
}

/** Plans and prints. @throws GbError as makePlan. */
export async function showPlan(
  path: string | undefined,
  options: PlanOptions & { json?: boolean },
): Promise<void> {
  const plan = await makePlan(path, options);
  if (options.json) writeJson<'plan'>(plan);
  else for (const line of planLines(plan, painters(process.stdout).bold)) writeLine(line);
}
