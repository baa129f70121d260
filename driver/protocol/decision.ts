/**
 * When is a transaction decided? (docs/protocol.md, sections 4.7 and 7.) By the lead's commit, which it gives last, with W − 1 accepts behind
 * it; or by a ballot. Pure: evidence in, decision out.
 */
import { majority } from './quorum.ts'

export type Decision = 'commit' | 'abort'

/** What one member knows of one gid. */
export interface Evidence {
  /** Who says this. */
  readonly member: number
  /** Who ran the transaction; null where its changeset is not known. */
  readonly lead: number | null
  readonly committed: boolean
  readonly prepared: boolean
  /** Highest ballot promised to a resolver; 0 = none, only the owner has spoken. */
  readonly promised: number
  /** Highest ballot in which a decision was accepted; 0 = none. Not the same as promised (dangers.md, N7). */
  readonly accepted: number
  readonly decision: Decision | null
  /** A committed write went past its base here while it is absent: it cannot have been chosen. */
  readonly superseded: boolean
  readonly has: boolean
  readonly owner_alive: boolean
}

/** The shortcuts of section 7, reading only. undefined: not decidable from this much. */
export function decide(evidence: readonly Evidence[]): Decision | undefined {
  if (evidence.some((e) => e.committed)) return 'commit'
  if (evidence.some((e) => e.superseded)) return 'abort'
  return undefined
}

/**
 * What a resolver must propose after a majority has promised: the decision of the highest ballot. Without one: a lead that has promised has not
 * committed and never will, so nothing was decided, and the resolver is free (commit only where it needs nobody's locks any more: two
 * transactions that are in each other's way must not both be bound to commit, docs/decisions/0004). A lead that is silent may have committed if anything is prepared.
 */
export function choose(promises: readonly Evidence[], members: number): Decision {
  let highest = 0
  let decision: Decision | undefined
  for (const e of promises) {
    if (e.decision && e.accepted > highest) {
      highest = e.accepted
      decision = e.decision
    }
  }
  if (decision) return decision
  const prepared = promises.filter((e) => e.prepared)
  const lead = promises.find((e) => e.lead !== null)?.lead
  if (promises.some((e) => e.member === lead)) return prepared.length >= majority(members) ? 'commit' : 'abort'
  return prepared.length > 0 ? 'commit' : 'abort'
}
