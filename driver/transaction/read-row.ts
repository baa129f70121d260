/**
 * A strong read of one row (docs/protocol.md, section 5): R members are looked at while the lead reads. What they say must be what the lead was seen to have before it
 * read; if it was seen to have it since, it reads once more. Where that does not settle it (the lead is behind, a row stays in doubt, a view), the answer is
 * undefined, and the longer way is gone.
 */
import type { LockRequest } from '../protocol/locks.ts'
import type { LeadSession } from '../replica/replica.ts'
import { moment } from '../runtime.ts'
import type { Cluster } from './cluster.ts'
import { standOf } from './looks.ts'

export async function readRow<T>(cluster: Cluster, lead: LeadSession, request: LockRequest, work: () => Promise<T>): Promise<{ readonly result: T } | undefined> {
  const row = await lead.row(request)
  if (!row) return undefined
  const asked = standOf(cluster, lead.replica(), row)
  for (let attempt = 1; attempt <= 2; attempt++) {
    const from = moment()
    const result = await work()
    const stand = await asked
    if (!stand) return undefined
    if (stand.everything !== row.everything) { // the schema has changed: perhaps it is another row
      lead.forget()
      return undefined
    }
    if (!cluster.looks.had(lead.replica(), stand, from)) continue
    if (cluster.seen) cluster.seen.learn((await lead.stripes([request])).stripes) // after it: it may have read more than the members had when they were looked at
    return { result }
  }
  return undefined
}
