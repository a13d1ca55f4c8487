# SPDX-License-Identifier: Apache-2.0
"""The client against published and recorded values."""
import json
import os
import unittest

import record_lane
from daemon import ROOT
from gbclient import crypto, hpack, keys, protobuf


def vectors(name):
    with open(os.path.join(ROOT, 'test', 'vectors', name), encoding='utf8') as file:
        return json.load(file)


class Keys(unittest.TestCase):
    def test_hkdf_as_in_rfc_5869(self):
        for case in vectors('rfc5869.json')['cases']:
            ikm, salt, info = (bytes.fromhex(case[name]) for name in ('ikm', 'salt', 'info'))
            self.assertEqual(keys.hkdf(ikm, salt, info, len(case['okm']) // 2).hex(), case['okm'])

    def test_pairing_strings(self):
        case = vectors('pairing-v1.json')
        key = keys.PairingKey.parse(case['text'])
        self.assertEqual((key.feeder_id, key.secret.hex(), key.shared), (case['feederId'], case['secret'], False))
        self.assertEqual(keys.PairingKey.parse(case['text'].lower().replace('0', 'o')).secret, key.secret)
        for wrong in ('', 'gb2-' + case['text'][4:], case['text'][:-1], case['text'].replace('D5', '5D', 1)):
            with self.assertRaises(keys.KeyText):
                keys.PairingKey.parse(wrong)

    def test_what_comes_from_a_pairing_key(self):
        for case in vectors('derive-v1.json')['cases']:
            key = keys.PairingKey(case['feederId'], bytes.fromhex(case['secret']))
            self.assertEqual((key.identity, key.psk.hex(), key.fingerprint),
                             (case['identity'], case['psk'], case['fingerprint']))

    def test_secrets_of_tickets(self):
        for case in vectors('lane-ticket-v1.json')['cases']:
            exported, ticket = bytes.fromhex(case['exported']), bytes.fromhex(case['ticketId'])
            self.assertEqual(keys.lane_secret(exported, ticket).hex(), case['secret'])


class Crypto(unittest.TestCase):
    """AES-256-GCM, cases 14 and 15 of the GCM specification (McGrew, Viega), without associated data."""
    CASES = (('00' * 32, '00' * 12, '00' * 16, 'cea7403d4d606b6e074ec5d3baf39d18', 'd0d1c8a799996bf0265b98b5d48ab919'),
             ('feffe9928665731c6d6a8f9467308308' * 2, 'cafebabefacedbaddecaf888',
              'd9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72'
              '1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255',
              '522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa'
              '8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad', 'b094dac5d93471bdec1a502270e3cc6c'))

    def test_known_answers(self):
        for key, nonce, plain, sealed, tag in self.CASES:
            key, nonce, plain = (bytes.fromhex(text) for text in (key, nonce, plain))
            self.assertEqual(crypto.seal('AES-256-GCM', key, nonce, plain).hex(), sealed + tag)
            self.assertEqual(crypto.open_sealed('AES-256-GCM', key, nonce, bytes.fromhex(sealed + tag)), plain)

    def test_a_changed_bit_is_found(self):
        key, nonce = bytes(32), bytes(12)
        for cipher in crypto.CIPHERS:
            sealed = crypto.seal(cipher, key, nonce, b'some bytes')
            for at in range(len(sealed)):
                spoiled = bytearray(sealed)
                spoiled[at] ^= 1
                with self.assertRaises(crypto.Forged):
                    crypto.open_sealed(cipher, key, nonce, bytes(spoiled))


class Lanes(unittest.TestCase):
    def test_what_was_recorded_is_what_is_said_today(self):
        with open(os.path.join(ROOT, 'test', 'vectors', 'lane-v1.txt'), encoding='utf8') as file:
            self.assertEqual(record_lane.recording(), file.read())


class Hpack(unittest.TestCase):
    def test_huffman_as_in_rfc_7541(self):
        for coded, text in (('f1e3c2e5f23a6ba0ab90f4ff', b'www.example.com'), ('a8eb10649cbf', b'no-cache'),
                            ('d07abe941054d444a8200595040b8166e082a62d1bff', b'Mon, 21 Oct 2013 20:13:21 GMT')):
            self.assertEqual(hpack.huffman(bytes.fromhex(coded)), text)
        with self.assertRaises(ValueError):
            hpack.huffman(bytes.fromhex('ffffffff'))

    def test_header_blocks(self):
        self.assertEqual(hpack.decode(bytes.fromhex('20' '88' '0f0d03353637')),
                         [(':status', '200'), ('content-length', '567')])
        fields = [(':method', 'POST'), ('te', 'trailers'), ('long', 'x' * 400)]
        self.assertEqual(hpack.decode(hpack.encode(fields)), fields)


class Protobuf(unittest.TestCase):
    def test_messages(self):
        self.assertEqual(protobuf.encode({1: 150, 2: 'testing', 3: {1: 1}, 4: 0, 5: {}}).hex(),
                         '089601' '120774657374696e67' '1a020801' '2a00')
        message = protobuf.Message(bytes.fromhex('089601' '120774657374696e67' '1a020801' '1a020802' 'c0a90707'))
        self.assertEqual((message.int(1), message.text(2), [item.int(1) for item in message.messages(3)]),
                         (150, 'testing', [1, 2]))
