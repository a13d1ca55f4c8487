// SPDX-License-Identifier: Apache-2.0
// LAN only, unless the user says otherwise: where a feeder may listen and from where it may be reached.
import { BlockList, isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import { GbError } from '../proto/base/errors.js';

/** An address to listen on. `host` is an IP address; a link-local one carries its interface (`fe80::1%eth0`). */
export interface Bind {
  readonly host: string;
  readonly port: number;
  /** Chosen by default, not by name: left out if it is not ready. */
  readonly optional?: boolean;
}

export interface BindOptions {
  /** Addresses or interface names, as the user gave them; default: every LAN address of this machine. */
  readonly bind?: string | readonly string[];
  /** True lifts every rule of this file. */
  readonly allowWan: boolean;
  readonly port: number;
}

/** An address of this machine. */
export interface LocalAddress {
  readonly interfaceName: string;
  readonly address: string;
}

const LAN = lanBlocks();
const WILDCARDS: ReadonlySet<string> = new Set(['0.0.0.0', '::', '*']);

function lanBlocks(): BlockList {
  const blocks = new BlockList();
  blocks.addSubnet('127.0.0.0', 8, 'ipv4'); // loopback, RFC 1122
  blocks.addSubnet('10.0.0.0', 8, 'ipv4'); // RFC 1918
  blocks.addSubnet('172.16.0.0', 12, 'ipv4'); // RFC 1918
  blocks.addSubnet('192.168.0.0', 16, 'ipv4'); // RFC 1918
  blocks.addSubnet('169.254.0.0', 16, 'ipv4'); // link-local, RFC 3927
  blocks.addAddress('::1', 'ipv6'); // loopback
  blocks.addSubnet('fe80::', 10, 'ipv6'); // link-local, RFC 4291
  blocks.addSubnet('fc00::', 7, 'ipv6'); // unique local, RFC 4193
  return blocks;
}

/** True for loopback, RFC 1918, link-local and unique local addresses; IPv4 inside IPv6 counts as IPv4. Everything
 *  that is not an IP address is not on the LAN. */
export function isLanAddress(address: string): boolean {
  const bare = withoutScope(address);
  const family = isIP(bare);
  if (family === 0) return false;
  // BlockList looks through ::ffff:0:0/96 to the IPv4 rules by itself.
  return LAN.check(bare, family === 4 ? 'ipv4' : 'ipv6');
}

/** Every address of this machine. */
export function localAddresses(): LocalAddress[] {
  return Object.entries(networkInterfaces()).flatMap(([interfaceName, entries]) =>
    (entries ?? []).map((entry) => ({
      interfaceName,
      // Listening on a link-local address needs its interface.
      address:
        entry.family === 'IPv6' && entry.scopeid
          ? `${entry.address}%${interfaceName}`
          : entry.address,
    })),
  );
}

/** Where to listen. @throws GbError INVALID_ARGUMENT for what is no address or interface of this machine;
 *  PERMISSION_DENIED for an address beyond the LAN without `allowWan`; NOT_FOUND when nothing is left. */
export function chooseBinds(
  options: BindOptions,
  machine: readonly LocalAddress[] = localAddresses(),
): Bind[] {
  const wanted = typeof options.bind === 'string' ? [options.bind] : (options.bind ?? []);
  const hosts =
    wanted.length === 0
      ? machine.map(({ address }) => address).filter(isLanAddress)
      : wanted.flatMap((text) => hostsFor(text.trim(), options.allowWan, machine));
  if (hosts.length === 0) {
    throw new GbError(
      'NOT_FOUND',
      'this machine has no LAN address to listen on; name one with --bind',
    );
  }
  const optional = wanted.length === 0 ? { optional: true } : {};
  return [...new Set(hosts)].map((host) => ({ host, port: options.port, ...optional }));
}

function hostsFor(text: string, allowWan: boolean, machine: readonly LocalAddress[]): string[] {
  if (WILDCARDS.has(text)) {
    if (allowWan) return [text === '*' ? '::' : text];
    throw new GbError(
      'PERMISSION_DENIED',
      `${text} would also listen on addresses beyond the LAN; leave out --bind for every LAN address, ` +
        'or add --allow-wan if that is meant',
    );
  }
  const ofInterface = machine.filter(({ interfaceName }) => interfaceName === text);
  if (ofInterface.length > 0) return ofInterfaceAllowed(text, ofInterface, allowWan);
  const mine = machine.filter(({ address }) => address === text || withoutScope(address) === text);
  if (mine.length === 0) {
    const known = machine.map(({ address }) => address).join(', ');
    throw new GbError(
      'INVALID_ARGUMENT',
      `"${text.slice(0, 60)}" is no address or interface here; there are: ${known}`,
    );
  }
  if (!allowWan && !isLanAddress(text)) {
    throw new GbError(
      'PERMISSION_DENIED',
      `${text} is not a LAN address: the feeder would be reachable from the Internet; add --allow-wan if that is meant`,
    );
  }
  return mine.map(({ address }) => address);
}

function ofInterfaceAllowed(
  name: string,
  addresses: readonly LocalAddress[],
  allowWan: boolean,
): string[] {
  const allowed = addresses
    .map(({ address }) => address)
    .filter((address) => allowWan || isLanAddress(address));
  if (allowed.length > 0) return allowed;
  throw new GbError(
    'PERMISSION_DENIED',
    `${name} has no LAN address; add --allow-wan to listen on its public ones`,
  );
}

function withoutScope(address: string): string {
  const percent = address.indexOf('%');
  return percent === -1 ? address : address.slice(0, percent);
}
