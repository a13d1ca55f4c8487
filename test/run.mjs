// SPDX-License-Identifier: Apache-2.0
// `make test`: runs every suite, some side by side, shows each one's own output whole, and ends with
// one honest line `N passed, N failed`. A suite that crashes, or that says nothing about its tests,
// counts as a failure. Arguments: names of suites to run; `--jobs N`: cores to fill (all); `--update`: golden files are
// written anew instead of compared.
import { spawn } from 'node:child_process';
import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
} from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join, relative } from 'node:path';

const scratch = mkdtempSync(join(tmpdir(), 'greenboost-test-'));
const soak = Number(process.env.SOAK_SECONDS ?? 60);
const fuzz = Number(process.env.GB_FUZZ_SECONDS ?? 5);
const golden = process.argv.includes('--update') ? { GB_GOLDEN_UPDATE: '1' } : {};

/** Name, what runs, how many seconds it takes alone, how many cores it keeps busy meanwhile: many wait more than they
 *  compute. Suites that take long start first; side by side run those whose cores are there. A suite has six
 *  times its seconds, and five minutes. Kinds: `exit` is one test (its exit status); `jest` brings its counts
 *  in its report; `c` prints one line `[part: ]N passed, N failed` for each of its programs. What `timed` wraps has
 *  tests that hold limits of real time: what of it fails beside other suites is run once more, alone. */
const SUITES = [
  exit('types', 12, 1, 'node_modules/.bin/tsc', ['-p', 'test/tsconfig.json']),
  exit('lint', 18, 1, 'node_modules/.bin/eslint', ['-c', 'test/arch/eslint.config.js', '.']),
  jest('arch', 'test/arch', 3, 1),
  jest('unit', 'test/unit', 25, 1),
  jest('commands', 'test/commands', 160, 0.6, golden),
  timed(jest('integration', 'test/integration', 240, 0.5)),
  jest('packages', 'test/packages', 60, 1),
  timed(c('root-trixie', 'test-root-trixie', 120, 0.6)),
  timed(c('root-bullseye', 'test-root-bullseye', 120, 0.6)),
  jest('fuzz', 'test/fuzz', 12 * fuzz, 1, { GB_FUZZ_SECONDS: String(fuzz) }),
  c('c-sim', 'test-c-sim', 5, 1),
  c('c-resolver', 'test-c-resolver', 2, 1),
  c('c-hooks', 'test-c-hooks', 7, 1),
  c('c-core', 'test-c-core', 80, 1),
  c('c-core-asan', 'test-c-core-asan', 110, 0.9),
  c('c-core-tsan', 'test-c-core-tsan', 195, 0.6),
  c('c-core-tsan-faults', 'test-c-core-tsan-faults', 200, 0.6),
  c('c-dispatch-core', 'test-c-dispatch-core', 60, 0.8),
  c('c-dispatch-core-asan', 'test-c-dispatch-core-asan', 70, 0.8),
  c('c-dispatch-core-tsan', 'test-c-dispatch-core-tsan', 120, 0.8),
  c('c-order', 'test-c-order', 3, 1),
  c('c-reach', 'test-c-reach', 6, 1),
  c('c-store', 'test-c-store', 10, 0.7),
  c('c-store-asan', 'test-c-store-asan', 15, 0.8),
  c('c-blocks', 'test-c-blocks', 40, 1),
  c('c-blocks-asan', 'test-c-blocks-asan', 30, 1),
  c('c-graphs', 'test-c-graphs', 33, 1),
  c('c-ipc', 'test-c-ipc', 54, 0.5),
  c('c-appvmm', 'test-c-appvmm', 140, 1),
  c('c-appvmm-asan', 'test-c-appvmm-asan', 90, 1),
  c('c-executor', 'test-c-executor', 95, 0.6),
  c('c-lane', 'test-c-lane', 33, 0.3),
  c('c-lane-asan', 'test-c-lane-asan', 30, 0.3),
  c('c-lane-tsan', 'test-c-lane-tsan', 52, 0.5),
  c('c-dispatch', 'test-c-dispatch', 8, 0.8),
  c('c-dispatch-tsan', 'test-c-dispatch-tsan', 30, 1),
  c('c-fuzz', 'test-c-fuzz', 3 * fuzz, 1, { GB_FUZZ_SECONDS: String(fuzz) }),
  timed(c('c-net', 'test-c-net', 30, 2)), // It measures rates.
  lines('python', 20, 0.5, 'python3', ['test/python/run.py']),
  c('soak', 'test-soak', soak, 0.7),
  c('soak-tsan', 'test-soak-tsan', soak, 0.8),
  timed(jest('e2e', 'test/e2e', 280, 0.9, {}, 2)),
];

