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
import type { AttachmentJson } from '../../tui/model/attachments.js';
import { ggufFile, LLAMA_META, LLAMA_TENSORS } from '../unit/host/model-files.js';
import { expectNoOthers } from './golden.js';
import { GOLDEN, GROUPS, Transcript, type Manner } from './transcript.js';

const LONG_MS = 900_000;
const WORKSET = join(ROOT, 'build/bin/gb_workset');
/** Its JSON is held against its schema by test/e2e/cli-demo.test.ts, which plays it anyway: it takes a minute. */
const ELSEWHERE = 'demo';
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

/** Words for every key of a home, so that a golden file shows which is which. */
function nameFingerprints(home: Home, name: string): void {
  const { own } = JSON.parse(home.call(['key', 'list', '--json'])) as {
    own: { fingerprint: string; feederId: string }[];
  };
  for (const [index, { fingerprint, feederId }] of own.entries()) {
    transcript.words.set(fingerprint, `<fingerprint ${name} ${index}>`);
    transcript.words.set(feederId, `<feeder ${name}>`);
  }
}

/** What `doctor` says on any machine that has no key, agent and GPU. */
const ofEveryMachine = (line: unknown): boolean =>
  / loads$|intercepts|GPU is wanted|no key|agent runs|starts one|^ShimOnly/.test(String(line));

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

/** In words, then as JSON. */
function sayBoth(home: Home, words: string, manner: Manner = {}): void {
  say(home, words.split(' '), manner);
  say(home, [...words.split(' '), '--json'], manner);
}

/** A program under `run` that holds its memory until it is ended. */
function hold(options: readonly string[], size: readonly string[]): () => string {
  const more = ['--buffer-bytes', '8MiB', '--rounds', '1', '--hold-seconds', '600'];
  program = host.start(['run', '--gpu', 'sim', ...options, '--', WORKSET, ...size, ...more]);
  return outputOf(program);
}

/** The program's row once it is as `wanted`. */
async function held(
  what: string,
  output: () => string,
  wanted: (row: AttachmentJson) => boolean,
): Promise<void> {
  const row = await until(what, () => {
    if (program?.exitCode !== null) throw new Error(`the program has ended: ${output()}`);
    return host.status().attachments.find(wanted);
  });
  pid = String(row.pid);
  transcript.words.set(pid, '<pid>');
}

async function endProgram(): Promise<void> {
  const ended = program ? endOf(program) : undefined;
  program?.kill('SIGTERM');
  await ended;
  await until('nothing is attached', () => host.status().attachments.length === 0);
}

/** Of a stream of documents, those with one of these names. */
const named =
  (key: 'name' | 'event', names: RegExp) =>
  (said: unknown): boolean =>
    names.test(typeof said === 'string' ? said : String((said as Record<string, unknown>)[key]));

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
    sayBoth(stranger, 'version');
    for (const command of ['status', 'feed status', 'drain anvil'])
      say(stranger, command.split(' '));
    say(stranger, ['explain', 'one']);
    say(stranger, ['connect', 'a b']);
    say(stranger, ['cluster', '--watch']);
    say(stranger, ['run']);
    say(stranger, ['events']);
    say(stranger, ['help', 'statsu']);
    say(stranger, ['audit']);
  },
  LONG_MS,
);

test(
  'keys',
  () => {
    sayBoth(stranger, 'key list');
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
    sayBoth(stranger, 'key list');
    const [old] =
      [...transcript.words].find(([, word]) => word === '<fingerprint stranger 1>') ?? [];
    say(stranger, ['key', 'revoke', old ?? '']);
    say(stranger, ['key', 'revoke', 'ffff']);
    say(stranger, ['key', 'remove', 'F-0000000000000000']);
    sayBoth(stranger, 'audit');
  },
  LONG_MS,
);

test(
  'of this machine alone',
  () => {
    const model = join(stranger.folder, 'small.gguf');
    writeFileSync(model, ggufFile(LLAMA_META, LLAMA_TENSORS));
    sayBoth(stranger, 'profiles');
    sayBoth(stranger, `plan ${model} --vram 512MiB --ram 1GiB --context 1000`);
    say(stranger, ['plan']);
    sayBoth(stranger, 'bench --gpu none');
    say(stranger, ['doctor', '--host', '--gpu', 'none'], { only: ofEveryMachine });
    say(stranger, ['doctor', '--fix']);
    const doctor = stranger.run(['doctor', '--host', '--json']);
    transcript.validator.validate('doctor', JSON.parse(doctor.stdout));
    say(stranger, ['completion', 'bash']);
    say(stranger, ['completion', 'csh']);
  },
  LONG_MS,
);

test(
  'files of settings',
  () => {
    sayBoth(stranger, 'config check');
    say(stranger, ['config', 'init', '--print']);
    for (const _time of [1, 2]) say(stranger, ['config', 'init']);
    const wrong = join(stranger.folder, 'feeder.toml');
    writeFileSync(wrong, '[lend]\nram = 16\nrams = "16GiB"\n\n[listen]\nport = "all"\n');
    sayBoth(stranger, `config check ${wrong}`);
    sayBoth(stranger, 'config show');
    say(stranger, ['config', 'show', 'feeder', '--ram', '4GiB', '--origin']);
  },
  LONG_MS,
);

