# SPDX-License-Identifier: Apache-2.0
"""AES-256-GCM and ChaCha20-Poly1305 by libcrypto."""
import ctypes

TAG_BYTES = 16
_SET_TAG, _GET_TAG = 0x11, 0x10  # EVP_CTRL_AEAD_SET_TAG, EVP_CTRL_AEAD_GET_TAG

_crypto = ctypes.CDLL('libcrypto.so.3')
for _name, _arguments, _result in (
        ('EVP_aes_256_gcm', [], ctypes.c_void_p), ('EVP_chacha20_poly1305', [], ctypes.c_void_p),
        ('EVP_CIPHER_CTX_new', [], ctypes.c_void_p),
        ('EVP_CIPHER_CTX_free', [ctypes.c_void_p], None),
        ('EVP_CIPHER_CTX_ctrl', [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p], ctypes.c_int),
        ('EVP_CipherInit_ex', [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p,
                               ctypes.c_char_p, ctypes.c_int], ctypes.c_int),
        ('EVP_CipherUpdate', [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int),
                              ctypes.c_char_p, ctypes.c_int], ctypes.c_int),
        ('EVP_CipherFinal_ex', [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int)], ctypes.c_int)):
    _function = getattr(_crypto, _name)
    _function.argtypes, _function.restype = _arguments, _result


CIPHERS = {'AES-256-GCM': _crypto.EVP_aes_256_gcm(), 'ChaCha20-Poly1305': _crypto.EVP_chacha20_poly1305()}


class Forged(Exception):
    """A sealed piece that is not the next one of this key."""


def _run(seal, cipher, key, nonce, data, tag):
    context = _crypto.EVP_CIPHER_CTX_new()
    try:
        out, count = ctypes.create_string_buffer(len(data) + 16), ctypes.c_int()
        ok = _crypto.EVP_CipherInit_ex(context, CIPHERS[cipher], None, key, nonce, seal)
        ok = ok and _crypto.EVP_CipherUpdate(context, out, ctypes.byref(count), data, len(data))
        if not seal:
            expected = ctypes.create_string_buffer(tag, TAG_BYTES)
            ok = ok and _crypto.EVP_CIPHER_CTX_ctrl(context, _SET_TAG, TAG_BYTES, expected)
        rest = ctypes.create_string_buffer(16)
        if not ok or _crypto.EVP_CipherFinal_ex(context, rest, ctypes.byref(count)) != 1:
            raise Forged()
        made = ctypes.create_string_buffer(TAG_BYTES)
        if seal and _crypto.EVP_CIPHER_CTX_ctrl(context, _GET_TAG, TAG_BYTES, made) != 1:
            raise Forged()
        return out.raw[:len(data)], made.raw
    finally:
        _crypto.EVP_CIPHER_CTX_free(context)


def seal(cipher, key, nonce, plain):
    """The bytes on the wire: sealed bytes and tag."""
    sealed, tag = _run(1, cipher, key, nonce, plain, None)
    return sealed + tag


def open_sealed(cipher, key, nonce, sealed):
    """The plain bytes. raises: Forged."""
    return _run(0, cipher, key, nonce, sealed[:-TAG_BYTES], sealed[-TAG_BYTES:])[0]