function exit(name, seconds, cores, command, args) {
  return { name, seconds, cores, command, args, kind: 'exit', env: {} };
}

/** One worker, in band: the runner itself, not jest, says what runs side by side. */
function jest(name, folder, seconds, cores, env = {}, workers = 1) {
  return { name, seconds, cores, kind: 'jest', env, ...jestCommand(name, [folder], workers) };
}

function jestCommand(name, paths, workers) {
  const report = join(scratch, `${name}.json`);
  const args = ['--experimental-vm-modules', '--disable-warning=ExperimentalWarning'];
  args.push('node_modules/.bin/jest', ...paths, `--maxWorkers=${workers}`, '--json');
  args.push(`--outputFile=${report}`);
  return { command: process.execPath, args, report };
}

function timed(suite) {
  return { ...suite, timed: true };
}

function c(name, target, seconds, cores, env = {}) {
  return { name, seconds, cores, command: 'make', args: ['-s', target], kind: 'c', env };
}

/** A program that prints its counts as the C ones do. */
function lines(name, seconds, cores, command, args) {
  return { name, seconds, cores, command, args, kind: 'c', env: {} };
}

/** Sessions that run now, by their leaders: an interrupted run takes them with it. */
const sessions = new Set();

/** Kills what a suite has left, also in process groups of its own, as `timeout` makes them. */
function killSession(leader) {
  sessions.delete(leader);
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      const session = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[3]);
      if (session === leader) process.kill(Number(pid), 'SIGKILL');
    } catch {
      // It has ended meanwhile.
    }
  }
}

function interrupted(signal) {
  for (const leader of sessions) killSession(leader);
  rmSync(scratch, { recursive: true, force: true });
  process.exit(128 + signal);
}
process.on('SIGINT', () => interrupted(2));
process.on('SIGTERM', () => interrupted(15));

// Of a make around us, whose jobs are not ours.
const { MAKEFLAGS: _flags, MAKELEVEL: _level, MFLAGS: _old, ...environment } = process.env;

/** Runs `command` with its output in `file`. Resolves to its exit status; 124: it was over its time. */
function run({ command, args, env }, file, limitSeconds) {
  return new Promise((resolve) => {
    const output = openSync(file, 'a');
    // What jest has to say is on stderr; its report has a file of its own.
    const child = spawn(command, args, {
      env: { ...environment, ...env },
      stdio: ['ignore', args.includes('--json') ? 'ignore' : output, output],
      detached: true,
    });
    closeSync(output);
    child.on('error', () => resolve(127));
    if (child.pid === undefined) return;
    sessions.add(child.pid);
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      killSession(child.pid);
    }, limitSeconds * 1000);
    child.on('exit', (code) => {
      clearTimeout(timer);
      killSession(child.pid);
      resolve(late ? 124 : (code ?? 1));
    });
  });
}

/** Copies to our stdout what `file` has got since the last call. */
function follower(file) {
  let position = 0;
  const buffer = Buffer.alloc(1 << 16);
  return () => {
    const input = openSync(file, 'a+');
    for (let count; (count = readSync(input, buffer, 0, buffer.length, position)) > 0;) {
      process.stdout.write(buffer.toString('utf8', 0, count));
      position += count;
    }
    closeSync(input);
  };
}

