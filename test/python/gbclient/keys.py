# SPDX-License-Identifier: Apache-2.0
"""The pairing key and everything that is derived (docs/protocol.md, "Keys"; RFC 5869)."""
import hashlib
import hmac

ALPHABET = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'  # Crockford's base32
PAIRING_SALT = b'greenboost pairing key, version 1'
LANE_SALT = b'greenboost lane, version 1'


class KeyText(ValueError):
    """The text is no pairing key."""


def hkdf(ikm, salt, info, length):
    """HKDF-SHA256, extract and expand."""
    prk = hmac.new(salt, ikm, hashlib.sha256).digest()
    out, block = b'', b''
    while len(out) < length:
        block = hmac.new(prk, block + info + bytes([len(out) // 32 + 1]), hashlib.sha256).digest()
        out += block
    return out[:length]


def fields(*values):
    """Each field with its length in two big-endian bytes before it."""
    out = b''
    for value in values:
        data = value.encode() if isinstance(value, str) else value
        out += len(data).to_bytes(2, 'big') + data
    return out


class PairingKey:
    """One secret of one feeder."""

    def __init__(self, feeder_id, secret, shared=False):
        self.feeder_id, self.secret, self.shared = feeder_id, secret, shared

    @classmethod
    def parse(cls, text):
        """Reads what `greenboost key show` prints. raises: KeyText."""
        compact = ''.join(text.split()).replace('-', '').upper()
        if not compact.startswith('GB1'):
            raise KeyText('it does not begin with gb1-')
        body = compact[3:].translate(str.maketrans('OIL', '011'))
        if len(body) != 72 or any(letter not in ALPHABET for letter in body):
            raise KeyText('it has another length or alphabet')
        number = 0
        for letter in body:
            number = number << 5 | ALPHABET.index(letter)
        packed = number.to_bytes(45, 'big')
        if hashlib.sha256(b'greenboost pairing string 1' + packed[:41]).digest()[:4] != packed[41:]:
            raise KeyText('its checksum is wrong')
        if packed[0] & ~1:
            raise KeyText('it uses a feature that is not known')
        return cls('F-' + packed[1:9].hex(), packed[9:41], packed[0] == 1)

    def derive(self, label, protocol, length):
        return hkdf(self.secret, PAIRING_SALT, fields(label, self.feeder_id, protocol), length)

    @property
    def psk(self):
        return self.derive('tls psk, host connects to feeder', 'TLS 1.3, SHA-256', 32)

    @property
    def identity(self):
        return 'gb1.' + self.derive('tls psk identity, host connects to feeder', 'TLS 1.3, SHA-256', 16).hex()

    @property
    def fingerprint(self):
        text = self.derive('fingerprint', '', 8).hex()
        return '-'.join(text[at:at + 4] for at in range(0, 16, 4))


def lane_secret(exported, ticket_id):
    """The secret of a ticket: from 32 bytes of the session's exporter "EXPORTER-greenboost-1-lane"."""
    return hkdf(exported, LANE_SALT, fields('lane ticket', ticket_id), 32)
