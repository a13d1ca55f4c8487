// SPDX-License-Identifier: Apache-2.0
// Programs that have no lanes: their bytes pass between staging memory and feeders through the agent.
import { GbError } from '../../proto/base/errors.js';
import { rangeEnd, type ByteRange, type Copy, type Segment } from '../placement/residency.js';
import { isLost, mainCopy } from '../placement/residency.js';
import type { Copies } from './copies.js';
import { lossOf, splitSegments } from './pieces.js';
import type { Staging } from './staging.js';

/** One copy between feeders passes through the agent in pieces of this size. */
const COPY_BYTES = 8 * 2 ** 20;

export interface Transfer extends ByteRange {
  readonly stagingOffset: number;
}

export type Direction = 'store' | 'fetch';

/** Staging to feeders, or back. @throws GbError NOT_FOUND, DATA_LOSS, FEEDER_UNREACHABLE. */
export async function transfer(
  copies: Copies,
  staging: Staging,
  direction: Direction,
  wanted: Transfer,
  ended: AbortSignal,
): Promise<void> {
  const segments = copies.residency.cover(wanted);
  const lost = segments.find(({ extent }) => isLost(extent));
  if (lost) throw lossOf(mainCopy(lost.extent));
  const failed = new AbortController();
  const signal = AbortSignal.any([ended, failed.signal]);
  const delta = wanted.stagingOffset - wanted.offset;
  const moves = splitSegments(segments).map((segment) =>
    move(copies, staging, direction, segment, segment.offset + delta, signal).catch(
      (reason: unknown) => {
        failed.abort(reason);
        throw reason;
      },
    ),
  );
  const failures = (await Promise.allSettled(moves)).filter(
    (result) => result.status === 'rejected',
  );
  const first =
    failures.find(({ reason }) => GbError.from(reason).code !== 'CANCELED') ?? failures[0];
  if (first) throw first.reason;
}

async function move(
  copies: Copies,
  staging: Staging,
  direction: Direction,
  segment: Segment,
  at: number,
  signal: AbortSignal,
): Promise<void> {
  const { extent } = segment;
  const targets =
    direction === 'store' ? extent.copies.filter(({ lost }) => !lost) : [mainCopy(extent)];
  for (const copy of targets) {
    await copies.onLease(copies.liveHold(copy), (client, hold) =>
      direction === 'store'
        ? client.write(hold, segment, (from, frame) => staging.read(at + from, frame), signal)
        : client.read(hold, segment, (from, frame) => staging.write(at + from, frame), signal),
    );
  }
}

/** One copy from feeder to feeder, through this process. pre: nobody writes to it meanwhile. */
export async function relay(
  copies: Copies,
  range: ByteRange,
  source: Copy,
  target: Copy,
  options: { signal: AbortSignal; onBytes: (bytes: number) => void },
): Promise<void> {
  const { signal } = options;
  for (let offset = range.offset; offset < rangeEnd(range); offset += COPY_BYTES) {
    const piece = { offset, length: Math.min(COPY_BYTES, rangeEnd(range) - offset) };
    const buffer = Buffer.allocUnsafe(piece.length);
    await copies.onLease(copies.liveHold(source), (client, hold) =>
      client.read(hold, piece, async (at, frame) => void buffer.set(frame, at), signal),
    );
    await copies.onLease(copies.liveHold(target), (client, hold) =>
      client.write(
        hold,
        piece,
        async (at, frame) => void buffer.copy(frame, 0, at, at + frame.length),
        signal,
      ),
    );
    options.onBytes(piece.length);
  }
}
