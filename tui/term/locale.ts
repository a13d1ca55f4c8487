// SPDX-License-Identifier: Apache-2.0
// What the user's locale lets a terminal show.

/** True when the terminal can show the box and bar characters. */
export function hasUtf8Locale(env: NodeJS.ProcessEnv = process.env): boolean {
  const locale = env['LC_ALL'] || env['LC_CTYPE'] || env['LANG'] || '';
  return /utf-?8/i.test(locale);
}
