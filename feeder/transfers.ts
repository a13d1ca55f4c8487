// SPDX-License-Identifier: Apache-2.0
// Streams of bytes between gRPC and executors: Read, Write and the bandwidth probes. A few frames
// of one stream are under way, and grpc-js holds up to 16 messages before them: a full executor
// stops the reading, a full network stops the sending.
import type * as grpc from '@grpc/grpc-js';
import { GbError } from '../proto/base/errors.js';
import {
  FRAME_BYTES_MAX,
  PROBE_BYTES_MAX,
  TRANSFER_BYTES_MAX,
  TRANSFER_FRAMES_MAX,
} from '../proto/base/limits.js';
import { bytesFromWire } from '../proto/base/units.js';
import type { WriteHeader } from '../proto/gen/greenboost/v1/feeder_pb.js';
import { sendMessage } from './streams.js';

/** Checks the size of one transfer. @throws GbError INVALID_ARGUMENT. */
export function checkTransferSpan(
  offset: bigint,
  length: bigint,
): { offset: number; length: number } {
  const span = { offset: bytesFromWire(offset), length: bytesFromWire(length) };
  if (span.length === 0 || span.length > TRANSFER_BYTES_MAX) {
    throw new GbError(
      'INVALID_ARGUMENT',
      `one call moves between 1 and ${TRANSFER_BYTES_MAX} bytes, not ${span.length}`,
    );
  }
  return span;
}

type WritePart = {
  part:
    | { case: 'header'; value: WriteHeader }
    | { case: 'data'; value: Uint8Array }
    | { case: undefined };
};

export interface WriteTarget {
  readonly length: number;
  /** Takes one frame; `position` counts from the start of the transfer. Resolves when the bytes are
   *  in place. */
  take(position: number, data: Uint8Array): Promise<void>;
}

/** Receives a Write: a header, then exactly as many bytes as it promised. What arrived before a
 *  failure stays written.
 *  @throws GbError PROTOCOL_VIOLATION for a stream of another shape; CANCELED when it was cut. */
export async function receiveWrite(
  call: AsyncIterable<unknown>,
  signal: AbortSignal,
  begin: (header: WriteHeader) => WriteTarget,
): Promise<number> {
  let target: WriteTarget | undefined;
  let received = 0;
  let failure: unknown;
  const inFlight = new Set<Promise<void>>();
  const settleAll = (): Promise<unknown> => Promise.allSettled(inFlight);
  try {
    for await (const message of call) {
      const { part } = message as WritePart;
      if (failure) break;
      if (!target) {
        if (part.case !== 'header')
          throw new GbError('PROTOCOL_VIOLATION', 'a Write begins with its header');
        target = begin(part.value);
        continue;
      }
      const data = dataOf(part, target.length - received);
      const position = received;
      received += data.length;
      const taken: Promise<void> = target
        .take(position, data)
        .catch((reason: unknown) => void (failure ??= reason));
      inFlight.add(taken);
      void taken.then(() => inFlight.delete(taken));
      if (inFlight.size >= TRANSFER_FRAMES_MAX) await Promise.race(inFlight);
    }
    await Promise.all(inFlight);
  } catch (reason) {
    await settleAll(); // Nothing of this call touches the range after it has ended.
    throw signal.aborted ? GbError.from(signal.reason, 'CANCELED') : reason;
  }
  if (failure) throw failure instanceof Error ? failure : GbError.from(failure);
  signal.throwIfAborted();
  if (!target) throw new GbError('PROTOCOL_VIOLATION', 'a Write without a header');
  if (received !== target.length) {
    throw new GbError(
      'PROTOCOL_VIOLATION',
      `a Write of ${target.length} bytes ended after ${received}`,
    );
  }
  return received;
}

function dataOf(part: WritePart['part'], roomBytes: number): Uint8Array {
  if (part.case !== 'data') throw new GbError('PROTOCOL_VIOLATION', 'a Write has one header');
  const data = part.value;
  if (data.length === 0 || data.length > FRAME_BYTES_MAX) {
    throw new GbError(
      'PROTOCOL_VIOLATION',
      `a frame has between 1 and ${FRAME_BYTES_MAX} bytes, not ${data.length}`,
    );
  }
  if (data.length > roomBytes)
    throw new GbError('PROTOCOL_VIOLATION', 'a Write sent more bytes than its header said');
  return data;
}

/** Sends a range in frames, in order, a few of them read ahead. */
export async function sendRead(
  call: grpc.ServerWritableStream<unknown, { data: Uint8Array }>,
  signal: AbortSignal,
  length: number,
  read: (position: number, length: number) => Promise<Uint8Array>,
): Promise<void> {
  const ahead: Promise<Uint8Array>[] = [];
  let next = 0;
  const readNext = (): void => {
    const bytes = Math.min(FRAME_BYTES_MAX, length - next);
    const frame = read(next, bytes);
    frame.catch(() => undefined); // Seen when its turn comes, or the call has ended before.
    ahead.push(frame);
    next += bytes;
  };
  try {
    while (next < length || ahead.length > 0) {
      while (next < length && ahead.length < TRANSFER_FRAMES_MAX) readNext();
      const data = await (ahead.shift() as Promise<Uint8Array>);
      await sendMessage(call, { data }, signal);
    }
  } finally {
    await Promise.allSettled(ahead);
  }
}

/** Counts and throws away. @throws GbError INVALID_ARGUMENT beyond PROBE_BYTES_MAX. */
export async function receiveProbe(call: AsyncIterable<unknown>): Promise<number> {
  let received = 0;
  for await (const message of call) {
    const { data } = message as { data: Uint8Array };
    received += data.length;
    if (received > PROBE_BYTES_MAX) throw probeTooLarge();
  }
  return received;
}

/** Sends invented bytes. @throws GbError INVALID_ARGUMENT beyond PROBE_BYTES_MAX. */
export async function sendProbe(
  call: grpc.ServerWritableStream<unknown, { data: Uint8Array }>,
  signal: AbortSignal,
  bytes: number,
): Promise<void> {
  if (bytes > PROBE_BYTES_MAX) throw probeTooLarge();
  const frame = new Uint8Array(Math.min(FRAME_BYTES_MAX, bytes));
  for (let sent = 0; sent < bytes; sent += frame.length) {
    await sendMessage(
      call,
      { data: frame.subarray(0, Math.min(frame.length, bytes - sent)) },
      signal,
    );
  }
}

function probeTooLarge(): GbError {
  return new GbError('INVALID_ARGUMENT', `a probe moves at most ${PROBE_BYTES_MAX} bytes`);
}
