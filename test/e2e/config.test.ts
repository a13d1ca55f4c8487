// SPDX-License-Identifier: Apache-2.0
// Files of settings with the real command: written, checked, shown, and in force in real daemons and programs.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { freePort, Home } from './cli-home.js';

let home: Home;
let feederFile: string;
let hostFile: string;

beforeAll(() => {
  home = new Home();
  feederFile = join(home.folder, 'config', 'greenboost', 'feeder.toml');
  hostFile = join(home.folder, 'config', 'greenboost', 'greenboost.toml');
});
afterAll(() => home.close());

interface Shown {
  readonly roles: readonly {
    readonly role: string;
    readonly settings: readonly { key: string; value: string | null; origin: { from: string } }[];
  }[];
}

function shown(args: readonly string[], env: Record<string, string> = {}) {
  const { roles } = JSON.parse(home.call(['config', 'show', ...args, '--json'], env)) as Shown;
  return new Map(roles.flatMap(({ settings }) => settings.map((one) => [one.key, one])));
}

describe('config', () => {
  test('init writes both files, for their user only, that change nothing; never over one', () => {
    expect(home.call(['config', 'check'])).toMatch(/not there/);
    expect(home.call(['config', 'init'])).toBe(`wrote ${hostFile}\nwrote ${feederFile}\n`);
    expect(statSync(feederFile).mode & 0o777).toBe(0o600);
    expect(home.call(['config', 'check'])).toBe(`${hostFile}: ok\n${feederFile}: ok\n`);
    writeFileSync(feederFile, '[lend]\nram = "8MiB"\n');
    const again = home.run(['config', 'init', 'feeder']);
    expect(again.code).toBe(5);
    expect(again.stderr).toContain(feederFile);
    expect(readFileSync(feederFile, 'utf8')).toBe('[lend]\nram = "8MiB"\n');
    const other = join(home.folder, 'new', 'lab.toml');
    expect(home.run(['config', 'init', 'host', '--config', other]).code).toBe(0);
    expect(existsSync(other)).toBe(true);
    expect(home.call(['config', 'init', 'host', '--print'])).toBe(readFileSync(other, 'utf8'));
  });

  test('check names file, line and column of every mistake; exit codes 0, 2, 5', () => {
    const bad = join(home.folder, 'bad.toml');
    writeFileSync(bad, '[lend]\nrams = "8MiB"\nram = "lots"\n');
    const said = home.run(['config', 'check', bad, '--role', 'feeder']);
    expect(said.code).toBe(2);
    expect(said.stdout).toBe(
      `${bad}:2:1: lend.rams: there is no such key; did you mean "ram"?\n` +
        `${bad}:3:1: lend.ram: "lots" is not a size; write for example 512MiB or 16GiB\n`,
    );
    const json = home.run(['config', 'check', bad, '--role', 'feeder', '--json']);
    expect(json.code).toBe(2);
    expect(JSON.parse(json.stdout)).toMatchObject({
      ok: false,
      files: [
        { path: bad, role: 'feeder', problems: [{ line: 2, column: 1 }, { key: 'lend.ram' }] },
      ],
    });
    expect(home.run(['config', 'check', bad]).code).toBe(2); // Whose is it?
    expect(home.run(['config', 'check', '/nowhere/feeder.toml']).code).toBe(5);
    expect(home.run(['config', 'check', feederFile]).code).toBe(0);
  });

  test('show says where each value is from: flag, variable, line, default', () => {
    const of = shown(['feeder', '--port', '9800'], { GREENBOOST_FEED_NAME: 'oven' });
    expect(of.get('listen.port')).toMatchObject({ value: '9800', origin: { from: 'flag' } });
    expect(of.get('name')).toMatchObject({
      value: 'oven',
      origin: { from: 'environment', variable: 'GREENBOOST_FEED_NAME' },
    });
    expect(of.get('lend.ram')).toMatchObject({
      value: '8MiB',
      origin: { from: 'file', file: feederFile, line: 2, column: 1 },
    });
    expect(of.get('listen.lane_port')).toMatchObject({ value: null, origin: { from: 'default' } });
    const lines = home.call(['config', 'show', '--origin']);
    expect(lines).toMatch(new RegExp(`lend\\.ram +8MiB +${feederFile}:2\n`));
    expect(lines).toMatch(/run\.report +\(its profile\) +default/);
  });
});

