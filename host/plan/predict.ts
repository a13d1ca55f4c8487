// SPDX-License-Identifier: Apache-2.0
// Where a model's bytes would lie on this machine, how fast that would be, and whether another way
// is better. Pure: the figures of model and machine come in, every term of the formula goes out.
import { GIB, MIB } from '../../proto/base/units.js';
import type { ModelFacts } from './model.js';

/** A figure and where it comes from. */
export interface Figure {
  readonly value: number;
  readonly source: 'measured' | 'assumed' | 'given';
}

export interface Machine {
  readonly gpuName: string;
  readonly simulated: boolean;
  /** What one program may hold in VRAM, its workspaces included. */
  readonly vramBytes: Figure;
  /** Bytes per second. */
  readonly vramRead: Figure;
  readonly hostToDevice: Figure;
  readonly ramBytes: Figure;
  /** All cores together. */
  readonly ramRead: Figure;
  readonly cores: number;
  /** Dense f16, per second. */
  readonly gpuFlops: Figure;
  readonly nvmeRead: Figure;
  /** Memory of feeders that are connected, and the rate of the slowest link. */
  readonly feederBytes: number;
  readonly feederRead: Figure | undefined;
}

/** Share of a bound that programs reach. From llama.cpp (f16, 6.2 GB) on one H200: decode from VRAM,
 *  413 tok/s, reads 57 % of what a plain kernel reads. */
export const EFFICIENCY = {
  vram: 0.57,
  /** Staging behind the gate, over max(native, crossing / H2D): the least that bench/gpu accepts. */
  staging: 0.8,
  /** Reading in place, where no order repeats (experts). */
  inPlace: 0.4,
  /** Cores reading weights for their own arithmetic. */
  cpu: 0.9,
  /** Of the GPU's dense arithmetic, in prefill. */
  arithmetic: 0.5,
} as const;
/** f16 arithmetic of one core, from the same server: 1,537 tok/s of prefill with half of 5.8 GiB on
 *  16 threads. */
const CPU_FLOPS_PER_CORE = 0.3e12;
/** As the shim divides: an eighth of the VRAM, within these. */
const FRAMES_PART = 8;
const FRAMES_BYTES_MIN = 64 * MIB;
const FRAMES_BYTES_MAX = 512 * MIB;
/** Activations, libraries' workspaces. */
const WORKSPACE_BYTES = 256 * MIB;
export const PREFILL_TOKENS = 1_000;
/** llama.cpp takes a prompt in pieces of this many tokens; each passes over all weights. */
const GGUF_BATCH_TOKENS = 512;

export interface Placement {
  readonly weightBytes: number;
  readonly kvBytes: number;
  readonly workspaceBytes: number;
  readonly frameBytes: number;
  readonly fits: boolean;
  /** The same bytes by place. */
  readonly vramBytes: number;
  readonly ramBytes: number;
  readonly feederBytes: number;
  readonly nvmeBytes: number;
  readonly missingBytes: number;
}

export interface Pass {
  readonly seconds: number;
  readonly perSecond: number;
  /** Bytes the pass touches, and those of them that cross the link. */
  readonly touchedBytes: number;
  readonly crossingBytes: number;
  readonly nativeSeconds: number;
  readonly linkSeconds: number;
  readonly formula: string;
}

export interface Way {
  readonly name: 'cpu' | 'quantise' | 'feeders';
  readonly decodePerSecond: number | null;
  readonly prefillSeconds: number | null;
  readonly text: string;
}

export interface Prediction {
  readonly contextTokens: number;
  readonly placement: Placement;
  readonly decode: Pass;
  /** For PREFILL_TOKENS tokens. */
  readonly prefill: Pass;
  readonly ways: readonly Way[];
  /** What to do, in one or two sentences. */
  readonly advice: string;
}

