// SPDX-License-Identifier: Apache-2.0
// `greenboost explain PID`: where each range of a program lies on feeders, where its kernels ran, and why.
import { withAgent } from '../../control/client.js';
import { explainJson } from '../../model/dispatch.js';
import { SCHEMA_VERSION } from '../../model/snapshot.js';
import { explainTable, ranLines, stepLine } from '../../view/dispatch.js';
import { cleanText } from '../../view/text.js';
import { parsePid } from '../numbers.js';
import { painters, tableLines, writeJson, writeLine } from '../output.js';

const CALL_TIMEOUT_MS = 5_000;

/** @throws GbError NOT_FOUND when no such program is attached, AGENT_UNREACHABLE (exit 3) when no agent runs. */
export async function showExplain(text: string, options: { json?: boolean }): Promise<void> {
  const pid = parsePid(text);
  const message = await withAgent((client) =>
    client.explain({ pid }, { timeoutMs: CALL_TIMEOUT_MS }),
  );
  const told = explainJson(message, SCHEMA_VERSION);
  if (options.json) {
    writeJson<'explain'>(told);
    return;
  }
  const paint = painters(process.stdout);
  writeLine(paint.bold(cleanText(`${told.command} (pid ${told.pid})`)));
  for (const line of ranLines(told)) writeLine(cleanText(line));
  const step = stepLine(told);
  if (step !== undefined) writeLine(cleanText(step));
  for (const { name, count, text: why } of told.reasons)
    writeLine(cleanText(`${count} ran here although they name a feeder's range (${name}): ${why}`));
  writeLine();
  if (told.ranges.length === 0) {
    writeLine('nothing of it lies on feeders');
    return;
  }
  tableLines(explainTable(told)).forEach((line) => writeLine(line));
  if (told.rangeCount > told.ranges.length)
    writeLine(`and ${told.rangeCount - told.ranges.length} ranges more`);
}
