// SPDX-License-Identifier: Apache-2.0
import { afterAll, describe, expect, test } from '@jest/globals';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { memorySource } from '../../../host/plan/bytes.js';
import { parseGguf } from '../../../host/plan/gguf.js';
import { modelOfBytes, readModel, type ModelFacts } from '../../../host/plan/model.js';
import {
  activeBytes,
  decodeOf,
  EFFICIENCY,
  placementOf,
  predict,
  type Machine,
} from '../../../host/plan/predict.js';
import { measureRamRead } from '../../../host/plan/ram-rate.js';
import { parseIndex, parseSafetensors } from '../../../host/plan/safetensors.js';
import { GIB, MIB } from '../../../proto/base/units.js';
import { ggufFile, LLAMA_META, LLAMA_TENSORS, safetensorsFile } from './model-files.js';

const folder = mkdtempSync(join(tmpdir(), 'gb-plan-'));
afterAll(() => rmSync(folder, { recursive: true }));

function put(name: string, bytes: Uint8Array | string): string {
  const path = join(folder, name);
  mkdirSync(join(path, '..'), { recursive: true });
  writeFileSync(path, bytes);
  return path;
}

describe('GGUF', () => {
  test('dimensions, bytes and the KV cache out of a head', () => {
    const model = readModel(put('a.gguf', ggufFile(LLAMA_META, LLAMA_TENSORS)));
    expect(model).toMatchObject({
      format: 'gguf',
      architecture: 'llama',
      tensorCount: 4,
      parameters: 6400 + 1024 + 1024 + 6400,
      weightBytes: 12_800 + 576 + 576 + 6_800,
      embeddingBytes: 12_800,
      layers: 2,
      hiddenSize: 64,
      // 2 layers x 2 heads x (8 + 8) x 2 bytes
      kvBytesPerToken: 128,
      contextMax: 4096,
      notes: [],
    });
    expect(activeBytes(model)).toBe(576 + 576 + 6_800);
  });

  test('long strings and vocabularies are passed over, short values kept', () => {
    const { metadata } = parseGguf(memorySource(ggufFile(LLAMA_META, [])));
    expect(metadata.get('llama.block_count')).toBe(2);
    expect(metadata.has('tokenizer.chat_template')).toBe(false);
    expect(metadata.has('tokenizer.ggml.tokens')).toBe(false);
  });

  test('heads that differ by layer, latent attention and experts', () => {
    const perLayer = {
      ...LLAMA_META,
      'llama.attention.head_count_kv': { t: 'u32s', value: [8, 0] },
    } as const;
    expect(readModel(put('b.gguf', ggufFile(perLayer, LLAMA_TENSORS))).kvBytesPerToken).toBe(256);
    const latent = {
      ...LLAMA_META,
      'llama.attention.kv_lora_rank': { t: 'u32', value: 512 },
      'llama.rope.dimension_count': { t: 'u32', value: 64 },
    } as const;
    expect(readModel(put('c.gguf', ggufFile(latent, LLAMA_TENSORS))).kvBytesPerToken).toBe(2304);
    const experts = {
      ...LLAMA_META,
      'llama.expert_count': { t: 'u32', value: 8 },
      'llama.expert_used_count': { t: 'u32', value: 2 },
    } as const;
    const tensors = [
      ...LLAMA_TENSORS,
      { name: 'blk.0.ffn_up_exps.weight', shape: [256, 8], type: 12, bytes: 8 * 144 },
    ];
    const model = readModel(put('d.gguf', ggufFile(experts, tensors)));
    expect(model).toMatchObject({ expertBytes: 1152, expertShare: 0.25 });
    expect(activeBytes(model)).toBe(576 + 576 + 6_800 + 288);
  });

  test('a model in parts is read from any of them; a missing part is named', () => {
    put('s-00001-of-00002.gguf', ggufFile(LLAMA_META, LLAMA_TENSORS.slice(0, 2)));
    const second = put('s-00002-of-00002.gguf', ggufFile({}, LLAMA_TENSORS.slice(2)));
    expect(readModel(second)).toMatchObject({ fileCount: 2, tensorCount: 4, layers: 2 });
    rmSync(join(folder, 's-00001-of-00002.gguf'));
    expect(() => readModel(second)).toThrow(/s-00001-of-00002.gguf: no such file/);
  });

  test('an incomplete file, another version and no GGUF at all are told apart', () => {
    const whole = ggufFile(LLAMA_META, LLAMA_TENSORS);
    const read = (bytes: Buffer) => () => parseGguf(memorySource(bytes));
    expect(read(whole.subarray(0, whole.length - 4_096))).toThrow(/DATA_LOSS.*is it complete/);
    expect(read(whole.subarray(0, 200))).toThrow(/DATA_LOSS/);
    expect(read(ggufFile({}, [], 1))).toThrow(/UNSUPPORTED.*version 1/);
    expect(read(Buffer.alloc(100))).toThrow(/INVALID_ARGUMENT.*not a GGUF/);
  });

  test('counts that the file cannot hold are refused before anything is made for them', () => {
    const bytes = ggufFile(LLAMA_META, LLAMA_TENSORS);
    for (const at of [8, 16, 24]) {
      const huge = Buffer.from(bytes);
      huge.writeBigUInt64LE(1n << 50n, at);
      expect(() => parseGguf(memorySource(huge))).toThrow(/DATA_LOSS/);
    }
  });
});

