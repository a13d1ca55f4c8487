// SPDX-License-Identifier: Apache-2.0
// Panel 4: programs under the shim and where their bytes live. The strip reads without colour: V r F f n.
import type { AttachmentJson } from '../../model/attachments.js';
import { PROCESS_SORTS, processRows } from '../../model/rows.js';
import { countPerSecond, hasKernels, remoteShare } from '../dispatch.js';
import { attachmentIdentity, shownPicture, type Picture, type UiState } from '../../model/state.js';
import { isWide, panelTable, WIDE_PRIORITY, windowStart, type PanelColumn } from '../columns.js';
import { span, type Glyphs, type Line } from '../lines.js';
import { stagingText } from '../plain.js';
import { cleanText } from '../text.js';
import { gib, gibPerSecond, shortAge } from '../units.js';

const WARN_STALL_PERCENT = 5;
const BAD_STALL_PERCENT = 20;

/** `VVVVrrFFff`: each letter an equal share of what the program holds; largest remainders, so that it always fills. */
export function residencyStrip(from: AttachmentJson, width: number): string {
  const parts: [string, number][] = [
    ['V', from.vramUsedBytes],
    ['r', from.ramUsedBytes],
    ['F', from.feederVramUsedBytes],
    ['f', from.feederRamUsedBytes],
    ['n', from.nvmeUsedBytes],
  ];
  const total = parts.reduce((sum, [, bytes]) => sum + bytes, 0);
  if (total === 0) return '-';
  const exact = parts.map(([letter, bytes]) => ({ letter, cells: (bytes / total) * width }));
  const counts = exact.map(({ letter, cells }) => ({
    letter,
    count: Math.floor(cells),
    rest: cells % 1,
  }));
  let missing = width - counts.reduce((sum, part) => sum + part.count, 0);
  for (const part of [...counts].sort((a, b) => b.rest - a.rest)) {
    if (missing <= 0) break;
    part.count += 1;
    missing -= 1;
  }
  return counts.map(({ letter, count }) => letter.repeat(count)).join('');
}

function processColumns(state: UiState, picture: Picture): PanelColumn<AttachmentJson>[] {
  const rate = (from: AttachmentJson) => picture.rates?.processes.get(attachmentIdentity(from));
  const ageMs = (from: AttachmentJson): number =>
    picture.snapshot.unixMs - from.startedUnixMs + Math.max(0, state.nowMs - picture.atMs);
  const plain = (
    title: string,
    width: number,
    priority: number,
    text: (from: AttachmentJson, width: number) => string,
    align: 'left' | 'right' = 'right',
  ): PanelColumn<AttachmentJson> => ({
    title,
    width,
    priority,
    align,
    cell: (from, cells) => ({ text: text(from, cells), style: from.connected ? 'plain' : 'stale' }),
  });
  return [
    plain('PID', 8, 10, (from) => String(from.pid)),
    { ...plain('COMMAND', 14, 9, (from) => cleanText(from.command), 'left'), grows: true },
    plain('ALLOC', 7, 8, (from) => gib(from.allocatedBytes)),
    plain('RESIDENCY', 14, 7, residencyStrip, 'left'),
    plain('STAGED', 6, 5, (from) => gibPerSecond(rate(from)?.stageBytesPerSecond)),
    plain('FETCH', 6, 6, (from) => gibPerSecond(rate(from)?.fetchBytesPerSecond)),
    plain('EVICT', 6, 4, (from) => gibPerSecond(rate(from)?.evictBytesPerSecond)),
    {
      title: 'STALL',
      width: 6,
      priority: 7,
      align: 'right',
      cell: (from) => {
        const stall = rate(from)?.stallPercent;
        if (stall === undefined) return { text: '-' };
        const style =
          stall >= BAD_STALL_PERCENT ? 'bad' : stall >= WARN_STALL_PERCENT ? 'warn' : 'plain';
        return { text: `${stall.toFixed(1)}%`, style };
      },
    },
    plain('PHASE', 10, 5, (from) => (from.connected ? cleanText(from.phase) : 'gone'), 'left'),
    plain('STAGING', 12, 4, (from) => cleanText(stagingText(from)), 'left'),
    ...(hasKernels(picture)
      ? [
          plain('LAUNCH/s', 8, 6, (from) => countPerSecond(rate(from)?.launchesPerSecond)),
          plain('REMOTE', 6, 6, (from) => remoteShare(rate(from))),
          plain('CROSS/s', 7, 6, (from) => countPerSecond(rate(from)?.crossingsPerSecond)),
        ]
      : []),
    plain('AGE', 6, 3, (from) => shortAge(ageMs(from))),
    ...(isWide(state)
      ? [
          plain('PEAK', 7, WIDE_PRIORITY, (from) => gib(from.vramPeakBytes)),
          plain('LIMIT', 7, WIDE_PRIORITY, (from) =>
            from.vramLimitBytes === null ? '-' : gib(from.vramLimitBytes),
          ),
          plain('ALLOCS', 7, WIDE_PRIORITY, (from) => String(from.allocationCount)),
          plain('REMAPS', 7, WIDE_PRIORITY, (from) => String(from.remapCount)),
        ]
      : []),
  ];
}

/** The body of the panel, `height` lines at most; the legend of the strip is its last line when there is room. */
export function processesBody(
  state: UiState,
  width: number,
  height: number,
  glyphs: Glyphs,
): Line[] {
  const picture = shownPicture(state);
  if (!picture) return [];
  const rows = processRows(state);
  if (rows.length === 0) {
    const none = picture.snapshot.attachments.length === 0;
    return [
      [span(none ? 'none; start one: greenboost run -- CMD' : 'none fits the filter', 'stale')],
    ];
  }
  const { column, reverse } = state.sort.processes;
  const isSelected = (from: AttachmentJson): boolean =>
    attachmentIdentity(from) === state.selected.processes;
  const start = windowStart(rows.length, height - 1, rows.findIndex(isSelected));
  const table = panelTable(
    processColumns(state, picture),
    rows.slice(start, start + Math.max(0, height - 1)),
    {
      width,
      glyphs,
      sort: { title: PROCESS_SORTS[column]?.title ?? '', reverse },
      isSelected,
      isMarked: (from) => state.marks.has(attachmentIdentity(from)),
    },
  );
  const body = [table.header, ...table.lines];
  if (body.length < height) {
    body.push([
      span('  V local vram   r local ram   F feeder vram   f feeder ram   n nvme', 'stale'),
    ]);
  }
  return body;
}
