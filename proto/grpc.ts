// SPDX-License-Identifier: Apache-2.0
// The one adapter between protobuf-es service descriptions and grpc-js, and the one place where
// GbError becomes a gRPC status and back.
import {
  create,
  fromBinary,
  toBinary,
  type DescMessage,
  type DescMethod,
  type DescService,
  type MessageInitShape,
  type MessageShape,
} from '@bufbuild/protobuf';
import * as grpc from '@grpc/grpc-js';
import { GbError, isGbErrorCode, type GbErrorCode } from './base/errors.js';

interface Codec {
  serialize(message: unknown): Buffer;
  deserialize(bytes: Buffer): unknown;
}

function codecFor(description: DescMessage): Codec {
  return {
    serialize(message) {
      const bytes = toBinary(
        description,
        create(description, message as MessageInitShape<DescMessage>),
      );
      return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    },
    deserialize: (bytes) => fromBinary(description, bytes),
  };
}

function isClientStream(method: DescMethod): boolean {
  return method.methodKind === 'client_streaming' || method.methodKind === 'bidi_streaming';
}

function isServerStream(method: DescMethod): boolean {
  return method.methodKind === 'server_streaming' || method.methodKind === 'bidi_streaming';
}

/** The grpc-js definition of a service; method names are the camelCase ones of protobuf-es. */
export function serviceDefinition(service: DescService): grpc.ServiceDefinition {
  const definition: Record<string, grpc.MethodDefinition<unknown, unknown>> = {};
  for (const method of service.methods) {
    const input = codecFor(method.input);
    const output = codecFor(method.output);
    definition[method.localName] = {
      path: `/${service.typeName}/${method.name}`,
      requestStream: isClientStream(method),
      responseStream: isServerStream(method),
      requestSerialize: (message) => input.serialize(message),
      requestDeserialize: (bytes) => input.deserialize(bytes),
      responseSerialize: (message) => output.serialize(message),
      responseDeserialize: (bytes) => output.deserialize(bytes),
    };
  }
  return definition;
}

type Methods<S extends DescService> = S['method'];
type Input<M extends DescMethod> = MessageShape<M['input']>;
type InputInit<M extends DescMethod> = MessageInitShape<M['input']>;
type Output<M extends DescMethod> = MessageShape<M['output']>;
type OutputInit<M extends DescMethod> = MessageInitShape<M['output']>;

/** What a server implements: unary methods are async functions, streams get the grpc-js call. A
 *  thrown GbError becomes a status; anything else thrown becomes INTERNAL and reaches `onBug`. */
export type ServiceHandlers<S extends DescService> = {
  [K in keyof Methods<S>]: Methods<S>[K]['methodKind'] extends 'unary'
    ? (request: Input<Methods<S>[K]>, call: ServerCallInfo) => Promise<OutputInit<Methods<S>[K]>>
    : Methods<S>[K]['methodKind'] extends 'server_streaming'
      ? (
          call: grpc.ServerWritableStream<Input<Methods<S>[K]>, OutputInit<Methods<S>[K]>>,
        ) => Promise<void>
      : Methods<S>[K]['methodKind'] extends 'client_streaming'
        ? (
            call: grpc.ServerReadableStream<Input<Methods<S>[K]>, OutputInit<Methods<S>[K]>>,
          ) => Promise<OutputInit<Methods<S>[K]>>
        : (
            call: grpc.ServerDuplexStream<Input<Methods<S>[K]>, OutputInit<Methods<S>[K]>>,
          ) => Promise<void>;
};

export interface ServerCallInfo {
  /** `address:port` of the peer, the key to its session. */
  readonly peer: string;
  readonly signal: AbortSignal;
}

