// SPDX-License-Identifier: Apache-2.0
// Every exit code, provoked by a command that ends with it; docs/exit-codes.md is the table of both.
import { afterAll, expect, test } from '@jest/globals';
import Ajv from 'ajv';
import { chmodSync, readFileSync, readdirSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo, type Server } from 'node:net';
import { join } from 'node:path';
import { EXIT_CODES, EXIT_MEANINGS } from '../../tui/cli/exit.js';
import { endOf, freePort, Home, outputOf, until } from '../e2e/cli-home.js';
import { ggufFile, LLAMA_META, LLAMA_TENSORS } from '../unit/host/model-files.js';
import { expectGolden } from './golden.js';
import { closed, publishedSchemas } from './schemas.js';

const LONG_MS = 900_000;
const home = new Home();
/** Accepts and says nothing. */
let silent: Server | undefined;

afterAll(() => {
  silent?.close();
  home.close();
});

/** A command that ends with `code`, and why it does. */
interface Case {
  readonly code: number;
  readonly command: string;
  readonly why: string;
  readonly args: () => readonly string[] | Promise<readonly string[]>;
}

function file(name: string, bytes: string | Uint8Array): string {
  const path = join(home.folder, name);
  writeFileSync(path, bytes);
  return path;
}

/** The port of a server that accepts connections and never answers. */
async function silentPort(): Promise<number> {
  silent ??= createServer();
  const server = silent;
  if (!server.listening)
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port;
}

function openKeyFile(): string {
  const path = file('key.txt', 'anything');
  chmodSync(path, 0o644);
  return path;
}

function damagedModel(): string {
  const path = file('damaged.gguf', ggufFile(LLAMA_META, LLAMA_TENSORS));
  truncateSync(path, 100);
  return path;
}

function newerModel(): string {
  const bytes = Buffer.from(ggufFile(LLAMA_META, LLAMA_TENSORS));
  bytes.writeUInt32LE(99, 4); // The version, after the four letters.
  return file('newer.gguf', bytes);
}

const CASES: readonly Case[] = [
  { code: 0, command: 'version', why: '', args: () => ['version'] },
  { code: 2, command: 'statsu', why: 'no such command', args: () => ['statsu'] },
  { code: 3, command: 'status', why: 'no agent runs', args: () => ['status'] },
  {
    code: 4,
    command: 'key import --key-file FILE',
    why: 'others can read FILE',
    args: () => ['key', 'import', '--key-file', openKeyFile()],
  },
  { code: 5, command: 'key show', why: 'there is no key yet', args: () => ['key', 'show'] },
  {
    code: 6,
    command: 'feed start --ram 4096TiB',
    why: 'more than the machine has',
    args: () => [
      'feed',
      'start',
      '--gpu',
      'none',
      '--ram',
      '4096TiB',
      '--bind',
      '127.0.0.1',
      '--port',
      '0',
    ],
  },
  {
    code: 7,
    command: 'metrics --listen ADDRESS',
    why: 'something else listens there',
    args: async () => ['metrics', '--listen', `127.0.0.1:${await silentPort()}`],
  },
  {
    code: 9,
    command: 'plan MODEL',
    why: 'the file ends in the middle of its head',
    args: () => ['plan', damagedModel()],
  },
  {
    code: 10,
    command: 'plan MODEL',
    why: 'a version of the format that is not known',
    args: () => ['plan', newerModel()],
  },
  {
    code: 126,
    command: 'run -- CMD',
    why: 'CMD is a folder',
    args: () => ['run', '--gpu', 'sim', '--', home.folder],
  },
  {
    code: 127,
    command: 'run -- CMD',
    why: 'there is no such program',
    args: () => ['run', '--gpu', 'sim', '--', '/no/such/program'],
  },
  {
    code: 137,
    command: 'run -- CMD',
    why: 'CMD was killed (signal 9)',
    args: () => ['run', '--gpu', 'sim', '--', 'sh', '-c', 'kill -KILL $$'],
  },
];

test.each(CASES)(
  '$code: greenboost $command $why',
  async ({ code, args }) => {
    const done = home.run(await args());
    expect({ code: done.code, stderr: done.code === code ? '' : done.stderr }).toEqual({
      code,
      stderr: '',
    });
    // What fails says why, in words of ours; what ended with CMD says what CMD said.
    if (code > 0 && code < 128) expect(done.stderr).toMatch(/^greenboost: .+/m);
  },
  LONG_MS,
);

