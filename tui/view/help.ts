// SPDX-License-Identifier: Apache-2.0
// The help screen: every key that exists here, those that do nothing now with the reason, and what the letters mean.
import { commandsOf } from '../model/commands.js';
import { keyBindings } from '../model/keys.js';
import type { UiState } from '../model/state.js';
import { boxLines, span, type Glyphs, type Line } from './lines.js';

const LABEL_CELLS = 10;

function keyLine(binding: ReturnType<typeof keyBindings>[number], state: UiState): Line {
  const why = binding.off?.(state) ?? null;
  const label = binding.label.padEnd(LABEL_CELLS);
  return why === null
    ? [span(label, 'bold'), span(binding.help)]
    : [span(label, 'stale'), span(`${binding.help} (${why})`, 'stale')];
}

/** Two lists side by side, each `width` cells. */
function beside(left: readonly Line[], right: readonly Line[], width: number): Line[] {
  return Array.from({ length: Math.max(left.length, right.length) }, (_, index) => {
    const line = left[index] ?? [];
    const used = line.reduce((sum, { text }) => sum + text.length, 0);
    return [...line, span(' '.repeat(Math.max(1, width - used))), ...(right[index] ?? [])];
  });
}

export function helpScreen(state: UiState, glyphs: Glyphs): Line[] {
  // The five focus keys share one line.
  const bindings = [
    ...new Map(keyBindings(state).map((binding) => [binding.label, binding])).values(),
  ];
  const keys = bindings.map((binding) => keyLine(binding, state));
  const commands: Line[] = [
    [span('After `:`', 'bold')],
    ...commandsOf(state).map(({ names, argument, help }): Line => [
      span(`${names.join(' ')}${argument === '' ? '' : ` ${argument}`}`.padEnd(20)),
      span(help, 'stale'),
    ]),
  ];
  const side = state.cols >= 110;
  const table = side ? beside(keys, commands, Math.floor(state.cols / 2)) : keys;
  const legend: Line[] = [
    [],
    [
      span(
        'feeders    + ready  . connecting  = paused  ~ draining  ! stale  x lost  o closed',
        'stale',
      ),
    ],
    [span('residency  V local vram  r local ram  F feeder vram  f feeder ram  n nvme', 'stale')],
  ];
  const box = {
    title: 'Keys',
    hint: 'any key closes',
    focused: true,
    width: state.cols,
    height: state.rows,
  };
  const room = Math.max(0, state.rows - 2 - legend.length);
  return boxLines(box, [...table.slice(0, room), ...legend], glyphs);
}
