// SPDX-License-Identifier: Apache-2.0
// What of a link's life goes into the audit log (security/audit.ts): sessions as this host sees them.
import type { AuditFacts, AuditLog } from '../../security/audit.js';
import { keyFingerprint } from '../../security/pairing.js';
import type { Link, LinkStateName } from './link.js';

export class LinkAudit {
  /** The session of each link that has one. */
  private readonly open = new WeakMap<Link, AuditFacts>();

  constructor(private readonly audit: AuditLog) {}

  /** After every transition: a session begins or ends, or the feeder does not let us in. */
  changed(link: Link, from: LinkStateName): void {
    const holds = link.state === 'ready' || link.state === 'draining';
    // Into the same state again, with another session: its key has changed.
    if (!holds) this.ended(link, link.detail || link.state);
    else if (link.state === from) this.ended(link, 'another key took its place');
    if (holds && !this.open.has(link)) {
      const facts = { ...factsOf(link), session: link.sessionId };
      this.open.set(link, facts);
      this.audit.record('link_opened', { ...facts, cipher: link.cipher });
    }
    if (link.state === 'closed' && link.refusal) {
      const { code, rawMessage } = link.refusal;
      const reason = code.toLowerCase();
      this.audit.record('link_refused', { ...factsOf(link), reason, text: rawMessage });
    }
  }

  private ended(link: Link, reason: string): void {
    const facts = this.open.get(link);
    if (!facts) return;
    this.open.delete(link);
    this.audit.record('link_closed', { ...facts, reason });
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
