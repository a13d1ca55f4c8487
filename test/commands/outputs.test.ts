// SPDX-License-Identifier: Apache-2.0
// What every command prints, in words and as JSON, in one session of three machines: nothing there, two feeders, a
// host, a program that holds memory, and the end. What is printed lies in golden/; every --json fits its schema.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '../arch/files.js';
import { endOf, freePort, Home, outputOf, until } from '../e2e/cli-home.js';
import type { Command } from 'commander';
import { allCommands, createProgram } from '../../tui/cli/program.js';
import { ggufFile, LLAMA_META, LLAMA_TENSORS } from '../unit/host/model-files.js';
import { expectNoOthers } from './golden.js';
import { GOLDEN, Transcript } from './transcript.js';

const LONG_MS = 900_000;
const WORKSET = join(ROOT, 'build/bin/gb_workset');
/** Of manual.test.ts. */
const OTHERS = [
  'help.txt',
  'man-greenboost.1.txt',
  'man-greenboost-feed.1.txt',
  'man-greenboost-run.1.txt',
];
const transcript = new Transcript();
const stranger = new Home();
const anvil = new Home({ GBSIM_VRAM: '64MiB' });
const forge = new Home({ GREENBOOST_GPU: 'none' });
const host = new Home({ GREENBOOST_AGENT_RAM_BUDGET: '64MiB' });
const say = transcript.say.bind(transcript);
let program: ReturnType<Home['start']> | undefined;
let pid = '';

beforeAll(() => {
  for (const [home, name] of [
    [anvil, 'anvil'],
    [forge, 'forge'],
    [host, 'host'],
    [stranger, 'stranger'],
  ] as const)
    transcript.words.set(home.folder, `~${name}`);
});

afterAll(async () => {
  program?.kill('SIGTERM');
  for (const home of [host, anvil, forge, stranger]) home.close();
});

/** `A`, `B` … of every key, so that a golden file shows which is which. */
function nameFingerprints(home: Home, name: string): void {
  const { own } = JSON.parse(home.call(['key', 'list', '--json'])) as {
    own: { fingerprint: string; feederId: string }[];
  };
  for (const [index, { fingerprint, feederId }] of own.entries()) {
    transcript.words.set(fingerprint, `<fingerprint ${name} ${index}>`);
    transcript.words.set(feederId, `<feeder ${name}>`);
  }
}

/** Links that were silent for a moment on a busy machine are back. */
async function ready(): Promise<void> {
  await until('both feeders are ready', () =>
    host.status().links.every(({ state }) => state === 'ready'),
  );
}

/** `feed status` */
function wordsOf(command: Command): string {
  const { parent } = command;
  return parent?.parent ? `${wordsOf(parent)} ${command.name()}` : command.name();
}

async function lend(home: Home, name: string, more: readonly string[]): Promise<string> {
  const [port, lanePort] = [await freePort(), await freePort()];
  const address = ['--bind', '127.0.0.1', '--port', port, '--lane-port', lanePort];
  home.call(['key', 'generate']);
  nameFingerprints(home, name);
  transcript.words.set(port, `<port>`);
  transcript.words.set(lanePort, `<port>`);
  const size = ['--ram', '64MiB', '--cache-bytes', '64MiB'];
  say(home, ['feed', 'start', '--name', name, ...size, ...address, ...more]);
  return `127.0.0.1:${port}`;
}

test(
  'without a daemon and without a key',
  () => {
    say(stranger, ['--version']);
    say(stranger, ['statsu']);
    say(stranger, ['version']);
    say(stranger, ['version', '--json']);
    for (const command of ['status', 'feed status', 'drain anvil'])
      say(stranger, command.split(' '));
    say(stranger, ['explain', 'one']);
    say(stranger, ['connect', 'a b']);
    say(stranger, ['cluster', '--watch']);
    say(stranger, ['run']);
    say(stranger, ['audit']);
  },
  LONG_MS,
);

test(
  'keys',
  () => {
    say(stranger, ['key', 'list']);
    say(stranger, ['key', 'list', '--json']);
    say(stranger, ['key', 'show']);
    say(stranger, ['key', 'generate']);
    nameFingerprints(stranger, 'stranger');
    say(stranger, ['key', 'generate']);
    const { stdout } = say(stranger, ['key', 'show']);
    say(stranger, ['key', 'show', '--json']);
    say(stranger, ['key', 'import'], { input: stdout });
    say(stranger, ['key', 'import'], { input: stdout });
    say(stranger, ['key', 'import'], { input: 'nothing like a key\n' });
    say(stranger, ['key', 'rotate']);
    nameFingerprints(stranger, 'stranger');
    say(stranger, ['key', 'list']);
    say(stranger, ['key', 'list', '--json']);
    const [old] =
      [...transcript.words].find(([, word]) => word === '<fingerprint stranger 1>') ?? [];
    say(stranger, ['key', 'revoke', old ?? '']);
    say(stranger, ['key', 'revoke', 'ffff']);
    say(stranger, ['key', 'remove', 'F-0000000000000000']);
    say(stranger, ['audit']);
    say(stranger, ['audit', '--json']);
  },
  LONG_MS,
);

