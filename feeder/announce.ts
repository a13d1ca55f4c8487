// SPDX-License-Identifier: Apache-2.0
// Answers who asks on the LAN for feeders (mDNS, RFC 6762; proto/base/discovery.ts): a responder for each address on
// which the feeder listens. What cannot be announced is logged, and stops nothing.
import { BlockList, isIPv4 } from 'node:net';
import { networkInterfaces } from 'node:os';
import multicastDns, { type MulticastDNS, type ResponseOutgoingPacket } from 'multicast-dns';
import type { Clock } from '../proto/base/clock.js';
import {
  MDNS_PORT,
  SERVICE_TTL_SECONDS,
  SERVICE_TYPE,
  serviceTxt,
} from '../proto/base/discovery.js';
import type { Logger } from '../proto/base/log.js';
import { isLanAddress, type Bind } from '../security/bind.js';

export interface AnnouncerOptions {
  /** Where the feeder listens; LAN addresses of IPv4 are announced, each on its own network. */
  readonly endpoints: readonly Bind[];
  /** Asked for each answer: keys are rotated. */
  readonly keyFingerprint: () => string;
  readonly clock: Clock;
  readonly log: Logger;
}

/** RFC 6762, section 6: a record is not multicast again within a second. */
const MULTICAST_INTERVAL_MS = 1_000;
/** Answers to single askers: a flood of questions gets no flood back. */
const ANSWERS_PER_SECOND_MAX = 20;
/** RFC 6762, section 6.7: who asks from another port believes an answer no longer. */
const LEGACY_TTL_SECONDS = 10;
/** An end does not wait longer for its goodbye to leave. */
const GOODBYE_MS = 250;

/** An address, and who shares its network. */
interface Place {
  readonly host: string;
  readonly port: number;
  readonly neighbours: BlockList;
}

function places(endpoints: readonly Bind[]): Place[] {
  const entries = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  const everywhere = endpoints.find(({ host }) => host === '0.0.0.0' || host === '::');
  return entries.flatMap(({ address, cidr, internal }) => {
    const endpoint = everywhere ?? endpoints.find(({ host }) => host === address);
    if (!endpoint || internal || !isIPv4(address) || !isLanAddress(address) || !cidr) return [];
    const neighbours = new BlockList();
    neighbours.addSubnet(address, Number(cidr.split('/')[1]), 'ipv4');
    return [{ host: address, port: endpoint.port, neighbours }];
  });
}

/** One address's responder. */
class Responder {
  private readonly mdns: MulticastDNS;
  private multicastMs = Number.NEGATIVE_INFINITY;
  private secondBeganMs = Number.NEGATIVE_INFINITY;
  private answerCount = 0;
  private open = true;

  constructor(
    private readonly place: Place,
    private readonly options: AnnouncerOptions,
  ) {
    // A socket that is bound to an address of its own would not hear what is multicast.
    this.mdns = multicastDns({ interface: place.host, bind: '0.0.0.0' });
    const { log } = options;
    this.mdns.on('error', (err: Error) => {
      this.open = false;
      log.warn(
        { event: 'not_announced', address: place.host, err },
        'hosts do not find it by mDNS',
      );
    });
    this.mdns.on('warning', (err: Error) =>
      log.debug({ event: 'mdns_warning', address: place.host, err }, 'a packet made no sense'),
    );
    this.mdns.on('ready', () => this.multicast(SERVICE_TTL_SECONDS));
    this.mdns.on('query', (query, from) => {
      if (!place.neighbours.check(from.address, 'ipv4')) return;
      const asked = (query.questions ?? []).filter(({ name }) =>
        this.names().includes(name.toLowerCase()),
      );
      if (asked.length === 0) return;
      const { instance } = this.identity();
      const known = (query.answers ?? []).some(
        (answer) =>
          answer.type === 'PTR' &&
          answer.data === instance &&
          (answer.ttl ?? 0) * 2 >= SERVICE_TTL_SECONDS,
      );
      if (from.port === MDNS_PORT) {
        if (!known && this.mayMulticast()) this.multicast(SERVICE_TTL_SECONDS);
      } else if (this.mayAnswer()) {
        const answer = { ...this.records(LEGACY_TTL_SECONDS), id: query.id, questions: asked };
        this.mdns.respond(answer, { address: from.address, port: from.port });
      }
    });
  }

  /** Says goodbye. */
  close(): Promise<void> {
    return new Promise((resolve) => {
      const end = (): void => this.mdns.destroy(resolve);
      if (!this.open) return end();
      this.open = false;
      const late = this.options.clock.after(GOODBYE_MS, end);
      this.mdns.respond(this.records(0), () => {
        late.cancel();
        end();
      });
    });
  }

  private identity(): { instance: string; target: string } {
    const fingerprint = this.options.keyFingerprint();
    return { instance: `${fingerprint}.${SERVICE_TYPE}`, target: `${fingerprint}.local` };
  }

  private names(): string[] {
    const { instance, target } = this.identity();
    return [SERVICE_TYPE, instance, target];
  }

  private records(ttl: number): ResponseOutgoingPacket {
    const { instance, target } = this.identity();
    const { host, port } = this.place;
    return {
      answers: [{ name: SERVICE_TYPE, type: 'PTR', ttl, data: instance }],
      additionals: [
        { name: instance, type: 'SRV', ttl, data: { port, target } },
        { name: instance, type: 'TXT', ttl, data: serviceTxt(this.options.keyFingerprint()) },
        { name: target, type: 'A', ttl, data: host },
      ],
    };
  }

  private multicast(ttl: number): void {
    this.multicastMs = this.options.clock.nowMs();
    this.mdns.respond(this.records(ttl));
  }

  private mayMulticast(): boolean {
    return this.options.clock.nowMs() - this.multicastMs >= MULTICAST_INTERVAL_MS;
  }

  private mayAnswer(): boolean {
    const now = this.options.clock.nowMs();
    if (now - this.secondBeganMs >= 1_000) {
      this.secondBeganMs = now;
      this.answerCount = 0;
    }
    return ++this.answerCount <= ANSWERS_PER_SECOND_MAX;
  }
}

/** Announces until it is closed. */
export class Announcer {
  private readonly responders: readonly Responder[];

  constructor(options: AnnouncerOptions) {
    this.responders = places(options.endpoints).map((place) => new Responder(place, options));
  }

  /** Says goodbye on every network, a quarter of a second at the most. */
  async close(): Promise<void> {
    await Promise.all(this.responders.map((responder) => responder.close()));
  }
}
