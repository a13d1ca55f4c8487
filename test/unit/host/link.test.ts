// SPDX-License-Identifier: Apache-2.0
import { beforeEach, describe, expect, test } from '@jest/globals';
import { create } from '@bufbuild/protobuf';
import type { Connector, FeederConnection, OpenRequest } from '../../../host/links/connection.js';
import type { FeederCalls } from '../../../host/links/feeder-client.js';
import { Link, type LinkHooks, type LinkStateName } from '../../../host/links/link.js';
import { ATTRIBUTES_MAX } from '../../../host/shim/abi.js';
import { GbError } from '../../../proto/base/errors.js';
import { createId } from '../../../proto/base/ids.js';
import {
  DEVICES_PER_FEEDER_MAX,
  DEVICE_NAME_CHARACTERS_MAX,
  LEASE_TTL_MS,
  PAUSES_PER_FEEDER_MAX,
  RECONNECT_DELAY_MS_MAX,
  REFUSED_MS_MAX,
  SILENCE_MAX_MS,
  SILENCE_RECONNECT_MS,
} from '../../../proto/base/limits.js';
import {
  DeviceKind,
  FeederState,
  HelloResponseSchema,
  WatchStatsResponseSchema,
} from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import { createPairingKey } from '../../../security/pairing.js';
import { FakeClock, settle } from './fake-clock.js';

const KEY = createPairingKey(createId('feeder'));

const REFUSED = new GbError('FEEDER_UNREACHABLE', 'nothing listens', {
  details: { refused: true },
});

/** A feeder that answers as the test says. */
class ScriptedFeeder {
  attempts = 0;
  incarnation = 'first';
  failure: GbError | undefined;
  open: { request: OpenRequest; closed: boolean; retired: boolean }[] = [];

  readonly connector: Connector = async (request) => {
    this.attempts++;
    if (this.failure) throw this.failure;
    request.onSecured();
    const entry = { request, closed: false, retired: false };
    this.open.push(entry);
    const hello = create(HelloResponseSchema, {
      feederId: KEY.feederId,
      feederName: 'box',
      incarnation: this.incarnation,
      sessionId: 'S-0123456789abcdef',
      leaseTtlMs: LEASE_TTL_MS,
    });
    const connection: FeederConnection = {
      hello,
      clockSkewMs: 0,
      cipher: 'TLS_AES_128_GCM_SHA256',
      client: {} as FeederCalls,
      traffic: () => ({ sentBytes: 10, receivedBytes: 20 }),
      signal: new AbortController().signal,
      measure: () =>
        Promise.resolve({ rttMicros: 1, uploadBytesPerSecond: 2, downloadBytesPerSecond: 3 }),
      retire: () => (entry.retired = true),
      close: () => (entry.closed = true),
    };
    return connection;
  };

  get live(): number {
    return this.open.filter(({ closed }) => !closed).length;
  }

  beat(state = FeederState.LENDING): void {
    this.open.at(-1)?.request.onStats(create(WatchStatsResponseSchema, { state }));
  }

  breakOff(): void {
    this.open.at(-1)?.request.onEnd(new GbError('FEEDER_UNREACHABLE', 'Connection dropped'));
  }
}