test(
  'two feeders',
  async () => {
    await lend(anvil, 'anvil', ['--vram', '0=32MiB']);
    await lend(forge, 'forge', []);
    say(anvil, ['feed', 'start']);
    sayBoth(anvil, 'feed status');
    sayBoth(anvil, 'logs feeder -n all', { only: named('event', /feeder_started/) });
    say(anvil, ['feed', 'pause']);
    say(anvil, ['feed', 'status'], { only: (line) => !/^(served|block)/.test(String(line)) });
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
    say(host, ['agent']);
    say(host, ['connect', addressOf(anvil)], { env: key(anvil) });
    say(host, ['connect', addressOf(forge), '--json'], { env: key(forge) });
    await ready();
    for (const command of ['status', 'agent status', 'key list', 'ping anvil -c 1'])
      sayBoth(host, command);
    say(host, ['cluster', '--interval', '0.25']);
    say(host, ['cluster', '--json']);
    for (const command of ['pause', 'resume']) {
      sayBoth(host, `${command} forge --dry-run`);
      sayBoth(host, `${command} forge`);
    }
    say(host, ['pause', 'forge', '--epoch', '999999']);
    say(host, ['pause', 'nobody']);
    say(host, ['explain', '1']);
    const found = host.run(['connect', '--look', '0.2', '--json']);
    transcript.validator.validate('connect', JSON.parse(found.stdout));
    const families = (line: unknown): boolean => /^# (HELP|TYPE)/.test(String(line));
    say(host, ['metrics', '--once'], { only: families });
    say(host, ['run', '--gpu', 'sim', '--', 'echo', 'hello']);
  },
  LONG_MS,
);

test(
  'a program',
  async () => {
    host.call(['pause', 'anvil']); // So that bytes go to forge.
    const output = hold(
      ['--vram-budget', '16MiB', '--ram-budget', '16MiB', '--overcommit', 'gated'],
      ['--bytes', '64MiB'],
    );
    await held('the program keeps bytes on a feeder', output, (row) => {
      return row.feederRamUsedBytes + row.feederVramUsedBytes >= 16 << 20;
    });
    await ready();
    const steady = (line: unknown): boolean => !/waited|(to|from) feeders/.test(String(line));
    for (const command of ['status', `explain ${pid}`, `report ${pid}`]) {
      say(host, command.split(' '), { figures: true, only: steady });
      say(host, [...command.split(' '), '--json']);
    }
    say(host, ['evict', pid]);
    say(host, ['agent', 'stop']);
    say(forge, ['feed', 'status'], { figures: true });
    for (const command of ['drain', 'disconnect'])
      say(host, [command, 'forge', '--dry-run', '--json']);
    say(host, ['drain', 'anvil']);
    host.call(['resume', 'anvil']);
    say(host, ['drain', 'forge', '--json'], { only: (line) => (line as { done: boolean }).done });
    await endProgram();
  },
  LONG_MS,
);

test(
  'VRAM of a program',
  async () => {
    const output = hold(['--vram-budget', '64MiB'], ['--bytes', '48MiB']);
    await held('the program idles', output, (row) => row.vramUsedBytes >= 48 << 20);
    sayBoth(host, `evict ${pid} --bytes 8MiB --dry-run`);
    say(host, ['evict', pid, '--bytes', '8MiB'], { figures: true });
    say(host, ['evict', pid, '--bytes', '8MiB', '--json']);
    say(host, ['evict', pid, '--timeout', '0']);
    await endProgram();
  },
  LONG_MS,
);

test(
  'the end',
  () => {
    const ours = /agent_started|feeder_(paused|resumed|draining|drained)|attachment_/;
    say(host, ['events', '--json'], { only: named('name', ours) });
    say(host, ['events'], {
      only: (line) => /nothing new is placed| I greenboost /.test(String(line)),
    });
    say(host, ['disconnect', 'forge']);
    say(host, ['disconnect', 'anvil', '--json']);
    say(host, ['agent', 'stop']);
    say(anvil, ['feed', 'stop', '--grace', '0']);
    say(forge, ['feed', 'stop', '--grace', '0']);
  },
  LONG_MS,
);

test('every command has a golden file, and every --json was held against its schema', () => {
  const files = transcript.compare();
  expectNoOthers(GOLDEN, files);
  const commands = allCommands(createProgram()).filter(
    (command) => !GROUPS.includes(command.name()) || command.parent?.parent,
  );
  const names = commands.map((command) => wordsOf(command).replaceAll(' ', '-'));
  const wanted = names.filter((name) => name !== ELSEWHERE && !name.startsWith('config-show-'));
  expect(wanted.filter((name) => !files.includes(`${name}.txt`))).toEqual([]);
  const unseen = transcript.validator.names.filter((name) => !transcript.validator.seen.has(name));
  expect(unseen).toEqual([ELSEWHERE]);
  const readers = commands.filter(({ options }) => options.some(({ long }) => long === '--json'));
  const known = ['dry-run', ...readers.map((command) => wordsOf(command).replaceAll(' ', '-'))];
  expect(transcript.validator.names.sort()).toEqual(
    known.filter((name) => !name.startsWith('config-show-')).sort(),
  );
});
