# SPDX-License-Identifier: Apache-2.0
"""Unary gRPC calls over HTTP/2 (RFC 9113; docs/protocol.md, "Calls"), one at a time."""
import struct
import urllib.parse

from . import hpack

PREFACE = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 32
HEADER_TABLE_SIZE, ENABLE_PUSH, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 4, 5
MESSAGE_BYTES_MAX = 4 << 20
SERVICE = '/greenboost.v1.FeederService/'


class CallFailed(Exception):
    """A call that was answered with an error. `code` is greenboost's, `status` gRPC's number."""

    def __init__(self, status, code, message):
        super().__init__(f'{code or status}: {message}')
        self.status, self.code, self.message = status, code, message


class Broken(Exception):
    """The connection is of no use any more."""


class Channel:
    """The calls of one session. `connection` has send, receive and close."""

    def __init__(self, connection, authority):
        self._connection, self._authority = connection, authority
        self._buffer, self._next_stream = b'', 1
        self._frame_max, self._window, self._stream_window_first, self._stream_window = 16384, 65535, 65535, 0
        settings = struct.pack('>HIHIHI', HEADER_TABLE_SIZE, 0, ENABLE_PUSH, 0, INITIAL_WINDOW_SIZE, 1 << 20)
        connection.send(PREFACE + self._frame(SETTINGS, 0, 0, settings) +
                        self._frame(WINDOW_UPDATE, 0, 0, struct.pack('>I', 8 << 20)))

    def unary(self, method, message, timeout_s=10):
        """The answer to one message. raises: CallFailed, Broken."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._stream_window = self._stream_window_first
        head = hpack.encode([
            (':method', 'POST'), (':scheme', 'https'), (':path', SERVICE + method), (':authority', self._authority),
            ('te', 'trailers'), ('content-type', 'application/grpc'), ('grpc-timeout', f'{int(timeout_s * 1000)}m')])
        self._connection.send(self._frame(HEADERS, END_HEADERS, stream, head))
        self._send_data(stream, b'\0' + struct.pack('>I', len(message)) + message)
        return self._answer(stream)

    def close(self):
        try:
            self._connection.send(self._frame(GOAWAY, 0, 0, struct.pack('>II', 0, 0)))
        except OSError:
            pass  # It has ended by itself.
        self._connection.close()

    @staticmethod
    def _frame(kind, flags, stream, payload):
        return struct.pack('>I', len(payload))[1:] + struct.pack('>BBI', kind, flags, stream) + payload

    def _send_data(self, stream, data):
        while True:
            room = min(self._frame_max, self._window, self._stream_window, len(data))
            if room == 0 and data:
                self._control(*self._receive_frame(), stream)
                continue
            last = room == len(data)
            self._connection.send(self._frame(DATA, END_STREAM if last else 0, stream, data[:room]))
            self._window, self._stream_window, data = self._window - room, self._stream_window - room, data[room:]
            if last:
                return

    def _receive_frame(self):
        head = self._take(9)
        length, kind, flags, stream = int.from_bytes(head[:3], 'big'), head[3], head[4], head[5:9]
        if length > 16384:
            raise Broken('a frame larger than was allowed')
        return kind, flags, int.from_bytes(stream, 'big') & 0x7fffffff, self._take(length)

    def _take(self, count):
        while len(self._buffer) < count:
            self._buffer += self._connection.receive()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _control(self, kind, flags, stream, payload, current):
        """What may come at any time."""
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack_from('>HI', payload, at)
                if name == INITIAL_WINDOW_SIZE:
                    self._stream_window += value - self._stream_window_first
                    self._stream_window_first = value
                elif name == MAX_FRAME_SIZE:
                    self._frame_max = value
            self._connection.send(self._frame(SETTINGS, ACK, 0, b''))
        elif kind == PING and not flags & ACK:
            self._connection.send(self._frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            step = int.from_bytes(payload, 'big') & 0x7fffffff
            if stream == 0:
                self._window += step
            elif stream == current:
                self._stream_window += step
        elif kind == GOAWAY:
            raise Broken('the feeder says goodbye')
        elif kind == RST_STREAM and stream == current:
            raise CallFailed(13, None, f'the stream was reset ({int.from_bytes(payload, "big")})')
        elif kind == PUSH_PROMISE:
            raise Broken('a push nobody allowed')

    def _answer(self, stream):
        fields, body = {}, b''
        while True:
            kind, flags, number, payload = self._receive_frame()
            if kind == HEADERS and number == stream:
                fields.update(hpack.decode(self._header_block(flags, payload, stream)))
            elif kind == DATA and number == stream:
                if payload:  # What is taken may be sent again, for the stream and for the connection.
                    step = struct.pack('>I', len(payload))
                    self._connection.send(self._frame(WINDOW_UPDATE, 0, 0, step) +
                                          self._frame(WINDOW_UPDATE, 0, stream, step))
                body += self._unpad(flags, payload)
                if len(body) > MESSAGE_BYTES_MAX + 5:
                    raise Broken('an answer larger than any message')
            else:
                self._control(kind, flags, number, payload, stream)
                continue
            if flags & END_STREAM:
                return self._result(fields, body)

    def _header_block(self, flags, payload, stream):
        block = self._unpad(flags, payload)
        block = block[5:] if flags & PRIORITY else block
        while not flags & END_HEADERS:
            kind, flags, number, more = self._receive_frame()
            if kind != CONTINUATION or number != stream or len(block) > 65536:
                raise Broken('a header block that does not end')
            block += more
        return block

    @staticmethod
    def _unpad(flags, payload):
        return payload[1:len(payload) - payload[0]] if flags & PADDED else payload

    @staticmethod
    def _result(fields, body):
        if fields.get(':status') != '200':
            raise Broken(f'HTTP status {fields.get(":status")}')
        status = int(fields.get('grpc-status', '2'))
        if status != 0:
            message = urllib.parse.unquote(fields.get('grpc-message', ''))
            raise CallFailed(status, fields.get('greenboost-code'), message)
        if len(body) < 5 or body[0] != 0 or int.from_bytes(body[1:5], 'big') != len(body) - 5:
            raise Broken('the answer is not one plain message')
        return body[5:]