describe('safetensors', () => {
  const CONFIG = {
    architectures: ['LlamaForCausalLM'],
    num_hidden_layers: 4,
    hidden_size: 128,
    num_attention_heads: 8,
    num_key_value_heads: 2,
    max_position_embeddings: 2048,
  };
  const TENSORS = {
    'model.embed_tokens.weight': { dtype: 'BF16', shape: [10, 128], bytes: 2560 },
    'model.layers.0.q.weight': { dtype: 'BF16', shape: [128, 128], bytes: 32_768 },
    'lm_head.weight': { dtype: 'BF16', shape: [10, 128], bytes: 2560 },
  };

  test('one file with its config, by file and by folder', () => {
    put('one/config.json', JSON.stringify(CONFIG));
    const path = put('one/model.safetensors', safetensorsFile(TENSORS));
    const facts = {
      architecture: 'LlamaForCausalLM',
      weightBytes: 2560 + 32_768 + 2560,
      parameters: 1280 + 16_384 + 1280,
      embeddingBytes: 2560,
      // 4 layers x 2 heads x 16 x 2 x 2 bytes
      kvBytesPerToken: 512,
      contextMax: 2048,
    };
    expect(readModel(path)).toMatchObject(facts);
    expect(readModel(join(folder, 'one'))).toMatchObject(facts);
  });

  test('several files by their index; names that lead elsewhere are refused', () => {
    put('two/config.json', JSON.stringify({ text_config: CONFIG }));
    put('two/a.safetensors', safetensorsFile({ x: { dtype: 'F32', shape: [4], bytes: 16 } }));
    put('two/b.safetensors', safetensorsFile({ y: { dtype: 'F32', shape: [8], bytes: 32 } }));
    const index = { weight_map: { x: 'a.safetensors', y: 'b.safetensors', z: 'b.safetensors' } };
    const path = put('two/model.safetensors.index.json', JSON.stringify(index));
    expect(readModel(path)).toMatchObject({ fileCount: 2, weightBytes: 48, layers: 4 });
    for (const name of ['../../secret', '/etc/passwd', '..']) {
      const text = Buffer.from(JSON.stringify({ weight_map: { x: name } }));
      expect(() => parseIndex(memorySource(text))).toThrow(/elsewhere/);
    }
  });

  test('without a config the KV cache is said to be unknown', () => {
    const path = put('three/x.safetensors', safetensorsFile(TENSORS));
    expect(readModel(path).notes[0]).toContain('no config.json');
  });

  test('an incomplete file and no safetensors at all are told apart', () => {
    const whole = safetensorsFile(TENSORS);
    const read = (bytes: Buffer) => () => parseSafetensors(memorySource(bytes));
    expect(read(whole.subarray(0, whole.length - 100))).toThrow(/DATA_LOSS.*is it complete/);
    expect(read(whole.subarray(0, 40))).toThrow(/INVALID_ARGUMENT/);
    expect(read(Buffer.alloc(64, 0xff))).toThrow(/INVALID_ARGUMENT/);
  });

  test('other files and missing ones are refused with what to do', () => {
    expect(() => readModel(put('x.bin', 'x'))).toThrow(/\.gguf, \.safetensors or its index/);
    expect(() => readModel(join(folder, 'nothing.gguf'))).toThrow(/NOT_FOUND/);
  });
});

