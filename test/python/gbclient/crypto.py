# SPDX-License-Identifier: Apache-2.0
"""AES-256-GCM by libcrypto."""
import ctypes

TAG_BYTES = 16
_GCM_SET_TAG, _GCM_GET_TAG = 0x11, 0x10

_crypto = ctypes.CDLL('libcrypto.so.3')
for _name, _arguments, _result in (
        ('EVP_aes_256_gcm', [], ctypes.c_void_p),
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


class Forged(Exception):
    """A sealed piece that is not the next one of this key."""


def _run(seal, key, nonce, data, tag):
    context = _crypto.EVP_CIPHER_CTX_new()
    try:
        out, count = ctypes.create_string_buffer(len(data) + 16), ctypes.c_int()
        ok = _crypto.EVP_CipherInit_ex(context, _crypto.EVP_aes_256_gcm(), None, key, nonce, seal)
        ok = ok and _crypto.EVP_CipherUpdate(context, out, ctypes.byref(count), data, len(data))
        if not seal:
            expected = ctypes.create_string_buffer(tag, TAG_BYTES)
            ok = ok and _crypto.EVP_CIPHER_CTX_ctrl(context, _GCM_SET_TAG, TAG_BYTES, expected)
        rest = ctypes.create_string_buffer(16)
        if not ok or _crypto.EVP_CipherFinal_ex(context, rest, ctypes.byref(count)) != 1:
            raise Forged()
        made = ctypes.create_string_buffer(TAG_BYTES)
        if seal and _crypto.EVP_CIPHER_CTX_ctrl(context, _GCM_GET_TAG, TAG_BYTES, made) != 1:
            raise Forged()
        return out.raw[:len(data)], made.raw
    finally:
        _crypto.EVP_CIPHER_CTX_free(context)


def seal(key, nonce, plain):
    """The bytes on the wire: sealed bytes and tag."""
    sealed, tag = _run(1, key, nonce, plain, None)
    return sealed + tag


def open_sealed(key, nonce, sealed):
    """The plain bytes. raises: Forged."""
    return _run(0, key, nonce, sealed[:-TAG_BYTES], sealed[-TAG_BYTES:])[0]
