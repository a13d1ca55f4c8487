// SPDX-License-Identifier: Apache-2.0
// `greenboost audit`: who was let in and who was not, which keys and tickets came and went. Reads the log itself, so it
// needs no daemon.
import { sleep } from '../../../proto/base/clock.js';
import { stateDir } from '../../../proto/base/paths.js';
import { AuditReader, type AuditLine } from '../../../security/audit-reader.js';
import { factText, localTime } from '../../view/log-line.js';
import { cleanText } from '../../view/text.js';
import { note, painters, writeJsonLine, writeLine } from '../output.js';

const FOLLOW_INTERVAL_MS = 300;
/** Shown first and in this order; the rest as `name=value`. */
const FIRST = ['address', 'feeder', 'name', 'host', 'hostName', 'reason', 'text'] as const;

/** `2026-01-02 10:11:12 feeder  session_refused  192.168.1.7 wrong_key  fingerprint=… count=3`, local time. */
export function auditText(line: AuditLine): string {
  const { time, by, event, ...facts } = line;
  const first = FIRST.flatMap((name) => (name in facts ? [factText(facts[name])] : []));
  const rest = Object.entries(facts)
    .filter(([name, value]) => !(FIRST as readonly string[]).includes(name) && value !== '')
    .map(([name, value]) => `${name}=${factText(value)}`);
  const parts = [
    `${localTime(time)} ${by.padEnd(7)} ${event.padEnd(15)}`,
    first.join(' '),
    rest.join(' '),
  ];
  return cleanText(parts.filter(Boolean).join('  '));
}

/** Prints the log, oldest first; `follow` goes on until Ctrl-C. @throws when it cannot be read. */
export async function showAudit(options: { json?: boolean; follow?: boolean }): Promise<void> {
  const reader = new AuditReader(stateDir());
  const paint = painters(process.stdout);
  const show = (line: AuditLine): void => {
    if (options.json) return writeJsonLine<'audit'>(line);
    const refused = line.event.endsWith('_refused');
    writeLine(refused ? paint.yellow(auditText(line)) : auditText(line));
  };
  const lines = reader.next();
  lines.forEach(show);
  if (lines.length === 0 && !options.json && !options.follow)
    note('nothing has been written to the audit log yet');
  if (reader.brokenCount > 0) note(`${reader.brokenCount} lines of the audit log cannot be read`);
  while (options.follow) {
    await sleep(FOLLOW_INTERVAL_MS);
    reader.next().forEach(show);
  }
}