// ---- the formula ----

const measured = (value: number) => ({ value, source: 'measured' as const });

/** The server of bench/results: an H200 with 3.3 GiB of VRAM left to the program. */
function server(over: Partial<Machine> = {}): Machine {
  return {
    gpuName: 'NVIDIA H200',
    simulated: false,
    vramBytes: measured(3.3 * GIB),
    vramRead: measured(4531e9),
    hostToDevice: measured(55.4e9),
    ramBytes: measured(100 * GIB),
    ramRead: measured(165e9),
    cores: 16,
    gpuFlops: measured(989e12),
    nvmeRead: measured(6e9),
    feederBytes: 0,
    feederRead: undefined,
    ...over,
  };
}

/** 5.77 GiB of f16, 16 layers, as measured there. */
const LLAMA: ModelFacts = {
  ...modelOfBytes(5.77 * GIB),
  format: 'gguf',
  parameters: (5.77 * GIB) / 2,
  layers: 16,
  hiddenSize: 4096,
  kvBytesPerToken: 64 * 1024,
  contextMax: 8192,
  notes: [],
};

const anyModel = fc
  .record({
    weightBytes: fc.integer({ min: 1, max: 400 * 1024 }).map((mib) => mib * MIB),
    kvBytesPerToken: fc.integer({ min: 0, max: 2 * MIB }),
    expertPart: fc.constantFrom(0, 0.9),
    embeddingPart: fc.constantFrom(0, 0.1),
    expertShare: fc.constantFrom(1, 0.25, 0.03),
    bits: fc.constantFrom(16, 8.5, 4.85, 2.96),
    format: fc.constantFrom('gguf' as const, 'safetensors' as const),
  })
  .map(({ expertPart, embeddingPart, bits, ...rest }) => ({
    ...LLAMA,
    ...rest,
    parameters: (rest.weightBytes * 8) / bits,
    expertBytes: rest.weightBytes * expertPart,
    embeddingBytes: rest.weightBytes * embeddingPart,
  }));
const anyMachine = fc
  .record({
    vram: fc.integer({ min: 1, max: 200 * 1024 }),
    ram: fc.integer({ min: 0, max: 500 * 1024 }),
    feeder: fc.integer({ min: 0, max: 100 * 1024 }),
  })
  .map(({ vram, ram, feeder }) =>
    server({
      vramBytes: measured(vram * MIB),
      ramBytes: measured(ram * MIB),
      feederBytes: feeder * MIB,
      feederRead: feeder > 0 ? measured(1e9) : undefined,
    }),
  );
const anyContext = fc.integer({ min: 0, max: 200_000 });

