/**
 * When is a transaction decided? One rule, two callers: the live commit and the resolver (docs/protocol.md, sections 4.7 and 7).
 * Pure: evidence in, decision out.
 */
import { majority } from './quorum.ts'

export type Decision = 'commit' | 'abort'

/** What one member knows of one gid. */
export interface Evidence {
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
export function decide(evidence: readonly Evidence[], members: number): Decision | undefined {
  if (evidence.some((e) => e.committed)) return 'commit'
  if (evidence.filter((e) => e.prepared && e.promised === 0).length >= majority(members)) return 'commit'
  if (evidence.some((e) => e.superseded)) return 'abort'
  return undefined
}

/** What a resolver must propose after a majority has promised: the decision of the highest ballot; a bare prepare is commit at ballot 0. */
export function choose(promises: readonly Evidence[]): Decision {
  let highest = 0
  let decision: Decision | undefined
  for (const e of promises) {
    if (e.decision && e.accepted > highest) {
      highest = e.accepted
      decision = e.decision
    }
  }
  return decision ?? (promises.some((e) => e.prepared) ? 'commit' : 'abort')
}
