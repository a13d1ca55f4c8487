# SPDX-License-Identifier: Apache-2.0
"""One connection of a lane, the client's end (docs/adr/0011-lanes.md). Blocking; one request at a time unless asked for
more by hand."""
import hashlib
import hmac
import secrets
import socket
import struct
import time

from .crypto import Forged, open_sealed, seal
from .keys import LANE_SALT, fields, hkdf

OPENING_BYTES, HEAD_BYTES, TAG_BYTES = 112, 48, 16
(READ, DATA, WRITE, ACK, ERROR, CANCEL, CREDIT, PING, PONG, REKEY, GOODBYE, OFFER, HAVE, CALL, RESULT) = range(1, 16)
OFFERS, CALLS = 1, 2
DEMAND, NORMAL, BACKGROUND = range(3)
AES_256_GCM, CHACHA20_POLY1305 = 1, 2
CIPHERS = {AES_256_GCM: 'AES-256-GCM', CHACHA20_POLY1305: 'ChaCha20-Poly1305'}
EXPRESS = 1
HEAD = struct.Struct('<BBHIQQIIIIQ')
RECORD_BYTES = 1 << 20


class Refused(Exception):
    """The server closed without a word."""


class LaneEnded(Exception):
    """The connection ended without a goodbye."""


class RequestFailed(Exception):
    """ERROR instead of an answer; `status` is enum gb_lane_status."""

    def __init__(self, status):
        super().__init__(f'status {status}')
        self.status = status


class Direction:
    """The key of one direction: what it seals or opens comes in one order only."""

    def __init__(self, cipher, secret):
        self._cipher = cipher
        self._take(secret)

    def _take(self, secret):
        self._secret, self._counter = secret, 0
        material = hkdf(secret, LANE_SALT, fields('key'), 44)
        self._key, self._iv = material[:32], material[32:]

    def next_key(self):
        self._take(hkdf(self._secret, LANE_SALT, fields('next'), 32))

    def _nonce(self):
        number = int.from_bytes(self._iv, 'big') ^ self._counter
        self._counter += 1
        return number.to_bytes(12, 'big')

    def seal(self, plain):
        return seal(self._cipher, self._key, self._nonce(), plain)

    def open(self, sealed):
        return open_sealed(self._cipher, self._key, self._nonce(), sealed)


def opening_frame(ticket, secret, random, index=0, flags=0, major=1, minor=0, ciphers=1 << AES_256_GCM, offered=0,
                  required=0, heartbeat_ms=500):
    """The client's 112 bytes."""
    frame = struct.pack('<8sHHBBBx16s32sIIII', b'GBLANE-C', major, minor, index, flags, ciphers, ticket, random,
                        RECORD_BYTES, heartbeat_ms, offered, required)
    key = hkdf(secret, LANE_SALT, fields('open, client to server', ticket), 32)
    return frame + hmac.new(key, frame, hashlib.sha256).digest()


def answer_fields(opening, answer, ticket, secret):
    """(cipher, largest record, window, features) of the server's answer. raises: Forged, ValueError."""
    key = hkdf(secret, LANE_SALT, fields('open, server to client', ticket), 32)
    proof = hmac.new(key, opening + answer[:80], hashlib.sha256).digest()
    if not hmac.compare_digest(proof, answer[80:]):
        raise Forged()
    magic, major, _minor, index, zero, cipher, back, _random, record, window, features, none = \
        struct.unpack('<8sHHBBBx16s32sIIII', answer[:80])
    sound = (magic, major, index, zero, back, none) == (b'GBLANE-S', 1, opening[12], 0, ticket, 0)
    if not sound or cipher not in CIPHERS or not opening[14] >> cipher & 1:
        raise ValueError('an answer that makes no sense')
    return CIPHERS[cipher], record, window, features


def directions(opening, answer, cipher, secret):
    """(client to server, server to client)."""
    salt = opening + answer
    return tuple(Direction(cipher, hkdf(secret, salt, fields('records, ' + words, cipher), 32))
                 for words in ('client to server', 'server to client'))


