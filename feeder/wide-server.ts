// SPDX-License-Identifier: Apache-2.0
// A grpc-js server whose peers may have megabytes on their way. HTTP/2 starts with 64 KiB per
// connection, which at 0.3 ms of round trip is 200 MB/s whatever the network; grpc-js lets a client
// raise that and a server not. This file knows two internals of grpc-js 1.14.7 for it and does
// without when they are not there: slower, never wrong.
import type { Http2Server, ServerHttp2Session, Settings } from 'node:http2';
import * as grpc from '@grpc/grpc-js';
import { FLOW_CONTROL_WINDOW_BYTES } from '../proto/base/limits.js';

interface Internals {
  commonServerOptions?: { settings?: Settings };
  _setupHandlers?: (http2Server: Http2Server, ...rest: unknown[]) => void;
}

/** Creates a server; every session and stream of it receives up to FLOW_CONTROL_WINDOW_BYTES ahead
 *  of its reader. */
export function createWideServer(options: grpc.ServerOptions): grpc.Server {
  const server = new grpc.Server(options);
  const internals = server as unknown as Internals;
  const setup = internals._setupHandlers;
  if (!internals.commonServerOptions || !setup) return server;
  const { settings } = internals.commonServerOptions;
  internals.commonServerOptions.settings = {
    ...settings,
    initialWindowSize: FLOW_CONTROL_WINDOW_BYTES,
  };
  internals._setupHandlers = (http2Server, ...rest) => {
    setup.call(server, http2Server, ...rest);
    http2Server.on('session', (session: ServerHttp2Session) =>
      session.setLocalWindowSize(FLOW_CONTROL_WINDOW_BYTES),
    );
  };
  return server;
}
