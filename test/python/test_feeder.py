# SPDX-License-Identifier: Apache-2.0
"""A second implementation against a real feeder: what docs/protocol.md says is enough to borrow its memory."""
import os
import secrets
import threading
import time
import unittest

from daemon import Daemon
from gbclient import lane as wire
from gbclient.crypto import Forged
from gbclient.feeder import ARENA_BYTES, Feeder, READ, READ_WRITE, WRITE
from gbclient.grpc import CallFailed
from gbclient.lane import Lane, LaneEnded, Refused, RequestFailed
from gbclient.tls import TlsConnection, TlsError

MIB = 1 << 20
NOT_FOUND, DENIED, RANGE, IO = 15, 16, 17, 20
daemon = None


def setUpModule():
    global daemon
    daemon = Daemon()


def tearDownModule():
    daemon.stop()


def connect():
    return Feeder('127.0.0.1', daemon.port, daemon.key)


def host_id():
    return 'H-' + secrets.token_hex(8)


class Session(unittest.TestCase):
    def setUp(self):
        self.feeder = connect()
        self.addCleanup(self.feeder.close)

    def test_hello_tells_who_it_is_and_what_it_lends(self):
        answer = self.feeder.hello(host_id())
        self.assertEqual((answer.message(1).int(1), answer.text(3)), (1, self.feeder.key.feeder_id))
        ram = [device for device in answer.messages(8) if device.message(1).int(1) == 1]
        self.assertEqual([device.int(4) for device in ram], [64 * MIB])
        self.assertGreater(answer.int(10), 0)
        self.assertEqual(self.feeder.connection.cipher, 'TLS_AES_128_GCM_SHA256')

    def test_hello_comes_first(self):
        with self.assertRaises(CallFailed) as failed:
            self.feeder.call('Ping', {1: b'x'})
        self.assertEqual(failed.exception.code, 'WRONG_STATE')
        self.feeder.hello(host_id())
        self.assertEqual(self.feeder.call('Ping', {1: b'payload'}).bytes(1), b'payload')

    def test_versions_and_features(self):
        for fields, words in (({'major': 2, 'minor': 7}, ('2.7', '1.0')),
                              ({'minor': 9, 'required': 1 << 40}, ('1.9', '0x10000000000', '1.0'))):
            with self.assertRaises(CallFailed) as failed:
                self.feeder.hello(host_id(), **fields)
            self.assertEqual(failed.exception.code, 'UNSUPPORTED')
            for word in words:
                self.assertIn(word, failed.exception.message)
        answer = self.feeder.hello(host_id(), minor=9, offered=1 << 40 | 1 << 41)
        self.assertEqual(answer.int(2) & (1 << 40 | 1 << 41), 0)

    def test_another_key_opens_nothing(self):
        wrong = daemon.key[:20] + ('A' if daemon.key[20] != 'A' else 'B') + daemon.key[21:]
        with self.assertRaises(ValueError):
            Feeder('127.0.0.1', daemon.port, wrong)  # noticed before anything is sent
        with self.assertRaises(TlsError):
            TlsConnection('127.0.0.1', daemon.port, self.feeder.key.identity, secrets.token_bytes(32))


class Rotation(unittest.TestCase):
    def test_lanes_end_with_the_key_they_were_made_under(self):
        own = Daemon(ram='16MiB')
        self.addCleanup(own.stop)
        host, feeders = host_id(), [Feeder('127.0.0.1', own.port, own.key)]
        own.greenboost('key', 'rotate')
        own.key = own.greenboost('key', 'show').strip().splitlines()[-1]
        for _attempt in range(50):  # a running feeder looks at its keys once a second
            try:
                feeders.append(Feeder('127.0.0.1', own.port, own.key))
                break
            except TlsError:
                time.sleep(0.1)
        lanes = []
        for feeder in feeders:
            self.addCleanup(feeder.close)
            feeder.hello(host)
            lease, _attachment = feeder.acquire(2 * MIB)
            feeder.allocate(lease, 0, 2 * MIB)
            ticket, secret, port = feeder.open_lane(lease, 0, 2 * MIB, READ)
            lanes.append(Lane('127.0.0.1', port, ticket, secret))
        revoking = threading.Thread(target=own.greenboost, args=('key', 'revoke', feeders[0].key.fingerprint))
        revoking.start()
        self.addCleanup(revoking.join)
        until = time.monotonic() + 10
        with self.assertRaises((LaneEnded, OSError, RequestFailed, ValueError)):
            while time.monotonic() < until:
                self.assertEqual(lanes[1].read(0, 8), bytes(8))
                self.assertEqual(lanes[0].read(0, 8), bytes(8))
                time.sleep(0.05)
        for _again in range(20):
            self.assertEqual(lanes[1].read(0, 8), bytes(8))
        Feeder('127.0.0.1', own.port, own.key).close()
        with self.assertRaises(TlsError):
            TlsConnection('127.0.0.1', own.port, feeders[0].key.identity, feeders[0].key.psk)