describe('predict', () => {
  test('every byte has one place, and no place holds more than it has', () => {
    fc.assert(
      fc.property(anyModel, anyMachine, anyContext, (model, machine, context) => {
        const place = placementOf(model, machine, context);
        const need = place.weightBytes + place.kvBytes + place.workspaceBytes;
        const sum =
          place.vramBytes +
          place.ramBytes +
          place.feederBytes +
          place.nvmeBytes +
          place.missingBytes;
        expect(Math.abs(sum - need)).toBeLessThan(1);
        expect(place.vramBytes + place.frameBytes).toBeLessThanOrEqual(machine.vramBytes.value + 1);
        expect(place.ramBytes).toBeLessThanOrEqual(machine.ramBytes.value);
        expect(place.feederBytes).toBeLessThanOrEqual(machine.feederBytes);
        expect(place.fits).toBe(need <= machine.vramBytes.value);
      }),
    );
  });

  test('figures are numbers, never better than the link allows, and more VRAM is never slower', () => {
    fc.assert(
      fc.property(anyModel, anyMachine, anyContext, (model, machine, context) => {
        const { decode, prefill, ways, advice } = predict(model, machine, context);
        for (const pass of [decode, prefill]) {
          expect(pass.seconds).toBeGreaterThan(0);
          expect(Number.isFinite(pass.perSecond)).toBe(true);
          expect(pass.seconds).toBeGreaterThanOrEqual(pass.linkSeconds);
          expect(pass.seconds).toBeGreaterThanOrEqual(pass.nativeSeconds);
          expect(pass.formula).not.toMatch(/NaN|Infinity/);
        }
        for (const way of ways) expect(way.text).not.toMatch(/NaN|Infinity/);
        expect(advice).not.toMatch(/NaN|Infinity/);
        const larger = server({ ...machine, vramBytes: measured(machine.vramBytes.value * 2) });
        expect(predict(model, larger, context).decode.seconds).toBeLessThanOrEqual(
          decode.seconds * 1.0001,
        );
      }),
    );
  });

  test('a model that fits crosses nothing and needs no other way', () => {
    const { placement, decode, ways, advice } = predict(
      LLAMA,
      server({ vramBytes: measured(80 * GIB) }),
      2048,
    );
    expect(placement.fits).toBe(true);
    expect(decode.crossingBytes).toBe(0);
    expect(ways).toEqual([]);
    expect(advice).toContain('fits into VRAM');
    // Measured there: 413 tok/s.
    expect(decode.perSecond).toBeGreaterThan(413 * 0.8);
    expect(decode.perSecond).toBeLessThan(413 * 1.2);
  });

  test('what was measured on the server comes out: the bound of the link and CPU offload', () => {
    const { decode, prefill, ways } = predict(LLAMA, server(), 2048);
    // The bound of the link was 17.9 tok/s for 2.9 GiB.
    expect(decode.crossingBytes / GIB).toBeGreaterThan(2.8);
    expect(decode.crossingBytes / GIB).toBeLessThan(3.4);
    expect(decode.perSecond).toBeCloseTo(EFFICIENCY.staging / decode.linkSeconds, 5);
    const cpu = ways.find(({ name }) => name === 'cpu');
    expect(cpu?.decodePerSecond).toBeGreaterThan(46.9 * 0.8);
    expect(cpu?.decodePerSecond).toBeLessThan(46.9 * 1.2);
    expect((cpu?.prefillSeconds ?? 0) / prefill.seconds).toBeGreaterThan(3);
  });

  test('a quantisation that fits is advised before anything else, a bad one is not', () => {
    const { ways, advice } = predict(LLAMA, server(), 2048);
    expect(ways.find(({ name }) => name === 'quantise')?.text).toContain('Q6_K');
    expect(advice).toContain('Q6_K');
    const small = predict(LLAMA, server({ vramBytes: measured(1.8 * GIB) }), 2048);
    expect(small.ways.find(({ name }) => name === 'quantise')?.text).toContain('worse');
    expect(small.advice).toMatch(/long answers computing in RAM.*long prompts/);
  });

  test('experts that are read in no order are not promised the rate of staging', () => {
    const moe = { ...LLAMA, expertBytes: 5 * GIB, expertShare: 0.25 };
    const place = placementOf(moe, server(), 0);
    const dense = decodeOf(LLAMA, server(), place);
    const sparse = decodeOf(moe, server(), place);
    expect(sparse.crossingBytes).toBeLessThan(dense.crossingBytes);
    expect(sparse.seconds).toBeCloseTo(sparse.linkSeconds / EFFICIENCY.inPlace, 6);
  });

  test('what RAM does not hold is read from feeders, then from the NVMe, and slows the pass', () => {
    const small = server({
      ramBytes: measured(GIB),
      feederBytes: GIB,
      feederRead: measured(1.1e9),
      nvmeRead: { value: 3e9, source: 'assumed' },
    });
    const { placement, decode, ways } = predict(LLAMA, small, 0);
    expect(placement.feederBytes).toBe(GIB);
    expect(placement.nvmeBytes).toBeGreaterThan(0);
    expect(decode.seconds).toBeGreaterThan(GIB / 1.1e9);
    expect(ways.find(({ name }) => name === 'cpu')?.decodePerSecond).toBeNull();
    expect(ways.find(({ name }) => name === 'feeders')?.text).toContain('would hold the rest');
  });
});

test('all cores reading RAM are measured in well under a second', async () => {
  const { rate, cores } = await measureRamRead(256 * MIB);
  expect(cores).toBeGreaterThan(0);
  expect(rate).toBeGreaterThan(1e8);
  expect(rate).toBeLessThan(1e13);
});
