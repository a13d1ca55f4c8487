// SPDX-License-Identifier: Apache-2.0
// Completion scripts for bash, zsh and fish, generated from the commander tree, so that they never lie.
import type { Command } from 'commander';
import { writeOut } from './output.js';

interface Entry {
  /** Command path without `greenboost`: '' or 'feed start'. */
  readonly path: string;
  readonly words: readonly { readonly word: string; readonly help: string }[];
}

/** Options that take a file name; the shell completes those itself. */
const FILE_OPTIONS = ['--key-file', '--stats-file', '--config'];

function entriesOf(command: Command, path: string): Entry[] {
  const options = command.options
    .filter((option) => !option.hidden && option.long)
    .map((option) => ({ word: option.long as string, help: option.description }));
  const children = command.commands.map((child) => ({
    word: child.name(),
    help: child.description(),
  }));
  const choices = command.registeredArguments.flatMap((argument) =>
    (argument.argChoices ?? []).map((word) => ({ word, help: '' })),
  );
  const help = [{ word: '--help', help: 'help for this command' }];
  const own = { path, words: [...children, ...choices, ...options, ...help] };
  return [
    own,
    ...command.commands.flatMap((child) => entriesOf(child, `${path} ${child.name()}`.trim())),
  ];
}

function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function bashScript(entries: readonly Entry[]): string {
  const cases = entries.map(({ path, words }) => {
    return `    ${quote(path)}) words=${quote(words.map(({ word }) => word).join(' '))} ;;`;
  });
  const paths = entries
    .filter(({ path }) => path !== '')
    .map(({ path }) => quote(path))
    .join('|');
  return `# bash completion for greenboost
_greenboost() {
  local current="\${COMP_WORDS[COMP_CWORD]}" previous="\${COMP_WORDS[COMP_CWORD-1]}" path='' words='' index word
  for ((index = 1; index < COMP_CWORD; index++)); do
    word="\${COMP_WORDS[index]}"
    # What follows -- is a command line of its own.
    if [[ $word == -- ]]; then
      COMPREPLY=($(compgen -c -- "$current") $(compgen -f -- "$current"))
      return
    fi
    case "\${path:+$path }$word" in
    ${paths}) path="\${path:+$path }$word" ;;
    esac
  done
  case "$previous" in
    ${FILE_OPTIONS.join('|')}) COMPREPLY=($(compgen -f -- "$current")); return ;;
  esac
  case "$path" in
${cases.join('\n')}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -F _greenboost greenboost
`;
}

function zshScript(entries: readonly Entry[]): string {
  const cases = entries.map(({ path, words }) => {
    const described = words
      .map(({ word, help }) => quote(`${word.replaceAll(':', '\\:')}:${help}`))
      .join(' ');
    return `    ${quote(path)}) described=(${described}) ;;`;
  });
  const paths = entries
    .filter(({ path }) => path !== '')
    .map(({ path }) => quote(path))
    .join('|');
  return `#compdef greenboost
_greenboost() {
  local path_so_far='' word index
  local -a described
  for ((index = 2; index < CURRENT; index++)); do
    word="\${words[index]}"
    if [[ $word == -- ]]; then
      _normal
      return
    fi
    case "\${path_so_far:+$path_so_far }$word" in
      ${paths}) path_so_far="\${path_so_far:+$path_so_far }$word" ;;
    esac
  done
  case "\${words[CURRENT-1]}" in
    ${FILE_OPTIONS.join('|')}) _files; return ;;
  esac
  case "$path_so_far" in
${cases.join('\n')}
  esac
  _describe 'greenboost' described
}
if [ "\${funcstack[1]}" = _greenboost ]; then _greenboost "$@"; else compdef _greenboost greenboost; fi
`;
}

function fishScript(entries: readonly Entry[]): string {
  const lines = entries.flatMap(({ path, words }) =>
    words.map(({ word, help }) => {
      const when = `-n ${quote(`__greenboost_at ${path}`.trim())}`;
      const what = word.startsWith('--') ? `-l ${word.slice(2)}` : `-a ${quote(word)}`;
      const files = FILE_OPTIONS.includes(word) ? ' -rF' : '';
      return `complete -c greenboost ${when} ${what}${files} -d ${quote(help)}`;
    }),
  );
  const paths = entries
    .filter(({ path }) => path !== '')
    .map(({ path }) => quote(path))
    .join(' ');
  return `# fish completion for greenboost
function __greenboost_at
  set -l path ''
  for word in (commandline -opc)[2..-1]
    set -l longer (string trim -- "$path $word")
    if contains -- "$longer" ${paths}
      set path $longer
    end
  end
  test "$path" = "$argv"
end
complete -c greenboost -f
${lines.join('\n')}
`;
}

/** Writes the script for `shell` to standard output. */
export function writeCompletion(program: Command, shell: 'bash' | 'zsh' | 'fish'): void {
  writeOut(completionScript(program, shell));
}

/** The script as text; ends with a line end. */
export function completionScript(program: Command, shell: 'bash' | 'zsh' | 'fish'): string {
  const entries = entriesOf(program, '');
  return shell === 'bash'
    ? bashScript(entries)
    : shell === 'zsh'
      ? zshScript(entries)
      : fishScript(entries);
}