/** Of a suite that has ended: how many tests passed and failed, and the names of those that did; and, when it is
 *  of use to run something again, which files (none: everything) and how many passed in what that runs. */
function outcome(suite, code, output) {
  if (suite.kind === 'exit')
    return { passed: Number(code === 0), failed: Number(code !== 0), names: [] };
  if (suite.kind === 'jest') return jestOutcome(suite, code);
  const lines = [...output.matchAll(/^(?:[\w.-]+: )?(\d+) passed, (\d+) failed$/gm)];
  const [passed, counted] = [1, 2].map((group) =>
    lines.reduce((sum, line) => sum + Number(line[group]), 0),
  );
  const failed = lines.length === 0 || (code !== 0 && counted === 0) ? counted + 1 : counted;
  const names = output.match(/^.*(?:FAIL|not ok).*$/gm) ?? (failed ? ['see its output'] : []);
  return { passed, failed, names, files: [], passedThere: passed };
}

function jestOutcome(suite, code) {
  const report = JSON.parse(readFileSync(suite.report, 'utf8'));
  if (report.numPendingTests > 0)
    console.log(`${suite.name}: ${report.numPendingTests} left out, see above`);
  const failed = report.numFailedTests + report.numRuntimeErrorTestSuites;
  const files = report.testResults.filter(({ status }) => status === 'failed');
  const names = files.flatMap(({ name, assertionResults }) => {
    const tests = assertionResults.filter(({ status }) => status === 'failed');
    return (tests.length > 0 ? tests : [{ fullName: 'did not run to its end' }]).map(
      ({ fullName }) => `${relative('.', name)}: ${fullName}`,
    );
  });
  const passed = report.numPassedTests;
  // What nobody awaits may be rejected when the last test is over: test/environment.mjs tells.
  if (code !== 0 && failed === 0) return { passed, failed: 1, names: [`ended with ${code}`] };
  const others = files.flatMap(({ assertionResults }) => assertionResults);
  const passedThere = others.filter(({ status }) => status === 'passed').length;
  return { passed, failed, names, files: files.map(({ name }) => name), passedThere };
}

/** Runs one suite to its end; its output comes while it runs when `live`, else whole afterwards. */
async function suiteRow(suite, live) {
  const file = join(scratch, `${suite.name.replaceAll(' ', '-')}.out`);
  const limit = 300 + 6 * suite.seconds;
  const show = follower(file);
  const start = Date.now();
  console.log(live ? `== ${suite.name}` : `.. ${suite.name} starts`);
  const following = live ? setInterval(show, 200) : undefined;
  const code = await run(suite, file, limit);
  clearInterval(following);
  const seconds = Math.round((Date.now() - start) / 1000);
  if (!live) console.log(`\n== ${suite.name}`);
  show();
  let result = { passed: 0, failed: 1, names: [`over its limit of ${limit} s`] };
  try {
    if (code !== 124) result = outcome(suite, code, readFileSync(file, 'utf8'));
  } catch (error) {
    result.names = [`no result (${error.message})`];
  }
  console.log(`== ${suite.name}: ${result.passed} passed, ${result.failed} failed, ${seconds} s\n`);
  return { suite, seconds, ...result };
}

/** Runs what failed beside others once more, with nothing beside it: of jest the files it lies in. Counts are those
 *  of this last run. */
async function againAlone(row) {
  const { suite } = row;
  const name = `${suite.name} alone`;
  const paths = ['--runTestsByPath', ...row.files];
  const command = suite.kind === 'jest' ? jestCommand(`${suite.name}-alone`, paths, 1) : {};
  const again = await suiteRow({ ...suite, ...command, name }, true);
  return {
    ...row,
    passed: again.passed + row.passed - row.passedThere,
    failed: again.failed,
    names: again.names,
    seconds: row.seconds + again.seconds,
    onlyAlone: row.names.filter((one) => !again.names.includes(one)),
  };
}