describe('in force', () => {
  test('feed start takes the file; a variable goes before it, a flag before both', async () => {
    const port = await freePort();
    writeFileSync(
      feederFile,
      `name = "filed"\n[lend]\nram = "8MiB"\n[listen]\nport = ${port}\nlane_port = 0\nbind = ["127.0.0.1"]\n` +
        '[cache]\nbytes = 0\n',
    );
    const env = { GREENBOOST_FEED_NAME: 'varied', GREENBOOST_FEED_RAM: '16MiB' };
    home.call(['feed', 'start', '--ram', '24MiB'], env);
    const status = home.feedStatus();
    home.call(['feed', 'stop', '--grace', '0']);
    expect(status.feederName).toBe('varied');
    expect(status.devices.map(({ capacityBytes }) => capacityBytes)).toEqual([24 * 2 ** 20]);
    expect(status.addresses).toEqual([`127.0.0.1:${port}`]);
    expect(status.cacheDir).toBeNull();
    home.call(['feed', 'start']);
    const filed = home.feedStatus();
    home.call(['feed', 'stop', '--grace', '0']);
    expect(filed.feederName).toBe('filed');
    expect(filed.devices.map(({ capacityBytes }) => capacityBytes)).toEqual([8 * 2 ** 20]);
  });

  test('a file with a mistake starts nothing, and the mistake is named', () => {
    const bad = join(home.folder, 'bad.toml');
    const start = home.run(['feed', 'start', '--config', bad]);
    expect(start.code).toBe(2);
    expect(start.stderr).toContain(`${bad}:2:1: lend.rams`);
    expect(home.run(['feed', 'status']).code).toBe(3);
    writeFileSync(hostFile, '[run]\nreprot = "honest"\n');
    const run = home.run(['run', '--', 'true']);
    expect(run.code).toBe(2);
    expect(run.stderr).toContain(`${hostFile}:2:1: run.reprot`);
    expect(home.run(['run', '--config', '/nowhere/x.toml', '--', 'true']).code).toBe(5);
  });

  test('programs get what their profile says, then [run]; variables and flags go before', () => {
    writeFileSync(
      hostFile,
      '[run]\nstaging = "off"\nvram_budget = "8MiB"\nreport = "honest"\n' +
        '[profiles.shell]\nprograms = ["sh"]\nreport = "extend=1GiB"\nstaging = "always"\nenv = { OVEN = "hot" }\n',
    );
    const print = 'echo $GREENBOOST_REPORT $GREENBOOST_STAGING $GREENBOOST_VRAM_BUDGET $OVEN';
    const says = (args: string[], command: string, env: Record<string, string> = {}) =>
      home.call(['run', ...args, '--', command, '-c', print], env).trim();
    expect(says([], 'sh')).toBe(`extend=${2 ** 30} always ${8 * 2 ** 20} hot`);
    expect(says([], 'bash')).toBe(`honest off ${8 * 2 ** 20}`);
    expect(says(['--staging', 'auto'], 'sh', { GREENBOOST_STAGING: 'off', OVEN: 'cold' })).toBe(
      `extend=${2 ** 30} auto ${8 * 2 ** 20} cold`,
    );
    expect(says([], 'sh', { GREENBOOST_REPORT: 'extend' })).toMatch(/^extend always/);
    expect(says(['--profile', 'shell'], 'bash')).toMatch(/ hot$/);
    expect(home.call(['profiles'])).toMatch(/^shell +extend=1GiB sh$/m);
  });

  test('the agent takes its budget from the file that run names', () => {
    const other = join(home.folder, 'agent.toml');
    writeFileSync(other, '[agent]\nram_budget = "48MiB"\n');
    home.run(['agent', 'stop', '--force']);
    home.call(['run', '--config', other, '--', 'true']);
    const ram = home.status().tiers.find(({ kind }) => kind === 'local_ram');
    expect(ram?.capacityBytes).toBe(48 * 2 ** 20);
  });
});
