// SPDX-License-Identifier: Apache-2.0
// What both ends insist on: TLS 1.3, an external PSK with ephemeral key exchange, one cipher suite, HTTP/2.
import type { TLSSocket } from 'node:tls';

/** OpenSSL binds an external PSK to SHA-256, hence this suite and no other. psk_dhe_ke is OpenSSL's only mode unless
 *  SSL_OP_ALLOW_NO_DHE_KEX is set, which nothing here does.
 *  The groups are named because OpenSSL 3.5 prefers X25519MLKEM768, of which Node cannot say that it was an ephemeral
 *  exchange (getEphemeralKeyInfo answers nothing).
 *  A quantum computer breaks X25519, but not the PSK that goes in beside. */
export const TLS_PARAMETERS = {
  minVersion: 'TLSv1.3',
  maxVersion: 'TLSv1.3',
  ciphers: 'TLS_AES_128_GCM_SHA256',
  ecdhCurve: 'X25519:P-256',
  ALPNProtocols: ['h2'] as string[],
} as const;

/** What is wrong with a finished handshake, or undefined. OpenSSL shows an accepted external PSK as a reused session;
 *  without that the peer was let in by something else, and nothing else may let a peer in. */
export function handshakeFlaw(socket: TLSSocket): string | undefined {
  if (socket.getProtocol() !== 'TLSv1.3') return 'the protocol is not TLS 1.3';
  if (socket.getCipher().standardName !== TLS_PARAMETERS.ciphers)
    return 'the cipher suite is another';
  if (socket.alpnProtocol !== 'h2') return 'the application protocol is not HTTP/2';
  if (!socket.isSessionReused()) return 'the pairing key was not used';
  if (Object.keys(socket.getPeerCertificate()).length > 0) return 'the peer used a certificate';
  return undefined;
}
