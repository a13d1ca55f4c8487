// SPDX-License-Identifier: Apache-2.0
// `greenboost agent`: the host agent in the foreground, and what to ask of a running one.
import { GbError } from '../../../proto/base/errors.js';
import { formatAge } from '../../../proto/base/units.js';
import { AGENT } from '../../../proto/settings/host.js';
import { withAgent } from '../../control/client.js';
import { snapshotJson } from '../../model/snapshot.js';
import { daemonLogPath, waitForExit } from '../daemon.js';
import { writeJson, writeLine } from '../output.js';
import { flagsOf, settingsPath, type GivenOptions } from '../settings.js';

const CALL_TIMEOUT_MS = 5_000;
const STOP_TIMEOUT_MS = 15_000;

/** Runs the agent in this process until it was stopped. @throws GbError when it cannot start. */
export async function agentStart(options: GivenOptions & { config?: string }): Promise<void> {
  const flags = flagsOf(AGENT, options);
  const configFile = await settingsPath('host', options.config);
  await (await import('./daemons.js')).agentForeground({ ...flags, configFile });
}

/** Stops the agent in order. @throws GbError WRONG_STATE when programs run and `force` is not set. */
export async function agentStop(options: { force?: boolean }): Promise<void> {
  const pid = await withAgent(async (client) => {
    const snapshot = await client.getStatus({}, { timeoutMs: CALL_TIMEOUT_MS });
    await client.shutdown({ force: options.force === true }, { timeoutMs: CALL_TIMEOUT_MS });
    return snapshot.agentPid;
  });
  if (!(await waitForExit(pid, STOP_TIMEOUT_MS))) {
    throw new GbError(
      'DEADLINE_EXCEEDED',
      `the agent (pid ${pid}) is still stopping after ${STOP_TIMEOUT_MS / 1000} s`,
      {
        details: { hint: `its log: ${daemonLogPath('agent')}` },
      },
    );
  }
  writeLine('agent stopped');
}

/** One line about the agent, or the same as JSON. */
export async function agentStatus(options: { json?: boolean }): Promise<void> {
  const snapshot = snapshotJson(
    await withAgent((client) => client.getStatus({}, { timeoutMs: CALL_TIMEOUT_MS })),
  );
  const uptimeMs = snapshot.unixMs - snapshot.startedUnixMs;
  if (options.json) {
    const { schemaVersion, software, agentPid, startedUnixMs, epoch, hostId, hostName } = snapshot;
    const counts = {
      linkCount: snapshot.links.length,
      attachmentCount: snapshot.attachments.length,
    };
    writeJson<'agent status'>({
      schemaVersion,
      software,
      agentPid,
      startedUnixMs,
      uptimeMs,
      epoch,
      hostId,
      hostName,
      ...counts,
    });
    return;
  }
  writeLine(
    `agent ${snapshot.hostName} pid ${snapshot.agentPid} up ${formatAge(uptimeMs)}: ` +
      `${snapshot.links.length} feeders, ${snapshot.attachments.length} programs`,
  );
}
