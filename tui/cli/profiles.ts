// SPDX-License-Identifier: Apache-2.0
// What GPU memory size a program is told, and which of its own settings go with that, by kind of
// program. Programs that take a share of the whole GPU at the start must not take it of a size that
// is mostly RAM; others should see all there is.
import { basename } from 'node:path';
import { GbError } from '../../proto/base/errors.js';
import type { FileProfile, SettingsFile } from '../../proto/settings/file.js';
import { RUN } from '../../proto/settings/host.js';

export interface Profile {
  readonly name: string;
  /** `honest`, `extend` or `extend=SIZE`. */
  readonly report: string;
  /** Base names of programs, `*` at the end for any rest. */
  readonly programs: readonly string[];
  /** Modules after `python -m`, with everything below them. */
  readonly modules: readonly string[];
  /** Set only where the user has not. */
  readonly env: Readonly<Record<string, string>>;
  readonly why: string;
  /** In the file of settings; of a shipped one too, where the file changes it. */
  readonly file?: FileProfile;
}

/** These take their share of the GPU at the first use; told not to, they take what they need. */
const NO_PREALLOCATION = {
  XLA_PYTHON_CLIENT_PREALLOCATE: 'false',
  TF_FORCE_GPU_ALLOW_GROWTH: 'true',
} as const;

/** In the order they are tried; the last fits every program. */
export const PROFILES: readonly Profile[] = [
  {
    name: 'vllm',
    report: 'honest',
    programs: ['vllm'],
    modules: ['vllm'],
    env: {},
    why: 'fills 90 % of the size it is told with KV cache; for weights beyond VRAM add --report extend=SIZE',
  },
  {
    name: 'llama.cpp',
    report: 'extend',
    programs: ['llama-*'],
    modules: ['llama_cpp'],
    env: {},
    why: 'takes what the model needs; its own CPU offload (-ngl) can decode faster: greenboost plan',
  },
  {
    name: 'ollama',
    report: 'extend',
    programs: ['ollama'],
    modules: [],
    env: { OLLAMA_MAX_LOADED_MODELS: '1' },
    why: 'keeps models loaded while memory seems free: one at a time, so that it stays in VRAM',
  },
  {
    name: 'jax',
    report: 'extend',
    programs: [],
    modules: ['jax'],
    env: { XLA_PYTHON_CLIENT_PREALLOCATE: 'false' },
    why: 'would take 75 % of the size it is told at the start',
  },
  {
    name: 'tensorflow',
    report: 'extend',
    programs: ['tensorflow_model_server', 'tf_*'],
    modules: ['tensorflow'],
    env: { TF_FORCE_GPU_ALLOW_GROWTH: 'true' },
    why: 'would take nearly all of the size it is told at the start',
  },
  {
    name: 'pytorch',
    report: 'extend',
    programs: ['torchrun', 'accelerate', 'deepspeed'],
    modules: ['torch', 'accelerate', 'deepspeed', 'transformers'],
    env: {},
    why: 'its caching allocator takes what the program needs',
  },
  {
    name: 'python',
    report: 'extend',
    programs: ['python', 'python2*', 'python3*', 'pypy*', 'ipython*', 'jupyter*'],
    modules: [],
    env: NO_PREALLOCATION,
    why: 'what a script imports is not known: libraries that would take their share at the start are told not to',
  },
  {
    name: 'default',
    report: 'extend',
    programs: ['*'],
    modules: [],
    env: {},
    why: 'sees VRAM and RAM together',
  },
];

const DEFAULT_PROFILE = 'default';

/** What a profile of the file has that it does not tell. */
const NEW_PROFILE: Profile = {
  name: '',
  report: 'extend',
  programs: [],
  modules: [],
  env: {},
  why: 'from the file of settings',
};

const WRAPPERS: ReadonlySet<string> = new Set([
  'env',
  'timeout',
  'nice',
  'ionice',
  'nohup',
  'time',
  'stdbuf',
  'taskset',
  'numactl',
  'uv',
  'poetry',
  'pipenv',
]);
const PYTHON = /^(python|pypy)[\d.]*$/;
/** Options of Python that take a value. */
const PYTHON_VALUES: ReadonlySet<string> = new Set(['-W', '-X', '--check-hash-based-pycs']);

