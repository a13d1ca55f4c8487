// SPDX-License-Identifier: Apache-2.0
// What a plan has to know of a model: how many bytes of weights there are, which of them a token
// touches, and how much KV cache a token of context takes.
import { existsSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { GbError } from '../../proto/base/errors.js';
import { MIB } from '../../proto/base/units.js';
import { withFile } from './bytes.js';
import { parseGguf, type Gguf, type GgufValue } from './gguf.js';
import { parseIndex, parseObject, parseSafetensors } from './safetensors.js';

export interface ModelFacts {
  readonly name: string;
  readonly format: 'gguf' | 'safetensors' | 'bytes';
  readonly architecture: string;
  readonly fileCount: number;
  readonly tensorCount: number;
  /** Elements of all tensors; 0: not known. */
  readonly parameters: number;
  readonly weightBytes: number;
  /** The table of tokens, where the output has weights of its own: a token touches one row of it. */
  readonly embeddingBytes: number;
  /** Weights of experts, of which a token touches `expertShare`. */
  readonly expertBytes: number;
  readonly expertShare: number;
  readonly layers: number;
  readonly hiddenSize: number;
  /** f16, as programs keep it by default; 0: not known. */
  readonly kvBytesPerToken: number;
  /** The longest context the model was made for; 0: not known. */
  readonly contextMax: number;
  readonly notes: readonly string[];
}

const KV_ELEMENT_BYTES = 2;
const CONFIG_BYTES_MAX = 4 * MIB;
/** Shards of one GGUF model. */
const SPLITS_MAX = 1_024;

interface Weights {
  readonly name: string;
  readonly elements: number;
  readonly bytes: number;
}

/** Facts of `--bytes N`: weights of which nothing else is known. */
export function modelOfBytes(bytes: number): ModelFacts {
  return {
    ...factsOf('a model', 'bytes', 1, []),
    weightBytes: bytes,
    notes: ['only its size is known: the KV cache is not counted'],
  };
}

/** Reads the head of a model: a .gguf (any part of a split one), a .safetensors, its index, or the
 *  folder they lie in. @throws GbError NOT_FOUND, INVALID_ARGUMENT, UNSUPPORTED, DATA_LOSS. */
export function readModel(path: string): ModelFacts {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat) throw new GbError('NOT_FOUND', `${path}: no such file`);
  if (stat.isDirectory()) return readFolder(path);
  if (path.endsWith('.gguf')) return readGguf(path);
  if (path.endsWith('.json')) return readSharded(path);
  if (path.endsWith('.safetensors')) return readSafetensors(dirname(path), [basename(path)]);
  throw new GbError('INVALID_ARGUMENT', `${path}: .gguf, .safetensors or its index are read`, {
    details: {
      hint: 'for other formats give the size of the weights: greenboost plan --bytes 13GiB',
    },
  });
}

function readFolder(folder: string): ModelFacts {
  const index = join(folder, 'model.safetensors.index.json');
  if (existsSync(index)) return readSharded(index);
  if (existsSync(join(folder, 'model.safetensors')))
    return readSafetensors(folder, ['model.safetensors']);
  throw new GbError('NOT_FOUND', `${folder} holds no model.safetensors and no index of one`);
}

function readSharded(index: string): ModelFacts {
  return readSafetensors(dirname(index), withFile(index, parseIndex));
}

// ---- GGUF ----

function readGguf(path: string): ModelFacts {
  const heads = splitNames(path).map((file) => withFile(file, parseGguf));
  const first = heads[0] as Gguf;
  return factsOfGguf(basename(path), heads, first.metadata);
}

/** All parts of a split model, the first (which has the metadata) first. */
function splitNames(path: string): string[] {
  const match = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/.exec(path);
  if (!match) return [path];
  const [, stem, , total] = match as unknown as [string, string, string, string];
  const parts = Number(total);
  if (parts < 1 || parts > SPLITS_MAX)
    throw new GbError('INVALID_ARGUMENT', `${path}: a model in ${parts} parts`);
  const name = (index: number): string =>
    `${stem}-${String(index + 1).padStart(5, '0')}-of-${total}.gguf`;
  return Array.from({ length: parts }, (_, index) => name(index));
}

/** Facts out of the heads of all parts. */
export function factsOfGguf(
  name: string,
  heads: readonly Gguf[],
  metadata: ReadonlyMap<string, GgufValue>,
): ModelFacts {
  const tensors = heads.flatMap((head) => head.tensors);
  const architecture = asText(metadata.get('general.architecture'));
  const value = (key: string): GgufValue | undefined => metadata.get(`${architecture}.${key}`);
  const number = (key: string): number => positive(value(key));
  const layers = number('block_count');
  const hiddenSize = number('embedding_length');
  const heads_ = number('attention.head_count');
  const headSize = heads_ > 0 ? hiddenSize / heads_ : 0;
  const latent = number('attention.kv_lora_rank');
  const perHead =
    (number('attention.key_length') || headSize) + (number('attention.value_length') || headSize);
  const kvElements =
    latent > 0
      ? layers * (latent + number('rope.dimension_count'))
      : kvHeadsOf(value('attention.head_count_kv'), layers, heads_) * perHead;
  const tied = !tensors.some((tensor) => tensor.name === 'output.weight');
  const used = number('expert_used_count');
  const experts = number('expert_count');
  return {
    ...factsOf(name, 'gguf', heads.length, tensors),
    architecture,
    layers,
    hiddenSize,
    embeddingBytes: tied ? 0 : bytesOf(tensors, /^token_embd\.weight$/),
    expertBytes: experts > 0 ? bytesOf(tensors, /_exps\./) : 0,
    expertShare: experts > 0 ? Math.min(1, used / experts) : 1,
    kvBytesPerToken: Math.round(kvElements * KV_ELEMENT_BYTES),
    contextMax: number('context_length'),
    notes: notesOf(kvElements, number('attention.sliding_window')),
  };
}

