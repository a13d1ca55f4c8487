// SPDX-License-Identifier: Apache-2.0
// Which authenticated connection a call belongs to, and what it said in Hello. A session without
// Hello may only say it.
import { GbError } from '../proto/base/errors.js';
import type { HostId } from '../proto/base/ids.js';
import type { AuthenticatedSession } from '../security/listener.js';
import type { Caller } from './lease.js';

export interface HostIdentity {
  readonly hostId: HostId;
  readonly hostName: string;
}

/** Kinds of calls that are counted per session. */
export type Counted = 'probes' | 'watchers' | 'pulls';

interface Entry {
  readonly auth: AuthenticatedSession;
  host: HostIdentity | undefined;
  features: bigint;
  readonly counts: Record<Counted, number>;
}

/** A session that has said Hello. */
export interface Session extends Caller, HostIdentity {
  readonly auth: AuthenticatedSession;
  /** Bits of the features that both sides agreed to. */
  readonly features: bigint;
  /** Takes one of at most `max`; returns its release. @throws GbError CAPACITY_EXHAUSTED. */
  count(what: Counted, max: number): () => void;
}

export class Sessions {
  private readonly byPeer = new Map<string, Entry>();

  /** `onHello`: a session has said for the first time which host it is. */
  constructor(
    private readonly onHello?: (auth: AuthenticatedSession, host: HostIdentity) => void,
  ) {}

  get size(): number {
    return this.byPeer.size;
  }

  add(auth: AuthenticatedSession): void {
    this.byPeer.set(auth.peer, {
      auth,
      host: undefined,
      counts: { probes: 0, watchers: 0, pulls: 0 },
      features: 0n,
    });
  }

  remove(auth: AuthenticatedSession): void {
    if (this.byPeer.get(auth.peer)?.auth === auth) this.byPeer.delete(auth.peer);
  }

  /** Binds a host to its session. @throws GbError WRONG_STATE when it has said another name before. */
  hello(peer: string, host: HostIdentity, features: bigint): AuthenticatedSession {
    const entry = this.entry(peer);
    if (entry.host && entry.host.hostId !== host.hostId) {
      throw new GbError(
        'WRONG_STATE',
        'this session belongs to another host id; open a new connection',
      );
    }
    if (!entry.host) this.onHello?.(entry.auth, host);
    entry.host = host;
    entry.features = features;
    return entry.auth;
  }

  /** The session behind a peer, whether it has said Hello or not. @throws GbError UNAUTHENTICATED. */
  authenticated(peer: string): AuthenticatedSession {
    return this.entry(peer).auth;
  }

  /** @throws GbError UNAUTHENTICATED for a connection nobody authenticated, WRONG_STATE before
   *  Hello. */
  get(peer: string): Session {
    const { auth, host, counts, features } = this.entry(peer);
    if (!host) throw new GbError('WRONG_STATE', 'the first call of a session is Hello');
    return {
      ...host,
      auth,
      features,
      sessionId: auth.sessionId,
      count(what, max) {
        if (counts[what] >= max)
          throw new GbError('CAPACITY_EXHAUSTED', `at most ${max} ${what} at a time per session`);
        counts[what] += 1;
        return () => {
          counts[what] -= 1;
        };
      },
    };
  }

  private entry(peer: string): Entry {
    const entry = this.byPeer.get(peer);
    if (!entry) throw new GbError('UNAUTHENTICATED', 'no authenticated session');
    return entry;
  }
}
