// SPDX-License-Identifier: Apache-2.0
// The exporter as people run it: a process beside a real agent, asked over HTTP; it answers without the agent, too, and
// listens nowhere but on loopback.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { get } from 'node:http';
import { join } from 'node:path';
import { packageRoot } from '../../../proto/base/paths.js';
import { TestHost } from './harness.js';

const CLI = join(packageRoot(), 'build', 'js', 'tui', 'cli', 'main.js');
let host: TestHost;
let exporter: ChildProcess;
let address: string;

beforeAll(async () => {
  host = new TestHost();
  await host.start();
  exporter = spawn(process.execPath, [CLI, 'metrics', '--listen', '127.0.0.1:0'], {
    env: { ...process.env, ...host.env } as NodeJS.ProcessEnv,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const [line] = (await once(exporter.stderr!, 'data')) as [Buffer];
  address = /http:\S+/.exec(String(line))![0];
});
afterAll(async () => {
  exporter.kill('SIGTERM');
  const [code] = (await once(exporter, 'exit')) as [number];
  await host.stop();
  expect(code).toBe(0);
});

function fetchText(path: string): Promise<{ status: number; text: string; type: string }> {
  return new Promise((resolve, reject) => {
    get(new URL(path, address), (response) => {
      let text = '';
      response.on('data', (chunk: Buffer) => (text += String(chunk)));
      response.on('end', () =>
        resolve({
          status: response.statusCode ?? 0,
          text,
          type: response.headers['content-type'] ?? '',
        }),
      );
    }).on('error', reject);
  });
}

test('GET /metrics tells what the agent knows, in the format of Prometheus', async () => {
  const { status, text, type } = await fetchText('/metrics');
  expect({ status, type }).toEqual({ status: 200, type: expect.stringContaining('text/plain') });
  expect(text).toContain('greenboost_daemon_up{daemon="agent"} 1');
  expect(text).toMatch(/^greenboost_memory_available_bytes [1-9]\d+$/m);
  expect(text).toMatch(/^# TYPE greenboost_feeder_sent_bytes_total counter$/m);
  expect((await fetchText('/')).status).toBe(404);
});

test('other addresses than loopback are refused', async () => {
  const code = await new Promise<number>((resolve) => {
    execFile(process.execPath, [CLI, 'metrics', '--listen', '0.0.0.0:0'], (error) =>
      resolve(Number(error?.code ?? 0)),
    );
  });
  expect(code).toBe(2);
});