test(
  'of this machine alone',
  () => {
    const model = join(stranger.folder, 'small.gguf');
    writeFileSync(model, ggufFile(LLAMA_META, LLAMA_TENSORS));
    say(stranger, ['profiles']);
    say(stranger, ['profiles', '--json']);
    say(stranger, ['plan', model, '--vram', '512MiB', '--ram', '1GiB', '--context', '1000']);
    say(stranger, [
      'plan',
      model,
      '--vram',
      '512MiB',
      '--ram',
      '1GiB',
      '--context',
      '1000',
      '--json',
    ]);
    say(stranger, ['plan']);
    say(stranger, ['bench', '--gpu', 'none']);
    say(stranger, ['bench', '--gpu', 'none', '--json']);
    say(stranger, ['doctor', '--fix']);
    for (const command of ['config init --print', 'config check', 'config show']) {
      say(stranger, command.split(' '));
      if (!command.includes('--print')) say(stranger, [...command.split(' '), '--json']);
    }
    const doctor = stranger.run(['doctor', '--host', '--json']);
    transcript.validate('doctor', JSON.parse(doctor.stdout));
  },
  LONG_MS,
);

test(
  'two feeders',
  async () => {
    const address = await lend(anvil, 'anvil', ['--vram', '0=32MiB']);
    await lend(forge, 'forge', []);
    say(anvil, ['feed', 'start']);
    say(anvil, ['feed', 'status']);
    say(anvil, ['feed', 'status', '--json']);
    say(anvil, ['feed', 'pause']);
    say(anvil, ['feed', 'resume']);
  },
  LONG_MS,
);

test(
  'a host',
  async () => {
    const addressOf = (home: Home): string => home.feedStatus().addresses[0] ?? '';
    const key = (home: Home): Record<string, string> => ({
      GREENBOOST_KEY: home.call(['key', 'show']).trim(),
    });
    host.call(['run', '--gpu', 'sim', '--', 'true']);
    await until('local tiers are measured', () =>
      host.status().tiers.every(({ readBytesPerSecond }) => readBytesPerSecond !== null),
    );
    say(host, ['agent', 'status']);
    say(host, ['connect', addressOf(anvil)], { env: key(anvil) });
    say(host, ['connect', addressOf(forge), '--json'], { env: key(forge) });
    await ready();
    for (const command of ['status', 'cluster', 'agent status', 'key list', 'ping anvil -c 1']) {
      say(host, command.split(' '));
      say(host, [...command.split(' '), '--json']);
    }
    for (const command of ['pause', 'resume']) {
      say(host, [command, 'forge']);
      say(host, [command, 'forge', '--json']);
    }
    say(host, ['pause', 'nobody']);
    say(host, ['explain', '1']);
  },
  LONG_MS,
);

test(
  'a program',
  async () => {
    host.call(['pause', 'anvil']); // So that bytes go to forge.
    const budgets = ['--vram-budget', '16MiB', '--ram-budget', '16MiB', '--overcommit', 'gated'];
    const size = ['--bytes', '64MiB', '--buffer-bytes', '8MiB', '--rounds', '1'];
    program = host.start([
      'run',
      '--gpu',
      'sim',
      ...budgets,
      '--',
      WORKSET,
      ...size,
      '--hold-seconds',
      '600',
    ]);
    const output = outputOf(program);
    const held = await until('the program keeps bytes on a feeder', () => {
      if (program?.exitCode !== null) throw new Error(`the program has ended: ${output()}`);
      const [one] = host.status().attachments;
      return one && one.feederRamUsedBytes + one.feederVramUsedBytes >= 16 << 20 ? one : undefined;
    });
    pid = String(held.pid);
    transcript.words.set(pid, '<pid>');
    await ready();
    const steady = (line: unknown): boolean => !/waited|(to|from) feeders/.test(String(line));
    for (const command of ['status', `explain ${pid}`, `report ${pid}`]) {
      say(host, command.split(' '), { figures: true, only: steady });
      say(host, [...command.split(' '), '--json']);
    }
    say(host, ['agent', 'stop']);
    say(forge, ['feed', 'status'], { figures: true });
    say(host, ['drain', 'anvil']);
    host.call(['resume', 'anvil']);
    say(host, ['drain', 'forge', '--json'], { only: (line) => (line as { done: boolean }).done });
  },
  LONG_MS,
);

test(
  'the end',
  async () => {
    const ended = program ? endOf(program) : undefined;
    program?.kill('SIGTERM');
    await ended;
    await until('nothing is attached', () => host.status().attachments.length === 0);
    const ours = /agent_started|feeder_(paused|resumed|draining|drained)|attachment_/;
    const only = (line: unknown): boolean => ours.test((line as { name: string }).name);
    say(host, ['events', '--json'], { only });
    say(host, ['disconnect', 'forge']);
    say(host, ['disconnect', 'anvil', '--json']);
    say(host, ['agent', 'stop']);
    say(anvil, ['feed', 'stop', '--grace', '0']);
    say(forge, ['feed', 'stop', '--grace', '0']);
  },
  LONG_MS,
);

test('golden files say the same; every command with --json was held against its schema', () => {
  expectNoOthers(GOLDEN, [...transcript.compare(), ...OTHERS]);
  const readers = allCommands(createProgram())
    .filter((command) => command.options.some(({ long }) => long === '--json'))
    .map(wordsOf)
    .filter((words) => !/^config show ./.test(words)); // They print one part of it.
  const files = readers.map((name) => name.replaceAll(' ', '-'));
  expect(transcript.known.sort()).toEqual(files.sort());
  expect([...transcript.validated].sort()).toEqual(
    readers.filter((name) => name !== 'demo').sort(),
  );
});