export function placementOf(model: ModelFacts, machine: Machine, contextTokens: number): Placement {
  const vram = machine.vramBytes.value;
  const kvBytes = model.kvBytesPerToken * contextTokens;
  const needBytes = model.weightBytes + kvBytes + WORKSPACE_BYTES;
  const fits = needBytes <= vram;
  const frames = Math.min(FRAMES_BYTES_MAX, Math.max(FRAMES_BYTES_MIN, vram / FRAMES_PART));
  const frameBytes = fits ? 0 : Math.min(frames, vram);
  let left = needBytes - Math.min(needBytes, Math.max(0, vram - frameBytes));
  const take = (room: number): number => {
    const taken = Math.min(left, Math.max(0, room));
    left -= taken;
    return taken;
  };
  const ramBytes = take(machine.ramBytes.value);
  const feederBytes = take(machine.feederBytes);
  const nvmeBytes = machine.nvmeRead.value > 0 ? take(Number.MAX_SAFE_INTEGER) : 0;
  return {
    weightBytes: model.weightBytes,
    kvBytes,
    workspaceBytes: WORKSPACE_BYTES,
    frameBytes,
    fits,
    vramBytes: needBytes - ramBytes - feederBytes - nvmeBytes - left,
    ramBytes,
    feederBytes,
    nvmeBytes,
    missingBytes: left,
  };
}

/** Weights that one token touches. */
export function activeBytes(model: ModelFacts): number {
  const idle = model.expertBytes * (1 - model.expertShare);
  return Math.max(0, model.weightBytes - model.embeddingBytes - idle);
}

function activeParameters(model: ModelFacts): number {
  const share = model.weightBytes > 0 ? activeBytes(model) / model.weightBytes : 0;
  // Of a file of which only the size is known: two bytes each.
  return (model.parameters || model.weightBytes / 2) * share;
}

/** Time for bytes that do not cross the link alone: feeders and NVMe bring them to RAM first. */
function farSeconds(place: Placement, machine: Machine): number {
  const feeder = machine.feederRead?.value ?? 0;
  const byFeeder = place.feederBytes > 0 && feeder > 0 ? place.feederBytes / feeder : 0;
  const nvme = machine.nvmeRead.value;
  return Math.max(byFeeder, place.nvmeBytes > 0 && nvme > 0 ? place.nvmeBytes / nvme : 0);
}

const gb = (bytes: number): string => `${(bytes / 1e9).toPrecision(3)} GB`;
const rate = (perSecond: number): string => `${(perSecond / 1e9).toPrecision(3)} GB/s`;
const seconds = (value: number): string =>
  value >= 1 ? `${value.toPrecision(3)} s` : `${(value * 1e3).toPrecision(3)} ms`;

export function decodeOf(model: ModelFacts, machine: Machine, place: Placement): Pass {
  const touchedBytes = activeBytes(model) + place.kvBytes;
  const roomBytes = machine.vramBytes.value - place.frameBytes - place.workspaceBytes;
  const sparse = !place.fits && model.expertBytes > 0;
  const beyond = place.ramBytes + place.feederBytes + place.nvmeBytes + place.missingBytes;
  // Experts come in no order: what is not in VRAM is met as often as it is there.
  const crossingBytes = place.fits
    ? 0
    : sparse
      ? touchedBytes * Math.min(1, beyond / (model.weightBytes + place.kvBytes))
      : Math.max(0, touchedBytes - Math.max(0, roomBytes));
  const efficiency = sparse ? EFFICIENCY.inPlace : EFFICIENCY.staging;
  const nativeSeconds = touchedBytes / machine.vramRead.value / EFFICIENCY.vram;
  const linkSeconds = crossingBytes / machine.hostToDevice.value;
  const far = farSeconds(place, machine);
  const bound = Math.max(nativeSeconds, linkSeconds, far);
  const total = crossingBytes > 0 ? bound / efficiency : bound;
  const terms = [
    `${gb(touchedBytes)} / (${rate(machine.vramRead.value)} x ${EFFICIENCY.vram})`,
    ...(crossingBytes > 0 ? [`${gb(crossingBytes)} / ${rate(machine.hostToDevice.value)}`] : []),
    ...(far > 0 ? [`${seconds(far)} for what lies on feeders or NVMe`] : []),
  ];
  return {
    seconds: total,
    perSecond: 1 / total,
    touchedBytes,
    crossingBytes,
    nativeSeconds,
    linkSeconds,
    formula: `1 / (${maxText(terms)}${crossingBytes > 0 ? ` / ${efficiency}` : ''})`,
  };
}