describe('Link', () => {
  let clock: FakeClock;
  let feeder: ScriptedFeeder;
  let states: LinkStateName[];
  let lost: string[];
  let adopted: boolean[];
  let link: Link;

  beforeEach(() => {
    clock = new FakeClock();
    feeder = new ScriptedFeeder();
    states = [];
    lost = [];
    adopted = [];
    const hooks: LinkHooks = {
      adopt: async (_link, _connection, restarted) => void adopted.push(restarted),
      leasesLost: (_link, why) => void lost.push(why),
      stateChanged: ({ state }) => void states.push(state),
      statsChanged: () => undefined,
    };
    const { connector } = feeder;
    link = new Link({ address: 'box:9740', key: KEY, connector, hooks, clock, random: () => 0.5 });
  });

  /** Beats every half second for `ms`. */
  async function alive(ms: number): Promise<void> {
    for (let passed = 0; passed < ms; passed += 500) {
      feeder.beat();
      await clock.advance(500);
    }
  }

  /** Lets time pass until the feeder was reached `count` times, at most as long as one delay may
   *  be. */
  async function untilOpened(count: number): Promise<void> {
    for (
      let passed = 0;
      passed < RECONNECT_DELAY_MS_MAX * 1.25 && feeder.open.length < count;
      passed += 100
    ) {
      await clock.advance(100);
    }
    expect(feeder.open).toHaveLength(count);
  }

  async function ready(): Promise<void> {
    link.start();
    await clock.advance(1);
    expect(link.state).toBe('ready');
  }

  test('connecting, handshaking, ready; heartbeats keep it there', async () => {
    await ready();
    expect(states).toEqual(['connecting', 'handshaking', 'ready']);
    await alive(20_000);
    expect(states).toEqual(['connecting', 'handshaking', 'ready']);
    expect(link.name).toBe('box');
    expect(lost).toEqual([]);
  });

  test('a feeder that is away is tried again with growing delays, up to the limit', async () => {
    feeder.failure = new GbError('FEEDER_UNREACHABLE', 'refused');
    link.start();
    await clock.advance(60_000);
    expect(link.state).toBe('connecting');
    expect(link.detail).toBe('refused');
    // 0.2 + 0.4 + 0.8 + 1.6 + 3.2 s, then every 5 s.
    expect(feeder.attempts).toBeGreaterThanOrEqual(12);
    expect(feeder.attempts).toBeLessThanOrEqual(6 + 60_000 / RECONNECT_DELAY_MS_MAX);
    feeder.failure = undefined;
    await untilOpened(1);
    expect(link.state).toBe('ready');
  });

  test('a refused key closes the link, and nobody hammers', async () => {
    feeder.failure = new GbError('UNAUTHENTICATED', 'the feeder refused the pairing key');
    link.start();
    await clock.advance(60_000);
    expect(link.state).toBe('closed');
    expect(link.refusal?.code).toBe('UNAUTHENTICATED');
    expect(link.detail).toContain('refused the pairing key');
    expect(feeder.attempts).toBe(1);
    expect(clock.armed).toBe(0);
  });

  test('silence makes it stale after 2 s, a heartbeat makes it ready again', async () => {
    await ready();
    await alive(1_000);
    feeder.beat();
    await clock.advance(SILENCE_MAX_MS - 1);
    expect(link.state).toBe('ready');
    await clock.advance(1);
    expect(link.state).toBe('stale');
    expect(() => link.client()).toThrow(/FEEDER_UNREACHABLE.*box is stale/);
    feeder.beat();
    expect(link.state).toBe('ready');
    expect(feeder.live).toBe(1);
    expect(lost).toEqual([]);
  });

  test('a longer silence brings a new connection with the leases adopted', async () => {
    await ready();
    await clock.advance(10_000);
    expect(states.slice(0, 6)).toEqual([
      'connecting',
      'handshaking',
      'ready',
      'stale',
      'stale',
      'ready',
    ]);
    expect(feeder.attempts).toBe(2);
    expect(adopted).toEqual([false, false]);
    expect(feeder.live).toBe(1);
    expect(lost).toEqual([]);
  });

  test('a broken connection is stale, and lost when its time to live is over', async () => {
    await ready();
    feeder.failure = new GbError('FEEDER_UNREACHABLE', 'no route');
    feeder.breakOff();
    expect(link.state).toBe('stale');
    await clock.advance(LEASE_TTL_MS - 10);
    expect(link.state).toBe('stale');
    expect(lost).toEqual([]);
    await clock.advance(20);
    expect(link.state).toBe('lost');
    expect(lost).toEqual(['its time to live is over']);
    feeder.failure = undefined;
    await untilOpened(2);
    expect(link.state).toBe('ready');
    expect(lost).toHaveLength(1);
  });

  test('a connection that its feeder ended, and new ones that are refused: its daemon has exited', async () => {
    await ready();
    feeder.failure = REFUSED;
    feeder.breakOff();
    await clock.advance(REFUSED_MS_MAX - 100);
    expect(link.state).toBe('stale');
    await clock.advance(1_000);
    expect(link.state).toBe('lost');
    expect(lost).toEqual([expect.stringContaining('its daemon has ended')]);
    feeder.failure = undefined;
    feeder.incarnation = 'second';
    await untilOpened(2);
    expect(link.state).toBe('ready');
    expect(lost).toHaveLength(1);
  });

  test('refusals do not end leases after a silence, nor where something else answers in between', async () => {
    await ready();
    feeder.failure = REFUSED;
    await clock.advance(SILENCE_RECONNECT_MS + 10_000);
    expect(feeder.attempts).toBeGreaterThan(3);
    expect([link.state, lost]).toEqual(['stale', []]);
    feeder.failure = undefined;
    await untilOpened(2);
    feeder.breakOff();
    for (let passed = 0; passed < LEASE_TTL_MS - 1_000; passed += 100) {
      feeder.failure =
        feeder.attempts % 2 ? REFUSED : new GbError('FEEDER_UNREACHABLE', 'no route');
      await clock.advance(100);
    }
    expect([link.state, lost]).toEqual(['stale', []]);
  });

  test('another incarnation has lost the leases at once', async () => {
    await ready();
    feeder.incarnation = 'second';
    feeder.breakOff();
    await clock.advance(1_000);
    expect(link.state).toBe('ready');
    expect(lost).toEqual(['it was restarted']);
    expect(adopted).toEqual([false, true]);
  });

  test('a feeder that says goodbye is lost when it goes', async () => {
    await ready();
    feeder.beat(FeederState.STOPPING);
    feeder.failure = new GbError('FEEDER_UNREACHABLE', 'refused');
    feeder.breakOff();
    expect(link.state).toBe('lost');
    expect(lost).toEqual(['it was stopped']);
  });

  test('a key that is revoked while the link is stale loses the leases', async () => {
    await ready();
    feeder.failure = new GbError('UNAUTHENTICATED', 'rotated');
    feeder.breakOff();
    await clock.advance(1_000);
    expect(link.state).toBe('closed');
    expect(lost).toEqual(['rotated']);
  });

  test('drain needs ready and can be taken back', async () => {
    link.start();
    expect(() => link.drain()).toThrow(/WRONG_STATE/);
    await clock.advance(1);
    link.drain();
    expect(link.state).toBe('draining');
    expect(feeder.live).toBe(1);
    link.undrain();
    expect(link.state).toBe('ready');
    expect(feeder.live).toBe(1);
  });

  test.each(['connecting', 'ready', 'stale', 'lost'] as const)(
    'close from %s leaves no timer and no connection',
    async (from) => {
      if (from === 'connecting') feeder.failure = new GbError('FEEDER_UNREACHABLE', 'refused');
      link.start();
      await clock.advance(1);
      if (from === 'stale' || from === 'lost') {
        feeder.failure = new GbError('FEEDER_UNREACHABLE', 'refused');
        feeder.breakOff();
        if (from === 'lost') await clock.advance(LEASE_TTL_MS + 10);
      }
      expect(link.state).toBe(from);
      const { attempts } = feeder;
      link.close('disconnected');
      await clock.advance(60_000);
      expect(link.state).toBe('closed');
      expect(feeder.attempts).toBe(attempts);
      expect(feeder.live).toBe(0);
      expect(clock.armed).toBe(0);
    },
  );

  test('a connection that ends during adoption is not taken for ready', async () => {
    let release = (): void => undefined;
    link.options.hooks.adopt = () => new Promise((resolve) => (release = resolve));
    link.start();
    await clock.advance(1);
    expect(link.state).toBe('handshaking');
    feeder.breakOff();
    release();
    await settle();
    expect(link.state).toBe('connecting');
    expect(feeder.live).toBe(0);
  });

  test('what a feeder tells of itself is cut to what a feeder can have', async () => {
    await ready();
    const devices = Array.from({ length: 500 }, (_, index) => ({
      id: { kind: DeviceKind.GPU, index },
      name: 'G'.repeat(10_000),
      attributes: Array<number>(5_000).fill(1),
    }));
    const pauses = Array.from({ length: 500 }, () => ({ text: 'p'.repeat(1_000) }));
    const stats = { state: FeederState.LENDING, devices, pauses };
    feeder.open.at(-1)?.request.onStats(create(WatchStatsResponseSchema, stats));
    expect(link.devices).toHaveLength(DEVICES_PER_FEEDER_MAX);
    expect(link.devices[0]?.name).toHaveLength(DEVICE_NAME_CHARACTERS_MAX);
    expect(link.devices[0]?.attributes).toHaveLength(ATTRIBUTES_MAX);
    expect(link.pauses).toHaveLength(PAUSES_PER_FEEDER_MAX);
    expect(link.pauses.map(({ text }) => text).join('')).toBe('');
  });

  describe('another key', () => {
    const NEXT = createPairingKey(KEY.feederId);

    test('is used by a connection that takes the leases over before the old one is retired', async () => {
      await ready();
      const order: string[] = [];
      const [first] = feeder.open;
      const hooks = link.options.hooks as { adopt: LinkHooks['adopt'] };
      hooks.adopt = async () =>
        void order.push(`adopted, old ${first?.retired ? 'retired' : 'open'}`);
      await link.useKey(NEXT);
      expect(order).toEqual(['adopted, old open']);
      expect(feeder.open.map(({ request }) => request.key)).toEqual([KEY, NEXT]);
      expect(feeder.open).toMatchObject([{ retired: true, closed: false }, { closed: false }]);
      expect(states).toEqual(['connecting', 'handshaking', 'ready', 'ready']);
      expect(link.key).toBe(NEXT);
      expect(lost).toEqual([]);
      await alive(5_000);
      expect(link.state).toBe('ready');
      // The end of the old one is nobody's business any more, and its heartbeat says nothing of the new one.
      first?.request.onEnd(new GbError('FEEDER_UNREACHABLE', 'Connection dropped'));
      expect(link.state).toBe('ready');
      for (let passed = 0; passed < SILENCE_MAX_MS + 1_000; passed += 500) {
        first?.request.onStats(create(WatchStatsResponseSchema, { state: FeederState.LENDING }));
        await clock.advance(500);
      }
      expect(link.state).toBe('stale');
      link.close('done');
      expect(feeder.live).toBe(0);
    });

    test('that the feeder refuses changes nothing', async () => {
      await ready();
      feeder.failure = new GbError('UNAUTHENTICATED', 'refused the pairing key');
      await expect(link.useKey(NEXT)).rejects.toMatchObject({ code: 'UNAUTHENTICATED' });
      feeder.failure = undefined;
      expect(link.key).toBe(KEY);
      await alive(5_000);
      expect(states).toEqual(['connecting', 'handshaking', 'ready']);
      expect(feeder.live).toBe(1);
    });

    test('leads to the same start of the same feeder, or is not used', async () => {
      await ready();
      feeder.incarnation = 'second';
      await expect(link.useKey(NEXT)).rejects.toMatchObject({ code: 'WRONG_STATE' });
      expect(feeder.open).toMatchObject([{ closed: false, retired: false }, { closed: true }]);
      expect(link.state).toBe('ready');
      expect(adopted).toEqual([false]);
    });

    test('is the one of the next connection when there is none now', async () => {
      await ready();
      feeder.breakOff();
      expect(link.state).toBe('stale');
      await link.useKey(NEXT);
      await untilOpened(2);
      expect(feeder.open.at(-1)?.request.key).toBe(NEXT);
    });

    test('is looked up before each attempt', async () => {
      const { connector } = feeder;
      const { hooks } = link.options;
      const keys = [KEY, NEXT, undefined];
      const freshKey = (): typeof KEY | undefined => keys.shift();
      link = new Link({
        address: 'box:9740',
        key: KEY,
        connector,
        hooks,
        clock,
        random: () => 0.5,
        freshKey,
      });
      await ready();
      for (const count of [2, 3]) {
        feeder.breakOff();
        await untilOpened(count);
      }
      expect(feeder.open.map(({ request }) => request.key)).toEqual([KEY, NEXT, NEXT]);
    });
  });
});
