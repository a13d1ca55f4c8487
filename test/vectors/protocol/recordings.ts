// SPDX-License-Identifier: Apache-2.0
// The recordings that exist, and reading them. A recording is a folder named after a version:
//   feeder.jsonl, control.jsonl      messages of the .proto files, one a line: hex and every field
//   calls.jsonl                      the calls of their services
//   shim.jsonl, executor.jsonl       frames of gb_abi.h and gb_exec.h: hex, head and every field
//   shim-constants.json, …           every enumerator and limit of those headers
//   image.binpb                      descriptors, for `buf breaking`
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { DescFile } from '@bufbuild/protobuf';
import { packageRoot } from '../../../proto/base/paths.js';
import { file_greenboost_v1_control } from '../../../proto/gen/greenboost/v1/control_pb.js';
import { file_greenboost_v1_feeder } from '../../../proto/gen/greenboost/v1/feeder_pb.js';

export const PROTO_FILES: Readonly<Record<'feeder' | 'control', DescFile>> = {
  feeder: file_greenboost_v1_feeder,
  control: file_greenboost_v1_control,
};

const ROOT = join(packageRoot(), 'test', 'vectors', 'protocol');

/** Folders of all recordings, oldest version first. */
export function recordings(): string[] {
  return readdirSync(ROOT, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && /^\d+\.\d+\.\d+$/.test(entry.name))
    .map((entry) => entry.name)
    .sort((a, b) => a.localeCompare(b, 'en', { numeric: true }))
    .map((name) => join(ROOT, name));
}

/** The rows of one file of a recording. */
export function rowsOf<T>(folder: string, name: string): T[] {
  const path = join(folder, `${name}.jsonl`);
  if (!existsSync(path)) return [];
  return readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as T);
}

export function constantsIn(folder: string, name: string): Record<string, string> {
  return JSON.parse(readFileSync(join(folder, `${name}-constants.json`), 'utf8')) as Record<
    string,
    string
  >;
}