def head(kind, request=0, priority=0, body=0, offset=0, region=0, length=0, deadline_ms=0, value=0, status=0):
    return HEAD.pack(kind, priority, status, body, request, offset, region, length, deadline_ms, 0, value)


class Lane:
    """An open connection. raises: Refused, Forged, LaneEnded, OSError."""

    def __init__(self, host, port, ticket, secret, timeout_s=10.0, **opening):
        self._socket = socket.create_connection((host, port), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sent = opening_frame(ticket, secret, secrets.token_bytes(32), **opening)
            self._socket.sendall(sent)
            answer = self._receive(OPENING_BYTES, Refused)
            self.cipher, self.record_bytes, self.window, self.features = answer_fields(sent, answer, ticket, secret)
            self._seal, self._open = directions(sent, answer, self.cipher, secret)
        except BaseException:
            self._socket.close()
            raise
        self._request = 0
        self.pings = 0

    def _receive(self, count, at_end=LaneEnded):
        data = bytearray()
        while len(data) < count:
            try:
                part = self._socket.recv(count - len(data))
            except ConnectionError:
                part = b''
            if not part:
                raise at_end()
            data += part
        return bytes(data)

    def say(self, record_head, body=b''):
        record = self._seal.seal(record_head)
        self._socket.sendall(record + self._seal.seal(body) if body else record)

    def hear(self):
        """The next record: (fields of the head, body). Heartbeats and new keys are dealt with here."""
        while True:
            kind, priority, status, count, request, offset, region, length, deadline, zero, value = \
                HEAD.unpack(self._open.open(self._receive(HEAD_BYTES + TAG_BYTES)))
            if zero or count > self.record_bytes:
                raise ValueError('a head that makes no sense')
            body = self._open.open(self._receive(count + TAG_BYTES)) if count else b''
            if kind == PING:
                self.pings += 1
                self.say(head(PONG, value=value))
            elif kind == REKEY:
                self._open.next_key()
            elif kind == CREDIT:
                self.window = value
            else:
                return (kind, status, request, value), body

    def rekey(self):
        self.say(head(REKEY))
        self._seal.next_key()

    def ping(self):
        """A round trip: seconds."""
        start, number = time.monotonic(), secrets.randbits(64)
        self.say(head(PING, value=number))
        (kind, _status, _request, value), _body = self.hear()
        if (kind, value) != (PONG, number):
            raise ValueError('an answer to something else')
        return time.monotonic() - start

    def start(self, kind, offset, length, body=b'', region=0, priority=NORMAL, deadline_ms=0):
        """Sends one request and answers its number; at most `window` may be outstanding."""
        self._request += 1
        self.say(head(kind, self._request, priority, len(body), offset, region, length, deadline_ms), body)
        return self._request

    def _finish(self, number, expected):
        (kind, status, request, _value), body = self.hear()
        if kind == ERROR and request == number:
            raise RequestFailed(status)
        if (kind, request) != (expected, number):
            raise ValueError('an answer to something else')
        return body

    def read(self, offset, length, region=0):
        """Bytes of the region, in as many requests as the agreed record asks for."""
        out = bytearray()
        while len(out) < length:
            step = min(self.record_bytes, length - len(out))
            out += self._finish(self.start(READ, offset + len(out), step, region=region), DATA)
        return bytes(out)

    def write(self, offset, data, region=0):
        for at in range(0, len(data), self.record_bytes):
            part = data[at:at + self.record_bytes]
            self._finish(self.start(WRITE, offset + at, len(part), part, region=region), ACK)

    def call(self, body, region=0, deadline_ms=0):
        """What is behind the region has to say to a message; the feature CALLS must be in use."""
        return self._finish(self.start(CALL, 0, len(body), body, region=region, deadline_ms=deadline_ms), RESULT)

    def goodbye(self, status=12):
        """Says goodbye, waits for the server's, closes."""
        self.say(head(GOODBYE, status=status))
        (kind, _status, _request, _value), _body = self.hear()
        self._socket.close()
        return kind == GOODBYE

    def cut(self):
        """Closes without a goodbye."""
        self._socket.close()
