# SPDX-License-Identifier: Apache-2.0
"""TLS 1.3 with an external PSK and ephemeral key exchange, by libssl (docs/protocol.md, "The session")."""
import ctypes
import socket
import struct

_TLS1_3 = 0x0304
_SET_MIN, _SET_MAX = 123, 124  # SSL_CTRL_SET_MIN_PROTO_VERSION, SSL_CTRL_SET_MAX_PROTO_VERSION
_PSK_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_char),
                                 ctypes.c_uint, ctypes.POINTER(ctypes.c_char), ctypes.c_uint)
_P, _I, _S = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t

_ssl = ctypes.CDLL('libssl.so.3')
for _name, _arguments, _result in (
        ('TLS_client_method', [], _P), ('SSL_CTX_new', [_P], _P), ('SSL_CTX_free', [_P], None),
        ('SSL_CTX_ctrl', [_P, _I, ctypes.c_long, _P], ctypes.c_long),
        ('SSL_CTX_set_ciphersuites', [_P, ctypes.c_char_p], _I),
        ('SSL_CTX_set_alpn_protos', [_P, ctypes.c_char_p, ctypes.c_uint], _I),
        ('SSL_CTX_set_psk_client_callback', [_P, _PSK_CALLBACK], None),
        ('SSL_new', [_P], _P), ('SSL_free', [_P], None), ('SSL_set_fd', [_P, _I], _I), ('SSL_connect', [_P], _I),
        ('SSL_read', [_P, ctypes.c_char_p, _I], _I), ('SSL_write', [_P, ctypes.c_char_p, _I], _I),
        ('SSL_shutdown', [_P], _I), ('SSL_get_error', [_P, _I], _I), ('SSL_session_reused', [_P], _I),
        ('SSL_get_version', [_P], ctypes.c_char_p), ('SSL_get_current_cipher', [_P], _P),
        ('SSL_CIPHER_get_name', [_P], ctypes.c_char_p), ('SSL_get1_peer_certificate', [_P], _P),
        ('SSL_get0_alpn_selected', [_P, ctypes.POINTER(_P), ctypes.POINTER(ctypes.c_uint)], None),
        ('SSL_export_keying_material', [_P, ctypes.c_char_p, _S, ctypes.c_char_p, _S, ctypes.c_char_p, _S, _I], _I)):
    _function = getattr(_ssl, _name)
    _function.argtypes, _function.restype = _arguments, _result

_crypto = ctypes.CDLL('libcrypto.so.3')
_crypto.ERR_get_error.restype = ctypes.c_ulong
_crypto.ERR_error_string_n.argtypes = [ctypes.c_ulong, ctypes.c_char_p, _S]


class TlsError(OSError):
    """The session could not be opened, or has ended."""


def _reason():
    text, words = ctypes.create_string_buffer(256), []
    while (code := _crypto.ERR_get_error()) != 0:
        _crypto.ERR_error_string_n(code, text, len(text))
        words.append(text.value.decode())
    return '; '.join(words) or 'the peer closed the connection'


class TlsConnection:
    """A session with the feeder of this key, proven on both sides. raises: TlsError."""

    def __init__(self, host, port, identity, psk, timeout_s=10.0):
        self._ssl = self._context = None
        self._socket = socket.create_connection((host, port), timeout_s)
        try:
            self._open(identity.encode(), psk, timeout_s)
        except BaseException:
            self.close()
            raise

    def _open(self, identity, psk, timeout_s):
        self._socket.setblocking(True)  # libssl works on the descriptor; the kernel keeps the time
        limit = struct.pack('ll', int(timeout_s), int(timeout_s % 1 * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, limit)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def give(_ssl_, _hint, name, name_max, key, key_max):
            if len(identity) + 1 > name_max or len(psk) > key_max:
                return 0
            ctypes.memmove(name, identity + b'\0', len(identity) + 1)
            ctypes.memmove(key, psk, len(psk))
            return len(psk)

        self._callback = _PSK_CALLBACK(give)  # libssl keeps only a pointer
        self._context = _ssl.SSL_CTX_new(_ssl.TLS_client_method())
        _ssl.SSL_CTX_ctrl(self._context, _SET_MIN, _TLS1_3, None)
        _ssl.SSL_CTX_ctrl(self._context, _SET_MAX, _TLS1_3, None)
        _ssl.SSL_CTX_set_ciphersuites(self._context, b'TLS_AES_128_GCM_SHA256')
        _ssl.SSL_CTX_set_alpn_protos(self._context, b'\x02h2', 3)
        _ssl.SSL_CTX_set_psk_client_callback(self._context, self._callback)
        self._ssl = _ssl.SSL_new(self._context)
        _ssl.SSL_set_fd(self._ssl, self._socket.fileno())
        if _ssl.SSL_connect(self._ssl) != 1:
            raise TlsError(_reason())
        self._check()

    def _check(self):
        """What the text demands of a host: the key was used, and nothing else lets the peer in."""
        alpn, length = _P(), ctypes.c_uint()
        _ssl.SSL_get0_alpn_selected(self._ssl, ctypes.byref(alpn), ctypes.byref(length))
        protocol = ctypes.string_at(alpn.value, length.value) if alpn.value else b''
        self.version = _ssl.SSL_get_version(self._ssl).decode()
        self.cipher = _ssl.SSL_CIPHER_get_name(_ssl.SSL_get_current_cipher(self._ssl)).decode()
        right = (self.version == 'TLSv1.3' and self.cipher == 'TLS_AES_128_GCM_SHA256' and protocol == b'h2' and
                 _ssl.SSL_session_reused(self._ssl) == 1 and not _ssl.SSL_get1_peer_certificate(self._ssl))
        if not right:
            raise TlsError('the peer did not use the pairing key')

    def export(self, label, length):
        """Keying material of this session, equal on both sides (RFC 8446, section 7.5); empty context."""
        out = ctypes.create_string_buffer(length)
        text = label.encode()
        if _ssl.SSL_export_keying_material(self._ssl, out, length, text, len(text), b'', 0, 1) != 1:
            raise TlsError(_reason())
        return out.raw

    def send(self, data):
        if not self._ssl:
            raise TlsError('closed')
        if data and _ssl.SSL_write(self._ssl, data, len(data)) != len(data):
            raise TlsError(_reason())

    def receive(self):
        """At least one byte. raises: TlsError at the end and after `timeout_s` of silence."""
        if not self._ssl:
            raise TlsError('closed')
        buffer = ctypes.create_string_buffer(65536)
        count = _ssl.SSL_read(self._ssl, buffer, len(buffer))
        if count <= 0:
            raise TlsError(_reason())
        return buffer.raw[:count]

    def close(self):
        if self._ssl:
            _ssl.SSL_shutdown(self._ssl)
            _ssl.SSL_free(self._ssl)
        if self._context:
            _ssl.SSL_CTX_free(self._context)
        self._ssl = self._context = None
        self._socket.close()
