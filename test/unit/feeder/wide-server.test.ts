// SPDX-License-Identifier: Apache-2.0
// Fails when grpc-js changes the internals that wide-server.ts knows.
import { expect, test } from '@jest/globals';
import { connect as connectHttp2 } from 'node:http2';
import { connect, createServer, type AddressInfo } from 'node:net';
import * as grpc from '@grpc/grpc-js';
import { FLOW_CONTROL_WINDOW_BYTES } from '../../../proto/base/limits.js';
import { createWideServer } from '../../../feeder/wide-server.js';

test('a peer is told that it may send megabytes ahead, per stream and per connection', async () => {
  const server = createWideServer({ 'grpc.max_concurrent_streams': 7 });
  const injector = server.createConnectionInjector(grpc.ServerCredentials.createInsecure());
  const tcp = createServer((socket) => injector.injectConnection(socket));
  await new Promise<void>((resolve) => tcp.listen(0, '127.0.0.1', resolve));
  const socket = connect((tcp.address() as AddressInfo).port, '127.0.0.1');
  const session = connectHttp2('http://localhost', { createConnection: () => socket });
  await new Promise((resolve) => session.once('remoteSettings', resolve));
  await new Promise((resolve) => session.ping(() => resolve(undefined))); // The window update has arrived, too.
  expect(session.remoteSettings.initialWindowSize).toBe(FLOW_CONTROL_WINDOW_BYTES);
  expect(session.remoteSettings.maxConcurrentStreams).toBe(7);
  expect(session.state.remoteWindowSize).toBeGreaterThanOrEqual(FLOW_CONTROL_WINDOW_BYTES);
  session.destroy();
  await new Promise((resolve) => tcp.close(resolve));
  injector.destroy();
  server.forceShutdown();
});
