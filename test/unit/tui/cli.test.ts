// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from '@jest/globals';
import { join } from 'node:path';
import { GbError, type GbErrorCode } from '../../../proto/base/errors.js';
import { normalizeAddress } from '../../../tui/cli/commands/connect.js';
import { FEEDER } from '../../../proto/settings/feeder.js';
import { completionScript } from '../../../tui/cli/completion.js';
import { describeError, exitCodeOf } from '../../../tui/cli/exit.js';
import { flagsOf, type GivenOptions } from '../../../tui/cli/settings.js';
import { tableLines } from '../../../tui/cli/output.js';
import { allCommands, createProgram } from '../../../tui/cli/program.js';
import { textWidth } from '../../../tui/view/text.js';

const lendFlags = (given: GivenOptions) => flagsOf(FEEDER, given);

describe('errors', () => {
  test('every code has the exit code of the manual', () => {
    const table: Record<number, GbErrorCode[]> = {
      2: ['INVALID_ARGUMENT', 'PROTOCOL_VIOLATION'],
      3: ['LEASE_EXPIRED', 'FEEDER_UNREACHABLE', 'AGENT_UNREACHABLE'],
      4: ['UNAUTHENTICATED', 'PERMISSION_DENIED'],
      5: ['NOT_FOUND', 'ALREADY_EXISTS'],
      6: ['CAPACITY_EXHAUSTED'],
      7: ['EPOCH_STALE', 'WRONG_STATE'],
      8: ['DEADLINE_EXCEEDED', 'CANCELED'],
      9: ['DATA_LOSS'],
      10: ['UNSUPPORTED', 'DRIVER_ERROR'],
    };
    for (const [exit, codes] of Object.entries(table)) {
      for (const code of codes) expect(exitCodeOf(new GbError(code, 'x'))).toBe(Number(exit));
    }
  });

  test('are said in two lines: what happened, what to do', () => {
    const error = new GbError('AGENT_UNREACHABLE', 'no agent is running here', {
      details: { hint: 'start one' },
    });
    expect(describeError(error)).toBe('greenboost: no agent is running here\n  start one\n');
  });

  test('cannot steer the terminal with words of a peer', () => {
    expect(describeError(new GbError('NOT_FOUND', 'a\u001b[31mb'))).toBe('greenboost: a[31mb\n');
  });
});

describe('arguments', () => {
  test.each([
    ['lender', 'lender:9740'],
    ['10.0.0.21:9750', '10.0.0.21:9750'],
    ['fd00::21', '[fd00::21]:9740'],
    ['[fe80::1%eth0]:9750', '[fe80::1%eth0]:9750'],
  ])('normalizeAddress completes %s', (given, wanted) => {
    expect(normalizeAddress(given)).toBe(wanted);
  });

  test.each(['', 'a b', 'host:0', 'host:70000', 'http://x', '[::1', 'x;rm'])(
    'normalizeAddress refuses "%s"',
    (given) => {
      expect(() => normalizeAddress(given)).toThrow('INVALID_ARGUMENT');
    },
  );

  test('lendFlags reads sizes, GPUs and ports', () => {
    const settings = lendFlags({
      ram: '16GiB',
      vram: ['0=8GiB', '1=512MiB'],
      port: '9750',
      lanePort: '0',
      hostBytesMax: '8GiB',
      hostRate: '100MB/s',
      cacheDir: 'blocks',
      cacheBytes: '0',
      allowWan: true,
    });
    expect(settings).toMatchObject({
      ramBytes: 16 * 2 ** 30,
      port: 9750,
      lanePort: 0,
      hostBytesMax: 8 * 2 ** 30,
      hostRate: 100e6,
      cacheDir: join(process.cwd(), 'blocks'),
      cacheBytes: 0,
      allowWan: true,
    });
    expect(lendFlags({})).not.toHaveProperty('lanePort'); // The daemon's own default.
    expect([...(settings.vramBytes ?? [])]).toEqual([
      [0, 8 * 2 ** 30],
      [1, 512 * 2 ** 20],
    ]);
  });

  test.each([
    { ram: 'lots' },
    { vram: ['8GiB'] },
    { vram: ['0=1GiB', '0=2GiB'] },
    { port: '99999' },
    { port: 'x' },
    { lanePort: '-1' },
    { hostRate: '10kB' },
    { hostRate: 'fast' },
    { cacheBytes: 'all' },
  ])('lendFlags refuses %j', (options) => {
    expect(() => lendFlags(options)).toThrow('INVALID_ARGUMENT');
  });

  test('run leaves the flags of the program alone', async () => {
    const program = createProgram();
    const run = program.commands.find((command) => command.name() === 'run');
    let seen: unknown[] = [];
    run?.action((cmd: string[], options: unknown) => {
      seen = [cmd, options];
    });
    await program.parseAsync(
      ['run', '--vram-budget', '4GiB', 'python', 't.py', '--vram-budget', '9'],
      { from: 'user' },
    );
    expect(seen).toEqual([['python', 't.py', '--vram-budget', '9'], { vramBudget: '4GiB' }]);
  });
});

describe('help', () => {
  test('every command says what it does and fits 80 columns', () => {
    for (const command of allCommands(createProgram())) {
      expect(command.description()).not.toBe('');
      for (const option of command.options) expect(option.description).not.toBe('');
    }
    let help = '';
    const program = createProgram().configureOutput({
      writeOut: (text) => (help += text),
      getOutHelpWidth: () => 80,
    });
    program.outputHelp();
    for (const line of help.split('\n')) expect(textWidth(line)).toBeLessThanOrEqual(80);
  });

  test('no option takes a secret', () => {
    const options = allCommands(createProgram()).flatMap((command) =>
      command.options.map((option) => option.long),
    );
    expect(options).toContain('--key-file');
    expect(options).not.toContain('--key');
    expect(options).not.toContain('--psk');
  });

  test.each(['bash', 'zsh', 'fish'] as const)(
    '%s completion knows every command and option',
    (shell) => {
      const program = createProgram();
      const script = completionScript(program, shell);
      for (const command of allCommands(program)) expect(script).toContain(command.name());
      for (const option of ['overcommit', 'vram-budget', 'key-file', 'allow-wan'])
        expect(script).toContain(option);
    },
  );
});

test('a table never cuts numbers: the shrinking column gives way', () => {
  const table = {
    columns: [
      { title: 'NAME', shrinks: true },
      { title: 'BYTES', align: 'right' as const },
    ],
    rows: [['a very long name indeed', '123456789']],
  };
  const [, row] = tableLines(table, 24);
  expect(row).toMatch(/^a very .*…\s+123456789$/);
  expect(textWidth(row ?? '')).toBeLessThanOrEqual(24);
});

test('a narrow terminal loses optional columns from the right, then nothing but names', () => {
  const table = {
    columns: [{ title: 'PID' }, { title: 'A', optional: true }, { title: 'B', optional: true }],
    rows: [['1234', 'aaaa', 'bbbb']],
  };
  expect(tableLines(table, 16)).toEqual(['PID   A     B', '1234  aaaa  bbbb']);
  expect(tableLines(table, 12)).toEqual(['PID   A', '1234  aaaa']);
  expect(tableLines(table, 5)).toEqual(['PID', '1234']);
});
