// SPDX-License-Identifier: Apache-2.0
// Small model files as their writers make them: GGUF version 3 and safetensors.

export interface TensorSpec {
  readonly name: string;
  readonly shape: readonly number[];
  /** ggml type and the bytes of the tensor. */
  readonly type: number;
  readonly bytes: number;
}

export type MetaValue =
  | { readonly t: 'u32' | 'u64' | 'f32'; readonly value: number }
  | { readonly t: 'text'; readonly value: string }
  | { readonly t: 'u32s'; readonly value: readonly number[] }
  | { readonly t: 'texts'; readonly value: readonly string[] };

const ALIGNMENT = 32;

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
const u64 = (value: number): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};
const text = (value: string): Buffer =>
  Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);

function metaBytes(meta: MetaValue): Buffer {
  switch (meta.t) {
    case 'u32':
      return Buffer.concat([u32(4), u32(meta.value)]);
    case 'u64':
      return Buffer.concat([u32(10), u64(meta.value)]);
    case 'f32': {
      const bytes = Buffer.alloc(4);
      bytes.writeFloatLE(meta.value);
      return Buffer.concat([u32(6), bytes]);
    }
    case 'text':
      return Buffer.concat([u32(8), text(meta.value)]);
    case 'u32s':
      return Buffer.concat([u32(9), u32(4), u64(meta.value.length), ...meta.value.map(u32)]);
    case 'texts':
      return Buffer.concat([u32(9), u32(8), u64(meta.value.length), ...meta.value.map(text)]);
  }
}

/** A whole file; weights are zeros. */
export function ggufFile(
  metadata: Readonly<Record<string, MetaValue>>,
  tensors: readonly TensorSpec[],
  version = 3,
): Buffer {
  let offset = 0;
  const infos = tensors.map(({ name, shape, type, bytes }) => {
    const info = [text(name), u32(shape.length), ...shape.map(u64), u32(type), u64(offset)];
    offset = Math.ceil((offset + bytes) / ALIGNMENT) * ALIGNMENT;
    return Buffer.concat(info);
  });
  const head = Buffer.concat([
    Buffer.from('GGUF'),
    u32(version),
    u64(tensors.length),
    u64(Object.keys(metadata).length),
    ...Object.entries(metadata).map(([key, value]) => Buffer.concat([text(key), metaBytes(value)])),
    ...infos,
  ]);
  const padding = (ALIGNMENT - (head.length % ALIGNMENT)) % ALIGNMENT;
  return Buffer.concat([head, Buffer.alloc(padding + offset)]);
}

/** The dimensions of a small model of the Llama family. */
export const LLAMA_META: Readonly<Record<string, MetaValue>> = {
  'general.architecture': { t: 'text', value: 'llama' },
  'llama.block_count': { t: 'u32', value: 2 },
  'llama.embedding_length': { t: 'u32', value: 64 },
  'llama.attention.head_count': { t: 'u32', value: 8 },
  'llama.attention.head_count_kv': { t: 'u32', value: 2 },
  'llama.context_length': { t: 'u32', value: 4096 },
  'tokenizer.ggml.tokens': { t: 'texts', value: ['a', 'b', 'long token'] },
  'tokenizer.chat_template': { t: 'text', value: 'x'.repeat(10_000) },
};

export const LLAMA_TENSORS: readonly TensorSpec[] = [
  { name: 'token_embd.weight', shape: [64, 100], type: 1, bytes: 12_800 },
  { name: 'blk.0.attn_q.weight', shape: [256, 4], type: 12, bytes: 4 * 144 },
  { name: 'blk.1.attn_q.weight', shape: [256, 4], type: 12, bytes: 4 * 144 },
  { name: 'output.weight', shape: [64, 100], type: 8, bytes: 200 * 34 },
];

export interface SafeSpec {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** A whole file; weights are zeros. */
export function safetensorsFile(tensors: Readonly<Record<string, SafeSpec>>): Buffer {
  let offset = 0;
  const entries = Object.entries(tensors).map(([name, { dtype, shape, bytes }]) => {
    const begin = offset;
    offset += bytes;
    return [name, { dtype, shape, data_offsets: [begin, offset] }];
  });
  const head = Buffer.from(
    JSON.stringify({ __metadata__: { format: 'pt' }, ...Object.fromEntries(entries) }),
  );
  return Buffer.concat([u64(head.length), head, Buffer.alloc(offset)]);
}