/** Key and value heads of all layers together: one figure for all, or one each. */
function kvHeadsOf(value: GgufValue | undefined, layers: number, heads: number): number {
  if (Array.isArray(value))
    return (value as readonly unknown[]).reduce<number>((sum, count) => sum + positive(count), 0);
  return layers * (value === undefined ? heads : positive(value));
}

// ---- safetensors ----

function readSafetensors(folder: string, files: readonly string[]): ModelFacts {
  const tensors = files.flatMap((file) => withFile(join(folder, file), parseSafetensors));
  const path = join(folder, 'config.json');
  const config = existsSync(path)
    ? withFile(path, (source) => parseObject(source.read(0, CONFIG_BYTES_MAX), 'config.json'))
    : undefined;
  return factsOfSafetensors(basename(folder), files.length, tensors, config);
}

/** Facts out of all heads and the config.json beside them. */
export function factsOfSafetensors(
  name: string,
  fileCount: number,
  tensors: readonly Weights[],
  config: Readonly<Record<string, unknown>> | undefined,
): ModelFacts {
  const base = factsOf(name, 'safetensors', fileCount, tensors);
  if (!config) return { ...base, notes: ['no config.json beside it: the KV cache is not counted'] };
  // Models of text and images keep the dimensions of the text part in an object of its own.
  const inner = config['text_config'];
  const text = typeof inner === 'object' && inner !== null ? { ...config, ...inner } : config;
  const number = (...keys: string[]): number =>
    keys.map((key) => positive((text as Record<string, unknown>)[key])).find((n) => n > 0) ?? 0;
  const layers = number('num_hidden_layers', 'n_layer');
  const hiddenSize = number('hidden_size', 'n_embd');
  const heads = number('num_attention_heads', 'n_head');
  const headSize = number('head_dim') || (heads > 0 ? hiddenSize / heads : 0);
  const latent = number('kv_lora_rank');
  const kvElements =
    latent > 0
      ? layers * (latent + number('qk_rope_head_dim'))
      : layers * (number('num_key_value_heads') || heads) * headSize * 2;
  const experts = number('num_local_experts', 'num_experts', 'n_routed_experts');
  const tied = !tensors.some(({ name: tensor }) => /(^|\.)lm_head\.weight$/.test(tensor));
  const architectures = text['architectures' as keyof typeof text] as unknown;
  return {
    ...base,
    architecture: asText(Array.isArray(architectures) ? architectures[0] : undefined),
    layers,
    hiddenSize,
    embeddingBytes: tied ? 0 : bytesOf(tensors, /embed_tokens\.weight$|wte\.weight$/),
    expertBytes: experts > 0 ? bytesOf(tensors, /\.experts\./) : 0,
    expertShare: experts > 0 ? Math.min(1, number('num_experts_per_tok') / experts) : 1,
    kvBytesPerToken: Math.round(kvElements * KV_ELEMENT_BYTES),
    contextMax: number('max_position_embeddings', 'n_positions'),
    notes: notesOf(kvElements, number('sliding_window')),
  };
}

// ---- both ----

function factsOf(
  name: string,
  format: ModelFacts['format'],
  fileCount: number,
  tensors: readonly Weights[],
): ModelFacts {
  return {
    name,
    format,
    architecture: '',
    fileCount,
    tensorCount: tensors.length,
    parameters: tensors.reduce((sum, { elements }) => sum + elements, 0),
    weightBytes: tensors.reduce((sum, { bytes }) => sum + bytes, 0),
    embeddingBytes: 0,
    expertBytes: 0,
    expertShare: 1,
    layers: 0,
    hiddenSize: 0,
    kvBytesPerToken: 0,
    contextMax: 0,
    notes: [],
  };
}

function notesOf(kvElements: number, slidingWindow: number): string[] {
  if (kvElements === 0) return ['its dimensions are not known: the KV cache is not counted'];
  if (slidingWindow > 0)
    return [`layers with a window of ${slidingWindow} tokens may need less KV cache`];
  return [];
}

function bytesOf(tensors: readonly Weights[], pattern: RegExp): number {
  return tensors.reduce((sum, { name, bytes }) => sum + (pattern.test(name) ? bytes : 0), 0);
}

/** A finite number above 0, else 0: files may hold anything. */
function positive(value: unknown): number {
  return typeof value === 'number' && value > 0 && value <= Number.MAX_SAFE_INTEGER ? value : 0;
}

function asText(value: unknown): string {
  return typeof value === 'string' ? value.slice(0, 100) : '';
}
