# SPDX-License-Identifier: Apache-2.0
"""Header compression as far as a client needs it that has set the dynamic table to nothing (RFC 7541)."""

STATIC = [None] + [entry.split('|') for entry in (
    ':authority| :method|GET :method|POST :path|/ :path|/index.html :scheme|http :scheme|https :status|200 '
    ':status|204 :status|206 :status|304 :status|400 :status|404 :status|500 accept-charset| '
    'accept-encoding|gzip,_deflate accept-language| accept-ranges| accept| access-control-allow-origin| age| allow| '
    'authorization| cache-control| content-disposition| content-encoding| content-language| content-length| '
    'content-location| content-range| content-type| cookie| date| etag| expect| expires| from| host| if-match| '
    'if-modified-since| if-none-match| if-range| if-unmodified-since| last-modified| link| location| max-forwards| '
    'proxy-authenticate| proxy-authorization| range| referer| refresh| retry-after| server| set-cookie| '
    'strict-transport-security| transfer-encoding| user-agent| vary| via| www-authenticate|').split(' ')]
STATIC[16][1] = 'gzip, deflate'

# Appendix B: the code is canonical, so the lengths are all of it. Symbols of each length, in hex; 256 is the end.
_LENGTHS = {
    5: '303132616365696f7374',
    6: '20252d2e2f333435363738393d415f62646667686c6d6e707275',
    7: '3a42434445464748494a4b4c4d4e4f5051525354555657596a6b71767778797a',
    8: '262a2c3b585a', 10: '212228293f', 11: '272b7c', 12: '233e', 13: '0024405b5d7e', 14: '5e7d', 15: '3c607b',
    19: '5cc3d0', 20: '808283a2b8c2e0e2', 21: '99a1a7acb0b1b3d1d8d9e3e5e6',
    22: '8184858688929a9ca0a3a4a9aaadb2b5b9babbbdbec4c6e4e8e9',
    23: '0187898a8b8c8d8f93959697989b9d9ea5a6a8aeafb4b6b7bcbfc5e7ef', 24: '098e9091949fabced7e1eced', 25: 'c7cfeaeb',
    26: 'c0c1c8c9cacdd2d5dadbeef0f2f3ff', 27: 'cbccd3d4d6dddedff1f4f5f6f7f8fafbfcfdfe',
    28: '020304050607080b0c0e0f1011121314151718191a1b1c1d1e1f7fdcf9', 30: '0a0d16'}


def _codes():
    codes, code, last = {}, 0, 0
    for length, symbols in _LENGTHS.items():
        for symbol in list(bytes.fromhex(symbols)) + ([256] if length == 30 else []):
            code <<= length - last
            codes[length, code], last = symbol, length
            code += 1
    return codes


_CODES = _codes()


def huffman(data):
    """The text behind Huffman's code."""
    out, code, length = bytearray(), 0, 0
    for byte in data:
        for bit in range(7, -1, -1):
            code, length = code << 1 | byte >> bit & 1, length + 1
            symbol = _CODES.get((length, code))
            if symbol is not None:
                if symbol == 256:
                    raise ValueError('the end symbol inside a string')
                out.append(symbol)
                code, length = 0, 0
    if length > 7 or code != (1 << length) - 1:
        raise ValueError('wrong padding')
    return bytes(out)


def _integer(data, at, bits):
    value, mask = data[at] & (1 << bits) - 1, (1 << bits) - 1
    at += 1
    if value < mask:
        return value, at
    shift = 0
    while True:
        value += (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at
        if shift > 28:
            raise ValueError('a number that is far too large')


def _string(data, at):
    coded = data[at] & 128
    length, at = _integer(data, at, 7)
    raw = data[at:at + length]
    if len(raw) < length:
        raise ValueError('a string that is cut')
    return (huffman(raw) if coded else raw).decode('latin-1'), at + length


def decode(data):
    """The fields of a header block, in order."""
    fields, at = [], 0
    while at < len(data):
        first = data[at]
        if first & 128:
            index, at = _integer(data, at, 7)
            if not 0 < index < len(STATIC):
                raise ValueError('an entry of a dynamic table that has no room')
            fields.append(tuple(STATIC[index]))
        elif first & 224 == 32:
            size, at = _integer(data, at, 5)
            if size != 0:
                raise ValueError('the dynamic table is larger than was allowed')
        else:
            index, at = _integer(data, at, 6 if first & 64 else 4)
            if index:
                name = STATIC[index][0]
            else:
                name, at = _string(data, at)
            value, at = _string(data, at)
            fields.append((name, value))
    return fields


def encode(fields):
    """Literals that are never indexed, without Huffman's code."""
    out = bytearray()
    for name, value in fields:
        out.append(16)
        for text in (name.encode(), value.encode()):
            if len(text) < 127:
                out.append(len(text))
            else:
                out.append(127)
                rest = len(text) - 127
                while rest >= 128:
                    out.append(rest & 127 | 128)
                    rest >>= 7
                out.append(rest)
            out += text
    return bytes(out)
