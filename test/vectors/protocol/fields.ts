// SPDX-License-Identifier: Apache-2.0
// Recorded fields as JSON, and how what is decoded today is held against them: a field that was recorded is as it was,
// a field that came later is at its default.

/** Numbers of 64 bits are decimal text, bytes are `hex:…`, what JSON cannot say (NaN) is text. */
export type Value =
  null | boolean | number | string | readonly Value[] | { readonly [field: string]: Value };

export function scalarValue(value: unknown): Value {
  if (typeof value === 'bigint') return String(value);
  if (value instanceof Uint8Array) return `hex:${Buffer.from(value).toString('hex')}`;
  if (typeof value === 'number') return Number.isFinite(value) ? value : String(value);
  if (typeof value === 'string' || typeof value === 'boolean') return value;
  if (Array.isArray(value)) return value.map(scalarValue);
  throw new TypeError(`no way to record ${typeof value}`);
}

/** What a field that nobody set reads as. */
function isDefault(value: Value): boolean {
  if (value === null || value === false || value === 0 || value === '0' || value === '')
    return true;
  if (
    value === 'hex:' ||
    (typeof value === 'string' && /^(hex:(00)+|\w+_UNSPECIFIED)$/.test(value))
  )
    return true;
  if (Array.isArray(value)) return value.every(isDefault);
  return typeof value === 'object' && Object.values(value).every(isDefault);
}

/** Every difference that breaks a promise, as `path: recorded, now`; empty when there is none. Pure. */
export function differences(recorded: Value, now: Value, path = ''): string[] {
  const differs = [`${path}: recorded ${JSON.stringify(recorded)}, now ${JSON.stringify(now)}`];
  if (isLeaf(recorded) || isLeaf(now)) return recorded === now ? [] : differs;
  if (Array.isArray(recorded) || Array.isArray(now)) {
    if (!Array.isArray(recorded) || !Array.isArray(now)) return differs;
    if (recorded.length !== now.length) return differs;
    return now.flatMap((item, index) => differences(recorded[index], item, `${path}[${index}]`));
  }
  const [before, after] = [recorded, now] as Record<string, Value>[];
  const names = new Set([...Object.keys(before!), ...Object.keys(after!)]);
  return [...names].flatMap((name) => {
    if (!(name in after!)) return [`${path}.${name}: recorded, and gone`];
    return compareItem(before![name], after![name]!, `${path}.${name}`);
  });
}

function compareItem(recorded: Value | undefined, now: Value, path: string): string[] {
  if (recorded !== undefined) return differences(recorded, now, path);
  return isDefault(now)
    ? []
    : [`${path}: came later and is not at its default: ${JSON.stringify(now)}`];
}

function isLeaf(value: Value): value is null | boolean | number | string {
  return value === null || typeof value !== 'object';
}
