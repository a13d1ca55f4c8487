// SPDX-License-Identifier: Apache-2.0
// `make test`: runs every suite, shows each one's own output, and ends with one honest line `N
// passed, N failed`.
// A suite that crashes, or that says nothing about its tests, counts as a failure. Arguments: names
// of suites to run.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const scratch = mkdtempSync(join(tmpdir(), 'greenboost-test-'));
const jestReport = join(scratch, 'jest.json');

/** Kinds: `exit` is one test (its exit status); `jest` brings its counts in its report; `c` prints one line
 *  `[part: ]N passed, N failed` for each of its programs. */
const SUITES = [
  exit('types', 'node_modules/.bin/tsc', ['-p', 'test/tsconfig.json']),
  exit('lint', 'node_modules/.bin/eslint', ['-c', 'test/arch/eslint.config.js', '.']),
  jest('arch', 'test/arch', 120),
  jest('unit', 'test/unit', 300),
  jest('integration', 'test/integration', 600),
  jest('fuzz', 'test/fuzz', 900, { GB_FUZZ_SECONDS: process.env.GB_FUZZ_SECONDS ?? '5' }),
  c('c-sim', 'test-c-sim', 300),
  c('c-resolver', 'test-c-resolver', 300),
  c('c-hooks', 'test-c-hooks', 300),
  c('c-core', 'test-c-core', 600),
  c('c-core-asan', 'test-c-core-asan', 900),
  c('c-core-tsan', 'test-c-core-tsan', 1200),
  c('c-order', 'test-c-order', 300),
  c('c-store', 'test-c-store', 300),
  c('c-store-asan', 'test-c-store-asan', 600),
  c('c-graphs', 'test-c-graphs', 600),
  c('c-ipc', 'test-c-ipc', 600),
  c('c-appvmm', 'test-c-appvmm', 900),
  c('c-appvmm-asan', 'test-c-appvmm-asan', 1200),
  c('c-executor', 'test-c-executor', 300),
  c('c-lane', 'test-c-lane', 300),
  c('c-lane-asan', 'test-c-lane-asan', 600),
  c('c-lane-tsan', 'test-c-lane-tsan', 900),
  c('c-fuzz', 'test-c-fuzz', 900),
  c('c-net', 'test-c-net', 300),
  c('soak', 'test-soak', 300 + 2 * Number(process.env.SOAK_SECONDS ?? 60)),
  c('soak-tsan', 'test-soak-tsan', 600 + 2 * Number(process.env.SOAK_SECONDS ?? 60)),
  jest('e2e', 'test/e2e', 1200),
];

function exit(name, command, args) {
  return { name, command, args, kind: 'exit', env: {}, timeoutSeconds: 300 };
}

function jest(name, folder, timeoutSeconds, env = {}) {
  const args = ['node_modules/.bin/jest', folder, '--json', `--outputFile=${jestReport}`];
  if (name === 'e2e' || name === 'integration') args.push('--runInBand');
  if (name === 'fuzz') args.push('--maxWorkers=2'); // Bound by time, not by cores.
  return {
    name,
    command: process.execPath,
    args: ['--experimental-vm-modules', '--disable-warning=ExperimentalWarning', ...args],
    kind: 'jest',
    env,
    timeoutSeconds,
  };
}

function c(name, target, timeoutSeconds) {
  return { name, command: 'make', args: ['-s', target], kind: 'c', env: {}, timeoutSeconds };
}

function run(suite) {
  return new Promise((resolve) => {
    const child = spawn(suite.command, suite.args, {
      env: { ...process.env, ...suite.env },
      stdio: ['ignore', suite.kind === 'jest' ? 'ignore' : 'pipe', 'inherit'],
      detached: true,
    });
    let output = '';
    child.stdout?.on('data', (chunk) => {
      process.stdout.write(chunk);
      output = (output + chunk).slice(-65536);
    });
    const killGroup = () => {
      try {
        process.kill(-child.pid, 'SIGKILL');
      } catch {
        // The group is gone already.
      }
    };
    const timer = setTimeout(() => {
      console.error(`${suite.name}: over its limit of ${suite.timeoutSeconds} s`);
      killGroup();
    }, suite.timeoutSeconds * 1000);
    child.on('error', () => resolve({ code: 127, output }));
    child.on('exit', (code) => {
      clearTimeout(timer);
      killGroup();
      resolve({ code: code ?? 1, output });
    });
  });
}

function countsOf(suite, { code, output }) {
  if (suite.kind === 'exit') return code === 0 ? [1, 0] : [0, 1];
  if (suite.kind === 'jest') {
    const report = JSON.parse(readFileSync(jestReport, 'utf8'));
    rmSync(jestReport);
    const suitesBroken = report.numRuntimeErrorTestSuites;
    const pending = report.numPendingTests;
    if (pending > 0) console.log(`${suite.name}: ${pending} left out, see above`);
    const failed = report.numFailedTests + suitesBroken;
    return [report.numPassedTests, code !== 0 && failed === 0 ? 1 : failed];
  }
  const lines = [...output.matchAll(/^(?:[\w.-]+: )?(\d+) passed, (\d+) failed$/gm)];
  if (lines.length === 0) return [0, 1];
  const [passed, failed] = [1, 2].map((group) =>
    lines.reduce((sum, line) => sum + Number(line[group]), 0),
  );
  return [passed, code !== 0 && failed === 0 ? 1 : failed];
}

const wanted = process.argv.slice(2);
const chosen = SUITES.filter((suite) => wanted.length === 0 || wanted.includes(suite.name));
const rows = [];
for (const suite of chosen) {
  console.log(`\n== ${suite.name}`);
  const start = Date.now();
  let counts = [0, 1];
  try {
    counts = countsOf(suite, await run(suite));
  } catch (error) {
    console.error(`${suite.name}: no result (${error.message})`);
  }
  rows.push([suite.name, ...counts, Math.round((Date.now() - start) / 1000)]);
}
rmSync(scratch, { recursive: true, force: true });

console.log('');
for (const [name, passed, failed, seconds] of rows) {
  const counts = `${String(passed).padStart(5)} passed ${String(failed).padStart(3)} failed`;
  console.log(`${failed ? 'FAIL' : 'ok  '} ${name.padEnd(14)} ${counts} ${String(seconds).padStart(5)} s`);
}
console.log(
  'gpu            left out: test/gpu runs on a machine with an NVIDIA GPU (docs/testing.md)',
);
const passedTotal = rows.reduce((sum, row) => sum + row[1], 0);
const failedTotal = rows.reduce((sum, row) => sum + row[2], 0);
console.log(`${passedTotal} passed, ${failedTotal} failed`);
process.exit(failedTotal === 0 && passedTotal > 0 ? 0 : 1);
