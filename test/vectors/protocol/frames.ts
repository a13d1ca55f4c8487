// SPDX-License-Identifier: Apache-2.0
// Frames of the two C contracts: every message of the header with every structure it carries, and every constant. The
// header itself says which payload a message has, in the comment beside it; the compiler says what its numbers are.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GBX_FRAME_REPLY, LAYOUTS as EXECUTOR_LAYOUTS } from '../../../driver/executor/abi.js';
import { FRAME_REPLY, LAYOUTS as SHIM_LAYOUTS } from '../../../host/shim/abi.js';
import { packageRoot } from '../../../proto/base/paths.js';
import type { FieldType, StructLayout } from '../../../proto/base/struct.js';
import { scalarValue, type Value } from './fields.js';

export interface Contract {
  readonly name: 'shim' | 'executor';
  readonly header: string;
  readonly frame: string;
  readonly replyFlag: number;
  readonly layouts: Readonly<Record<string, StructLayout>>;
}

export const CONTRACTS: readonly Contract[] = [
  {
    name: 'shim',
    header: 'shim/include/gb_abi.h',
    frame: 'gb_frame',
    replyFlag: FRAME_REPLY,
    layouts: SHIM_LAYOUTS,
  },
  {
    name: 'executor',
    header: 'driver/executor/gb_exec.h',
    frame: 'gbx_frame',
    replyFlag: GBX_FRAME_REPLY,
    layouts: EXECUTOR_LAYOUTS,
  },
];

/** One recorded frame: head and payload; `struct` is empty for a message without a payload. */
export interface FrameVector {
  readonly message: string;
  readonly struct: string;
  readonly reply: boolean;
  readonly variant: string;
  readonly hex: string;
  readonly head: Value;
  readonly fields: Value;
}

interface Carried {
  readonly message: string;
  readonly struct: string;
  readonly reply: boolean;
}

/** What each message carries, as the comments of the header say: `shim: A; reply B`, `A -> B`, or `A` of a notice.
 *  @throws when a comment names none, or a structure is carried by none. */
export function carriedBy(contract: Contract): Carried[] {
  const text = readFileSync(join(packageRoot(), contract.header), 'utf8');
  const carried: Carried[] = [];
  for (const [, message, comment] of text.matchAll(
    /^\s*(GBX?_MSG_\w+) = \d+,\s*\/\*(.*?)\*\//gms,
  )) {
    const [request = '', reply] = (comment as string).split(/->|; reply /);
    const structIn = (part: string): string | undefined =>
      (part.match(/\bgbx?_\w+/g) ?? []).find((word) => word in contract.layouts);
    const asked = structIn(request);
    if (asked === undefined && !request.includes('no payload')) {
      throw new Error(`${contract.header}: the comment of ${message} does not name its payload`);
    }
    carried.push({ message: message as string, struct: asked ?? '', reply: false });
    const answered = reply === undefined ? undefined : structIn(reply);
    if (answered) carried.push({ message: message as string, struct: answered, reply: true });
  }
  const used = new Set([contract.frame, ...carried.map(({ struct }) => struct)]);
  const unused = Object.keys(contract.layouts).filter(
    (name) => !used.has(name) && !isPart(text, name),
  );
  if (unused.length > 0)
    throw new Error(`${contract.header}: no message carries ${unused.join(', ')}`);
  return carried;
}

function isPart(text: string, struct: string): boolean {
  return new RegExp(`^  struct ${struct} \\w+`, 'm').test(text);
}

function unsignedFor(bytes: number, seed: number, extreme: boolean): bigint {
  const max = (1n << BigInt(8 * bytes)) - 1n;
  return extreme ? max : (0x0102_0304_0506_0000n + BigInt(seed)) & max;
}

function scalarFor(type: 'u16' | 'u32' | 'i32' | 'u64', seed: number, extreme: boolean): unknown {
  if (type === 'i32') return extreme ? -0x8000_0000 : -seed - 1;
  if (type === 'u64') return unsignedFor(8, seed, extreme);
  return Number(unsignedFor(type === 'u16' ? 2 : 4, seed, extreme));
}

function fieldFor(type: FieldType, seed: number, extreme: boolean): unknown {
  if (typeof type === 'string') return scalarFor(type, seed, extreme);
  if ('text' in type) return extreme ? 'x'.repeat(type.text - 1) : `text ${seed} ä`;
  if ('bytes' in type) {
    return Uint8Array.from(
      { length: type.bytes },
      (_, index) => (extreme ? 0xff : seed + index) & 0xff,
    );
  }
  const [scalar, count] = type;
  return Array.from({ length: count }, (_, index) => scalarFor(scalar, seed + index, extreme));
}

function payloadOf(layout: StructLayout, extreme: boolean): Buffer {
  const value = Object.entries(layout.fields).map(([name, type], index) => [
    name,
    fieldFor(type, 16 * (index + 1), extreme),
  ]);
  return layout.encode(Object.fromEntries(value) as never);
}

