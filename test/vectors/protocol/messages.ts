// SPDX-License-Identifier: Apache-2.0
// Protobuf messages of a version, made from its own descriptors: for each message an empty one, one with every field
// set, one with every number at its limit, and one for each value of its enums and each case of its oneofs.
import {
  create,
  fromBinary,
  toBinary,
  ScalarType,
  type DescEnum,
  type DescField,
  type DescFile,
  type DescMessage,
  type DescOneof,
} from '@bufbuild/protobuf';
import {
  reflect,
  type ReflectList,
  type ReflectMap,
  type ReflectMessage,
} from '@bufbuild/protobuf/reflect';
import { scalarValue, type Value } from './fields.js';

/** One recorded message. */
export interface MessageVector {
  readonly message: string;
  readonly variant: string;
  readonly hex: string;
  readonly fields: Value;
}

/** One recorded call of a service. */
export interface CallVector {
  readonly call: string;
  readonly kind: string;
  readonly input: string;
  readonly output: string;
}

/** How a value is chosen: by what the field is, never by chance, so that a recording can be made again. */
interface Style {
  readonly extreme: boolean;
  /** Of the message itself, not of what lies inside: this value of an enum, this case of a oneof. */
  readonly chosen?: { readonly field: DescField; readonly enumNumber?: number };
}

const DEPTH_MAX = 6;
const LIST_ITEMS = 2;

const EXTREMES: Readonly<Partial<Record<ScalarType, unknown>>> = {
  [ScalarType.DOUBLE]: -Number.MAX_VALUE,
  [ScalarType.BOOL]: true,
  [ScalarType.UINT32]: 0xffff_ffff,
  [ScalarType.INT32]: -0x8000_0000,
  [ScalarType.SINT32]: -0x8000_0000,
  [ScalarType.UINT64]: 0xffff_ffff_ffff_ffffn,
  [ScalarType.INT64]: -0x8000_0000_0000_0000n,
  [ScalarType.STRING]: '\u0000 ä € 😀 \u007f',
  [ScalarType.BYTES]: Uint8Array.from({ length: 256 }, (_, index) => index),
};

/** A value that no other field of the message has: its number and place in a list are in it. */
function scalarFor(type: ScalarType, field: DescField, index: number, { extreme }: Style): unknown {
  if (extreme) {
    const value = EXTREMES[type];
    if (value !== undefined) return value;
  }
  const number = field.number * 1000 + 7 + index;
  switch (type) {
    case ScalarType.DOUBLE:
      return number + 0.25;
    case ScalarType.BOOL:
      return true;
    case ScalarType.UINT32:
    case ScalarType.INT32:
    case ScalarType.SINT32:
      return number;
    case ScalarType.UINT64:
    case ScalarType.INT64:
      return (1n << 40n) + BigInt(number);
    case ScalarType.STRING:
      return `${field.name} ${index} ä`;
    case ScalarType.BYTES:
      return Uint8Array.of(0xff, 0, field.number, index);
    default:
      throw new TypeError(`${field.name}: no rule to record scalars of type ${ScalarType[type]}`);
  }
}

function enumFor({ values }: DescEnum): number {
  return values.at(-1)?.number ?? 0;
}

function fill(message: ReflectMessage, style: Style, depth: number): ReflectMessage {
  if (depth > DEPTH_MAX)
    throw new RangeError(`${message.desc.typeName} holds itself; record it by hand`);
  for (const field of message.fields) {
    if (
      field.oneof &&
      (style.chosen?.field.oneof === field.oneof ? style.chosen.field : field.oneof.fields[0]) !==
        field
    ) {
      continue;
    }
    const inner: Style = { extreme: style.extreme };
    const nested = (of: DescMessage): ReflectMessage => fill(reflect(of), inner, depth + 1);
    if (field.fieldKind === 'list') {
      const list = message.get(field) as ReflectList;
      for (let index = 0; index < LIST_ITEMS; index++) {
        if (field.listKind === 'message') list.add(nested(field.message));
        else if (field.listKind === 'enum') list.add(enumFor(field.enum));
        else list.add(scalarFor(field.scalar, field, index, style));
      }
    } else if (field.fieldKind === 'map') {
      const map = message.get(field) as ReflectMap;
      for (let index = 0; index < LIST_ITEMS; index++) {
        if (field.mapKind !== 'scalar')
          throw new TypeError(`${field.name}: record this map by hand`);
        const key = scalarFor(field.mapKey, field, index, { extreme: false });
        map.set(key, scalarFor(field.scalar, field, index, style));
      }
    } else if (field.fieldKind === 'message') message.set(field, nested(field.message));
    else if (field.fieldKind === 'enum') {
      const chosen = style.chosen?.field === field ? style.chosen.enumNumber : undefined;
      message.set(field, chosen ?? enumFor(field.enum));
    } else message.set(field, scalarFor(field.scalar, field, 0, style));
  }
  return message;
}

