// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from '@jest/globals';
import {
  chooseBinds,
  isLanAddress,
  localAddresses,
  type LocalAddress,
} from '../../../security/bind.js';

describe('isLanAddress', () => {
  test.each([
    '127.0.0.1',
    '127.255.255.255',
    '10.0.0.0',
    '10.255.255.255',
    '172.16.0.1',
    '172.31.255.255',
    '192.168.0.1',
    '192.168.255.255',
    '169.254.1.1',
    '::1',
    'fe80::1',
    'fe80::1%eth0',
    'febf::1',
    'fc00::1',
    'fdff::1',
    '::ffff:10.1.2.3',
    '::ffff:192.168.1.1',
    '::ffff:7f00:1',
    '0:0:0:0:0:ffff:a00:1',
  ])('%s is on the LAN', (address) => expect(isLanAddress(address)).toBe(true));

  test.each([
    '8.8.8.8',
    '9.255.255.255',
    '11.0.0.0',
    '172.15.255.255',
    '172.32.0.0',
    '192.167.255.255',
    '192.169.0.0',
    '169.253.255.255',
    '100.64.0.1',
    '0.0.0.0',
    '255.255.255.255',
    '224.0.0.1',
    '::',
    '2001:db8::1',
    'fec0::1',
    'fe7f::1',
    'fbff::1',
    'fe00::1',
    'ff02::1',
    '::2',
    '::ffff:8.8.8.8',
    '::ffff:808:808',
    '64:ff9b::a00:1',
    '::10.0.0.1',
    '',
    'localhost',
    '10.0.0',
    '10.0.0.1.example',
    '10.0.0.1 ',
    '010.0.0.1',
    '10.0.0.256',
    'fe80',
    '%eth0',
  ])('%p is not', (address) => expect(isLanAddress(address)).toBe(false));
});

const machine: LocalAddress[] = [
  { interfaceName: 'lo', address: '127.0.0.1' },
  { interfaceName: 'lo', address: '::1' },
  { interfaceName: 'eth0', address: '192.168.1.5' },
  { interfaceName: 'eth0', address: 'fe80::5%eth0' },
  { interfaceName: 'eth0', address: '2001:db8::5' },
  { interfaceName: 'wan0', address: '203.0.113.9' },
];
const hosts = (bind: string | string[] | undefined, allowWan = false): string[] =>
  chooseBinds({ ...(bind === undefined ? {} : { bind }), allowWan, port: 9740 }, machine).map(
    ({ host }) => host,
  );

describe('chooseBinds', () => {
  test('takes every LAN address and no other when nothing is said', () => {
    expect(hosts(undefined)).toEqual(['127.0.0.1', '::1', '192.168.1.5', 'fe80::5%eth0']);
    expect(hosts(undefined, true)).toEqual(['127.0.0.1', '::1', '192.168.1.5', 'fe80::5%eth0']);
    expect(chooseBinds({ allowWan: false, port: 7 }, machine)[0]).toEqual({
      host: '127.0.0.1',
      port: 7,
      optional: true,
    });
  });

  test('takes addresses and interfaces by name, each once', () => {
    expect(hosts('192.168.1.5')).toEqual(['192.168.1.5']);
    expect(hosts(['eth0', '192.168.1.5', ' ::1 '])).toEqual(['192.168.1.5', 'fe80::5%eth0', '::1']);
    expect(hosts('fe80::5')).toEqual(['fe80::5%eth0']);
  });

  test.each(['203.0.113.9', '2001:db8::5', 'wan0', '0.0.0.0', '::', '*'])(
    'refuses %s without --allow-wan',
    (bind) => {
      expect(() => hosts(bind)).toThrow(/PERMISSION_DENIED.*--allow-wan/);
    },
  );

  test('takes them with it', () => {
    expect(hosts('203.0.113.9', true)).toEqual(['203.0.113.9']);
    expect(hosts('wan0', true)).toEqual(['203.0.113.9']);
    expect(hosts('eth0', true)).toEqual(['192.168.1.5', 'fe80::5%eth0', '2001:db8::5']);
    expect(hosts('0.0.0.0', true)).toEqual(['0.0.0.0']);
    expect(hosts('*', true)).toEqual(['::']);
  });

  test.each(['192.168.1.6', 'eth7', 'feeder.example', ''])(
    'refuses "%s": nothing of this machine',
    (bind) => {
      expect(() => hosts(bind)).toThrow(/INVALID_ARGUMENT.*there are: 127\.0\.0\.1/);
    },
  );

  test('says so when the machine has no LAN address', () => {
    const wan: LocalAddress[] = [{ interfaceName: 'wan0', address: '203.0.113.9' }];
    expect(() => chooseBinds({ allowWan: false, port: 1 }, wan)).toThrow('NOT_FOUND');
  });

  test('finds the addresses of the machine it runs on', () => {
    expect(localAddresses()).toContainEqual({ interfaceName: 'lo', address: '127.0.0.1' });
    expect(chooseBinds({ allowWan: false, port: 1 }).every(({ host }) => isLanAddress(host))).toBe(
      true,
    );
  });
});
