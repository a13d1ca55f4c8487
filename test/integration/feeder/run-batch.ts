// SPDX-License-Identifier: Apache-2.0
// Batches of commands for an executor (driver/executor/gb_run.h), called over a lane.
import { expect } from '@jest/globals';
import koffi from 'koffi';
import { LaneStatus } from '../../../driver/lane/names.js';
import { nativePath } from '../../../proto/base/paths.js';
import type { Ticket } from './harness.js';

/** GB_RUN_VERSION. */
const VERSION = 2;

export const Command = {
  IMAGE: 1,
  IMAGE_PART: 2,
  FUNCTION: 3,
  LAUNCH: 5,
  FILL: 8,
  READ: 13,
  SYNC: 14,
} as const;

/** One CALL over a lane of its own. Returns how the lane says it ended, and the answer. */
export async function callOver(
  { id, secret, address, port }: Ticket,
  body: Buffer,
): Promise<{ status: number; answer: Buffer }> {
  const library = koffi.load(nativePath('lib', 'libgreenboost_lane.so'), { deep: true });
  const later = (name: string, types: string, ...args: unknown[]): Promise<number> =>
    new Promise((resolve, reject) => {
      library
        .func(`int ${name}(${types})`)
        .async(...args, (error: Error | null, result: number) =>
          error ? reject(error) : resolve(result),
        );
    });
  const pointer = Buffer.alloc(8);
  const ticket = Buffer.concat([Buffer.from(id), Buffer.from(secret)]);
  const opened = await later(
    'gb_lane_open',
    'const char *a, uint16_t p, void *t, void *o, void *l',
    ...[address, port, ticket, null, pointer],
  );
  expect(opened).toBe(LaneStatus.OK);
  const lane = pointer.readBigUInt64LE();
  const [answer, length, callId] = [Buffer.alloc(1 << 16), Buffer.alloc(8), Buffer.alloc(8)];
  const Call = koffi.struct({
    size: 'uint32_t',
    region: 'uint32_t',
    priority: 'uint32_t',
    deadline_ms: 'uint32_t',
    body: 'void *',
    body_bytes: 'uint64_t',
    result: 'void *',
    result_room: 'uint64_t',
    result_bytes: 'void *',
  });
  const request = {
    size: koffi.sizeof(Call),
    ...{ region: 0, priority: 0, deadline_ms: 10_000, body, body_bytes: body.length },
    ...{ result: answer, result_room: answer.length, result_bytes: length },
  };
  try {
    const call = library.func('gb_lane_call', 'int', ['uint64_t', koffi.pointer(Call), 'void *']);
    const started = call(lane, request, callId) as number;
    if (started !== LaneStatus.OK) return { status: started, answer: Buffer.alloc(0) };
    const wait = 'uint64_t l, uint64_t id, uint32_t ms';
    const status = await later('gb_lane_wait', wait, lane, callId.readBigUInt64LE(), 10_000);
    return { status, answer: answer.subarray(0, Number(length.readBigUInt64LE())) };
  } finally {
    await later('gb_lane_close', 'uint64_t l, uint32_t ms', lane, 100);
  }
}

export function batch(
  sequence: number,
  ...commands: readonly [type: number, payload: Buffer][]
): Buffer {
  const head = Buffer.alloc(16);
  head.writeUInt32LE(VERSION, 0);
  head.writeUInt32LE(commands.length, 4);
  head.writeBigUInt64LE(BigInt(sequence), 8);
  const bodies = commands.map(([type, payload]) => {
    const command = Buffer.alloc(8);
    command.writeUInt32LE(8 + payload.length, 0);
    command.writeUInt16LE(type, 4);
    return Buffer.concat([command, payload]);
  });
  return Buffer.concat([head, ...bodies]);
}

export function words(...values: readonly (number | bigint)[]): Buffer {
  const buffer = Buffer.alloc(values.length * 8);
  values.forEach((value, index) => buffer.writeBigUInt64LE(BigInt(value), index * 8));
  return buffer;
}
