// SPDX-License-Identifier: Apache-2.0
// The course of a program: samples from its reports, as many as fit, the last always the newest.
import { expect, test } from '@jest/globals';
import type { Attachment } from '../../../host/attachments/attachment.js';
import { ProgramHistory } from '../../../host/control/history.js';
import { gbReport } from '../../../host/shim/abi.js';
import { PROGRAM_SAMPLES_MAX } from '../../../proto/base/limits.js';
import type { Clock } from '../../../proto/base/clock.js';

function bench() {
  let nowMs = 5_000;
  const none = { cancel: () => undefined };
  const clock: Clock = {
    nowMs: () => nowMs,
    unixMs: () => nowMs,
    after: () => none,
    every: () => none,
  };
  const history = new ProgramHistory(clock, () => ({}));
  const attachment = { id: 'a', facts: { runId: '' }, report: undefined } as unknown as Attachment;
  return {
    report(atMs: number, launches: number) {
      nowMs = 5_000 + atMs;
      const empty = gbReport.decode(Buffer.alloc(gbReport.size));
      attachment.report = {
        ...empty,
        launch_count: BigInt(launches),
        used_bytes: [7n, 0n, 1n, 2n, 0n],
      };
      history.note(attachment);
    },
    samples: () =>
      history
        .programs([attachment])[0]!
        .samples!.map(({ atMs, launchCount }) => [Number(atMs), Number(launchCount)]),
    first: () => history.programs([attachment])[0]!.samples![0],
    end() {
      history.end(attachment);
      return history.programs([])[0]!.samples!.length;
    },
  };
}

test('reports closer than the interval replace each other, but for the first', () => {
  const { report, samples, first } = bench();
  for (const atMs of [0, 100, 300, 499, 700, 1_300]) report(atMs, atMs);
  expect(samples()).toEqual([
    [0, 0],
    [700, 700],
    [1_300, 1_300],
  ]);
  expect(first()).toMatchObject({ vramBytes: 7n, feederBytes: 3n });
});

test('a long run keeps its whole course with ever larger distances, and it outlives the program', () => {
  const { report, samples, end } = bench();
  const lastMs = 500 * 5 * PROGRAM_SAMPLES_MAX;
  for (let atMs = 0; atMs <= lastMs; atMs += 500) report(atMs, atMs);
  const times = samples().map(([atMs]) => atMs as number);
  expect(times.length).toBeLessThan(PROGRAM_SAMPLES_MAX);
  expect(times.length).toBeGreaterThan(PROGRAM_SAMPLES_MAX / 4);
  expect([times[0], times.at(-1)]).toEqual([0, lastMs]);
  expect(times).toEqual([...times].sort((a, b) => a - b));
  const largest = Math.max(...times.slice(1).map((time, index) => time - times[index]!));
  expect(largest).toBeLessThanOrEqual(16 * 500);
  expect(end()).toBe(times.length);
});