class Lease(unittest.TestCase):
    def setUp(self):
        self.feeder = connect()
        self.addCleanup(self.feeder.close)
        self.host = host_id()
        self.feeder.hello(self.host)

    def lease(self, length=4 * MIB):
        lease, _attachment = self.feeder.acquire(length)
        self.feeder.allocate(lease, 0, length)
        return lease

    def test_memory_is_promised_allocated_and_given_back(self):
        lease = self.lease()
        ranges, seconds = self.feeder.stat(lease)
        self.assertEqual(ranges, [(0, 4 * MIB)])
        self.assertGreater(seconds, 1)
        self.assertEqual([status for _lease, status in self.feeder.renew(lease)], [1])
        self.assertEqual(self.feeder.release(lease), 4 * MIB)
        with self.assertRaises(CallFailed) as failed:
            self.feeder.stat(lease)
        self.assertEqual(failed.exception.code, 'LEASE_EXPIRED')

    def test_another_session_of_the_host_takes_a_lease_over(self):
        lease = self.lease()
        later = connect()
        self.addCleanup(later.close)
        later.hello(self.host)
        [(taken, status)] = later.renew(lease)
        self.assertEqual((status, taken[2]), (1, lease[2] + 1))
        self.assertEqual(later.stat(taken)[0], [(0, 4 * MIB)])
        with self.assertRaises(CallFailed) as failed:
            self.feeder.stat(lease)
        self.assertEqual(failed.exception.code, 'EPOCH_STALE')
        later.release(taken)

    def test_a_lane_reads_and_writes_ram(self):
        for ciphers, name in ((2, 'AES-256-GCM'), (4, 'ChaCha20-Poly1305')):
            self.lane_reads_and_writes(ciphers, name)

    def lane_reads_and_writes(self, ciphers, name):
        lease = self.lease()
        ticket, secret, port = self.feeder.open_lane(lease, 0, 4 * MIB, READ_WRITE)
        lane = Lane('127.0.0.1', port, ticket, secret, ciphers=ciphers)
        self.assertEqual(lane.cipher, name)
        self.assertEqual(lane.read(0, 3 * MIB + 17), bytes(3 * MIB + 17))  # zeroed
        data = os.urandom(2 * MIB + 4099)
        lane.write(MIB + 3, data)
        self.assertEqual(lane.read(MIB + 3, len(data)), data)
        self.assertEqual(lane.read(MIB, 3), bytes(3))
        lane.rekey()
        lane.write(0, b'under another key')
        self.assertEqual(lane.read(0, 17), b'under another key')
        self.assertLess(lane.ping(), 2)
        self.assertTrue(lane.goodbye())
        # What one lane wrote, the next one reads: it is the lease's memory.
        ticket, secret, port = self.feeder.open_lane(lease, 2 * MIB, MIB, READ)
        with_offset = Lane('127.0.0.1', port, ticket, secret)
        self.assertEqual(with_offset.read(0, 4096), data[MIB - 3:MIB - 3 + 4096])
        with_offset.goodbye()
        self.feeder.release(lease)

    def test_requests_side_by_side_and_their_errors(self):
        lease = self.lease()
        ticket, secret, port = self.feeder.open_lane(lease, 0, 2 * MIB, READ)
        lane = Lane('127.0.0.1', port, ticket, secret)
        self.assertGreaterEqual(lane.window, 1)
        numbers = [lane.start(wire.READ, at * 4096, 4096) for at in range(min(lane.window, 4))]
        answers = [lane.hear() for _number in numbers]
        self.assertEqual(sorted(request for (_kind, _status, request, _value), _body in answers), numbers)
        with self.assertRaises(RequestFailed) as failed:
            lane.write(0, b'no right to')
        self.assertEqual(failed.exception.status, DENIED)
        with self.assertRaises(RequestFailed) as failed:
            lane.read(2 * MIB - 1, 2)
        self.assertEqual(failed.exception.status, RANGE)
        self.assertEqual(lane.read(0, 5), bytes(5))  # an error ends the request, not the lane
        lane.goodbye()
        self.feeder.release(lease)

    def test_what_is_not_allocated_and_what_is_no_region(self):
        lease = self.lease(2 * MIB)
        ticket, secret, port = self.feeder.open_lane(lease, 0, 8 * MIB, READ_WRITE)
        lane = Lane('127.0.0.1', port, ticket, secret)
        for request, status in ((lambda: lane.read(2 * MIB - 5, 10), IO), (lambda: lane.write(4 * MIB, b'x'), IO),
                                (lambda: lane.read(0, 1, region=3), NOT_FOUND)):
            with self.assertRaises(RequestFailed) as failed:
                request()
            self.assertEqual(failed.exception.status, status)
        self.assertEqual(lane.read(2 * MIB - 5, 5), bytes(5))
        lane.goodbye()
        self.feeder.release(lease)

    def test_a_quiet_lane_is_asked_and_stays(self):
        lease = self.lease()
        lane = Lane('127.0.0.1', self.feeder.open_lane(lease, 0, MIB, READ)[2], *self.ticket(lease))
        number = lane.start(wire.READ, 0, 64)
        lane.hear()
        time.sleep(1.2)
        self.assertEqual(lane.read(0, 64), bytes(64))
        self.assertGreaterEqual(lane.pings, 1)
        self.assertEqual(number, 1)
        lane.goodbye()
        self.feeder.release(lease)

    def ticket(self, lease):
        ticket, secret, _port = self.feeder.open_lane(lease, 0, MIB, READ)
        return ticket, secret

    def test_a_ticket_is_good_for_one_lane_and_only_with_its_secret(self):
        lease = self.lease()
        ticket, secret, port = self.feeder.open_lane(lease, 0, MIB, READ_WRITE)
        for wrong in ({'secret': secrets.token_bytes(32)}, {'ticket': secrets.token_bytes(16)}, {'major': 2},
                      {'required': 1 << 31}, {'ciphers': 1 << 7}):
            with self.assertRaises(Refused):
                Lane('127.0.0.1', port, **{'ticket': ticket, 'secret': secret, **wrong})
        lane = Lane('127.0.0.1', port, ticket, secret, offered=1 << 31)  # unknown and offered: ignored
        self.assertEqual(lane.features & 1 << 31, 0)
        with self.assertRaises(Refused):
            Lane('127.0.0.1', port, ticket, secret)
        self.feeder.close_lane(ticket)
        with self.assertRaises((LaneEnded, OSError, RequestFailed, ValueError)):
            lane.read(0, 4096)
            lane.read(0, 4096)
        wanted = {'MAC', 'UNKNOWN', 'VERSION', 'USED', 'CIPHER'}
        for _attempt in range(20):  # the feeder asks its door now and then whom it turned away
            reasons = {line['reason'] for line in daemon.audit('lane_refused')}
            if wanted <= reasons:
                break
        self.assertTrue(wanted <= reasons, reasons)
        [text] = {line['text'] for line in daemon.audit('lane_refused') if line['reason'] == 'VERSION'}
        self.assertIn('speaks lanes 2.0, this feeder 1.0', text)
        self.feeder.release(lease)

    def test_calls_need_a_right_and_the_feature(self):
        lease = self.lease()
        ticket, secret, port = self.feeder.open_lane(lease, 0, MIB, READ_WRITE)
        lane = Lane('127.0.0.1', port, ticket, secret, offered=wire.OFFERS | wire.CALLS | 1 << 31)
        self.assertEqual(lane.features, wire.OFFERS | wire.CALLS)
        for body in (b'1', bytes(lane.record_bytes)):
            with self.assertRaises(RequestFailed) as failed:
                lane.call(body)
            self.assertEqual(failed.exception.status, DENIED)
        with self.assertRaises(RequestFailed) as failed:
            lane.call(b'to nobody', region=3)
        self.assertEqual(failed.exception.status, NOT_FOUND)
        self.assertEqual(lane.read(0, 5), bytes(5))  # an error ends the request, not the lane
        lane.goodbye()
        ticket, secret, port = self.feeder.open_lane(lease, 0, MIB, READ_WRITE)
        lane = Lane('127.0.0.1', port, ticket, secret, offered=wire.OFFERS)
        self.assertEqual(lane.features, wire.OFFERS)
        with self.assertRaises((LaneEnded, OSError, ValueError)):  # an unknown type
            lane.call(b'not agreed on')
        self.feeder.release(lease)

    def test_a_record_that_is_changed_ends_the_lane(self):
        lease = self.lease()
        for spoil in (lambda record: record[:10] + bytes([record[10] ^ 1]) + record[11:], lambda record: record * 2):
            ticket, secret, port = self.feeder.open_lane(lease, 0, MIB, READ)
            lane = Lane('127.0.0.1', port, ticket, secret)
            self.assertEqual(lane.read(0, 16), bytes(16))
            record = lane._seal.seal(wire.head(wire.READ, 9, length=16))
            lane._socket.sendall(spoil(record))
            with self.assertRaises((LaneEnded, Forged)):
                for _answer in range(4):
                    lane.hear()
        self.feeder.release(lease)

    def test_a_lane_ends_with_its_lease_and_outlives_its_session(self):
        lease = self.lease()
        ticket, secret, port = self.feeder.open_lane(lease, 0, MIB, WRITE)
        lane = Lane('127.0.0.1', port, ticket, secret)
        later = connect()
        self.addCleanup(later.close)
        later.hello(self.host)
        [(taken, _status)] = later.renew(lease)
        self.feeder.close()
        time.sleep(0.3)
        lane.write(0, b'still here')
        later.release(taken)
        with self.assertRaises((LaneEnded, OSError, RequestFailed, ValueError)):
            for _attempt in range(10):
                lane.write(0, b'gone')
                time.sleep(0.1)

    def test_what_is_not_a_part_of_the_arena_gets_no_ticket(self):
        lease = self.lease()
        for offset, length in ((0, 0), (ARENA_BYTES, 1), (ARENA_BYTES - 1, 2)):
            with self.assertRaises(CallFailed) as failed:
                self.feeder.open_lane(lease, offset, length, READ)
            self.assertEqual(failed.exception.code, 'INVALID_ARGUMENT')
        self.feeder.release(lease)
