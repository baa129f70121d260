/**
 * Which member may answer for the others: the one that has everything of what is locked or read that any of them
 * has.
 */
import { covers, standing, type BaseEntry, type Versions } from '../protocol/locks.ts'
import type { Observation, Replica } from '../replica/replica.ts'

/** versions: of the member that `mine` is of, not older than `mine`; asked for only where sums cannot tell. */
export async function isCurrent(
  mine: readonly BaseEntry[],
  versions: () => Promise<Versions>,
  seen: ReadonlyMap<Replica, Observation>,
): Promise<boolean> {
  const unclear: Replica[] = []
  for (const [replica, { base }] of seen) {
    const stand = standing(mine, base)
    if (stand === 'lacks') return false
    if (stand === 'unclear') unclear.push(replica)
  }
  if (unclear.length === 0) return true
  const [own, ...others] = await Promise.all([versions(), ...unclear.map((r) => r.versions())])
  return others.every((other) => covers(own, other, mine))
}
