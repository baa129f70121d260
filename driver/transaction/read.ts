/**
 * Strong reads (docs/protocol.md, section 5): R members hold A in shared mode and name their versions; the lead's
 * snapshot is taken while they still hold it, so every reader of these stripes sees one order of writes. Validation
 * of a transaction that wrote nothing is the same question.
 */
import { conflict, leadLost, sentenceOf } from '../errors.ts'
import { standing, type BaseEntry, type LockRequest, type Versions } from '../protocol/locks.ts'
import type { LeadSession, Replica } from '../replica/replica.ts'
import { catchUp } from '../repair/catch-up.ts'
import type { Cluster } from './cluster.ts'
import { isCurrent } from './current.ts'
import { whileHeld } from './hold.ts'
import { readRow } from './read-row.ts'

/**
 * Throws a conflict unless everything that was read still stands on a majority: for transactions that wrote
 * nothing.
 */
export async function validate(
  cluster: Cluster,
  lead: Replica,
  requests: readonly LockRequest[],
  base: readonly BaseEntry[],
): Promise<void> {
  if (requests.length === 0) return
  const moved = (): Error => conflict('what this transaction read was changed by another before it ended')
  // What the lead has now is what it had then only if nothing has moved there: looked at in this order.
  const versions = async (): Promise<Versions> => {
    const now = await lead.versions()
    if ((await lead.against(base.map((e) => ({ ...e, w: false })))) !== 'same') throw moved()
    return now
  }
  await whileHeld(cluster, requests, async (seen) => {
    if (!(await isCurrent(base, versions, seen))) throw moved()
  })
}

/**
 * A read-only transaction's one statement, in a snapshot that every commit acknowledged before now is part of.
 * again: it may run more than once.
 */
export async function readStrongly<T>(
  cluster: Cluster,
  lead: LeadSession,
  requests: readonly LockRequest[],
  work: () => Promise<T>,
  again = true,
): Promise<T> {
  const [only] = requests
  if (again && requests.length === 1 && (only?.kv ?? only?.k)) {
    const read = await readRow(cluster, lead, only, work)
    if (read) return read.result
  }
  let base = await snapshot(cluster, lead, requests)
  for (;;) {
    const result = await work()
    const missed = await lead.endRead(base.filter((e) => !e.i))
    if (missed.length === 0) return result
    if (!again)
      throw conflict(
        `what was read came in part from tables that the text does not name (${missed.join(', ')}), and they were not watched`,
      )
    // It read through a view: once more, with what lies behind it.
    requests = [...requests, ...missed.map((t) => ({ t, w: false }))]
    base = await snapshot(cluster, lead, requests)
  }
}

async function snapshot(cluster: Cluster, lead: LeadSession, requests: readonly LockRequest[]): Promise<BaseEntry[]> {
  for (let attempt = 1; ; attempt++) {
    let mine: BaseEntry[] = []
    const stale = await whileHeld(cluster, requests, async (seen) => {
      await lead.beginRead()
      mine = await lead.base(requests)
      // Who is behind was not waited for; it is brought forward.
      for (const [replica, { base }] of seen)
        if (replica !== lead.replica() && standing(base, mine) === 'lacks') cluster.lagging.add(replica)
      return !(await isCurrent(mine, () => lead.versions(), seen))
    })
    if (!stale) {
      cluster.seen?.learn((await lead.stripes(requests)).stripes)
      return mine
    }
    await lead.rollback()
    if (attempt >= 5) throw leadLost(`the lead ${lead.replica().name} stays behind what it should read`)
    await catchUp(cluster, lead.replica()).catch((error: unknown) => {
      throw leadLost(
        `the lead ${lead.replica().name} is behind what it should read, and could not be brought up to date: ${sentenceOf(error)}`,
        error,
      )
    })
  }
}
