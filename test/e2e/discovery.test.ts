// SPDX-License-Identifier: Apache-2.0
// Feeders that are found by themselves: real daemons in network namespaces, mDNS over real multicast.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { CLI, Machine, waitFor } from './machine.js';
import { createNetwork, type Network } from './namespaces.js';

const LENDS = ['--ram', '64MiB', '--gpu', 'none', '--cache-bytes', '0'];

interface Found {
  readonly feeders: readonly {
    readonly address: string;
    readonly keyFingerprint: string;
    readonly feederName: string | null;
    readonly connected: boolean;
    readonly keyKnown: boolean;
  }[];
}

let network: Network;
let host: Machine;
let feeders: Machine[];

beforeAll(async () => {
  network = await createNetwork(2);
  host = new Machine('host', network.host, { GREENBOOST_GPU: 'none' });
  feeders = network.feeders.map((namespace, index) => new Machine(`lender${index}`, namespace));
});
afterAll(async () => {
  await (host as Machine | undefined)?.close();
  for (const feeder of feeders ?? []) await feeder.close();
  (network as Network | undefined)?.close();
});

async function look(): Promise<Found['feeders']> {
  const { feeders: found } = JSON.parse(await host.call(['connect', '--json'])) as Found;
  return [...found].sort((a, b) => (a.address < b.address ? -1 : 1));
}

/** What a person types once the screen shows what it waits for; undefined: not yet. */
type Step = (screen: string) => string | undefined;

