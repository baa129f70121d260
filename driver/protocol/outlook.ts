/**
 * What a membership at a position of the dial bears: for each number of members lost, what goes on and what may be
 * stale. Pure; `pg-quorum explain` and docs/guarantees.md show it.
 */
import { leastRead } from './dial.ts'
import { majority } from './quorum.ts'

export interface Outlook {
  readonly lost: number
  readonly writes: boolean
  readonly strongReads: boolean
  /** Session and bounded reads, as long as one of those that are left has what they need; eventual reads always. */
  readonly weakReads: boolean
  /** Transactions that were being committed at the moment of the loss can be decided. */
  readonly decides: boolean
}

/** floor: on how many members every write is. */
export function outlook(members: number, floor: number, read: number = leastRead(members, floor)): Outlook[] {
  const asks = Math.max(read, leastRead(members, floor))
  return Array.from({ length: members + 1 }, (_, lost) => {
    const up = members - lost
    return {
      lost,
      writes: up >= Math.max(floor, majority(members)),
      strongReads: up >= asks,
      weakReads: up > 0,
      decides: up >= Math.max(floor, majority(members)),
    }
  })
}
