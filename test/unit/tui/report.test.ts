// SPDX-License-Identifier: Apache-2.0
import { create } from '@bufbuild/protobuf';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { ProgramSchema } from '../../../proto/gen/greenboost/v1/control_pb.js';
import { GIB } from '../../../proto/base/units.js';
import {
  compare,
  programJson,
  programOfStats,
  workSeconds,
  type Comparison,
  type PlannedJson,
  type ProgramJson,
} from '../../../tui/model/report.js';

const PLAN: PlannedJson = {
  model: { name: 'model.gguf' },
  contextTokens: 4096,
  machine: { hostToDevice: { value: 50e9 } },
  placement: {
    vramBytes: 4 * GIB,
    frameBytes: GIB,
    ramBytes: 3 * GIB,
    feederBytes: 0,
    nvmeBytes: 0,
  },
  decode: { seconds: 0.08, crossingBytes: 3e9 },
};

function program(over: Partial<ProgramJson> = {}): ProgramJson {
  const empty = programOfStats('{"pid":5,"launchCount":9}') as ProgramJson;
  return { ...empty, ...over };
}

const row = (rows: readonly Comparison[], name: string): Comparison =>
  rows.find((each) => each.name === name) as Comparison;

describe('compare', () => {
  test('passes are told by the bytes that crossed, and their time by the phases of work', () => {
    const rows = compare(
      program({
        stagedInBytes: 300e9,
        switchCount: 1000,
        switchMicros: 6e6,
        phaseMs: { model_load: 60_000, inference: 3_000, steady: 7_000, idle: 90_000 },
      }),
      PLAN,
    );
    expect(row(rows, 'passes').measured).toBe(100);
    expect(row(rows, 'seconds a pass')).toMatchObject({ predicted: 0.08, measured: 0.1 });
    expect(row(rows, 'passes a second').measured).toBeCloseTo(10);
    expect(row(rows, 'link while switching')).toMatchObject({ predicted: 50e9, measured: 50e9 });
    expect(row(rows, 'GPU held by switches').measured).toBeCloseTo(60);
    expect(row(rows, 'VRAM, peak').predicted).toBe(5 * GIB);
  });

  test('what is not known is null, never a guess', () => {
    const rows = compare(program({ stagedInBytes: 9e9 }), null);
    for (const name of ['passes', 'seconds a pass', 'passes a second', 'GPU held by switches'])
      expect(row(rows, name)).toMatchObject({ predicted: null, measured: null });
    expect(row(rows, 'staged in').measured).toBe(9e9);
    const fits = { ...PLAN, decode: { seconds: 0.02, crossingBytes: 0 } };
    expect(row(compare(program(), fits), 'passes').measured).toBeNull();
  });
});

describe('programs', () => {
  test("the agent's record becomes plain JSON", () => {
    const json = programJson(
      create(ProgramSchema, {
        attachment: { pid: 7, command: 'x', startedUnixMs: 5n, stageInBytes: 8n, staging: 'on' },
        endedUnixMs: 25n,
        runId: '0123456789abcdef',
        phaseMs: { steady: 9n, inference: 1n },
      }),
    );
    expect(JSON.parse(JSON.stringify(json))).toEqual(json);
    expect(json).toMatchObject({ pid: 7, endedUnixMs: 25, stagedInBytes: 8, staging: 'on' });
    expect(workSeconds(json)).toBe(0.01);
    expect(programJson(create(ProgramSchema, { attachment: {} })).endedUnixMs).toBeNull();
  });

  test('a statistics file is read whatever it lacks, and nothing else is taken for one', () => {
    fc.assert(
      fc.property(fc.oneof(fc.json(), fc.string()), (text) => {
        const found = programOfStats(text);
        if (found) expect(Number.isFinite(found.stagedInBytes)).toBe(true);
      }),
    );
    expect(programOfStats('{"pid":1}')).toBeUndefined();
    expect(programOfStats('{"pid":1,"launchCount":2,"stagedInBytes":"9"}')?.stagedInBytes).toBe(0);
  });
});
