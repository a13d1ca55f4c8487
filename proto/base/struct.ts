// SPDX-License-Identifier: Apache-2.0
// C structures as bytes: little-endian, no implicit padding, bounds checked. The mirrors of the C
// headers are made of it.
import { GbError } from './errors.js';

type Scalar = 'u16' | 'u32' | 'i32' | 'u64';
type ScalarValue<T> = T extends 'u64' ? bigint : number;
export type FieldType =
  Scalar | readonly [Scalar, number] | { readonly bytes: number } | { readonly text: number };
type FieldValue<T extends FieldType> = T extends Scalar
  ? ScalarValue<T>
  : T extends readonly [infer S, number]
    ? readonly ScalarValue<S>[]
    : T extends { bytes: number }
      ? Uint8Array
      : string;
type Fields = Readonly<Record<string, FieldType>>;
type StructValue<F extends Fields> = { -readonly [K in keyof F]: FieldValue<F[K]> };

/** What the test that compiles the header compares. */
export interface StructLayout {
  readonly size: number;
  readonly offsets: Readonly<Record<string, number>>;
  readonly fields: Readonly<Record<string, FieldType>>;
  decode(bytes: Uint8Array): object;
  encode(value: never): Buffer;
}

export interface Struct<F extends Fields> {
  readonly size: number;
  readonly offsets: Readonly<Record<keyof F & string, number>>;
  readonly fields: F;
  /** @throws GbError PROTOCOL_VIOLATION when it is too short, or longer and the struct is exact. */
  decode(bytes: Uint8Array): StructValue<F>;
  /** Text is cut to fit with its NUL. @throws RangeError on a number out of its field's range. */
  encode(value: StructValue<F>): Buffer;
}

export interface StructOptions {
  /** True: bytes beyond the struct are an error. Default: ignored, as a newer peer may send more. */
  readonly exact?: boolean;
}

const SCALAR_BYTES: Readonly<Record<Scalar, number>> = { u16: 2, u32: 4, i32: 4, u64: 8 };

function sizeOf(type: FieldType): { size: number; align: number } {
  if (typeof type === 'string') return { size: SCALAR_BYTES[type], align: SCALAR_BYTES[type] };
  if ('bytes' in type) return { size: type.bytes, align: 1 };
  if ('text' in type) return { size: type.text, align: 1 };
  const [scalar, count] = type;
  return { size: SCALAR_BYTES[scalar] * count, align: SCALAR_BYTES[scalar] };
}

function readScalar(buffer: Buffer, offset: number, type: Scalar): number | bigint {
  if (type === 'u16') return buffer.readUInt16LE(offset);
  if (type === 'u32') return buffer.readUInt32LE(offset);
  return type === 'i32' ? buffer.readInt32LE(offset) : buffer.readBigUInt64LE(offset);
}

function writeScalar(buffer: Buffer, offset: number, type: Scalar, value: unknown): void {
  if (type === 'u16') buffer.writeUInt16LE(value as number, offset);
  else if (type === 'u32') buffer.writeUInt32LE(value as number, offset);
  else if (type === 'i32') buffer.writeInt32LE(value as number, offset);
  else buffer.writeBigUInt64LE(value as bigint, offset);
}

function readField(buffer: Buffer, offset: number, type: FieldType): unknown {
  if (typeof type === 'string') return readScalar(buffer, offset, type);
  if ('bytes' in type) return Uint8Array.from(buffer.subarray(offset, offset + type.bytes));
  if ('text' in type) {
    const field = buffer.subarray(offset, offset + type.text);
    const end = field.indexOf(0);
    return field.subarray(0, end < 0 ? field.length : end).toString('utf8');
  }
  const [scalar, count] = type;
  const step = SCALAR_BYTES[scalar];
  return Array.from({ length: count }, (_, index) =>
    readScalar(buffer, offset + index * step, scalar),
  );
}

function writeField(buffer: Buffer, offset: number, type: FieldType, value: unknown): void {
  if (typeof type === 'string') writeScalar(buffer, offset, type, value);
  else if ('text' in type) buffer.write(value as string, offset, type.text - 1, 'utf8');
  else if ('bytes' in type) {
    const bytes = value as Uint8Array;
    if (bytes.length !== type.bytes) throw new RangeError(`expected ${type.bytes} bytes`);
    buffer.set(bytes, offset);
  } else {
    const [scalar, count] = type;
    const items = value as readonly unknown[];
    if (items.length !== count) throw new RangeError(`expected ${count} values`);
    items.forEach((item, index) =>
      writeScalar(buffer, offset + index * SCALAR_BYTES[scalar], scalar, item),
    );
  }
}

/** A structure whose fields follow each other as C lays them out; a definition that would need padding throws. */
export function struct<const F extends Fields>(
  name: string,
  fields: F,
  options: StructOptions = {},
): Struct<F> {
  const offsets: Record<string, number> = {};
  let size = 0;
  let alignMax = 1;
  for (const [field, type] of Object.entries(fields)) {
    const { size: bytes, align } = sizeOf(type);
    if (size % align !== 0) throw new Error(`${name}.${field} would need padding`);
    offsets[field] = size;
    size += bytes;
    alignMax = Math.max(alignMax, align);
  }
  if (size % alignMax !== 0) throw new Error(`${name} would need padding at its end`);
  const total = size;
  return {
    size: total,
    offsets: offsets as Record<keyof F & string, number>,
    fields,
    decode(bytes) {
      if (bytes.length < total || (options.exact === true && bytes.length > total)) {
        throw new GbError(
          'PROTOCOL_VIOLATION',
          `${name} has ${bytes.length} bytes, expected ${total}`,
        );
      }
      const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      const entries = Object.entries(fields).map(([field, type]) => [
        field,
        readField(buffer, offsets[field] as number, type),
      ]);
      return Object.fromEntries(entries) as StructValue<F>;
    },
    encode(value) {
      const buffer = Buffer.alloc(total);
      for (const [field, type] of Object.entries(fields)) {
        writeField(buffer, offsets[field] as number, type, value[field]);
      }
      return buffer;
    },
  };
}