/** Programs of the demo in `folder`, by the command line of the kernel's list. */
function workers(folder: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        const [program = ''] = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
        const environment = readFileSync(`/proc/${pid}/environ`, 'utf8');
        return program.endsWith('/gb_workset') && environment.includes(folder);
      } catch {
        return false;
      }
    })
    .map(Number);
}

const GIVEN_UP = 'ended with Ctrl-C';
test(
  `8: greenboost ping FEEDER: ${GIVEN_UP}`,
  async () => {
    const lender = new Home({ GREENBOOST_GPU: 'none' });
    try {
      const place = ['--bind', '127.0.0.1', '--port', await freePort(), '--lane-port', '0'];
      lender.call(['feed', 'start', '--name', 'lender', '--ram', '16MiB', ...place]);
      const key = { GREENBOOST_KEY: lender.call(['key', 'show']).trim() };
      home.call(['connect', lender.feedStatus().addresses[0] ?? ''], key);
      const child = home.start(['ping', 'lender', '-c', '1000', '--interval', '1']);
      const [output, ended] = [outputOf(child), endOf(child)];
      await until('the first answer', () => output().includes('1: call'));
      child.kill('SIGINT');
      expect({ code: (await ended).code, output: output() }).toMatchObject({ code: 8 });
    } finally {
      lender.close();
    }
  },
  LONG_MS,
);

const DEMO_FAILS = 'its program was killed while it worked';
test(
  `1: greenboost demo --json: ${DEMO_FAILS}`,
  async () => {
    const child = home.start(['demo', '--vram', '64MiB', '--json'], { TMPDIR: home.folder });
    const [output, ended] = [outputOf(child), endOf(child)];
    const [pid] = await until('the program works', () => {
      if (child.exitCode !== null) throw new Error(`the demo has ended: ${output()}`);
      const found = workers(home.folder);
      return found.length > 0 ? found : undefined;
    });
    process.kill(pid as number, 'SIGKILL');
    expect((await ended).code).toBe(1);
    const said = JSON.parse(output().slice(output().indexOf('{'))) as { ok: boolean };
    expect(said.ok).toBe(false);
    const valid = new Ajv().compile(closed(publishedSchemas().get('demo') ?? {}));
    expect({ fits: valid(said), errors: valid.errors }).toEqual({ fits: true, errors: null });
  },
  LONG_MS,
);

test('the table of the manual is this one, and leaves no code out', () => {
  const provoked = new Map<number, string[]>();
  const note = (code: number, text: string): unknown =>
    provoked.set(code, [...(provoked.get(code) ?? []), text]);
  for (const { code, command, why } of CASES)
    note(Math.min(code, 128), `\`greenboost ${command}\`${why ? `: ${why}` : ''}`);
  note(8, `\`greenboost ping FEEDER\`: ${GIVEN_UP}`);
  note(1, `\`greenboost demo\`: ${DEMO_FAILS}`);
  const codes = Object.keys(EXIT_MEANINGS).map(Number);
  expect([...provoked.keys()].sort((a, b) => a - b)).toEqual(codes);
  for (const code of Object.values(EXIT_CODES)) expect(codes).toContain(code);
  const rows = codes.map((code) => {
    const errors = Object.entries(EXIT_CODES).filter(([, exit]) => exit === code);
    const names = errors.map(([name]) => `\`${name}\``).join(', ');
    const shown = code === 128 ? '128 + n' : String(code);
    return `| ${shown} | ${EXIT_MEANINGS[code]} | ${names} | ${provoked.get(code)?.join('; ')} |`;
  });
  expectGolden(
    'docs/exit-codes.md',
    [
      '<!-- SPDX-License-Identifier: Apache-2.0. Written by make golden from tui/cli/exit.ts; each row is provoked ' +
        'by test/commands. -->',
      '# Exit codes',
      '',
      'Errors are two lines on standard error: `greenboost: what happened`, then what to do.',
      '',
      '| code | means | errors | for example |',
      '| --- | --- | --- | --- |',
      ...rows,
      '',
    ].join('\n'),
  );
});