function enumName({ values }: DescEnum, number: number): Value {
  return values.find((value) => value.number === number)?.name ?? number;
}

/** Every field of a message by its name in the .proto file; a message that is not set is null. */
export function dumpMessage(message: ReflectMessage): Value {
  const dumped: Record<string, Value> = {};
  for (const field of message.fields) {
    if (field.oneof && !message.isSet(field)) continue;
    dumped[field.name] = dumpField(message, field);
  }
  for (const oneof of message.oneofs) dumped[`${oneof.name}?`] = caseOf(message, oneof);
  return dumped;
}

function caseOf(message: ReflectMessage, oneof: DescOneof): Value {
  return message.oneofCase(oneof)?.name ?? null;
}

function dumpField(message: ReflectMessage, field: DescField): Value {
  const value = message.get(field);
  switch (field.fieldKind) {
    case 'list':
      return [...(value as ReflectList)].map((item) => {
        if (field.listKind === 'message') return dumpMessage(item as ReflectMessage);
        return field.listKind === 'enum' ? enumName(field.enum, item as number) : scalarValue(item);
      });
    case 'map':
      return Object.fromEntries(
        [...(value as ReflectMap)].map(([key, item]) => [String(key), scalarValue(item)]),
      );
    case 'message':
      return message.isSet(field) ? dumpMessage(value as ReflectMessage) : null;
    case 'enum':
      return enumName(field.enum, value as number);
    default:
      return scalarValue(value);
  }
}

/** The fields of recorded bytes as they are read today. @throws when they cannot be read. */
export function decodeMessage(desc: DescMessage, bytes: Uint8Array): Value {
  return dumpMessage(reflect(desc, fromBinary(desc, bytes)));
}

function vector(desc: DescMessage, variant: string, message: ReflectMessage): MessageVector {
  const bytes = toBinary(desc, message.message);
  return {
    message: desc.typeName,
    variant,
    hex: Buffer.from(bytes).toString('hex'),
    fields: dumpMessage(message),
  };
}

/** All vectors of one message. */
export function messageVectors(desc: DescMessage): MessageVector[] {
  const filled = (style: Style): ReflectMessage => fill(reflect(desc), style, 0);
  const vectors = [vector(desc, 'empty', reflect(desc, create(desc)))];
  if (desc.fields.length === 0) return vectors;
  vectors.push(vector(desc, 'full', filled({ extreme: false })));
  vectors.push(vector(desc, 'extreme', filled({ extreme: true })));
  for (const field of desc.fields) {
    if (field.oneof) {
      vectors.push(
        vector(desc, `case ${field.name}`, filled({ extreme: false, chosen: { field } })),
      );
    }
    if (field.fieldKind !== 'enum') continue;
    for (const { name, number } of field.enum.values) {
      const chosen = { field, enumNumber: number };
      vectors.push(vector(desc, `${field.name} ${name}`, filled({ extreme: false, chosen })));
    }
  }
  return vectors;
}

/** Messages of a file, those inside messages too; the entries that maps are made of are not messages of their own. */
export function messagesOf(file: DescFile): DescMessage[] {
  const below = (desc: DescMessage): DescMessage[] => [desc, ...desc.nestedMessages.flatMap(below)];
  return file.messages.flatMap(below);
}

/** The calls of every service of a file. */
export function callsOf(file: DescFile): CallVector[] {
  return file.services.flatMap(({ typeName, methods }) =>
    methods.map((method) => ({
      call: `/${typeName}/${method.name}`,
      kind: method.methodKind,
      input: method.input.typeName,
      output: method.output.typeName,
    })),
  );
}
