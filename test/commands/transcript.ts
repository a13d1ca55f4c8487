// SPDX-License-Identifier: Apache-2.0
// Runs commands as people type them and keeps what they print, by golden file: one for each command. JSON documents
// are held against their published schema on the way.
import { hostname } from 'node:os';
import { ROOT } from '../arch/files.js';
import { type Home, type Result } from '../e2e/cli-home.js';
import { expectGolden } from './golden.js';
import { maskJson, maskText } from './mask.js';
import { Validator } from './schemas.js';

export const GOLDEN = 'test/commands/outputs';

export interface Said extends Result {
  /** Documents of --json, one for each line of a stream. */
  readonly documents: readonly unknown[];
}

export interface Manner {
  readonly env?: Readonly<Record<string, string>>;
  readonly input?: string;
  /** Every number in its words varies. */
  readonly figures?: boolean;
  /** Only these documents, or lines, are noted; by default all. */
  readonly only?: (said: unknown) => boolean;
}

export class Transcript {
  /** Values of this run and the words that stand for them. */
  readonly words = new Map<string, string>([
    [ROOT, '<root>'],
    [hostname(), '<machine>'],
  ]);
  private readonly files = new Map<string, string[]>();
  readonly validator = new Validator();

  /** Runs `args` in `home`; notes what it printed and how it ended. */
  say(home: Home, args: readonly string[], manner: Manner = {}): Said {
    const result = home.run(args, manner.env ?? {}, manner.input);
    const documents = args.includes('--json') ? documentsOf(result.stdout) : [];
    const schema = args.includes('--dry-run') ? 'dry-run' : commandOf(args);
    for (const document of documents) this.validator.validate(schema, document);
    this.note(home, args, { ...result, documents }, manner);
    return { ...result, documents };
  }

  /** Compares what has been noted with the golden files. Returns their names. */
  compare(): string[] {
    return [...this.files].map(([name, parts]) => {
      expectGolden(`${GOLDEN}/${name}`, parts.join('\n'));
      return name;
    });
  }

  private note(home: Home, args: readonly string[], said: Said, manner: Manner): void {
    const words = new Map([[home.folder, '~'], ...this.words]);
    const show = (text: string): string => maskText(text, words, manner.figures);
    const typed = args.map((arg) => (/^[\w./:=,@+-]+$/.test(arg) ? arg : `'${arg}'`)).join(' ');
    const only = manner.only ?? (() => true);
    const documents = said.documents.filter(only).map((one) => `${maskJson(one, words)}\n`);
    const out =
      said.documents.length > 0
        ? [...new Set(documents)].join('')
        : show(manner.only ? linesOf(said.stdout, manner.only) : said.stdout);
    const parts = [
      `$ greenboost ${maskText(typed, words)}\n`,
      out,
      said.stderr === '' ? '' : `(on standard error)\n${show(said.stderr)}`,
      `(exit ${said.code})\n`,
    ];
    const name = `${commandOf(args).replaceAll(' ', '-') || 'greenboost'}.txt`;
    this.files.set(name, [...(this.files.get(name) ?? []), parts.join('')]);
  }
}

/** Words that only begin a command. */
export const GROUPS: readonly string[] = ['greenboost', 'feed', 'key', 'agent', 'config'];

/** `feed status` of `feed status --json`. */
export function commandOf(args: readonly string[]): string {
  const [first = '', second = ''] = args;
  if (first.startsWith('-')) return '';
  return GROUPS.includes(first) && /^[a-z]/.test(second) ? `${first} ${second}` : first;
}

function linesOf(text: string, only: (line: string) => boolean): string {
  const lines = text.split('\n').filter((line) => line !== '' && only(line));
  return lines.map((line) => `${line}\n`).join('');
}

/** One document, or one a line; none when the command failed. */
function documentsOf(text: string): unknown[] {
  if (text.trim() === '') return [];
  try {
    return [JSON.parse(text)];
  } catch {
    return text
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as unknown);
  }
}
