// SPDX-License-Identifier: Apache-2.0
// The two daemons in the foreground. They are loaded here and nowhere else in tui/.
import type { FeedSettings } from './feed.js';

/** Runs the feeder until it was stopped. @throws GbError when it cannot start. */
export async function feedForeground(settings: FeedSettings): Promise<void> {
  const { runFeeder } = await import('../../../feeder/main.js');
  await runFeeder(settings);
}

/** Runs the host agent until it was stopped. @throws GbError when it cannot start. */
export async function agentForeground(): Promise<void> {
  const { runAgent } = await import('../../../host/main.js');
  await runAgent();
}
