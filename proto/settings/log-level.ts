// SPDX-License-Identifier: Apache-2.0
// How much daemons log: the same setting of both roles.
import { LOG_LEVELS } from '../base/log-levels.js';
import { choice } from './kinds.js';

export const LOG_LEVEL = {
  section: '',
  name: 'log',
  kind: choice('level', ...LOG_LEVELS),
  flag: 'log',
  env: 'GREENBOOST_LOG',
  about: 'how much it logs',
  fallback: 'info',
  example: '"info"',
} as const;
