// SPDX-License-Identifier: Apache-2.0
// The feeder's side: accepts TCP, lets only holders of a pairing key through TLS 1.3, and hands
// each secured socket to grpc-js. A connection is
//   accepted -> hello_received -> secured -> closed
// and from each of the first two straight to closed on failure. Until it is secured it costs one
// socket, one timer and at most HANDSHAKE_BYTES_MAX bytes, and nothing was allocated for it anywhere
// else. Must not know what is served.
import { constants as cryptoConstants, randomBytes } from 'node:crypto';
import {
  createServer as createTcpServer,
  type AddressInfo,
  type Server as TcpServer,
  type Socket,
} from 'node:net';
import {
  createServer as createTlsServer,
  type Server as TlsServer,
  type TLSSocket,
} from 'node:tls';
import * as grpc from '@grpc/grpc-js';
import type { Clock, Timer } from '../proto/base/clock.js';
import { GbError } from '../proto/base/errors.js';
import type { FeederId, SessionId } from '../proto/base/ids.js';
import { KEY_SWEEP_INTERVAL_MS } from '../proto/base/limits.js';
import type { Logger } from '../proto/base/log.js';
import {
  DEFAULT_AUTH_LIMITS,
  FailureLog,
  ReplayGuard,
  type AuthFailureReason,
  type AuthLimits,
} from './admission.js';
import { isLanAddress, type Bind } from './bind.js';
import { inspectClientHello } from './client-hello.js';
import { deriveSessionId, deriveTlsPsk, type Exporter, type TlsPsk } from './derive.js';
import { keyFingerprint, type PairingKey } from './pairing.js';
import { handshakeFlaw, TLS_PARAMETERS } from './tls-parameters.js';

/** A peer that proved it holds a key, for as long as its connection lives. */
export interface AuthenticatedSession {
  /** The same id on both sides. */
  readonly sessionId: SessionId;
  readonly keyFingerprint: string;
  /** The id in the key: the feeder's own, or a shared key's group. */
  readonly feederId: FeederId;
  /** What grpc-js answers as `call.getPeer()` for every call of this session. */
  readonly peer: string;
  readonly remoteAddress: string;
  readonly exporter: Exporter;
  /** Closes the connection at once. */
  close(): void;
}

export interface AuthFailure {
  readonly address: string;
  readonly reason: AuthFailureReason;
  /** Of the key that its identity named, where it named one. Proven only for `sessions_full`. */
  readonly keyFingerprint?: string;
}

/** Why a session ended. */
export type SessionEnd =
  | 'ended' // by the peer, or the connection broke
  | 'revoked' // its key was removed
  | 'closed' // by its owner on this side
  | 'stopped'; // the listener stops

export interface ListenPskOptions {
  readonly server: grpc.Server;
  /** The keys that are valid now; asked at each handshake and once a second. */
  readonly keys: () => readonly PairingKey[];
  readonly binds: readonly Bind[];
  readonly log: Logger;
  readonly clock: Clock;
  /** Before the first call of the session can arrive. */
  readonly onSession?: (session: AuthenticatedSession) => void;
  /** After the last. */
  readonly onSessionEnd?: (session: AuthenticatedSession, why: SessionEnd) => void;
  readonly onFailure?: (failure: AuthFailure) => void;
  readonly limits?: Partial<AuthLimits>;
  /** Accept peers from beyond the LAN. Default: false. */
  readonly allowWan?: boolean;
}

export interface ListenerStats {
  readonly handshakeCount: number;
  readonly sessionCount: number;
  /** Since start. */
  readonly acceptedCount: number;
  readonly authenticatedCount: number;
  readonly failures: Readonly<Partial<Record<AuthFailureReason, number>>>;
}

export interface PskListener {
  /** Where it listens, with the ports that were given for port 0. */
  readonly addresses: readonly Bind[];
  sessions(): readonly AuthenticatedSession[];
  stats(): ListenerStats;
  /** Closes the sessions of a key at once and returns how many; `keys()` decides about new ones. */
  revoke(fingerprint: string): number;
  /** Stops accepting, drops handshakes, closes sessions, and resolves when all is closed. May be
   *  called again. */
  stop(): Promise<void>;
}

/** A connection that is not authenticated yet. */
interface Pending {
  readonly socket: Socket;
  readonly address: string;
  readonly timer: Timer;
  /** The key its identity names; only a hint until the handshake is done. */
  match?: PairingKey;
}

