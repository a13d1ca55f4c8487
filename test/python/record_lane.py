# SPDX-License-Identifier: Apache-2.0
"""Prints test/vectors/lane-v1.txt: one connection with each cipher, every type of record in both directions, sealed as
docs/adr/0011-lanes.md says, by this client and not by driver/lane. Made once; what is in the file is never changed:
test/c/lane/recorded_test.c and test_vectors.py read it for ever after."""
import hashlib
import hmac
import struct

from gbclient import lane
from gbclient.keys import LANE_SALT, fields, hkdf

TICKET, SECRET = bytes(range(0xa0, 0xb0)), bytes(range(32))
HEADER = '''# SPDX-License-Identifier: Apache-2.0
# Recorded by test/python/record_lane.py. `lane` begins a connection: cipher, ticket id, secret, opening, answer.
# `record`: from (c or s), type, priority, status, body bytes, request, offset, region, length, deadline, value,
# the body (- for none), the bytes on the wire.
'''
# From, fields of the head. The request and the rest are chosen so that each byte of a field has a value of its own.
RECORDS = (
    ('c', dict(kind=lane.READ, request=0x0102030405060708, priority=0, offset=0x1112131415161718, region=0x21222324,
               length=0x00010203, deadline_ms=0x31323334)),
    ('c', dict(kind=lane.WRITE, request=2, priority=2, offset=1 << 40, region=0, length=5, deadline_ms=0), b'bytes'),
    ('s', dict(kind=lane.DATA, request=0x0102030405060708), bytes(range(256)) * 3 + b'odd'),
    ('s', dict(kind=lane.ACK, request=2)),
    ('s', dict(kind=lane.ERROR, request=3, status=17)),
    ('c', dict(kind=lane.CANCEL, request=4)),
    ('s', dict(kind=lane.CREDIT, value=64)),
    ('c', dict(kind=lane.PING, value=0x4142434445464748)),
    ('s', dict(kind=lane.PONG, value=0x4142434445464748)),
    ('c', dict(kind=lane.OFFER, request=5, priority=1, offset=1 << 20, region=0, length=64, value=1 << 20),
     bytes(range(64))),
    ('s', dict(kind=lane.HAVE, request=5), b'\x02'),
    ('c', dict(kind=lane.REKEY)),
    ('c', dict(kind=lane.READ, request=6, priority=1, offset=0, region=0, length=1)),
    ('s', dict(kind=lane.REKEY)),
    ('s', dict(kind=lane.DATA, request=6), b'\xff'),
    ('c', dict(kind=lane.GOODBYE, status=12)),
    ('s', dict(kind=lane.GOODBYE, status=12)),
)


def answer_frame(opening, cipher):
    frame = struct.pack('<8sHHBBBx16s32sIIII', b'GBLANE-S', 1, 0, 1, 0, cipher, TICKET, bytes(range(64, 96)),
                        1 << 20, 8, 1, 0)
    key = hkdf(SECRET, LANE_SALT, fields('open, server to client', TICKET), 32)
    return frame + hmac.new(key, opening + frame, hashlib.sha256).digest()


def connection(cipher, name):
    opening = lane.opening_frame(TICKET, SECRET, bytes(range(32, 64)), index=1, flags=1, minor=0, ciphers=6, offered=1)
    answer = answer_frame(opening, cipher)
    yield f'lane {cipher} {TICKET.hex()} {SECRET.hex()} {opening.hex()} {answer.hex()}'
    keys = dict(zip('cs', lane.directions(opening, answer, name, SECRET)))
    for sender, values, *rest in RECORDS:
        body = rest[0] if rest else b''
        plain = lane.head(body=len(body), **values)
        wire = keys[sender].seal(plain) + (keys[sender].seal(body) if body else b'')
        kind, priority, status, count, request, offset, region, length, deadline, _zero, value = lane.HEAD.unpack(plain)
        yield (f'record {sender} {kind} {priority} {status} {count} {request} {offset} {region} {length} {deadline} '
               f'{value} {body.hex() or "-"} {wire.hex()}')
        if kind == lane.REKEY:
            keys[sender].next_key()


def recording():
    lines = [line for cipher, name in lane.CIPHERS.items() for line in connection(cipher, name)]
    return HEADER + '\n'.join(lines) + '\n'


if __name__ == '__main__':
    print(recording(), end='')
