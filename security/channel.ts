// SPDX-License-Identifier: Apache-2.0
// The host's side: channel credentials that make grpc-js run over TLS 1.3 with the feeder's pairing key.
// grpc-js has no public way to pass a PSK, so this file overrides three methods of ChannelCredentials that its types
// declare and its documentation does not. It is pinned to grpc-js 1.14.7 and channel.test.ts fails when they change.
import type { Socket } from 'node:net';
import { connect, type ConnectionOptions, type TLSSocket } from 'node:tls';
import * as grpc from '@grpc/grpc-js';
import { systemClock, type Clock } from '../proto/base/clock.js';
import { GbError } from '../proto/base/errors.js';
import type { SessionId } from '../proto/base/ids.js';
import { HANDSHAKE_TIMEOUT_MS } from '../proto/base/limits.js';
import { deriveSessionId, deriveTlsPsk, type Exporter, type TlsPsk } from './derive.js';
import type { PairingKey } from './pairing.js';
import { handshakeFlaw, TLS_PARAMETERS } from './tls-parameters.js';

/** The version of grpc-js whose internals this file knows. */
export const GRPC_JS_VERSION = '1.14.7';

/** A session as the host sees it, right after the handshake. */
export interface SecureInfo {
  readonly sessionId: SessionId;
  /** `TLS_AES_128_GCM_SHA256`. */
  readonly cipher: string;
  /** `TLSv1.3`. */
  readonly protocol: string;
  /** `X25519` or the like: the ephemeral exchange that gives forward secrecy. */
  readonly keyExchange: string;
  /** Valid while the connection lives. */
  readonly exporter: Exporter;
  /** Numeric, with the scope where IPv6 needs one: where the feeder was reached, and from where. */
  readonly address: string;
  readonly localAddress: string;
  /** Bytes of the connection so far, sealed. */
  readonly traffic: () => { readonly sentBytes: number; readonly receivedBytes: number };
}

export interface PskChannelOptions {
  readonly key: PairingKey;
  /** Each time a connection of this channel is secured; throwing closes it. */
  readonly onSecure?: (info: SecureInfo) => void;
  /** Each time a connection could not be secured. After UNAUTHENTICATED the channel stays silent on the network. */
  readonly onFailure?: (error: GbError) => void;
  /** Time for one handshake. Default: HANDSHAKE_TIMEOUT_MS. */
  readonly handshakeTimeoutMs?: number;
  readonly clock?: Clock;
}

type CreateConnector = grpc.ChannelCredentials['_createSecureConnector'];
type SecureConnector = ReturnType<CreateConnector>;

/** Credentials of one channel to one feeder. They are not for sharing: `refusal` belongs to that feeder. */
export class PskChannelCredentials extends grpc.ChannelCredentials {
  #refusal: GbError | undefined;
  readonly #options: PskChannelOptions;
  readonly #psk: TlsPsk;

  constructor(options: PskChannelOptions) {
    super();
    this.#options = options;
    this.#psk = deriveTlsPsk(options.key);
  }

  /** UNAUTHENTICATED once the feeder refused the key or failed to prove that it holds it. grpc-js reports such a call
   *  as UNAVAILABLE; rethrow this instead. No further connection is tried: make new credentials with another key. */
  get refusal(): GbError | undefined {
    return this.#refusal;
  }

  override _isSecure(): boolean {
    return true;
  }

  /** Never equal to others, so that grpc-js never gives two channels one connection. */
  override _equals(other: grpc.ChannelCredentials): boolean {
    return this === other;
  }

