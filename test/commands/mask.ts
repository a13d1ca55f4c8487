// SPDX-License-Identifier: Apache-2.0
// What differs from run to run becomes a word in angle brackets: identifiers, ports, times, rates, figures of the
// machine. Columns whose width depends on such a value are drawn together, lines that then say the same become one.

/** In this order: longer ones go before what could match within them. */
const WORDS: readonly (readonly [RegExp, string])[] = [
  [/\bgb1-[a-z0-9-]+/gi, '<pairing key>'],
  [/\bGPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b/g, '<uuid>'],
  [/\b(F|H|L|S|T)-[0-9a-f]{16}\b/g, '<$1-id>'],
  [/\b([0-9a-f]{32}|[0-9a-f]{16})\b/g, '<id>'],
  [/\b[0-9a-f]{4}(-[0-9a-f]{4}){3}\b/g, '<fingerprint>'],
  [/\b0x[0-9a-f]{6,}\b/g, '<address>'],
  [/\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?/g, '<time>'],
  [/\b\d\d:\d\d:\d\d\b/g, '<time>'],
  [/\b127\.0\.0\.1:\d+/g, '127.0.0.1:<port>'],
  [/\bport \d+/g, 'port <port>'],
  [/\bpid \d+/g, 'pid <pid>'],
  [/^( *)= .*$/gm, '$1= <formula>'],
  [/\b[\d.]+(e[+-]?\d+)? [kMGT]?B\/s/g, '<rate>'],
  [/\b[\d.]+(e[+-]?\d+)? (tok\/s|TFLOPS)/g, '<n> $2'],
  [/\b[\d.]+(e[+-]?\d+)? (us|ms|s)\b/g, '<duration>'],
  [/\b\d+[smhd]( ?\d+[smh])?\b/g, '<duration>'],
  [/\bread by \d+ cores/g, 'read by <n> cores'],
  [/\bnode v[\d.]+/g, 'node <version>'],
  [/\bepoch \d+/g, 'epoch <n>'],
  [/\(now \d+\)/g, '(now <n>)'],
  [/^ +(?=PID |<pid>)/gm, ''],
  [/: (AES|ChaCha)\S+ by [^,]+, \d+ connections/g, ': <cipher> by <library>, <n> connections'],
  [/\b(AES-(128|256)-GCM|ChaCha20-Poly1305)\b/g, '<cipher>'],
  // A GPU that did not answer in time is assumed.
  [/\((measured|assumed)\)/g, '(<source>)'],
  [/^( *)(GreenBoost Simulated|an assumed) GPU \(simulated/gm, '$1<GPU> (simulated'],
  [/^phases: .*$/gm, 'phases: <phases>'],
  [/^staging: .*$/gm, 'staging: <staging>'],
  // Whether lent RAM may be locked is a limit of the machine.
  [/^note: .*\n/gm, ''],
];

/** What a program is about, and how staging goes, in a row of programs: it depends on when one looks. */
const PHASES =
  /  (init|model_load|inference|steady|idle)  (-|learning|on|in place|unsupported)( \d+%)?  /g;
const FIGURES = /\b\d[\d.,]*( [kKMGT]?i?B)?(?![\w/])/g;

/** Values of a JSON document that say the same each time; every other number becomes `…`, as what may be null
 *  does. */
const SAME = new Set(['schemaVersion', 'linkCount', 'attachmentCount', 'vramBudgetBytes']);
const VARYING = new Set(
  (
    'detail note found formula advice text time uuid deviceUuid hostId lockNote waitsFor phase phaseMs staging ' +
    'laneCipher laneProvider provider node source gpuName load'
  ).split(' '),
);

/** `text` with what varies replaced; `words` are values of this run, such as folders and fingerprints. `figures`: every
 *  number and size varies, too. */
export function maskText(
  text: string,
  words: ReadonlyMap<string, string>,
  figures = false,
): string {
  let masked = text;
  for (const [value, word] of words)
    masked = masked.replace(new RegExp(`(?<!\\w)${escaped(value)}(?!\\w|\\.[a-z])`, 'g'), word);
  for (const [pattern, word] of WORDS) masked = masked.replace(pattern, word);
  masked = masked.replace(/(\S) {2,}/g, '$1  ').replace(/(^|\n) {5,}(?=\S)/g, '$1    ');
  if (figures) masked = masked.replace(PHASES, '  <phase>  <staging>  ').replace(FIGURES, '<n>');
  return tiersByName(
    masked.split('\n').filter((line, at, all) => line === '' || line !== all[at - 1]),
  );
}

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}

/** Tiers are listed by what was measured: here by their names. */
function tiersByName(lines: readonly string[]): string {
  const isTier = (line: string): boolean => /^(vram|ram|nvme) (local|feeder) /.test(line);
  const sorted = lines.filter(isTier).sort();
  return lines.map((line) => (isTier(line) ? (sorted.shift() as string) : line)).join('\n');
}

/** A JSON document as indented text; what varies is `…`, and elements of a list that then are the same are one. */
export function maskJson(document: unknown, words: ReadonlyMap<string, string>): string {
  const masked = (key: string, value: unknown): unknown => {
    if (SAME.has(key)) return value;
    if (typeof value === 'number' || value === null || VARYING.has(key)) return '…';
    if (typeof value === 'string') return maskText(value, words);
    if (Array.isArray(value)) {
      const texts = value.map((item) => JSON.stringify(masked('', item)));
      return [...new Set(texts)].map((text) => JSON.parse(text) as unknown);
    }
    if (typeof value !== 'object') return value;
    return Object.fromEntries(
      Object.entries(value).map(([name, item]) => [name, masked(name, item)]),
    );
  };
  return JSON.stringify(masked('', document), null, 1);
}