function fits(pattern: string, name: string): boolean {
  return pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern;
}

function isBelow(module: string, parent: string): boolean {
  return module === parent || module.startsWith(`${parent}.`);
}

/** The program itself behind `env A=1 nice -n 5 …`: the first word that can be one. */
function programAt(argv: readonly string[]): number {
  let at = 0;
  while (at < argv.length - 1 && WRAPPERS.has(basename(argv[at] ?? ''))) {
    at++;
    while (at < argv.length - 1 && /^(-|[A-Za-z_]\w*=|\d|run$)/.test(argv[at] ?? '')) at++;
  }
  return at;
}

/** What Python is to run: `-m MODULE`, or the script's name. */
function pythonTarget(args: readonly string[]): { module?: string; script?: string } {
  for (let index = 0; index < args.length; index++) {
    const word = args[index] as string;
    if (word === '-m') return { module: args[index + 1] ?? '' };
    if (word === '-c' || word === '-') return {};
    if (PYTHON_VALUES.has(word)) index++;
    else if (!word.startsWith('-')) return { script: basename(word) };
  }
  return {};
}

/** The profile of a command line. Every one has one. */
export function profileFor(
  argv: readonly string[],
  profiles: readonly Profile[] = PROFILES,
): Profile {
  const at = programAt(argv);
  const name = basename(argv[at] ?? '');
  const names = [name];
  let module: string | undefined;
  if (PYTHON.test(name)) {
    const target = pythonTarget(argv.slice(at + 1));
    module = target.module;
    // A console script: `python /opt/bin/vllm serve`.
    if (target.script !== undefined) names.unshift(target.script.replace(/\.py$/, ''));
  }
  const found = names.flatMap((wanted) =>
    profiles.filter(
      ({ programs, modules }) =>
        modules.some((parent) => module !== undefined && isBelow(module, parent)) ||
        programs.some((pattern) => pattern !== '*' && fits(pattern, wanted)),
    ),
  );
  return found[0] ?? (profiles.find(({ name }) => name === DEFAULT_PROFILE) as Profile);
}

/** @throws GbError INVALID_ARGUMENT for a name that is none. */
export function profileNamed(name: string, profiles: readonly Profile[] = PROFILES): Profile {
  const found = profiles.find((profile) => profile.name === name);
  if (found) return found;
  throw new GbError('INVALID_ARGUMENT', `no profile is called "${name}"`, {
    details: { hint: 'the list: greenboost profiles' },
  });
}

/** All profiles: those that only the file has, then the shipped ones with what the file changes of them. */
export function profilesOf(file: SettingsFile | undefined): readonly Profile[] {
  const told = file?.profiles ?? [];
  const isShipped = (name: string): boolean => PROFILES.some((profile) => profile.name === name);
  const own = told.filter(({ name }) => !isShipped(name)).map((of) => changed(of, NEW_PROFILE));
  const shipped = PROFILES.map((profile) => {
    const of = told.find(({ name }) => name === profile.name);
    return of ? changed(of, profile) : profile;
  });
  return [...own, ...shipped];
}

function changed(told: FileProfile, { report, programs, modules, env, why }: Profile): Profile {
  return {
    name: told.name,
    report,
    programs: told.programs ?? programs,
    modules: told.modules ?? modules,
    env: { ...env, ...told.env },
    why: told.why ?? why,
    file: told,
  };
}

/** The file as a program with this profile has it: what the profile says goes before [run]. */
export function fileOfProfile(
  { file: told }: Profile,
  file: SettingsFile | undefined,
): SettingsFile | undefined {
  if (!file || !told) return file;
  const keys = new Map(Object.entries(RUN).map(([key, { name }]) => [name, key]));
  return {
    ...file,
    get(setting) {
      const key = setting.section === 'run' ? keys.get(setting.name) : undefined;
      const value = key === undefined ? undefined : told.run[key];
      return value === undefined ? file.get(setting) : { value, place: told.placeOf(setting.name) };
    },
  };
}