export function prefillOf(model: ModelFacts, machine: Machine, place: Placement): Pass {
  // A prompt of many tokens meets nearly every expert.
  const touchedBytes = model.weightBytes - model.embeddingBytes;
  const passes = model.format === 'gguf' ? Math.ceil(PREFILL_TOKENS / GGUF_BATCH_TOKENS) : 1;
  const roomBytes =
    machine.vramBytes.value - place.frameBytes - place.workspaceBytes - place.kvBytes;
  const crossingBytes = place.fits
    ? 0
    : passes * Math.max(0, touchedBytes - Math.max(0, roomBytes));
  const flops = 2 * activeParameters(model) * PREFILL_TOKENS;
  const nativeSeconds = flops / (machine.gpuFlops.value * EFFICIENCY.arithmetic);
  const linkSeconds = crossingBytes / machine.hostToDevice.value;
  const far = passes * farSeconds(place, machine);
  const bound = Math.max(nativeSeconds, linkSeconds, far);
  const total = crossingBytes > 0 ? bound / EFFICIENCY.staging : bound;
  const tera = (value: number): string => (value / 1e12).toPrecision(3);
  const terms = [
    `${tera(flops)} TFLOP / (${tera(machine.gpuFlops.value)} TFLOPS x ${EFFICIENCY.arithmetic})`,
    ...(crossingBytes > 0
      ? [`${passes} x ${gb(crossingBytes / passes)} / ${rate(machine.hostToDevice.value)}`]
      : []),
    ...(far > 0 ? [`${seconds(far)} for what lies on feeders or NVMe`] : []),
  ];
  return {
    seconds: total,
    perSecond: PREFILL_TOKENS / total,
    touchedBytes,
    crossingBytes,
    nativeSeconds,
    linkSeconds,
    formula: `${maxText(terms)}${crossingBytes > 0 ? ` / ${EFFICIENCY.staging}` : ''}`,
  };
}

function maxText(terms: readonly string[]): string {
  return terms.length === 1 ? (terms[0] as string) : `max(${terms.join(', ')})`;
}

/** llama.cpp's own offload: layers in VRAM by the GPU, the rest where it lies by the CPU. */
function cpuWay(model: ModelFacts, machine: Machine, place: Placement): Way | undefined {
  if (place.fits) return undefined;
  const touched = activeBytes(model) + place.kvBytes;
  const inRam = Math.max(0, touched - Math.max(0, machine.vramBytes.value - place.workspaceBytes));
  if (place.feederBytes + place.nvmeBytes + place.missingBytes > 0) {
    const text = 'computing in RAM (llama.cpp -ngl): the model does not fit into VRAM and RAM';
    return { name: 'cpu', decodePerSecond: null, prefillSeconds: null, text };
  }
  const decodeSeconds =
    (touched - inRam) / machine.vramRead.value / EFFICIENCY.vram +
    inRam / (machine.ramRead.value * EFFICIENCY.cpu);
  const share = touched > 0 ? inRam / touched : 0;
  const flops = 2 * activeParameters(model) * PREFILL_TOKENS;
  const prefillSeconds =
    (flops * share) / (CPU_FLOPS_PER_CORE * machine.cores) +
    (flops * (1 - share)) / (machine.gpuFlops.value * EFFICIENCY.arithmetic);
  const layers = model.layers > 0 ? ` -ngl ${Math.floor(model.layers * (1 - share))}` : ' -ngl N';
  const text =
    `computing in RAM (llama.cpp${layers}): ${gb(inRam)} by ${machine.cores} cores at ` +
    `${rate(machine.ramRead.value)} x ${EFFICIENCY.cpu}`;
  return { name: 'cpu', decodePerSecond: 1 / decodeSeconds, prefillSeconds, text };
}

/** Bits per weight of usual quantisations, and whether answers stay nearly the same. */
const QUANTISATIONS = [
  ['Q8_0', 8.5],
  ['Q6_K', 6.56],
  ['Q5_K_M', 5.7],
  ['Q4_K_M', 4.85],
  ['Q3_K_M', 3.9],
  ['Q2_K', 2.96],
] as const;
const GOOD_BITS = 4.5;

