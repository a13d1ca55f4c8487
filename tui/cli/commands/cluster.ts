// SPDX-License-Identifier: Apache-2.0
// `greenboost cluster`: full-screen on a terminal, plain tables elsewhere, JSON on request.
import { GbError } from '../../../proto/base/errors.js';
import { messagesOf, withAgent } from '../../control/client.js';
import { snapshotJson } from '../../model/snapshot.js';
import { writeJson, writeJsonLine } from '../output.js';
import { writeStatus } from './status.js';

export interface ClusterOptions {
  readonly once?: boolean;
  readonly watch?: boolean;
  readonly json?: boolean;
  readonly interval: string;
  readonly ascii?: boolean;
}

const CALL_TIMEOUT_MS = 5_000;
const INTERVAL_SECONDS_MIN = 0.25;
const INTERVAL_SECONDS_MAX = 10;

function parseInterval(text: string): number {
  const seconds = Number(text);
  if (!(seconds >= INTERVAL_SECONDS_MIN && seconds <= INTERVAL_SECONDS_MAX)) {
    throw new GbError(
      'INVALID_ARGUMENT',
      `--interval takes ${INTERVAL_SECONDS_MIN} to ${INTERVAL_SECONDS_MAX} seconds`,
    );
  }
  return Math.round(seconds * 1000);
}

async function watchJson(intervalMs: number): Promise<void> {
  await withAgent(async (client) => {
    for await (const message of messagesOf(client.watch({ intervalMs })))
      writeJsonLine<'cluster'>(snapshotJson(message));
  });
}

/** Shows the cluster in the form asked for. @throws GbError AGENT_UNREACHABLE in the forms without a screen. */
export async function showCluster(options: ClusterOptions): Promise<void> {
  const intervalMs = parseInterval(options.interval);
  if (options.watch && !options.json) {
    throw new GbError('INVALID_ARGUMENT', '--watch goes with --json', {
      details: { hint: 'without --json, the full screen is live by itself' },
    });
  }
  if (options.watch && options.json) return watchJson(intervalMs);
  const screenless =
    process.stdout.isTTY !== true || process.stdin.isTTY !== true || process.env['TERM'] === 'dumb';
  if (options.json || options.once || screenless) {
    const snapshot = snapshotJson(
      await withAgent((client) => client.getStatus({}, { timeoutMs: CALL_TIMEOUT_MS })),
    );
    if (options.json) writeJson<'cluster'>(snapshot);
    else writeStatus(snapshot);
    return;
  }
  const { runApp } = await import('../../term/app.js');
  process.exitCode = await runApp({ intervalMs, ascii: options.ascii === true });
}
