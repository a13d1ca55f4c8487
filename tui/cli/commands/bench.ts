// SPDX-License-Identifier: Apache-2.0
// `greenboost bench`: what every path of this machine and to its feeders carries, in one table.
import type { PathFigure } from '../../../host/bench/paths.js';
import { formatMicros, formatRate } from '../../../proto/base/units.js';
import { withAgent } from '../../control/client.js';
import type { LinkJson } from '../../model/links.js';
import { SCHEMA_VERSION, snapshotJson } from '../../model/snapshot.js';
import { note, tableLines, writeJson, writeLine } from '../output.js';
import { whileWorking } from '../progress.js';

export interface BenchCliOptions {
  readonly gpu?: 'cuda' | 'sim' | 'none';
  readonly disk?: string;
  readonly json?: boolean;
}

const PROBE_TIMEOUT_MS = 60_000;

function linkFigures(link: LinkJson): PathFigure[] {
  const row = (path: string, direction: string, bytesPerSecond: number | null): PathFigure => ({
    path,
    name: `${direction} ${link.feederName}`,
    bytesPerSecond,
    latencyMicros: link.rttMicros,
    simulated: false,
    note: bytesPerSecond === null ? `feeder is ${link.state}` : 'over a lane, sealed',
  });
  return [
    row('feeder_upload', 'to', link.uploadBytesPerSecond),
    row('feeder_download', 'from', link.downloadBytesPerSecond),
  ];
}

/** Feeders measured anew, one after the other; none without an agent. */
async function feeders(): Promise<PathFigure[]> {
  return withAgent((client) => client.probe({}, { timeoutMs: PROBE_TIMEOUT_MS })).then(
    (message) => snapshotJson(message).links.flatMap(linkFigures),
    () => [],
  );
}

/** Measures for some seconds and prints a table, or one JSON document. @throws GbError as measurePaths. */
export async function runBench(options: BenchCliOptions): Promise<void> {
  const { measurePaths } = await import('../../../host/bench/paths.js');
  const figures: PathFigure[] = [];
  let last = 'measuring this machine';
  const all = async (): Promise<void> => {
    for await (const figure of measurePaths(options)) {
      figures.push(figure);
      last = `measured: ${figure.name}`;
    }
    last = 'measuring feeders';
    figures.push(...(await feeders()));
  };
  await whileWorking(() => last, all());
  if (options.json) {
    writeJson<'bench'>({ schemaVersion: SCHEMA_VERSION, paths: figures });
    return;
  }
  const rows = figures.map(({ name, bytesPerSecond, latencyMicros, simulated, note: how }) => [
    name,
    formatRate(bytesPerSecond ?? 0),
    formatMicros(latencyMicros ?? 0),
    [simulated ? 'simulated: no figure of a GPU' : '', how].filter(Boolean).join('; '),
  ]);
  const columns = [
    { title: 'PATH', shrinks: true },
    { title: 'RATE', align: 'right' as const },
    { title: 'LATENCY', align: 'right' as const, optional: true },
    { title: 'HOW' },
  ];
  for (const line of tableLines({ columns, rows })) writeLine(line);
  if (options.disk === undefined) note('for a disk: greenboost bench --disk FOLDER');
}
