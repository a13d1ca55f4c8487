// SPDX-License-Identifier: Apache-2.0
// What every stream of the gRPC edge needs: to know when its peer is gone, and to wait for one that
// is slow.
import type * as grpc from '@grpc/grpc-js';
import { GbError } from '../proto/base/errors.js';

/** Aborts when the peer cancels, its deadline passes or its connection ends. */
export function callSignal(call: {
  on(event: 'cancelled', listener: () => void): unknown;
  readonly cancelled: boolean;
}): AbortSignal {
  const controller = new AbortController();
  call.on('cancelled', () => controller.abort(new GbError('CANCELED', 'the caller went away')));
  if (call.cancelled) controller.abort(new GbError('CANCELED', 'the caller went away'));
  return controller.signal;
}

/** Writes one message and waits until the peer has room. @throws GbError CANCELED when it goes
 *  away. */
export function sendMessage<T>(
  call: grpc.ServerWritableStream<unknown, T>,
  message: T,
  signal: AbortSignal,
): Promise<void> {
  signal.throwIfAborted();
  if (call.write(message)) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const onDrain = (): void => {
      signal.removeEventListener('abort', onAbort);
      resolve();
    };
    const onAbort = (): void => {
      call.removeListener('drain', onDrain);
      reject(GbError.from(signal.reason, 'CANCELED'));
    };
    call.once('drain', onDrain);
    signal.addEventListener('abort', onAbort, { once: true });
  });
}
