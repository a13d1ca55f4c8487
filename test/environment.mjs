// SPDX-License-Identifier: Apache-2.0
// Where tests run: Node, and no promise whose refusal nobody awaits goes unseen. While a test runs jest itself lays it
// to that test; what comes later would end the process without a word about the tests.
import { TestEnvironment } from 'jest-environment-node';

/** The file whose tests ended last, and its last test. */
let last = 'no test yet';

// jest takes handlers away while tests run, and puts them back.
process.on('unhandledRejection', (reason) => {
  const text = reason instanceof Error ? reason.stack : String(reason);
  process.stderr.write(
    `  ● a promise was rejected that nobody awaits, after ${last}\n\n    ${text}\n`,
  );
  process.exitCode = 1;
});

export default class extends TestEnvironment {
  constructor(config, context) {
    super(config, context);
    this.file = context.testPath;
  }

  handleTestEvent({ name, test }) {
    if (name === 'test_start') last = `${this.file}: ${test.name}`;
  }
}
