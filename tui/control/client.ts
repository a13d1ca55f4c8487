// SPDX-License-Identifier: Apache-2.0
// Typed clients of the two daemons of this machine over their Unix sockets. The only file of tui/ that knows grpc-js.
import * as grpc from '@grpc/grpc-js';
import { GbError } from '../../proto/base/errors.js';
import { MESSAGE_BYTES_MAX } from '../../proto/base/limits.js';
import { agentSocketPath, feedSocketPath } from '../../proto/base/paths.js';
import { AgentService, FeedService } from '../../proto/gen/greenboost/v1/control_pb.js';
import { createClient, errorFromStatus, type ServiceClient } from '../../proto/grpc.js';

export type AgentClient = ServiceClient<typeof AgentService>;
export type FeedClient = ServiceClient<typeof FeedService>;

const CHANNEL_OPTIONS: grpc.ClientOptions = {
  'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
  'grpc.enable_http_proxy': 0,
  // One channel, one connection: a daemon that comes back is a new socket, not a cached subchannel.
  'grpc.use_local_subchannel_pool': 1,
  'grpc.initial_reconnect_backoff_ms': 200,
  'grpc.max_reconnect_backoff_ms': 2_000,
};

type Env = Readonly<Record<string, string | undefined>>;

/** A client of this user's agent. Ownership: the caller closes it. Nothing is sent before the first call. */
export function openAgent(env: Env = process.env): AgentClient {
  const address = `unix:${agentSocketPath(env)}`;
  return createClient(
    AgentService,
    address,
    grpc.credentials.createInsecure(),
    CHANNEL_OPTIONS,
    'AGENT_UNREACHABLE',
  );
}

/** A client of this user's feeder daemon. Ownership: the caller closes it. */
export function openFeed(env: Env = process.env): FeedClient {
  const address = `unix:${feedSocketPath(env)}`;
  return createClient(
    FeedService,
    address,
    grpc.credentials.createInsecure(),
    CHANNEL_OPTIONS,
    'FEEDER_UNREACHABLE',
  );
}

function notRunning(reason: unknown, what: string, hint: string): GbError {
  const error = GbError.from(reason);
  if (error.code !== 'AGENT_UNREACHABLE' && error.code !== 'FEEDER_UNREACHABLE') return error;
  // A daemon may itself answer that somebody else is unreachable; only our own socket's failure is rewritten.
  if (error.details['answered'] === true) return error;
  return new GbError(error.code, what, { cause: error, details: { hint } });
}

/** Runs `use` with an agent client and closes it. @throws GbError AGENT_UNREACHABLE in plain words when none runs. */
export async function withAgent<T>(
  use: (client: AgentClient) => Promise<T>,
  env?: Env,
): Promise<T> {
  const client = openAgent(env);
  try {
    return await use(client);
  } catch (reason) {
    throw notRunning(
      reason,
      'no agent is running here',
      'start one: greenboost connect HOST, or: greenboost agent',
    );
  } finally {
    client.close();
  }
}

/** Runs `use` with a feeder client and closes it. @throws GbError FEEDER_UNREACHABLE in plain words when none runs. */
export async function withFeed<T>(use: (client: FeedClient) => Promise<T>, env?: Env): Promise<T> {
  const client = openFeed(env);
  try {
    return await use(client);
  } catch (reason) {
    throw notRunning(reason, 'no feeder is running here', 'start one: greenboost feed start');
  } finally {
    client.close();
  }
}

/** Reads a server stream until it ends. Cancel: the signal given to the call. @throws GbError as the server said. */
export async function* messagesOf<T>(
  stream: grpc.ClientReadableStream<T>,
): AsyncGenerator<T, void, void> {
  try {
    for await (const message of stream) yield message as T;
  } catch (reason) {
    throw errorFromStatus(reason as grpc.ServiceError, 'AGENT_UNREACHABLE');
  } finally {
    stream.cancel();
  }
}