function quantiseWay(model: ModelFacts, machine: Machine, place: Placement): Way | undefined {
  if (place.fits || model.parameters === 0) return undefined;
  const bits = (model.weightBytes * 8) / model.parameters;
  const roomBytes = machine.vramBytes.value - place.kvBytes - place.workspaceBytes;
  const smaller = QUANTISATIONS.filter(([, each]) => each < bits);
  const found = smaller.find(([, each]) => (model.parameters * each) / 8 <= roomBytes);
  if (!found) {
    const text =
      roomBytes <= 0
        ? 'a smaller quantisation: the KV cache alone fills the VRAM; take a shorter context'
        : 'a smaller quantisation: none of the usual ones fits into VRAM';
    return { name: 'quantise', decodePerSecond: null, prefillSeconds: null, text };
  }
  const [name, each] = found;
  const touched = activeBytes(model) * (each / bits) + place.kvBytes;
  const decodeSeconds = touched / machine.vramRead.value / EFFICIENCY.vram;
  const flops = 2 * activeParameters(model) * PREFILL_TOKENS;
  const worse = each < GOOD_BITS ? ', with visibly worse answers' : '';
  return {
    name: 'quantise',
    decodePerSecond: 1 / decodeSeconds,
    prefillSeconds: flops / (machine.gpuFlops.value * EFFICIENCY.arithmetic),
    text: `a smaller quantisation: ${name} (${each} bits a weight) fits into VRAM whole${worse}`,
  };
}

function feederWay(machine: Machine, place: Placement): Way | undefined {
  const farBytes = place.feederBytes + place.nvmeBytes + place.missingBytes;
  const none = { name: 'feeders', decodePerSecond: null, prefillSeconds: null } as const;
  if (farBytes === 0) return undefined;
  if (place.nvmeBytes + place.missingBytes === 0) {
    return { ...none, text: `feeders hold ${gb(place.feederBytes)}; use --overcommit gated` };
  }
  const link = machine.feederRead?.value ?? 0;
  const short = gb(place.nvmeBytes + place.missingBytes);
  const faster = link > machine.nvmeRead.value ? ', and their link is faster than the NVMe' : '';
  return { ...none, text: `feeders that lend ${short} more RAM would hold the rest${faster}` };
}

/** How much better a way has to be to be worth a change. */
const WORTH = 1.2;

function adviceOf(place: Placement, decode: Pass, prefill: Pass, ways: readonly Way[]): string {
  if (place.fits) return 'everything fits into VRAM: nothing is gained by enlarging it';
  if (place.missingBytes > 0)
    return `${gb(place.missingBytes)} find no room: lend RAM (greenboost feed start) or take a smaller model`;
  const quantise = ways.find(({ name, text }) => name === 'quantise' && !text.includes('worse'));
  if (quantise?.decodePerSecond && quantise.decodePerSecond > WORTH * decode.perSecond)
    return `${quantise.text}: ${(quantise.decodePerSecond / decode.perSecond).toFixed(1)} times the decode rate`;
  const cpu = ways.find(({ name }) => name === 'cpu');
  const cpuDecode = (cpu?.decodePerSecond ?? 0) / decode.perSecond;
  const cpuPrefill = (cpu?.prefillSeconds ?? Number.POSITIVE_INFINITY) / prefill.seconds;
  if (cpuDecode > WORTH && cpuPrefill < 1 / WORTH)
    return `computing in RAM is better in every way: ${cpuDecode.toFixed(1)} times the decode rate`;
  if (cpuDecode > WORTH) {
    return (
      `for long answers computing in RAM is ${cpuDecode.toFixed(1)} times faster; for long prompts ` +
      `greenboost run is ${cpuPrefill.toFixed(1)} times faster`
    );
  }
  return 'greenboost run is the better way here';
}

/** The whole prediction. pre: rates of the machine are above 0. */
export function predict(model: ModelFacts, machine: Machine, contextTokens: number): Prediction {
  const placement = placementOf(model, machine, contextTokens);
  const decode = decodeOf(model, machine, placement);
  const prefill = prefillOf(model, machine, placement);
  const ways = [
    cpuWay(model, machine, placement),
    quantiseWay(model, machine, placement),
    feederWay(machine, placement),
  ].filter((way) => way !== undefined);
  const advice = adviceOf(placement, decode, prefill, ways);
  return { contextTokens, placement, decode, prefill, ways, advice };
}

/** The context to plan for when none is given. */
export function defaultContext(model: ModelFacts): number {
  return Math.min(model.contextMax || 8_192, 8_192);
}

/** Room that the shim leaves to the driver and others, when no budget is set. */
export function usableVram(totalBytes: number): number {
  return Math.max(
    0,
    totalBytes - Math.min(384 * MIB, totalBytes / 16) - Math.min(GIB / 2, totalBytes / 16),
  );
}
