// SPDX-License-Identifier: Apache-2.0
// A real terminal for tests: a shell in tmux, so that the pane survives the program in it.
import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { PATIENCE_MS } from '../patience.js';
import { until, type Home } from './cli-home.js';

/** A shell in tmux, with a socket of its own. */
export class Pane {
  readonly socket = `greenboost-test-${process.pid}-${Math.random().toString(36).slice(2, 8)}`;

  constructor(home: Pick<Home, 'env'>, env: Readonly<Record<string, string>> = {}) {
    const shell = 'bash --noprofile --norc';
    execFileSync('tmux', this.args('new-session', '-d', '-x', '120', '-y', '35', shell), {
      env: { ...home.env, TERM: 'xterm-256color', PS1: '$ ', ...env },
    });
  }

  private args(...args: string[]): string[] {
    return ['-L', this.socket, '-f', '/dev/null', ...args];
  }

  private tmux(...args: string[]): string {
    return execFileSync('tmux', this.args(...args), { encoding: 'utf8' });
  }

  type(text: string): void {
    this.tmux('send-keys', '-l', text);
  }

  key(name: string): void {
    this.tmux('send-keys', name);
  }

  command(text: string): void {
    this.type(text);
    this.key('Enter');
  }

  screen(): string {
    return this.tmux('capture-pane', '-p');
  }

  /** With escape sequences, as a terminal would get them. */
  coloured(): string {
    return this.tmux('capture-pane', '-p', '-e');
  }

  async shows(text: string | RegExp, timeoutMs = PATIENCE_MS): Promise<string> {
    const matches = (screen: string): boolean =>
      typeof text === 'string' ? screen.includes(text) : text.test(screen);
    try {
      return await until(
        `the screen shows ${text}`,
        () => (matches(this.screen()) ? this.screen() : undefined),
        timeoutMs,
      );
    } catch (reason) {
      throw new Error(`${String(reason)}; it shows:\n${this.screen()}`);
    }
  }

  resize(cols: number, rows: number): void {
    this.tmux('resize-window', '-x', String(cols), '-y', String(rows));
  }

  /** Alternate screen, cursor, mouse: `0 1 0` when the terminal is as it was. */
  flags(): string {
    return this.tmux('display', '-p', '#{alternate_on} #{cursor_flag} #{mouse_any_flag}').trim();
  }

  close(): void {
    spawnSync('tmux', this.args('kill-server'));
  }
}

/** Ids of the full-screen programs of this home. */
export function clusterPids(home: Pick<Home, 'folder'>): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
        const environment = readFileSync(`/proc/${pid}/environ`, 'utf8');
        return command.includes('cluster') && environment.includes(home.folder);
      } catch {
        return false;
      }
    })
    .map(Number);
}
