// SPDX-License-Identifier: Apache-2.0
// The question before an action: what the agent would do, whom it affects, and buttons. Pure.
import { formatBytes } from '../../proto/base/units.js';
import { actionNamed } from '../model/actions.js';
import { buttonLabel, buttonsOf } from '../model/dialog.js';
import type { ActionPlanJson } from '../model/plans.js';
import type { Dialog } from '../model/state.js';
import { boxLines, span, type Glyphs, type Line } from './lines.js';
import { planLines } from './plans.js';
import { cleanText, wrapText } from './text.js';

const WIDTH_MAX = 78;

function programLines({ programs, action }: ActionPlanJson): Line[] {
  const shown = programs.slice(0, 3).map(({ pid, command, bytes, note }): Line => {
    const where = action === 'evict' ? 'in VRAM' : 'here';
    const text = `${pid} ${cleanText(command)}`.slice(0, 40);
    return [span(`  ${text}  ${formatBytes(bytes)} ${where}${note ? `; ${cleanText(note)}` : ''}`)];
  });
  const more = programs.length - shown.length;
  return [
    ...(shown.length > 0 ? [[span('affects:')]] : []),
    ...shown,
    ...(more > 0 ? [[span(`  and ${more} more`)]] : []),
  ];
}

function planned(plan: ActionPlanJson, width: number): Line[] {
  const wrapped = (text: string, style: 'plain' | 'bad' = 'plain'): Line[] =>
    wrapText(cleanText(text), width).map((line) => [span(line, style)]);
  return [
    ...planLines(plan).flatMap((line) => wrapped(line)),
    ...(plan.lostBytes > 0
      ? wrapped(`LOST with force: ${formatBytes(plan.lostBytes)} of running programs`, 'bad')
      : []),
    ...(plan.refusal === null ? [] : wrapped(`it would be refused: ${plan.refusal}`, 'bad')),
    ...programLines(plan),
  ];
}

function body(dialog: Dialog, width: number): Line[] {
  const { phase, plan, note, typed, target } = dialog;
  const said: Line[] = wrapText(cleanText(note), width).map((line) => [
    span(line, phase === 'failed' || typed !== null ? 'bad' : 'warn'),
  ]);
  if (phase === 'planning') return [...said, [span('asking the agent what it would do', 'stale')]];
  if (phase === 'failed') return said;
  if (phase === 'sent') return [[span('sent; waiting for the agent to begin', 'stale')]];
  const force: Line[] =
    typed === null
      ? []
      : [
          [span(`type ${cleanText(target.name)} and Enter to lose these bytes:`, 'bad')],
          [span(`> ${typed}_`, 'bold')],
        ];
  return [...said, ...(plan ? planned(plan, width) : []), ...force];
}

function buttonLine(dialog: Dialog): Line {
  return buttonsOf(dialog).flatMap((button, index): Line => {
    const label = buttonLabel(button, dialog);
    return index === dialog.button
      ? [span(`[ ${label} ]`, 'selected'), span('  ')]
      : [span(`  ${label}  `), span('  ')];
  });
}

function hintLine({ typed, action, phase }: Dialog): string {
  if (typed !== null) return 'Esc goes back';
  const amount = action === 'evict' && phase === 'ready' ? '; + - amount' : '';
  return `Enter acts on the button in brackets; Tab moves; Esc cancels${amount}`;
}

/** The box and its width, at most `cols` by `rows`. */
export function dialogBox(
  dialog: Dialog,
  screen: { readonly cols: number; readonly rows: number },
  glyphs: Glyphs,
): { lines: Line[]; width: number } {
  const width = Math.min(WIDTH_MAX, screen.cols);
  const name = cleanText(dialog.target.name);
  const title = `${actionNamed(dialog.action).verb} ${name}`;
  const end: Line[] = [[], [span(hintLine(dialog), 'stale')], buttonLine(dialog)];
  const content = body(dialog, Math.max(1, width - 4));
  const height = Math.min(screen.rows, content.length + end.length + 2);
  const shown = content.slice(0, Math.max(0, height - 2 - end.length));
  const after = dialog.rest.length === 0 ? '' : `${dialog.rest.length} more marked  `;
  const box = {
    title,
    hint: after + (dialog.plan ? `epoch ${dialog.plan.epoch}` : ''),
    focused: true,
    width,
    height,
  };
  return { lines: boxLines(box, [...shown, ...end], glyphs), width };
}