/** Starts the longest first, each as soon as its cores are free, and waits for all. A row knows whether it had the
 *  machine for itself. */
async function runSideBySide(suites, jobs) {
  const waiting = suites.toSorted((one, other) => other.seconds - one.seconds);
  const rows = new Map();
  const running = new Map();
  const beside = new Set();
  while (waiting.length > 0 || running.size > 0) {
    const busy = [...running.keys()].reduce((sum, suite) => sum + suite.cores, 0);
    const at = waiting.findIndex((suite) => busy === 0 || busy + suite.cores <= jobs + 0.05);
    if (at >= 0) {
      const [suite] = waiting.splice(at, 1);
      running.set(suite, suiteRow(suite, suites.length === 1));
      if (running.size > 1) for (const one of running.keys()) beside.add(one);
      continue;
    }
    const row = await Promise.race(running.values());
    running.delete(row.suite);
    rows.set(row.suite, { ...row, beside: beside.has(row.suite) });
  }
  return suites.map((suite) => rows.get(suite));
}

/** Suites side by side must find everything built: two makes would write the same files. */
async function build(jobs) {
  const file = join(scratch, 'build.out');
  console.log('.. builds what the suites run');
  const start = Date.now();
  const args = ['-s', '-k', `-j${jobs}`, 'test-binaries'];
  const code = await run({ command: 'make', args, env: {} }, file, 3600);
  if (code !== 0) follower(file)();
  console.log(`== built, ${Math.round((Date.now() - start) / 1000)} s\n`);
}

function summary(rows) {
  for (const { suite, passed, failed, seconds, names, onlyAlone = [] } of rows) {
    const counts = `${String(passed).padStart(5)} passed ${String(failed).padStart(3)} failed`;
    const mark = failed ? 'FAIL' : 'ok  ';
    console.log(`${mark} ${suite.name.padEnd(20)} ${counts} ${String(seconds).padStart(5)} s`);
    if (failed) for (const name of names.slice(0, 20)) console.log(`       ${name.slice(0, 160)}`);
    for (const name of onlyAlone)
      console.log(`       passed only when run alone: ${name.slice(0, 160)}`);
  }
  console.log(
    'gpu                  left out: test/gpu runs on a machine with an NVIDIA GPU (docs/testing.md)',
  );
}

function parse(args) {
  const at = args.indexOf('--jobs');
  const jobs = at < 0 ? availableParallelism() : Number(args.splice(at, 2)[1]);
  const names = SUITES.map((suite) => suite.name);
  const unknown = args.filter((name) => !names.includes(name));
  if (unknown.length > 0 || !Number.isInteger(jobs) || jobs < 1) {
    console.error(
      `usage: node test/run.mjs [--jobs N] [--update] [SUITE...]; suites: ${names.join(' ')}`,
    );
    process.exit(2);
  }
  return { jobs, suites: SUITES.filter(({ name }) => args.length === 0 || args.includes(name)) };
}

const { jobs, suites } = parse(process.argv.slice(2).filter((word) => word !== '--update'));
if (suites.filter((suite) => suite.kind === 'c').length > 1) await build(jobs);
const start = Date.now();
const rows = await runSideBySide(suites, jobs);
for (const [at, row] of rows.entries())
  if (row.suite.timed && row.beside && row.failed > 0 && row.files)
    rows[at] = await againAlone(row);
rmSync(scratch, { recursive: true, force: true });
summary(rows);
console.log(`all suites: ${Math.round((Date.now() - start) / 1000)} s with ${jobs} jobs`);
const passedTotal = rows.reduce((sum, row) => sum + row.passed, 0);
const failedTotal = rows.reduce((sum, row) => sum + row.failed, 0);
console.log(`${passedTotal} passed, ${failedTotal} failed`);
process.exit(failedTotal === 0 && passedTotal > 0 ? 0 : 1);