interface Secured {
  readonly session: AuthenticatedSession;
  readonly socket: TLSSocket;
  end: SessionEnd;
}

/** Listens on every bind. @throws GbError when one of the addresses cannot be used; then none stays
 *  open. */
export async function listenPsk(options: ListenPskOptions): Promise<PskListener> {
  const listener = new Listener(options);
  await listener.open();
  return listener;
}

class Listener implements PskListener {
  readonly addresses: Bind[] = [];
  readonly #limits: AuthLimits;
  readonly #failures: FailureLog;
  readonly #replays = new ReplayGuard();
  readonly #tls: TlsServer;
  readonly #injector: ReturnType<grpc.Server['createConnectionInjector']>;
  readonly #tcp: TcpServer[] = [];
  /** By connection name; insertion order is age. */
  readonly #pending = new Map<string, Pending>();
  readonly #secured = new Map<SessionId, Secured>();
  readonly #derived = new WeakMap<PairingKey, TlsPsk & { readonly fingerprint: string }>();
  readonly #sweep: Timer;
  #acceptedCount = 0;
  #authenticatedCount = 0;
  #stopped: Promise<void> | undefined;

  constructor(private readonly options: ListenPskOptions) {
    this.#limits = { ...DEFAULT_AUTH_LIMITS, ...options.limits };
    this.#failures = new FailureLog(options.log, options.clock, this.#limits.failureLogIntervalMs);
    this.#injector = options.server.createConnectionInjector(
      grpc.ServerCredentials.createInsecure(),
    );
    this.#tls = createTlsServer({
      ...TLS_PARAMETERS,
      handshakeTimeout: this.#limits.handshakeTimeoutMs * 2, // Ours fires first; this is the second wall.
      // Tickets: OpenSSL sends one after a PSK handshake and Node cannot stop it. With this option
      // it is 32 random bytes that name a stored session, and none is stored. Nor is one ever
      // looked up: inspectClientHello refuses binary identities, and #pskFor answers every other
      // one, the unknown ones with a random key.
      secureOptions: cryptoConstants.SSL_OP_NO_TICKET,
      pskCallback: (socket, identity) => this.#pskFor(socket, identity),
    });
    this.#tls.on('secureConnection', (socket) => this.#onSecured(socket));
    this.#tls.on('tlsClientError', (error, socket) => this.#onTlsError(error, socket));
    this.#sweep = options.clock.every(KEY_SWEEP_INTERVAL_MS, () => this.#closeRevoked());
  }

  async open(): Promise<void> {
    try {
      for (const bind of this.options.binds) await this.#open(bind);
      if (this.#tcp.length === 0) {
        throw new GbError(
          'NOT_FOUND',
          'no address of this machine is ready to listen on; name one with --bind',
        );
      }
    } catch (reason) {
      await this.stop();
      throw reason;
    }
  }

  /** An address nobody asked for by name may be not usable yet (IPv6 still checks it for
   *  duplicates): it is left out. */
  async #open(bind: Bind): Promise<void> {
    try {
      const server = await this.#listen(bind);
      this.#tcp.push(server);
      this.addresses.push({ host: bind.host, port: (server.address() as AddressInfo).port });
    } catch (reason) {
      const code = (GbError.from(reason).cause as NodeJS.ErrnoException | undefined)?.code;
      if (bind.optional !== true || code !== 'EADDRNOTAVAIL') throw reason;
      this.options.log.warn(
        { event: 'bind_skipped', host: bind.host },
        'this address is not ready; not listening on it',
      );
    }
  }

  sessions(): readonly AuthenticatedSession[] {
    return [...this.#secured.values()].map(({ session }) => session);
  }

  stats(): ListenerStats {
    return {
      handshakeCount: this.#pending.size,
      sessionCount: this.#secured.size,
      acceptedCount: this.#acceptedCount,
      authenticatedCount: this.#authenticatedCount,
      failures: this.#failures.counts(),
    };
  }

  revoke(fingerprint: string): number {
    const closed = [...this.#secured.values()].filter(
      ({ session }) => session.keyFingerprint === fingerprint,
    );
    for (const secured of closed) this.#close(secured, 'revoked');
    return closed.length;
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    this.#sweep.cancel();
    const closed = this.#tcp.map(
      (server) => new Promise<void>((resolve) => server.close(() => resolve())),
    );
    for (const pending of this.#pending.values()) pending.socket.destroy();
    for (const secured of this.#secured.values()) {
      closed.push(new Promise((resolve) => secured.socket.once('close', () => resolve()))); // After onSessionEnd.
      this.#close(secured, 'stopped');
    }
    await Promise.all(closed); // A TCP server is closed when its last connection is.
    this.#injector.destroy();
  }

  #listen({ host, port }: Bind): Promise<TcpServer> {
    // pauseOnConnect is off: the first bytes are read here, before TLS sees the socket.
    const server = createTcpServer({ noDelay: true }, (socket) => this.#onConnection(socket));
    return new Promise((resolve, reject) => {
      const onError = (reason: NodeJS.ErrnoException): void => {
        const [code, advice] =
          reason.code === 'EADDRINUSE'
            ? ([
                'ALREADY_EXISTS',
                'the port is taken; is a feeder already running? Choose another with --port',
              ] as const)
            : (['INVALID_ARGUMENT', reason.message] as const);
        reject(
          new GbError(code, `cannot listen on ${host} port ${port}: ${advice}`, { cause: reason }),
        );
      };
      server.once('error', onError);
      server.listen({ host, port, ipv6Only: host.includes(':') && host !== '::' }, () => {
        server.removeListener('error', onError);
        server.on('error', (err) =>
          this.options.log.error({ event: 'listen_error', err }, 'accepting has failed'),
        );
        resolve(server);
      });
    });
  }

  #onConnection(socket: Socket): void {
    const name = connectionName(socket);
    const address = socket.remoteAddress;
    socket.on('error', () => undefined); // 'close' follows, and says what was going on.
    if (name === undefined || address === undefined || this.#stopped) return void socket.destroy();
    this.#acceptedCount += 1;
    const refusal = this.#admissionFlaw(address);
    if (refusal) {
      socket.destroy();
      return this.#fail(address, refusal);
    }
    const timer = this.options.clock.after(this.#limits.handshakeTimeoutMs, () =>
      this.#drop(name, 'timeout'),
    );
    this.#pending.set(name, { socket, address, timer });
    socket.once('close', () => this.#drop(name, 'cut'));
    this.#makeRoom();
    this.#readHello(name, socket);
  }

  #admissionFlaw(address: string): AuthFailureReason | undefined {
    if (!this.options.allowWan && !isLanAddress(address)) return 'not_lan';
    let sameAddress = 0;
    for (const pending of this.#pending.values()) if (pending.address === address) sameAddress += 1;
    return sameAddress >= this.#limits.handshakesPerAddressMax ? 'address_busy' : undefined;
  }

  /** A true peer needs a few milliseconds; when there are too many handshakes, the oldest is the
   *  least likely one. */
  #makeRoom(): void {
    while (this.#pending.size > this.#limits.handshakesTotalMax) {
      this.#drop(this.#pending.keys().next().value as string, 'crowded_out');
    }
  }

  #readHello(name: string, socket: Socket): void {
    let received = Buffer.alloc(0);
    const onData = (chunk: Buffer): void => {
      received = Buffer.concat([received, chunk]);
      const verdict = inspectClientHello(received, this.#limits.handshakeBytesMax);
      if (verdict.t === 'incomplete') return;
      socket.removeListener('data', onData);
      socket.pause();
      if (verdict.t === 'refused') return this.#drop(name, verdict.flaw);
      if (!this.#replays.admit(verdict.random)) return this.#drop(name, 'replayed');
      socket.unshift(received);
      this.#tls.emit('connection', socket);
    };
    socket.on('data', onData);
  }

  /** Called by OpenSSL with whatever identity the peer presents. Every unknown one gets a random
   *  key, so that it fails at the same check, with the same alert, as a known identity with a wrong
   *  key. */
  #pskFor(socket: TLSSocket, identity: string): Uint8Array {
    const pending = this.#pending.get(connectionName(socket) ?? '');
    const match = this.#keys()?.find((key) => this.#derive(key).identity === identity);
    if (pending && match) pending.match = match;
    const derived = match && this.#derive(match);
    return pending && derived ? derived.psk : randomBytes(32);
  }

  #onTlsError(error: Error & { code?: string }, socket: TLSSocket): void {
    const name = connectionName(socket);
    const pending = name === undefined ? undefined : this.#pending.get(name);
    if (name === undefined || !pending) return;
    const binder = error.code === 'ERR_SSL_BINDER_DOES_NOT_VERIFY';
    const cut = error.code === 'ECONNRESET' || error.code === 'EPIPE';
    this.#drop(
      name,
      cut ? 'cut' : binder ? (pending.match ? 'wrong_key' : 'unknown_identity') : 'tls',
    );
  }

  #onSecured(socket: TLSSocket): void {
    socket.on('error', () => undefined); // 'close' follows.
    const name = connectionName(socket);
    const pending = name === undefined ? undefined : this.#pending.get(name);
    if (name === undefined || !pending?.match || handshakeFlaw(socket)) {
      if (name !== undefined) this.#drop(name, 'tls');
      return void socket.destroy();
    }
    if (this.#secured.size >= this.#limits.sessionsMax) return this.#drop(name, 'sessions_full');
    this.#pending.delete(name);
    pending.timer.cancel();
    this.#admit(socket, pending.match, name, pending.address);
  }

  #admit(socket: TLSSocket, key: PairingKey, name: string, remoteAddress: string): void {
    const exporter: Exporter = (label, length) =>
      socket.exportKeyingMaterial(length, label, Buffer.alloc(0));
    const session: AuthenticatedSession = {
      sessionId: deriveSessionId(exporter),
      keyFingerprint: this.#derive(key).fingerprint,
      feederId: key.feederId,
      peer: `${remoteAddress}:${socket.remotePort}`,
      remoteAddress,
      exporter,
      close: () => this.#close(secured, 'closed'),
    };
    const secured: Secured = { session, socket, end: 'ended' };
    this.#authenticatedCount += 1;
    this.#secured.set(session.sessionId, secured);
    socket.once('close', () => {
      this.#secured.delete(session.sessionId);
      this.options.onSessionEnd?.(session, secured.end);
    });
    this.options.log.info(
      {
        event: 'session_opened',
        session: session.sessionId,
        peer: session.peer,
        fingerprint: session.keyFingerprint,
      },
      'a peer proved that it holds a pairing key',
    );
    this.options.onSession?.(session);
    if (!socket.destroyed) this.#injector.injectConnection(socket);
  }

  #closeRevoked(): void {
    if (this.#secured.size === 0) return;
    const keys = this.#keys();
    if (!keys) return;
    const valid = new Set(keys.map((key) => this.#derive(key).fingerprint));
    for (const secured of this.#secured.values()) {
      const { sessionId, peer, keyFingerprint } = secured.session;
      if (valid.has(keyFingerprint)) continue;
      this.options.log.info(
        { event: 'session_revoked', session: sessionId, peer },
        'its pairing key was removed',
      );
      this.#close(secured, 'revoked');
    }
  }

  /** Undefined when they cannot be had: then nobody new is let in, and nobody is thrown out. */
  #keys(): readonly PairingKey[] | undefined {
    try {
      return this.options.keys();
    } catch (err) {
      this.options.log.error(
        { event: 'feeder_keys_unreadable', err },
        'the pairing keys cannot be read',
      );
      return undefined;
    }
  }

  #drop(name: string, reason: AuthFailureReason): void {
    const pending = this.#pending.get(name);
    if (!pending) return;
    this.#pending.delete(name);
    pending.timer.cancel();
    pending.socket.destroy();
    if (!this.#stopped) this.#fail(pending.address, reason, pending.match);
  }

  #fail(address: string, reason: AuthFailureReason, key?: PairingKey): void {
    this.#failures.record(address, reason);
    const keyFingerprint = key && this.#derive(key).fingerprint;
    this.options.onFailure?.({ address, reason, ...(keyFingerprint ? { keyFingerprint } : {}) });
  }

  /** The first reason is the true one. */
  #close(secured: Secured, why: SessionEnd): void {
    if (secured.end === 'ended') secured.end = why;
    secured.socket.destroy();
  }

  #derive(key: PairingKey): TlsPsk & { readonly fingerprint: string } {
    let derived = this.#derived.get(key);
    if (!derived) {
      derived = { ...deriveTlsPsk(key), fingerprint: keyFingerprint(key) };
      this.#derived.set(key, derived);
    }
    return derived;
  }
}

/** Names a connection by both of its ends; undefined when it is already gone. */
function connectionName(socket: Socket): string | undefined {
  const { remoteAddress, remotePort, localAddress, localPort } = socket;
  if (remoteAddress === undefined || remotePort === undefined) return undefined;
  return `${remoteAddress} ${remotePort} ${localAddress} ${localPort}`;
}
