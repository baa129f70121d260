/**
 * A strong read of one row (docs/protocol.md, section 5): R members are looked at while the lead reads. What they
 * say must be what the lead was seen to have before it read: by a look just before it, or by earlier ones; if it
 * was seen to have it since, it reads once more. Where that does not settle it (the lead is behind, a row stays in
 * doubt, a view), the answer is undefined, and the longer way is gone.
 */
import type { LockRequest } from '../protocol/locks.ts'
import type { LeadSession, Row } from '../replica/replica.ts'
import { moment } from '../runtime.ts'
import type { Cluster } from './cluster.ts'
import { standOf } from './looks.ts'

/** So many at once look at the lead on their own, in one flight with the statement; more share their looks. */
const FEW = 2

/** alone: the statement may be sent in one flight with a question of ours. */
export async function readRow<T>(
  cluster: Cluster,
  lead: LeadSession,
  request: LockRequest,
  ask: (row: Row) => Promise<T>,
  alone = false,
): Promise<{ readonly result: T } | undefined> {
  const { looks } = cluster
  looks.reading++
  try {
    const row = await lead.row(request)
    if (!row) return undefined
    const work = (): Promise<T> => ask(row)
    const read =
      (alone && looks.reading <= FEW ? await inOneFlight(cluster, lead, row, work) : undefined) ??
      (await beside(cluster, lead, row, work))
    // after it: it may have read more than the members had when they were looked at
    if (read && cluster.seen) cluster.seen.learn((await lead.stripes([request])).stripes)
    return read
  } finally {
    looks.reading--
  }
}

/** The lead is looked at just before it reads, on the same connection. */
async function inOneFlight<T>(
  cluster: Cluster,
  lead: LeadSession,
  row: Row,
  work: () => Promise<T>,
): Promise<{ readonly result: T } | undefined> {
  if (!lead.lookAnd) return undefined
  const flight = lead.lookAnd(row, work)
  const standing = standOf(
    cluster,
    lead.replica(),
    row,
    flight.then(({ look }) => look),
  )
  const { look, result } = await flight
  const stand = await standing
  if (!look || !stand || stand.everything !== row.everything) return undefined
  return stand.version <= look.version && stand.whole <= look.whole && stand.everything <= look.everything
    ? { result }
    : undefined
}

/** The lead is looked at beside it: what it was seen to have before counts. */
async function beside<T>(
  cluster: Cluster,
  lead: LeadSession,
  row: Row,
  work: () => Promise<T>,
): Promise<{ readonly result: T } | undefined> {
  const asked = standOf(cluster, lead.replica(), row)
  for (let attempt = 1; attempt <= 2; attempt++) {
    const from = moment()
    const result = await work()
    const stand = await asked
    if (!stand) return undefined
    if (stand.everything !== row.everything) {
      // the schema has changed: perhaps it is another row
      lead.forget()
      return undefined
    }
    if (!cluster.looks.had(lead.replica(), stand, from)) continue
    return { result }
  }
  return undefined
}
