// SPDX-License-Identifier: Apache-2.0
// Feeders of this LAN, by mDNS (proto/base/discovery.ts). Whoever is on the LAN can answer anything: an answer names an
// address to try and the fingerprint of a key, which a connection then proves or not.
import { isIPv4 } from 'node:net';
import { networkInterfaces } from 'node:os';
import multicastDns, { type MulticastDNS, type ResponsePacket } from 'multicast-dns';
import { sleep } from '../../proto/base/clock.js';
import { fingerprintOfTxt, MDNS_PORT, SERVICE_TYPE } from '../../proto/base/discovery.js';

export interface FoundFeeder {
  /** `192.168.1.21:9740`. */
  readonly address: string;
  readonly keyFingerprint: string;
}

export interface DiscoverOptions {
  /** How long answers are waited for. */
  readonly lookMs: number;
  readonly signal?: AbortSignal;
  /** Called once for each feeder, as it answers. */
  readonly onFound?: (feeder: FoundFeeder) => void;
}

/** More answers than these are nobody's LAN. */
export const FOUND_MAX = 256;
/** Asked again after these times: questions get lost, and a feeder answers all askers of a second at once. */
const ASK_AFTER_MS = [0, 300, 1_100, 2_200, 5_000];

/** The feeder of an answer, at the address that has sent it: nobody is sent elsewhere by what a packet says. */
export function feederOf(packet: ResponsePacket, from: string): FoundFeeder | undefined {
  const records = [...(packet.answers ?? []), ...(packet.additionals ?? [])];
  const pointer = records.find(({ type, name }) => type === 'PTR' && name === SERVICE_TYPE);
  if (pointer?.type !== 'PTR' || !isIPv4(from)) return undefined;
  const service = records.find(({ type, name }) => type === 'SRV' && name === pointer.data);
  const about = records.find(({ type, name }) => type === 'TXT' && name === pointer.data);
  if (service?.type !== 'SRV' || about?.type !== 'TXT' || service.ttl === 0) return undefined;
  const texts = Array.isArray(about.data) ? about.data : [about.data];
  const keyFingerprint = fingerprintOfTxt(texts.map(String));
  const { port } = service.data;
  if (keyFingerprint === undefined || !Number.isInteger(port) || port < 1) return undefined;
  return { address: `${from}:${port}`, keyFingerprint };
}

/** Where to ask: every network of this machine. */
function ownAddresses(): string[] {
  const entries = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  return entries
    .filter(({ address, internal }) => !internal && isIPv4(address))
    .map(({ address }) => address);
}

/** Asks from one address, by the port of mDNS, or by any other where somebody keeps that one for himself: then answers
 *  come to us alone. */
class Asker {
  private mdns: MulticastDNS;

  constructor(
    private readonly address: string,
    private readonly onResponse: (packet: ResponsePacket, from: string) => void,
  ) {
    this.mdns = this.listen('0.0.0.0');
  }

  ask(): void {
    this.mdns.query([{ name: SERVICE_TYPE, type: 'PTR' }]);
  }

  close(): Promise<void> {
    return new Promise((resolve) => this.mdns.destroy(resolve));
  }

  private listen(bind: string | false): MulticastDNS {
    const mdns = multicastDns({ interface: this.address, port: MDNS_PORT, bind });
    mdns.on('response', (packet, { address }) => this.onResponse(packet, address));
    mdns.on('warning', () => undefined); // A packet that makes no sense, or a network that is down.
    mdns.on('error', () => {
      if (bind === false) return;
      mdns.destroy();
      this.mdns = this.listen(false);
      this.ask();
    });
    return mdns;
  }
}

/** Every feeder that answers within the time, in the order of their answers, at each network that it answers from.
 *  Cancel: the signal ends the wait, and what was found is returned. */
export async function discoverFeeders(options: DiscoverOptions): Promise<FoundFeeder[]> {
  const found = new Map<string, FoundFeeder>();
  const askers = ownAddresses().map(
    (address) =>
      new Asker(address, (packet, from) => {
        const feeder = feederOf(packet, from);
        // Two that claim the same key are both told: nobody hides another one.
        if (!feeder || found.has(feeder.address) || found.size >= FOUND_MAX) return;
        found.set(feeder.address, feeder);
        options.onFound?.(feeder);
      }),
  );
  try {
    let passedMs = 0;
    for (const atMs of ASK_AFTER_MS.filter((ms) => ms < options.lookMs)) {
      await sleep(atMs - passedMs, options.signal);
      passedMs = atMs;
      for (const asker of askers) asker.ask();
    }
    await sleep(options.lookMs - passedMs, options.signal);
  } catch (reason) {
    if (!options.signal?.aborted) throw reason;
  } finally {
    await Promise.all(askers.map((asker) => asker.close()));
  }
  return [...found.values()];
}