export function dumpStruct(layout: StructLayout, bytes: Uint8Array): Record<string, Value> {
  const decoded = Object.entries(layout.decode(bytes));
  return Object.fromEntries(decoded.map(([name, value]) => [name, scalarValue(value)]));
}

/** Every message of a contract with distinct values, and with every number at its limit. */
export function frameVectors(contract: Contract): FrameVector[] {
  const { layouts, frame, replyFlag } = contract;
  const constants = constantsOf(contract);
  const frameLayout = layouts[frame] as StructLayout;
  return carriedBy(contract).flatMap(({ message, struct, reply }) => {
    const layout = layouts[struct];
    return (layout ? ['full', 'extreme'] : ['empty']).map((variant) => {
      const payload = layout ? payloadOf(layout, variant === 'extreme') : Buffer.alloc(0);
      const head = frameLayout.encode({
        payload_bytes: payload.length,
        type: Number(constants[message]),
        flags: reply ? replyFlag : 0,
        request_id: variant === 'extreme' ? 0xffff_ffff_ffff_ffffn : 0x1122_3344n,
      } as never);
      return {
        message,
        struct,
        reply,
        variant,
        hex: Buffer.concat([head, payload]).toString('hex'),
        head: dumpStruct(frameLayout, head),
        fields: layout ? dumpStruct(layout, payload) : {},
      };
    });
  });
}

/** Numbers that a version promises: every enumerator and every numeric #define of the header. */
export function constantsOf({ header }: Contract): Record<string, string> {
  const text = readFileSync(join(packageRoot(), header), 'utf8');
  const names = [
    ...text.matchAll(/^#define (GBX?_\w+) [^"\s]/gm),
    ...text.matchAll(/^\s*(GBX?_\w+) = /gm),
    ...text.matchAll(/[{,] (GBX?_\w+) = /g),
  ].map((match) => match[1] as string);
  return compilerConstants(header, [...new Set(names)]);
}

/** What the compiler makes of `names`. @throws when the header lacks one of them. */
export function compilerConstants(
  header: string,
  names: readonly string[],
): Record<string, string> {
  const lines = names.map((name) => `printf("${name} %llu\\n", (unsigned long long)(${name}));`);
  const output = runC(header, lines.join('\n'));
  return Object.fromEntries(
    output
      .split('\n')
      .filter(Boolean)
      .map((line) => line.split(' ') as [string, string]),
  );
}

/** The recorded payloads as C reads them today: for each vector, a field's text by its name. Numbers are decimal,
 *  everything else `hex:…` of its bytes. */
export function readInC(
  { header, layouts }: Contract,
  vectors: readonly { readonly struct: string; readonly payload: Buffer }[],
): Record<string, string>[] {
  const blocks = vectors.map(({ struct, payload }, index) => {
    const fields = Object.keys((layouts[struct] as StructLayout).offsets);
    return `{ struct ${struct} s; memset(&s, 0, sizeof s);
      static const unsigned char raw[] = {${[...payload].join(',')}};
      memcpy(&s, raw, sizeof raw < sizeof s ? sizeof raw : sizeof s);
      ${fields.map((field) => `SHOW(${index}, ${field})`).join('\n')} }`;
  });
  const rows = vectors.map((): Record<string, string> => ({}));
  for (const line of runC(header, blocks.join('\n'), PRELUDE).split('\n').filter(Boolean)) {
    const [index, field, value] = line.split(' ') as [string, string, string];
    (rows[Number(index)] as Record<string, string>)[field] = value;
  }
  return rows;
}

const PRELUDE = `
static void hex(const void *at, size_t bytes) {
  printf("hex:");
  for (size_t i = 0; i < bytes; i++) printf("%02x", ((const unsigned char *)at)[i]);
}
static void u16(const void *at, size_t bytes) { (void)bytes; printf("%u", *(const uint16_t *)at); }
static void u32(const void *at, size_t bytes) { (void)bytes; printf("%u", *(const uint32_t *)at); }
static void i32(const void *at, size_t bytes) { (void)bytes; printf("%d", *(const int32_t *)at); }
static void u64(const void *at, size_t bytes) {
  (void)bytes;
  printf("%llu", (unsigned long long)*(const uint64_t *)at);
}
#define SHOW(index, field) \\
  printf("%d %s ", index, #field); \\
  _Generic(&s.field, uint16_t *: u16, uint32_t *: u32, int32_t *: i32, uint64_t *: u64, default: hex)( \\
      &s.field, sizeof s.field); \\
  printf("\\n");
`;

function runC(header: string, body: string, prelude = ''): string {
  const folder = mkdtempSync(join(tmpdir(), 'greenboost-frames-'));
  const program = join(folder, 'frames');
  const source = `#include <stdio.h>\n#include <string.h>\n#include "${join(packageRoot(), header)}"\n${prelude}
    int main(void) {\n${body}\nreturn 0; }\n`;
  try {
    writeFileSync(`${program}.c`, source);
    execFileSync('gcc', ['-std=gnu11', '-o', program, `${program}.c`], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    return execFileSync(program, { encoding: 'utf8', maxBuffer: 64 << 20 });
  } finally {
    rmSync(folder, { recursive: true });
  }
}
