/** The lead as a transaction sees it: one connection, one member. */
import type { QueryResult } from 'pg'
import type { Replica } from '../replica/replica.ts'

/** The lead's connection, as the client that owns it lends it. */
export interface LeadSession {
  replica(): Replica
  query(text: string, values?: unknown[]): Promise<QueryResult>
  status(): string | null
  destroy(): void
}
