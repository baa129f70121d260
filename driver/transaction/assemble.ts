/** Guards on a majority, and a lead that has everything which they cover (docs/protocol.md, section 4, step 2). */
import { leadLost, sentenceOf } from '../errors.ts'
import type { BaseEntry, LockRequest } from '../protocol/locks.ts'
import { catchUp } from '../repair/catch-up.ts'
import type { LeadSession } from '../replica/replica.ts'
import { sleep, within } from '../runtime.ts'
import type { Cluster } from './cluster.ts'
import { isCurrent } from './current.ts'
import { acquire, type Guard } from './locks.ts'

/**
 * What the lead's base is under the guards. Throws, with nothing held, if the lead cannot be brought up to date: it
 * is destroyed then.
 */
export async function assemble(
  cluster: Cluster,
  session: LeadSession,
  requests: readonly LockRequest[],
): Promise<{ guard: Guard; base: BaseEntry[] }> {
  const lead = session.replica()
  for (let attempt = 1; ; attempt++) {
    const guard = await acquire(cluster, requests)
    try {
      for (const caughtUp of [false, true]) {
        // It may not be among those that granted first, or have been brought forward since: then its own word counts.
        const seen = caughtUp ? undefined : guard.baseOf(lead)
        const base = seen ?? (await within<BaseEntry[]>(cluster.limits.call_ms, session.base(requests)))
        if (await isCurrent(base, () => lead.versions(), guard.observations)) return { guard, base }
        // asking it again would take one deadline after another, under the guards
        if (cluster.suspects.has(lead)) throw new Error('it does not answer')
        // Under the guards, which keep everyone else from moving on.
        if (!caughtUp) await catchUp(cluster, lead)
      }
    } catch (error) {
      guard.release()
      cluster.suspect(lead, error)
      // until the sweep has caught it up: suspicion ends with the next pulse, and the next try would take as long
      // again
      cluster.lagging.add(lead)
      session.destroy()
      throw leadLost(
        `the lead ${lead.name} is behind the others and could not be brought up to date: nothing was done. ${sentenceOf(error)}`,
        error,
      )
    }
    guard.release()
    if (attempt >= 5) {
      cluster.lagging.add(lead)
      session.destroy()
      throw leadLost(`the lead ${lead.name} stayed behind the others: nothing was done`)
    }
    await sleep(5 * attempt)
  }
}
