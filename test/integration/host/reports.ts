// SPDX-License-Identifier: Apache-2.0
// Reports as a shim sends them, for tests of the agent.
import * as abi from '../../../host/shim/abi.js';

export type ReportFields = Partial<Parameters<typeof abi.gbReport.encode>[0]>;

/** A report in which all that is not given is 0. */
export function reportOf(fields: ReportFields): ReturnType<typeof abi.gbReport.decode> {
  return { ...abi.gbReport.decode(Buffer.alloc(abi.gbReport.size)), ...fields };
}
