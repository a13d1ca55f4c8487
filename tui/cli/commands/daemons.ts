// SPDX-License-Identifier: Apache-2.0
// The two daemons in the foreground. They are loaded here and nowhere else in tui/.
import type { AgentOptions } from '../../../host/main.js';
import type { FeederOptions } from '../../../feeder/main.js';

/** Runs the feeder until it was stopped. @throws GbError when it cannot start. */
export async function feedForeground(options: FeederOptions): Promise<void> {
  const { runFeeder } = await import('../../../feeder/main.js');
  await runFeeder(options);
}

/** Runs the host agent until it was stopped. @throws GbError when it cannot start. */
export async function agentForeground(options: AgentOptions): Promise<void> {
  const { runAgent } = await import('../../../host/main.js');
  await runAgent(options);
}
