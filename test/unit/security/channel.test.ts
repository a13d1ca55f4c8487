// SPDX-License-Identifier: Apache-2.0
// security/channel.ts uses methods of grpc-js that its documentation does not promise. When this
// fails after an update of grpc-js: compare its channel-credentials.js and transport.js with
// security/channel.ts, then raise GRPC_JS_VERSION.
import { describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { Duplex } from 'node:stream';
import type { Socket } from 'node:net';
import * as grpc from '@grpc/grpc-js';
import { createId } from '../../../proto/base/ids.js';
import { createPskChannelCredentials, GRPC_JS_VERSION } from '../../../security/channel.js';
import { createPairingKey } from '../../../security/pairing.js';

const require = createRequire(import.meta.url);
const packageFile = require.resolve('@grpc/grpc-js/package.json');
const source = (name: string): string =>
  readFileSync(packageFile.replace('package.json', `build/src/${name}`), 'utf8');
const credentials = (): ReturnType<typeof createPskChannelCredentials> =>
  createPskChannelCredentials({ key: createPairingKey(createId('feeder')) });

describe('the grpc-js that security/channel.ts knows', () => {
  test('is the one installed and the one pinned', () => {
    const installed = JSON.parse(readFileSync(packageFile, 'utf8')) as { version: string };
    const ours = JSON.parse(
      readFileSync(new URL('../../../package.json', import.meta.url), 'utf8'),
    ) as {
      dependencies: Record<string, string>;
    };
    expect(installed.version).toBe(GRPC_JS_VERSION);
    expect(ours.dependencies['@grpc/grpc-js']).toBe(GRPC_JS_VERSION);
  });

  test('has these methods on its credentials and no other that a subclass must bring', () => {
    const insecure = Object.getPrototypeOf(grpc.ChannelCredentials.createInsecure()) as object;
    expect(Object.getOwnPropertyNames(insecure).sort()).toEqual(
      ['_createSecureConnector', '_equals', '_isSecure', 'compose', 'constructor'].sort(),
    );
    expect(Object.getOwnPropertyNames(grpc.ChannelCredentials.prototype).sort()).toEqual([
      'compose',
      'constructor',
    ]);
  });

  test('has these members on its secure connectors', () => {
    const uri = { scheme: 'dns', path: 'localhost:1' };
    const theirs = grpc.ChannelCredentials.createInsecure()._createSecureConnector(uri, {});
    const ours = credentials()._createSecureConnector(uri, {});
    expect(Object.keys(ours).sort()).toEqual(Object.keys(theirs).sort());
  });

  test('asks waitForReady before it connects, and connect for the socket', () => {
    const transport = source('transport.js');
    const order = [
      'secureConnector.waitForReady()',
      'this.tcpConnect(address',
      'secureConnector.connect(tcpConnection)',
    ].map((call) => transport.indexOf(call));
    expect(order.every((position) => position > 0)).toBe(true);
    expect([...order].sort((a, b) => a - b)).toEqual(order);
    expect(transport).toContain('secureConnectResult.socket');
  });

  test('names a peer as security/listener.ts does', () => {
    expect(source('server-interceptors.js')).toContain(
      '`${socket.remoteAddress}:${socket.remotePort}`',
    );
  });
});

describe('channel credentials', () => {
  test('are secure and equal only to themselves', () => {
    const one = credentials();
    expect(one._isSecure()).toBe(true);
    expect(one._equals(one)).toBe(true);
    expect(one._equals(credentials())).toBe(false);
    expect(one._equals(grpc.ChannelCredentials.createInsecure())).toBe(false);
  });

  test('stay FEEDER_UNREACHABLE when the connection just ends, and remember no refusal', async () => {
    const one = credentials();
    const connector = one._createSecureConnector({ scheme: 'dns', path: 'localhost:1' }, {});
    const wire = new Duplex({ read: () => undefined, write: (_chunk, _encoding, done) => done() });
    const connecting = connector.connect(wire as unknown as Socket);
    setImmediate(() => wire.destroy());
    await expect(connecting).rejects.toMatchObject({ code: 'FEEDER_UNREACHABLE' });
    await connector.waitForReady();
    expect(one.refusal).toBeUndefined();
  });
});
