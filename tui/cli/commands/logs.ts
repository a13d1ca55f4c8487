// SPDX-License-Identifier: Apache-2.0
// `greenboost logs`: what the daemons of this user have written. Reads the files themselves, so it needs no daemon.
import { existsSync } from 'node:fs';
import { sleep } from '../../../proto/base/clock.js';
import { GbError } from '../../../proto/base/errors.js';
import {
  LOG_LEVELS,
  logText,
  parseLogLine,
  type LogLevel,
  type LogLine,
} from '../../view/log-line.js';
import { cleanText } from '../../view/text.js';
import { daemonLogPath, type DaemonName } from '../daemon.js';
import { LogFile } from '../log-file.js';
import { parseWhole } from '../numbers.js';
import { painters, writeLine } from '../output.js';

export interface LogsOptions {
  readonly follow?: boolean;
  readonly lines: string;
  readonly level?: LogLevel;
  readonly json?: boolean;
}

const FOLLOW_INTERVAL_MS = 300;
const LINES_MAX = 100_000;
const LINES = { least: 0, most: LINES_MAX };
const DAEMONS: readonly DaemonName[] = ['agent', 'feeder'];

/** A line as it was written, and what it says where a logger wrote it. */
interface Entry {
  readonly raw: string;
  readonly line: LogLine | undefined;
}

function countOf(text: string): number {
  return text === 'all' ? LINES_MAX : parseWhole('--lines, if not all,', text, LINES);
}

/** A line that no logger wrote belongs to the one before it. */
function inOrder(files: readonly (readonly Entry[])[]): Entry[] {
  const dated = files.flatMap((entries) => {
    let time = '';
    return entries.map((entry) => ({ entry, time: (time = entry.line?.time ?? time) }));
  });
  const byTime = (a: { time: string }, b: { time: string }): number =>
    a.time < b.time ? -1 : Number(a.time > b.time);
  return dated.sort(byTime).map(({ entry }) => entry);
}

/** Prints the last lines of one daemon's log, or of both by time; `follow` goes on until Ctrl-C.
 *  @throws GbError NOT_FOUND when there is no log, INVALID_ARGUMENT. */
export async function showLogs(
  daemon: DaemonName | undefined,
  options: LogsOptions,
): Promise<void> {
  const count = countOf(options.lines);
  const least = LOG_LEVELS[options.level ?? 'trace'];
  const files = (daemon ? [daemon] : DAEMONS).map((name) => new LogFile(daemonLogPath(name)));
  if (!options.follow && !files.some(({ path }) => existsSync(path))) {
    throw new GbError('NOT_FOUND', `there is no log of ${daemon ?? 'a daemon'} here`, {
      details: {
        hint: 'a daemon in the foreground logs to stderr: as a service, see journalctl --user -u greenboost-feed',
      },
    });
  }
  const paint = painters(process.stdout);
  const colors: Partial<Record<LogLevel, (text: string) => string>> = {
    debug: paint.dim,
    trace: paint.dim,
    warn: paint.yellow,
    error: paint.red,
    fatal: paint.red,
  };
  const entriesOf = (lines: readonly string[]): Entry[] =>
    lines
      .map((raw) => ({ raw, line: parseLogLine(raw) }))
      .filter(({ line }) => (line ? LOG_LEVELS[line.level] >= least : least <= LOG_LEVELS.info));
  const show = ({ raw, line }: Entry): void => {
    if (options.json) {
      if (line) writeLine(raw);
    } else if (line) writeLine((colors[line.level] ?? String)(logText(line)));
    else writeLine(cleanText(raw));
  };
  const first = inOrder(files.map((file) => entriesOf(file.last(LINES_MAX))));
  if (count > 0) first.slice(-count).forEach(show);
  while (options.follow) {
    await sleep(FOLLOW_INTERVAL_MS);
    inOrder(files.map((file) => entriesOf(file.next()))).forEach(show);
  }
}
