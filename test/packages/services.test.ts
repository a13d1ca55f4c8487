// SPDX-License-Identifier: Apache-2.0
// Units and AppArmor profiles as systemd and AppArmor themselves read them. Nothing is loaded or started.
import { afterAll, describe, expect, test } from '@jest/globals';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { filesOf, ROOT } from '../arch/files.js';

const folder = mkdtempSync(join(tmpdir(), 'greenboost-units-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Where the command is, systemd asks only whether it can be executed. A drop-in is read as a unit of its own. */
function copyOf(unit: string): string {
  const path = join(folder, basename(unit).replace(/\.conf$/, '.service'));
  const text = readFileSync(join(ROOT, unit), 'utf8');
  writeFileSync(path, text.replace(/\/usr\/bin\/(env )?greenboost/g, '/usr/bin/env true'));
  return path;
}

function said(command: string, args: readonly string[]): string {
  const done = spawnSync(command, args, { encoding: 'utf8' });
  if (done.error) throw done.error;
  expect({ command, args, status: done.status, stderr: done.stderr }).toMatchObject({ status: 0 });
  return done.stdout + done.stderr;
}

describe('units', () => {
  const units = filesOf(['feeder/systemd', 'host/systemd'], '.service');

  test('there are those of users and of the machine', () => {
    expect(units.map((unit) => unit.replace(/^.*systemd\//, '')).sort()).toEqual([
      'greenboost-agent.service',
      'greenboost-feed.service',
      'system/greenboost-feed.service',
    ]);
  });

  test.each(units)('systemd understands every line of %s', (unit) => {
    expect(said('systemd-analyze', ['verify', '--man=no', copyOf(unit)])).toBe('');
  });

  test.each(filesOf(['docs/examples'], '.conf'))('systemd understands every line of %s', (unit) => {
    expect(said('systemd-analyze', ['verify', '--man=no', copyOf(unit)])).toBe('');
  });

  test('the feeder of the machine is exposed to little, by the measure of systemd', () => {
    const unit = copyOf('feeder/systemd/system/greenboost-feed.service');
    // Exit status 1 when the exposure, times ten, is above the threshold.
    const args = ['security', '--offline=true', '--no-pager', '--threshold=20', unit];
    expect(said('systemd-analyze', args)).toMatch(/Overall exposure level .*: [01]\.\d/);
  });
});

test.each(['greenboost-feed', 'greenboost-agent'])('AppArmor parses the profile %s', (name) => {
  const path = join(ROOT, 'security/apparmor', name);
  expect(
    said('apparmor_parser', ['--skip-kernel-load', '--skip-cache', '--names', path]),
  ).toContain(`${name}\n`);
});
