# SPDX-License-Identifier: Apache-2.0
"""A host's session with a feeder (docs/protocol.md, "Calls"; fields of proto/greenboost/v1/feeder.proto)."""
import secrets

from . import protobuf
from .grpc import Channel
from .keys import PairingKey, lane_secret
from .tls import TlsConnection

RAM, GPU = 1, 2
READ, WRITE, READ_WRITE = 1, 2, 3
ARENA_BASE, ARENA_BYTES = 0x500000000000, 1 << 30


class Feeder:
    """A session that is authenticated and has not said Hello yet."""

    def __init__(self, host, port, key_text):
        self.key = PairingKey.parse(key_text)
        self.host = host
        self.connection = TlsConnection(host, port, self.key.identity, self.key.psk)
        self.session_id = 'S-' + self.connection.export('EXPORTER-greenboost-1-session-id', 8).hex()
        self._channel = Channel(self.connection, f'{host}:{port}')

    def call(self, method, fields):
        return protobuf.Message(self._channel.unary(method, protobuf.encode(fields)))

    def hello(self, host_id, major=1, minor=0, offered=0, required=0):
        """Versions and names. raises: CallFailed UNSUPPORTED."""
        answer = self.call('Hello', {1: {1: major, 2: minor}, 2: offered, 3: required, 4: host_id,
                                     5: 'python', 6: 'test/python'})
        if answer.message(1).int(1) != major:
            raise ValueError('another major version')
        if not self.key.shared and answer.text(3) != self.key.feeder_id:
            raise ValueError('the feeder is another than that of the key')
        if answer.text(6) != self.session_id:
            raise ValueError('the two ends disagree about their session')
        return answer

    def acquire(self, ram_bytes):
        """(lease reference, attachment id)."""
        attachment = secrets.token_hex(16)
        answer = self.call('AcquireLease', {1: attachment, 2: ARENA_BASE, 3: ARENA_BYTES,
                                            4: [{1: {1: RAM, 2: 0}, 2: ram_bytes}]})
        lease = answer.message(1)
        return {1: lease.text(1), 2: lease.int(2)}, attachment

    def allocate(self, lease, offset, length):
        self.call('Allocate', {1: lease, 2: {1: {1: RAM, 2: 0}, 2: offset, 3: length}})

    def stat(self, lease):
        """[(offset, length)] of what is allocated, and seconds left to live."""
        answer = self.call('StatLease', {1: lease})
        ranges = [(item.int(2), item.int(3)) for item in answer.messages(2)]
        return ranges, answer.int(5) / 1000

    def renew(self, *leases):
        """[(lease reference, status)]; status 1 is ok."""
        answer = self.call('RenewLeases', {1: list(leases)})
        return [({1: item.message(1).text(1), 2: item.message(1).int(2)}, item.int(2)) for item in answer.messages(1)]

    def release(self, lease):
        return self.call('ReleaseLease', {1: lease}).int(1)

    def open_lane(self, lease, offset, length, rights, connections=1):
        """(ticket id, secret, port). The secret is derived on both sides and does not travel."""
        answer = self.call('OpenLane', {1: lease, 2: offset, 3: length, 4: rights, 5: connections})
        ticket = answer.bytes(1)
        exported = self.connection.export('EXPORTER-greenboost-1-lane', 32)
        return ticket, lane_secret(exported, ticket), answer.int(2)

    def close_lane(self, ticket):
        self.call('CloseLane', {1: ticket})

    def close(self):
        self._channel.close()