  override _createSecureConnector(
    ...[, , callCredentials]: Parameters<CreateConnector>
  ): SecureConnector {
    const credentials = callCredentials ?? grpc.CallCredentials.createEmpty();
    return {
      connect: async (socket) => ({ socket: await this.#secure(socket), secure: true }),
      waitForReady: () => (this.#refusal ? Promise.reject(this.#refusal) : Promise.resolve()),
      getCallCredentials: () => credentials,
      destroy: () => undefined,
    };
  }

  async #secure(socket: Socket): Promise<TLSSocket> {
    let secured: TLSSocket | undefined;
    try {
      secured = await this.#handshake(socket);
      this.#announce(secured, socket);
      return secured;
    } catch (reason) {
      secured?.destroy();
      socket.destroy();
      const error = GbError.from(reason, 'FEEDER_UNREACHABLE');
      if (error.code === 'UNAUTHENTICATED') this.#refusal = error;
      this.#options.onFailure?.(error);
      throw error;
    }
  }

  #handshake(socket: Socket): Promise<TLSSocket> {
    const { psk, identity } = this.#psk;
    const options: ConnectionOptions = {
      ...TLS_PARAMETERS,
      socket,
      pskCallback: () => ({ psk, identity }),
      // No certificate is ever good enough: no authority is trusted, and none is looked at.
      ca: [],
      rejectUnauthorized: true,
      checkServerIdentity: () =>
        new GbError('UNAUTHENTICATED', 'the peer used a certificate, not the pairing key'),
    };
    return new Promise((resolve, reject) => {
      const clock = this.#options.clock ?? systemClock;
      const timeoutMs = this.#options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS;
      const timer = clock.after(timeoutMs, () => {
        fail(
          new GbError(
            'FEEDER_UNREACHABLE',
            `the feeder did not finish the handshake within ${timeoutMs} ms`,
          ),
        );
      });
      const secured = connect(options);
      const fail = (reason: Error): void => {
        timer.cancel();
        secured.destroy();
        reject(handshakeError(reason));
      };
      const onClose = (): void => fail(new Error('closed'));
      secured.once('error', fail);
      secured.once('close', onClose);
      secured.once('secureConnect', () => {
        timer.cancel();
        secured.removeListener('error', fail);
        secured.removeListener('close', onClose);
        resolve(secured);
      });
      // A later error must find a listener; grpc-js has its own by then and acts on it.
      secured.on('error', () => undefined);
    });
  }

  #announce(secured: TLSSocket, socket: Socket): void {
    const flaw = handshakeFlaw(secured);
    if (flaw)
      throw new GbError('UNAUTHENTICATED', `the peer is not the feeder of this key: ${flaw}`);
    const exchange = secured.getEphemeralKeyInfo();
    if (!exchange || !('name' in exchange) || !exchange.name) {
      throw new GbError('UNAUTHENTICATED', 'the peer offered no ephemeral key exchange');
    }
    const exporter: Exporter = (label, length) =>
      secured.exportKeyingMaterial(length, label, Buffer.alloc(0));
    this.#options.onSecure?.({
      sessionId: deriveSessionId(exporter),
      cipher: secured.getCipher().standardName,
      protocol: secured.getProtocol() ?? '',
      keyExchange: exchange.name,
      exporter,
      address: socket.remoteAddress ?? '',
      localAddress: socket.localAddress ?? '',
      traffic: () => ({ sentBytes: secured.bytesWritten, receivedBytes: secured.bytesRead }),
    });
  }
}

/** Channel credentials for one feeder. Give the channel `'grpc.enable_http_proxy': 0`: a LAN link uses no proxy. */
export function createPskChannelCredentials(options: PskChannelOptions): PskChannelCredentials {
  return new PskChannelCredentials(options);
}

/** OpenSSL's names for the alerts by which a peer turns a handshake down (RFC 8446, section 6.2). A feeder answers a
 *  wrong key and an unknown identity alike with illegal_parameter. */
const REFUSALS: readonly string[] = [
  'ERR_SSL_SSLV3_ALERT_ILLEGAL_PARAMETER',
  'ERR_SSL_SSLV3_ALERT_HANDSHAKE_FAILURE',
  'ERR_SSL_TLSV1_ALERT_DECRYPT_ERROR',
  'ERR_SSL_TLSV1_ALERT_UNKNOWN_PSK_IDENTITY',
  'ERR_SSL_TLSV13_ALERT_UNKNOWN_PSK_IDENTITY',
  'ERR_SSL_TLSV1_ALERT_ACCESS_DENIED',
];

/** Why a handshake failed, for the person at the host. A connection that just ends may be a feeder that is stopping
 *  or full, so it stays FEEDER_UNREACHABLE and is tried again; every answer that is not the proof is final. */
function handshakeError(reason: Error & { code?: string }): GbError {
  if (reason instanceof GbError) return reason;
  const code = reason.code ?? '';
  if (REFUSALS.includes(code)) {
    return new GbError(
      'UNAUTHENTICATED',
      'the feeder refused the pairing key: it is wrong, rotated or revoked',
      {
        cause: reason,
      },
    );
  }
  if (code.startsWith('ERR_SSL_') || code.startsWith('ERR_TLS_') || code.includes('CERT')) {
    const what = code
      .toLowerCase()
      .replaceAll('_', ' ')
      .replace(/^err (ssl|tls) /, '');
    return new GbError(
      'UNAUTHENTICATED',
      `the peer did not prove that it holds the pairing key (${what})`,
      {
        cause: reason,
      },
    );
  }
  return new GbError(
    'FEEDER_UNREACHABLE',
    'the feeder closed the connection during the handshake',
    {
      cause: reason,
    },
  );
}
