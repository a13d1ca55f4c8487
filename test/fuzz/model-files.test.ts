// SPDX-License-Identifier: Apache-2.0
// Whatever a model file holds: facts, or a named refusal, and never more memory than the file.
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { memorySource } from '../../host/plan/bytes.js';
import { parseGguf } from '../../host/plan/gguf.js';
import { factsOfGguf, factsOfSafetensors } from '../../host/plan/model.js';
import { parseIndex, parseSafetensors } from '../../host/plan/safetensors.js';
import { GbError } from '../../proto/base/errors.js';
import { ggufFile, LLAMA_META, LLAMA_TENSORS, safetensorsFile } from '../unit/host/model-files.js';
import { fuzz, FUZZ_TIMEOUT_MS } from './run.js';

const REFUSALS = ['INVALID_ARGUMENT', 'UNSUPPORTED', 'DATA_LOSS'];

/** A good file with some bytes changed, and perhaps cut. */
function damaged(good: Buffer): fc.Arbitrary<Buffer> {
  const change = fc.tuple(
    fc.integer({ min: 0, max: Math.min(good.length, 2_000) - 1 }),
    fc.oneof(fc.constantFrom(0, 1, 0x7f, 0x80, 0xff), fc.integer({ min: 0, max: 255 })),
  );
  return fc
    .tuple(
      fc.array(change, { maxLength: 8 }),
      fc.integer({ min: 0, max: good.length }),
      fc.boolean(),
    )
    .map(([changes, length, cut]) => {
      const bytes = Buffer.from(good);
      for (const [at, value] of changes) bytes[at] = value;
      return cut ? bytes.subarray(0, length) : bytes;
    });
}

const noise = fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes));

function refusedOrRead(read: () => void): void {
  try {
    read();
  } catch (reason) {
    expect(reason).toBeInstanceOf(GbError);
    expect(REFUSALS).toContain((reason as GbError).code);
  }
}

test(
  'any GGUF file gives facts of finite figures or is refused',
  () => {
    const file = fc.oneof(
      { weight: 6, arbitrary: damaged(ggufFile(LLAMA_META, LLAMA_TENSORS)) },
      noise,
    );
    fuzz(
      fc.property(file, (bytes) => {
        refusedOrRead(() => {
          const head = parseGguf(memorySource(bytes));
          const facts = factsOfGguf('x', [head], head.metadata);
          expect(facts.weightBytes).toBeLessThanOrEqual(bytes.length);
          for (const value of [
            facts.kvBytesPerToken,
            facts.parameters,
            facts.layers,
            facts.expertShare,
          ])
            expect(Number.isFinite(value) && value >= 0).toBe(true);
        });
      }),
    );
  },
  FUZZ_TIMEOUT_MS,
);

test(
  'any safetensors file, index and config gives facts or is refused',
  () => {
    const good = safetensorsFile({
      'model.embed_tokens.weight': { dtype: 'BF16', shape: [10, 128], bytes: 2560 },
      'lm_head.weight': { dtype: 'F16', shape: [10, 128], bytes: 2560 },
    });
    const keys = [
      'num_hidden_layers',
      'hidden_size',
      'num_attention_heads',
      'head_dim',
      'text_config',
    ];
    const config = fc.dictionary(fc.constantFrom(...keys, 'architectures'), fc.jsonValue());
    const file = fc.oneof({ weight: 6, arbitrary: damaged(good) }, noise);
    const index = fc.oneof(
      fc.record({ weight_map: fc.dictionary(fc.string(), fc.oneof(fc.string(), fc.jsonValue())) }),
      fc.jsonValue(),
    );
    fuzz(
      fc.property(file, config, index, (bytes, about, list) => {
        refusedOrRead(() => {
          const facts = factsOfSafetensors('x', 1, parseSafetensors(memorySource(bytes)), about);
          expect(facts.weightBytes).toBeLessThanOrEqual(bytes.length);
          expect(Number.isFinite(facts.kvBytesPerToken)).toBe(true);
        });
        refusedOrRead(() => {
          const files = parseIndex(memorySource(Buffer.from(JSON.stringify(list))));
          for (const name of files) expect(name).not.toContain('/');
        });
      }),
    );
  },
  FUZZ_TIMEOUT_MS,
);
