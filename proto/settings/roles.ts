// SPDX-License-Identifier: Apache-2.0
// The two roles of a machine, the file of each, and every setting that stands in it.
import { basename, join } from 'node:path';
import { configDir } from '../base/paths.js';
import { FEEDER } from './feeder.js';
import { AGENT, METRICS, RUN } from './host.js';
import type { SettingTable } from './setting.js';

type Env = Readonly<Record<string, string | undefined>>;

export type Role = 'host' | 'feeder';
export const ROLES: readonly Role[] = ['host', 'feeder'];

export interface RoleFacts {
  /** In the user's configuration folder. */
  readonly fileName: string;
  /** Names another file. */
  readonly env: string;
  /** Every setting of the file. Keys that two tables share (AGENT, RUN) are told apart by section. */
  readonly tables: readonly SettingTable[];
  /** What each section is about, in the order of the file. */
  readonly sections: Readonly<Record<string, string>>;
  /** The first lines of the default file. */
  readonly about: readonly string[];
}

export const ROLE_FACTS: Readonly<Record<Role, RoleFacts>> = {
  host: {
    fileName: 'greenboost.toml',
    env: 'GREENBOOST_CONFIG',
    tables: [AGENT, RUN, METRICS],
    sections: {
      '': '',
      agent: 'The agent, which `greenboost connect` and `greenboost run` start.',
      run: 'What `greenboost run` gives programs, unless their profile says otherwise.',
      metrics: '`greenboost metrics`.',
    },
    about: [
      'GreenBoost on the machine that runs programs: settings of `greenboost run`, of the agent and of what looks.',
    ],
  },
  feeder: {
    fileName: 'feeder.toml',
    env: 'GREENBOOST_FEED_CONFIG',
    tables: [FEEDER],
    sections: {
      '': '',
      lend: 'What is lent.',
      listen: 'Where hosts find it.',
      hosts: 'What one host may have.',
      rules:
        'When it lends: hosts are asked to move away what they hold while one of these does not let it.',
      executors: 'The processes that hold what is lent, one for each program of a host.',
      cache: 'Blocks that hosts sent before, which need not be sent again.',
    },
    about: ['GreenBoost on a machine that lends memory: settings of `greenboost feed start`.'],
  },
};

/** Where the file of a role lies unless a flag names another. */
export function defaultFilePath(role: Role, env: Env = process.env): string {
  const { env: variable, fileName } = ROLE_FACTS[role];
  return env[variable] || join(configDir(env), fileName);
}

/** The role whose file is called so; undefined for any other name. */
export function roleOfFile(path: string): Role | undefined {
  return ROLES.find((role) => ROLE_FACTS[role].fileName === basename(path));
}
