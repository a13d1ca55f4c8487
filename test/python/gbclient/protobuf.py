# SPDX-License-Identifier: Apache-2.0
"""Messages by field number, as proto/greenboost/v1/feeder.proto has them (protobuf encoding: varint 0, bytes 2)."""


def varint(value):
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(fields):
    """{number: value}: an int as varint, text, bytes or an inner dict with their length, a list repeated. Zeros and
    empty texts are left out, as proto3 does; an inner dict is kept."""
    out = b''
    for number, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                item = encode(item)
            elif not item:
                continue
            if isinstance(item, int):
                out += varint(number << 3) + varint(int(item))
            else:
                data = item.encode() if isinstance(item, str) else item
                out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def _read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, at
        shift += 7
        if shift > 63:
            raise ValueError('a number of more than ten bytes')


class Message:
    """What was decoded: the values of each field number in order. Unknown numbers are just not asked for."""

    def __init__(self, data):
        self._values, at = {}, 0
        while at < len(data):
            tag, at = _read_varint(data, at)
            number, kind = tag >> 3, tag & 7
            if kind == 0:
                value, at = _read_varint(data, at)
            else:
                length, at = (8, at) if kind == 1 else (4, at) if kind == 5 else _read_varint(data, at)
                if kind not in (1, 2, 5) or at + length > len(data):
                    raise ValueError('a message that is cut or wrong')
                value, at = data[at:at + length], at + length
            self._values.setdefault(number, []).append(value)

    def int(self, number):
        return self._values.get(number, [0])[-1]

    def bytes(self, number):
        return self._values.get(number, [b''])[-1]

    def text(self, number):
        return self.bytes(number).decode()

    def message(self, number):
        return Message(self.bytes(number))

    def messages(self, number):
        return [Message(value) for value in self._values.get(number, [])]
