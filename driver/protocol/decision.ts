/**
 * When is a transaction decided? (docs/protocol.md, sections 4.7 and 7.) By the lead's commit, which it gives last,
 * with W − 1 accepts behind it; or by a ballot. Pure: evidence in, decision out.
 */
import { majority } from './quorum.ts'

export type Decision = 'commit' | 'abort'

/** What one member knows of one gid. */
export interface Evidence {
  /** Who says this. */
  readonly member: number
  /** Who ran the transaction; null where its changeset is not known. */
  readonly lead: number | null
  /** On how many members it must be to be chosen; null where its changeset is not known. */
  readonly write: number | null
  readonly committed: boolean
  readonly prepared: boolean
  /** Highest ballot promised to a resolver; 0 = none, only the owner has spoken. */
  readonly promised: number
  /** Highest ballot in which a decision was accepted; 0 = none. Not the same as promised (dangers.md, N7). */
  readonly accepted: number
  readonly decision: Decision | null
  /** A committed write went past its base here while it is absent: it cannot have been chosen. */
  readonly superseded: boolean
  /** It is not here, but may have been committed so long ago that this is forgotten (docs/decisions/0011). */
  readonly forgotten: boolean
  readonly has: boolean
  readonly owner_alive: boolean
}

/** Nobody can say any more what became of it: "not there" is no sign of abort. */
export const isForgotten = (evidence: readonly Evidence[]): boolean =>
  evidence.some((e) => e.forgotten) && !evidence.some((e) => e.committed || e.prepared)

/** The shortcuts of section 7, reading only. undefined: not decidable from this much. */
export function decide(evidence: readonly Evidence[]): Decision | undefined {
  if (evidence.some((e) => e.committed)) return 'commit'
  if (evidence.some((e) => e.superseded)) return 'abort'
  return undefined
}

/** W of a transaction: on so many members it must be to be chosen. Its changeset says it. */
export const writeOf = (evidence: readonly Evidence[], members: number): number =>
  evidence.find((e) => e.write !== null)?.write ?? majority(members)

/**
 * What a resolver must propose after a majority has promised: the decision of the highest ballot that may have been
 * chosen. Who promised without having accepted a lower ballot never will, so where they leave no majority, it was
 * not chosen. Ballot 0 is chosen by the lead's commit: a lead that promised has not committed and never will, nor
 * has one that its owner never told to (`untold`). Then the resolver is free, and commits only where it needs
 * nobody's locks any more: two transactions in each other's way must not both be bound to commit
 * (docs/decisions/0004).
 */
export function choose(promises: readonly Evidence[], members: number, untold = false): Decision {
  const M = majority(members)
  const W = writeOf(promises, members)
  const possible = (without: number, enough: number): boolean => members - without >= enough
  for (const { accepted, decision } of [...promises].sort((a, b) => b.accepted - a.accepted)) {
    if (decision && accepted > 0 && possible(promises.filter((e) => e.accepted < accepted).length, M)) return decision
  }
  const prepared = promises.filter((e) => e.prepared)
  const lead = promises.find((e) => e.lead !== null)?.lead
  if (untold || promises.some((e) => e.member === lead)) return prepared.length >= W ? 'commit' : 'abort'
  return prepared.length > 0 && possible(promises.length - prepared.length, W) ? 'commit' : 'abort'
}