/** A command on the host's machine with a terminal of its own. */
async function atTerminal(
  args: readonly string[],
  steps: readonly Step[],
  env: Readonly<Record<string, string>> = {},
): Promise<{ code: number | null; screen: string }> {
  const line = `stty rows 60 cols 120; exec ${[process.execPath, CLI, ...args].join(' ')}`;
  const [file, rest] = host.namespace.wrap(['script', '-qec', line, '/dev/null']);
  const child = spawn(file, rest, {
    env: { ...host.env, TERM: 'xterm', LANG: 'C.UTF-8', ...env },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let screen = '';
  const left = [...steps];
  child.stdout.on('data', (chunk: Buffer) => {
    screen += String(chunk);
    const typed = left[0]?.(screen);
    if (typed === undefined) return;
    left.shift();
    child.stdin.write(typed);
  });
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, screen };
}

test('nobody is there: the command says what to do', async () => {
  const { code, stderr } = await host.greenboost(['connect', '--look', '0.5']).finished;
  expect(code).toBe(5);
  expect(stderr).toContain('no feeder answers on this network');
  expect(stderr).toContain('greenboost feed start');
});

test('two feeders answer, each on its network, with port and fingerprint', async () => {
  for (const feeder of feeders) await feeder.startFeeder([...LENDS, '--port', '9740']);
  const found = await waitFor('both answer', async () => {
    const answers = await look();
    return answers.length === 2 && answers;
  });
  const prints = await Promise.all(feeders.map((feeder) => feeder.feedStatus()));
  expect(found).toEqual(
    feeders.map((feeder, index) => ({
      address: `${feeder.namespace.address}:9740`,
      keyFingerprint: prints[index]?.keyFingerprint,
      feederName: null,
      connected: false,
      keyKnown: false,
    })),
  );
});

/** Asks from a port of its own, and prints what comes back as it is. */
const ASK = `
const socket = require('node:dgram').createSocket('udp4');
const label = (text) => String.fromCharCode(text.length) + text;
const name = ['_greenboost', '_tcp', 'local', ''].map(label).join('');
const query = Buffer.from([...Buffer.from('GB'), 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, ...Buffer.from(name), 0, 12, 0, 1]);
socket.on('message', (bytes) => { process.stdout.write(bytes.toString('latin1')); process.exit(0); });
socket.bind(0, () => {
  socket.setMulticastInterface('10.77.1.1');
  const ask = () => socket.send(query, 5353, '224.0.0.251');
  ask();
  setInterval(ask, 1000);
  setTimeout(() => process.exit(1), 50000);
});`;

test('an answer holds nothing but port, address and fingerprint', async () => {
  const { code, stdout } = await host.start([process.execPath, '-e', ASK]).finished;
  const { keyFingerprint, feederId } = (await feeders[0]?.feedStatus())!;
  expect(code).toBe(0);
  expect(stdout.startsWith('GB')).toBe(true); // the question's own number
  expect(stdout).toContain(`key=${keyFingerprint}`);
  expect(stdout).not.toContain('lender');
  expect(stdout).not.toContain(feederId);
  const words = stdout.replace(/[^ -~]+/g, ' ').replaceAll(keyFingerprint, '');
  expect(words).not.toMatch(/[0-9]+\.[0-9]+\.[0-9]+|MiB|GiB|linux/i); // no version, no size, no system
});

test('without a terminal they are listed, and one has to be named', async () => {
  const { code, stdout, stderr } = await host.greenboost(['connect']).finished;
  expect(code).toBe(2);
  expect(stdout).toContain(`${feeders[0]?.namespace.address}:9740`);
  expect(stderr).toContain('name it: greenboost connect 10.77.');
});

const when =
  (shown: string, typed: string): Step =>
  (screen) =>
    screen.includes(shown) ? typed : undefined;

test('at a terminal a wrong number is asked again, and none may be chosen', async () => {
  const { code, screen } = await atTerminal(
    ['connect'],
    [when('which one?', '9\n'), when('or q for none', 'q\n')],
  );
  expect(code).toBe(8);
  expect(screen).toContain('none was chosen');
});

test('at a terminal one is chosen by its number, and connected; it is known from then on', async () => {
  const lender = feeders[1] as Machine;
  // Who answers first is listed first: the number is the one that the screen shows.
  const choose: Step = (screen) => {
    const number = /(\d)\s+10\.77\.2\.2:9740/.exec(screen)?.[1];
    return number !== undefined && screen.includes('which one?') ? `${number}\n` : undefined;
  };
  const env = { GREENBOOST_KEY: await lender.key() };
  const { code, screen } = await atTerminal(['connect'], [choose], env);
  expect({ code, screen }).toEqual({ code: 0, screen: expect.stringContaining('lender1') });
  expect(screen).toContain('looking for feeders on this network');
  expect(screen).toContain('connecting, then measuring the link');
  expect(screen).not.toContain(env.GREENBOOST_KEY);
  const known = await waitFor('both answer', async () => {
    const answers = await look();
    return answers.length === 2 && answers;
  });
  expect(known[1]).toMatchObject({ feederName: 'lender1', connected: true, keyKnown: true });
});

test('a feeder with a key in the keyring is connected without a question for it', async () => {
  const lender = feeders[0] as Machine;
  await host.call(['key', 'import'], { GREENBOOST_KEY: await lender.key() });
  const choose: Step = (screen) => {
    const number = /(\d)\s+10\.77\.1\.2:9740/.exec(screen)?.[1];
    return number !== undefined && screen.includes('which one?') ? `${number}\n` : undefined;
  };
  const { code, screen } = await atTerminal(['connect'], [choose]);
  expect({ code, screen }).toEqual({ code: 0, screen: expect.stringContaining('lender0') });
  expect(screen).toContain('its key is in your keyring');
});

test('--no-announce: a feeder that is there is not found', async () => {
  const quiet = feeders[1] as Machine;
  await quiet.call(['feed', 'stop', '--grace', '0']);
  await quiet.startFeeder([...LENDS, '--port', '9740', '--no-announce']);
  const found = await waitFor('the other one answers', async () => {
    const answers = await look();
    return answers.some(({ address }) => address === '10.77.1.2:9740') && answers;
  });
  expect(found.map(({ address }) => address)).toEqual(['10.77.1.2:9740']);
});

test('feed start shows the host its line, on a terminal as a QR code, too; logs tell what it did', async () => {
  const lends = [...LENDS, '--port', '9750', '--bind', '10.77.1.1'];
  const blocks = /[▀▄█]{10}/;
  const shown = await atTerminal(['feed', 'start', ...lends], []);
  expect({ code: shown.code, screen: shown.screen }).toEqual({
    code: 0,
    screen: expect.stringMatching(/greenboost connect 10\.77\.1\.1:9750/),
  });
  expect(shown.screen).toMatch(blocks);
  await host.call(['feed', 'stop', '--grace', '0']);
  const plain = await atTerminal(['feed', 'start', ...lends, '--ascii'], []);
  expect(plain.code).toBe(0);
  expect(plain.screen).not.toMatch(blocks);
  await host.call(['feed', 'stop', '--grace', '0']);
  expect(await host.call(['feed', 'start', ...lends])).not.toMatch(blocks);
  await host.call(['feed', 'stop', '--grace', '0']);

  const log = await host.call(['logs', 'feeder', '-n', 'all']);
  expect(log.split('\n').filter((row) => row.includes('feeder_stopped')).length).toBe(3);
  expect(log).toMatch(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d feeder info/m);
  const last = (await host.call(['logs', '-n', '1', '--json', 'feeder'])).trim();
  expect(JSON.parse(last)).toMatchObject({ name: 'feeder', event: 'feeder_stopped' });
  expect(await host.call(['logs', 'feeder', '--level', 'error'])).toBe('');
});

test('logs --follow goes on as a daemon writes', async () => {
  const following = host.greenboost(['logs', 'feeder', '--follow', '-n', '0']);
  // It looks from its first moment on: what comes later is shown.
  const started = async (): Promise<boolean> => {
    await host.call(['feed', 'start', ...LENDS, '--port', '9750', '--bind', '10.77.1.1']);
    await host.call(['feed', 'stop', '--grace', '0']);
    return following.output().includes('feeder_started');
  };
  await waitFor('the line is shown', started);
  following.child.kill('SIGKILL');
  await following.finished;
});
