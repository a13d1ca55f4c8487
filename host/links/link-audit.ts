// SPDX-License-Identifier: Apache-2.0
// What of a link's life goes into the audit log (security/audit.ts): sessions as this host sees them.
import type { AuditFacts, AuditLog } from '../../security/audit.js';
import { keyFingerprint } from '../../security/pairing.js';
import type { Link, LinkStateName } from './link.js';

const HOLDING: readonly LinkStateName[] = ['ready', 'draining'];

/** After every transition: a session begins or ends, or the feeder does not let us in. */
export function auditLink(audit: AuditLog, link: Link, from: LinkStateName): void {
  const [had, has] = [HOLDING.includes(from), HOLDING.includes(link.state)];
  // Between two states that hold a session there is another session only if the key has changed.
  const keyChanged = had && has && from === link.state;
  if (had && (!has || keyChanged)) {
    const reason = keyChanged ? 'another key took its place' : link.detail || link.state;
    audit.record('link_closed', { ...factsOf(link), reason });
  }
  if (has && (!had || keyChanged)) {
    audit.record('link_opened', { ...factsOf(link), session: link.sessionId, cipher: link.cipher });
  }
  if (link.state === 'closed' && link.refusal) {
    const { code, rawMessage } = link.refusal;
    audit.record('link_refused', {
      ...factsOf(link),
      reason: code.toLowerCase(),
      text: rawMessage,
    });
  }
}

function factsOf(link: Link): AuditFacts {
  return {
    feeder: link.feederId,
    name: link.name,
    address: link.options.address,
    fingerprint: keyFingerprint(link.key),
  };
}
