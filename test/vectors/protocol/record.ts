// SPDX-License-Identifier: Apache-2.0
// `make -s protocol-baseline`: records what the version in package.json says on the wire, once, at its release. What
// was recorded is never changed again: test/unit/protocol decodes it for ever after, test/arch/protocol.test.ts holds
// the .proto files against its image. Argument: the folder to write, for the tests of this recorder.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { packageRoot } from '../../../proto/base/paths.js';
import { CONTRACTS, constantsOf, frameVectors } from './frames.js';
import { callsOf, messagesOf, messageVectors } from './messages.js';
import { PROTO_FILES } from './recordings.js';

function lines(rows: readonly unknown[]): string {
  return rows.map((row) => `${JSON.stringify(row)}\n`).join('');
}

/** Writes a recording of the sources as they are. pre: `folder` does not exist. */
export function record(folder: string): void {
  const half = `${folder}.half`;
  rmSync(half, { recursive: true, force: true });
  mkdirSync(half, { recursive: true });
  for (const [name, file] of Object.entries(PROTO_FILES)) {
    writeFileSync(join(half, `${name}.jsonl`), lines(messagesOf(file).flatMap(messageVectors)));
  }
  writeFileSync(join(half, 'calls.jsonl'), lines(Object.values(PROTO_FILES).flatMap(callsOf)));
  for (const contract of CONTRACTS) {
    writeFileSync(join(half, `${contract.name}.jsonl`), lines(frameVectors(contract)));
    const constants = JSON.stringify(constantsOf(contract), undefined, 1);
    writeFileSync(join(half, `${contract.name}-constants.json`), `${constants}\n`);
  }
  const buf = join(packageRoot(), 'node_modules', '.bin', 'buf');
  execFileSync(buf, ['build', '--exclude-source-info', '-o', join(half, 'image.binpb')], {
    cwd: join(packageRoot(), 'proto'),
  });
  mkdirSync(dirname(folder), { recursive: true });
  renameSync(half, folder);
}

function main(): number {
  const packageFile = readFileSync(join(packageRoot(), 'package.json'), 'utf8');
  const { version } = JSON.parse(packageFile) as { version: string };
  const folder = join(packageRoot(), 'test', 'vectors', 'protocol', version);
  if (existsSync(folder)) {
    process.stderr.write(
      `version ${version} is recorded already, and a recording is never changed: raise the version in package.json\n`,
    );
    return 1;
  }
  record(folder);
  process.stdout.write(
    `recorded what version ${version} says; commit test/vectors/protocol/${version}\n`,
  );
  return 0;
}

if (process.argv[1]?.endsWith('/record.js')) process.exitCode = main();
