// SPDX-License-Identifier: Apache-2.0
// A plan of the agent in sentences, for dialogs and for `--dry-run`.
import { formatBytes, formatRate } from '../../proto/base/units.js';
import type { ActionPlanJson, PlannedMoveJson } from '../model/plans.js';
import { durationText } from './plain.js';

function moveText({ feederName, device, bytes }: PlannedMoveJson): string {
  return `${formatBytes(bytes)} to ${feederName === null ? 'local' : feederName} ${device}`;
}

function etaText({ etaMs, bytesPerSecond }: ActionPlanJson): string {
  if (etaMs === null || bytesPerSecond === null) return '; how long is not known';
  return `; about ${durationText(etaMs)} at ${formatRate(bytesPerSecond)}`;
}

/** What would happen, a sentence a line; not why it would be refused. */
export function planLines(plan: ActionPlanJson): string[] {
  const { action, moveBytes, moves, rangeCount, leaseCount, missingBytes } = plan;
  if (action === 'pause')
    return ['nothing new is placed there; what lies there stays', leasesText(leaseCount)];
  if (action === 'resume') return ['new ranges may be placed there again'];
  const leave = action === 'disconnect' ? ', then leave it' : '';
  const plural = rangeCount === 1 ? 'range' : 'ranges';
  const what = action === 'evict' ? 'from VRAM' : `in ${rangeCount} ${plural}`;
  const lines =
    moveBytes === 0
      ? [`plan: nothing to move${leave}`]
      : [
          `plan: ${formatBytes(moveBytes)} ${what}: ${moves.map(moveText).join(', ')}${leave}` +
            etaText(plan),
        ];
  if (missingBytes > 0) lines.push(`no room elsewhere: ${formatBytes(missingBytes)}`);
  if (action === 'evict') lines.push('the program does it when its GPU is idle for a moment');
  else lines.push(leasesText(leaseCount));
  return lines;
}

function leasesText(count: number): string {
  return count === 0
    ? 'no program has a lease there'
    : count === 1
      ? 'one program has a lease there'
      : `${count} leases of programs there`;
}
