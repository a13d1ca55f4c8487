// SPDX-License-Identifier: Apache-2.0
// `greenboost status` and `greenboost events`: what the agent knows, once or as it happens.
import { withAgent, messagesOf } from '../../control/client.js';
import { eventJson, snapshotJson, type SnapshotJson } from '../../model/snapshot.js';
import { tiersOf } from '../../model/tiers.js';
import {
  attachmentTable,
  eventLine,
  linkTable,
  statusHeadline,
  tierTable,
} from '../../view/plain.js';
import { dispatchLines } from '../../view/dispatch.js';
import { cleanText } from '../../view/text.js';
import { drainText } from './feeders.js';
import { painters, tableLines, writeJson, writeJsonLine, writeLine } from '../output.js';
import { whileWorking } from '../progress.js';

const CALL_TIMEOUT_MS = 5_000;
/** A probe measures every tier and link again; slow links take their time. */
const PROBE_TIMEOUT_MS = 60_000;

/** The whole state as plain tables; also `cluster --once`. */
export function writeStatus(snapshot: SnapshotJson): void {
  const paint = painters(process.stdout);
  const section = (title: string, lines: readonly string[]): void => {
    writeLine();
    writeLine(paint.bold(title));
    for (const line of lines) writeLine(line);
  };
  writeLine(cleanText(statusHeadline(snapshot)));
  section('Tiers, by measured read bandwidth', tableLines(tierTable(tiersOf(snapshot))));
  section(
    `Feeders (${snapshot.links.length})`,
    snapshot.links.length > 0
      ? tableLines(linkTable(snapshot))
      : ['none; on another machine: greenboost feed start, then here: greenboost connect HOST'],
  );
  for (const link of snapshot.links) {
    const about = [
      link.state === 'ready' ? '' : link.detail,
      link.laneDetail,
      link.drain ? drainText(link.drain) : '',
    ];
    for (const text of about.filter(Boolean)) writeLine(cleanText(`  ${link.feederName}: ${text}`));
  }
  section(
    `Programs (${snapshot.attachments.length})`,
    snapshot.attachments.length > 0
      ? tableLines(attachmentTable(snapshot.attachments, snapshot.unixMs))
      : ['none; start one: greenboost run -- CMD'],
  );
  for (const line of snapshot.attachments.flatMap(dispatchLines)) writeLine(cleanText(`  ${line}`));
}

/** Prints the state once. @throws GbError AGENT_UNREACHABLE (exit 3) when no agent runs. */
export async function showStatus(options: { json?: boolean; probe?: boolean }): Promise<void> {
  const message = await withAgent((client) =>
    options.probe
      ? whileWorking(
          () => 'measuring every tier and link',
          client.probe({}, { timeoutMs: PROBE_TIMEOUT_MS }),
        )
      : client.getStatus({}, { timeoutMs: CALL_TIMEOUT_MS }),
  );
  const snapshot = snapshotJson(message);
  if (options.json) writeJson<'status'>(snapshot);
  else writeStatus(snapshot);
}

/** Prints past events, oldest first; `follow` goes on until the agent ends or Ctrl-C. One JSON document a line. */
export async function showEvents(options: { json?: boolean; follow?: boolean }): Promise<void> {
  const paint = painters(process.stdout);
  const colors = { info: (text: string) => text, warning: paint.yellow, error: paint.red };
  await withAgent(async (client) => {
    const follow = options.follow === true;
    const stream = client.events({ follow }, follow ? {} : { timeoutMs: CALL_TIMEOUT_MS });
    for await (const message of messagesOf(stream)) {
      const event = eventJson(message);
      if (options.json) writeJsonLine<'events'>(event);
      else writeLine(colors[event.severity](cleanText(eventLine(event))));
    }
  });
}
