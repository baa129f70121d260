/** The lead's side of the port, over the pg connection that a client lends. */
import type { QueryResult } from 'pg'
import type { BaseEntry, Versions } from '../protocol/locks.ts'
import { lookOf, type LeadSession, type Replica, type Sealed, type Looked } from './replica.ts'
import { coverText, endRead, SQL } from './statements.ts'

export interface Lent {
  replica(): Replica
  query(text: string, values?: unknown[]): Promise<QueryResult>
  status(): string | null
  destroy(): void
}

export function leadOver(lent: Lent): LeadSession {
  const one = async <T>(text: string, values: unknown[]): Promise<T> => ((await lent.query(text, values)).rows[0] as { r: T }).r
  const run = async (text: string): Promise<void> => void (await lent.query(text))
  return {
    replica: lent.replica, status: lent.status, destroy: lent.destroy,
    cover: (granules) => run(coverText(granules)),
    base: async (requests, keep) => (await one<BaseEntry[] | null>(keep ? SQL.keepBase : SQL.base, [JSON.stringify(requests)])) ?? [],
    async seal(prefix, base, inferring, fresh, lock_ms, most_bytes, write) {
      const { fresh: seen, ...sealed } = await one<Sealed>(SQL.seal, [prefix, base ? JSON.stringify(base) : null, inferring, fresh, most_bytes, write, Math.ceil(lock_ms)])
      return sealed.state === 'sealed' && seen !== undefined ? { ...sealed, fresh: seen } : sealed
    },
    look: async (request) => lookOf(await one<Looked | null>(SQL.look, [JSON.stringify(request)])),
    rollback: () => run('ROLLBACK'),
    beginRead: () => run('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY'),
    versions: () => one<Versions>(SQL.versions, []),
    stripes: (requests) => one(SQL.stripes, [JSON.stringify(requests)]),
    async endRead(granules) {
      const [ended] = (await lent.query(endRead(granules))) as unknown as [QueryResult<{ r: string[] | null }>]
      return ended.rows[0]?.r ?? []
    },
  }
}