/** Options of a unary or streaming client call. Units: milliseconds. */
export interface CallOptions {
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/** A typed client. Unary methods return promises that reject with GbError; streams return the grpc-
 *  js call. */
export type ServiceClient<S extends DescService> = {
  [K in keyof Methods<S>]: Methods<S>[K]['methodKind'] extends 'unary'
    ? (request: InputInit<Methods<S>[K]>, options?: CallOptions) => Promise<Output<Methods<S>[K]>>
    : Methods<S>[K]['methodKind'] extends 'server_streaming'
      ? (
          request: InputInit<Methods<S>[K]>,
          options?: CallOptions,
        ) => grpc.ClientReadableStream<Output<Methods<S>[K]>>
      : Methods<S>[K]['methodKind'] extends 'client_streaming'
        ? (options?: CallOptions) => {
            readonly call: grpc.ClientWritableStream<InputInit<Methods<S>[K]>>;
            readonly response: Promise<Output<Methods<S>[K]>>;
          }
        : (
            options?: CallOptions,
          ) => grpc.ClientDuplexStream<InputInit<Methods<S>[K]>, Output<Methods<S>[K]>>;
} & { close(): void; readonly channel: grpc.Channel };

const STATUS_OF: Readonly<Record<GbErrorCode, grpc.status>> = {
  INVALID_ARGUMENT: grpc.status.INVALID_ARGUMENT,
  PROTOCOL_VIOLATION: grpc.status.INVALID_ARGUMENT,
  UNAUTHENTICATED: grpc.status.UNAUTHENTICATED,
  PERMISSION_DENIED: grpc.status.PERMISSION_DENIED,
  NOT_FOUND: grpc.status.NOT_FOUND,
  ALREADY_EXISTS: grpc.status.ALREADY_EXISTS,
  CAPACITY_EXHAUSTED: grpc.status.RESOURCE_EXHAUSTED,
  EPOCH_STALE: grpc.status.FAILED_PRECONDITION,
  WRONG_STATE: grpc.status.FAILED_PRECONDITION,
  LEASE_EXPIRED: grpc.status.UNAVAILABLE,
  FEEDER_UNREACHABLE: grpc.status.UNAVAILABLE,
  AGENT_UNREACHABLE: grpc.status.UNAVAILABLE,
  DEADLINE_EXCEEDED: grpc.status.DEADLINE_EXCEEDED,
  CANCELED: grpc.status.CANCELLED,
  DATA_LOSS: grpc.status.DATA_LOSS,
  UNSUPPORTED: grpc.status.UNIMPLEMENTED,
  DRIVER_ERROR: grpc.status.INTERNAL,
};

const CODE_METADATA = 'greenboost-code';

/** A GbError as the status grpc-js sends; the code travels in the metadata. */
export function statusFromError(reason: unknown): grpc.ServiceError {
  const error = GbError.from(reason);
  const metadata = new grpc.Metadata();
  metadata.set(CODE_METADATA, error.code);
  return Object.assign(new Error(error.rawMessage), {
    code: STATUS_OF[error.code],
    details: error.rawMessage,
    metadata,
  });
}

/** A failed call as a GbError. `unreachable` names what UNAVAILABLE means on this channel.
 *  `details.answered` is true when the peer itself said so, false when the channel failed. */
export function errorFromStatus(
  status: grpc.ServiceError,
  unreachable: 'FEEDER_UNREACHABLE' | 'AGENT_UNREACHABLE',
): GbError {
  const named = status.metadata?.get(CODE_METADATA)[0];
  if (typeof named === 'string' && isGbErrorCode(named)) {
    return new GbError(named, status.details, { cause: status, details: { answered: true } });
  }
  const code: GbErrorCode =
    status.code === grpc.status.DEADLINE_EXCEEDED
      ? 'DEADLINE_EXCEEDED'
      : status.code === grpc.status.CANCELLED
        ? 'CANCELED'
        : status.code === grpc.status.UNAVAILABLE
          ? unreachable
          : status.code === grpc.status.RESOURCE_EXHAUSTED ||
              status.code === grpc.status.UNIMPLEMENTED
            ? 'PROTOCOL_VIOLATION'
            : 'DRIVER_ERROR';
  return new GbError(code, status.details || status.message, {
    cause: status,
    details: { answered: false },
  });
}

export interface ServeOptions {
  /** A handler threw something that is not a GbError: log it, it is a bug of ours. */
  readonly onBug: (error: unknown, method: string) => void;
}

/** Adds `service` to a grpc-js server. */
export function addService<S extends DescService>(
  server: grpc.Server,
  service: S,
  handlers: ServiceHandlers<S>,
  options: ServeOptions,
): void {
  const implementation: grpc.UntypedServiceImplementation = {};
  for (const method of service.methods) {
    const handler = (handlers as unknown as Record<string, (...args: never[]) => Promise<unknown>>)[
      method.localName
    ];
    if (!handler) throw new Error(`no handler for ${method.name}`);
    implementation[method.localName] = wrapHandler(method, handler, options);
  }
  server.addService(serviceDefinition(service), implementation);
}

function wrapHandler(
  method: DescMethod,
  handler: (...args: never[]) => Promise<unknown>,
  options: ServeOptions,
): grpc.UntypedHandleCall {
  const fail = (reason: unknown): grpc.ServiceError => {
    if (
      !(reason instanceof GbError) &&
      !(reason instanceof Error && reason.name === 'AbortError')
    ) {
      options.onBug(reason, method.name);
    }
    return statusFromError(reason);
  };
  if (isServerStream(method)) {
    const streamHandler = handler as unknown as (
      call: grpc.ServerWritableStream<unknown, unknown>,
    ) => Promise<void>;
    return ((call: grpc.ServerWritableStream<unknown, unknown>) => {
      streamHandler(call).then(
        () => call.end(),
        (reason: unknown) => call.emit('error', fail(reason)),
      );
    }) as grpc.UntypedHandleCall;
  }
  if (isClientStream(method)) {
    const streamHandler = handler as unknown as (
      call: grpc.ServerReadableStream<unknown, unknown>,
    ) => Promise<unknown>;
    return ((
      call: grpc.ServerReadableStream<unknown, unknown>,
      callback: grpc.sendUnaryData<unknown>,
    ) => {
      streamHandler(call).then(
        (response) => callback(null, response),
        (reason: unknown) => callback(fail(reason)),
      );
    }) as grpc.UntypedHandleCall;
  }
  const unary = handler as unknown as (request: unknown, info: ServerCallInfo) => Promise<unknown>;
  return ((call: grpc.ServerUnaryCall<unknown, unknown>, callback: grpc.sendUnaryData<unknown>) => {
    const controller = new AbortController();
    call.on('cancelled', () => controller.abort());
    unary(call.request, { peer: call.getPeer(), signal: controller.signal }).then(
      (response) => callback(null, response),
      (reason: unknown) => callback(fail(reason)),
    );
  }) as grpc.UntypedHandleCall;
}

/** Makes a typed client. Ownership: the caller closes it. Every stream it returns already has an
 *  `error` listener, so a closing channel cannot crash the process; callers still listen for what
 *  they must react to. */
export function createClient<S extends DescService>(
  service: S,
  address: string,
  credentials: grpc.ChannelCredentials,
  channelOptions: grpc.ClientOptions,
  unreachable: 'FEEDER_UNREACHABLE' | 'AGENT_UNREACHABLE',
): ServiceClient<S> {
  const Constructor = grpc.makeGenericClientConstructor(serviceDefinition(service), service.name);
  const raw = new Constructor(address, credentials, channelOptions);
  const methods: Record<string, unknown> = { close: () => raw.close(), channel: raw.getChannel() };
  for (const method of service.methods) {
    methods[method.localName] = clientMethod(raw, method, unreachable);
  }
  return methods as ServiceClient<S>;
}

type RawMethod = (
  ...args: unknown[]
) => grpc.ClientReadableStream<unknown> & grpc.ClientWritableStream<unknown>;

function clientMethod(
  raw: grpc.Client,
  method: DescMethod,
  unreachable: 'FEEDER_UNREACHABLE' | 'AGENT_UNREACHABLE',
): unknown {
  const call = (raw as unknown as Record<string, RawMethod>)[method.localName]!.bind(raw);
  const grpcOptions = (options: CallOptions): grpc.CallOptions =>
    options.timeoutMs === undefined ? {} : { deadline: Date.now() + options.timeoutMs };
  const guard = <
    T extends { on(event: 'error' | 'status', listener: () => void): unknown; cancel(): void },
  >(
    stream: T,
    signal: AbortSignal | undefined,
  ): T => {
    stream.on('error', () => undefined);
    if (signal) {
      const onAbort = (): void => stream.cancel();
      if (signal.aborted) stream.cancel();
      else signal.addEventListener('abort', onAbort, { once: true });
      // A signal may outlive many calls; it must not keep them.
      stream.on('status', () => signal.removeEventListener('abort', onAbort));
    }
    return stream;
  };
  const settle =
    (resolve: (value: unknown) => void, reject: (error: GbError) => void) =>
    (error: grpc.ServiceError | null, response: unknown): void => {
      if (error) reject(errorFromStatus(error, unreachable));
      else resolve(response);
    };
  if (method.methodKind === 'unary') {
    return (request: unknown, options: CallOptions = {}) =>
      new Promise((resolve, reject) => {
        guard(
          call(request, new grpc.Metadata(), grpcOptions(options), settle(resolve, reject)),
          options.signal,
        );
      });
  }
  if (method.methodKind === 'client_streaming') {
    return (options: CallOptions = {}) => {
      let stream: unknown;
      const response = new Promise((resolve, reject) => {
        stream = guard(
          call(new grpc.Metadata(), grpcOptions(options), settle(resolve, reject)),
          options.signal,
        );
      });
      response.catch(() => undefined);
      return { call: stream, response };
    };
  }
  if (method.methodKind === 'server_streaming') {
    return (request: unknown, options: CallOptions = {}) =>
      guard(call(request, new grpc.Metadata(), grpcOptions(options)), options.signal);
  }
  return (options: CallOptions = {}) =>
    guard(call(new grpc.Metadata(), grpcOptions(options)), options.signal);
}
