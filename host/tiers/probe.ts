// SPDX-License-Identifier: Apache-2.0
// Measures local tiers with `gb-executor --probe`: GPU calls never run in the agent's own process.
import { execFile } from 'node:child_process';
import { z } from 'zod';
import { GbError } from '../../proto/base/errors.js';
import { KIB } from '../../proto/base/units.js';

export interface TierFigures {
  readonly readBytesPerSecond: number;
  readonly writeBytesPerSecond: number;
  readonly latencyMicros: number;
}

/** VRAM and RAM, both as a kernel or copy of this GPU sees them. */
export interface ProbeFigures {
  readonly vram: TierFigures;
  readonly ram: TierFigures;
}

export async function runProbe(gpuIndex: number): Promise<ProbeFigures> {
  throw new GbError('UNSUPPORTED', `no probe of GPU ${gpuIndex}`);
}
