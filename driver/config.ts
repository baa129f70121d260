/**
 * Options in, frozen configuration out. Whatever is wrong is said here, in a sentence, before anything is connected.
 */
import type pg from 'pg'
import { badInput } from './errors.ts'
import type { Limits } from './transaction/cluster.ts'

export interface QuorumOptions {
  /** One url or pg config for each PostgreSQL server. Default: PG_QUORUM_REPLICAS, comma-separated urls. */
  replicas?: readonly (string | pg.ClientConfig)[]
  /** How long a transaction queues for its locks, in ms. Default 10 000. */
  lockTimeoutMillis?: number
  /** Deadline of the driver's own calls, in ms; a call that misses it costs the socket. Default 4000. */
  callTimeoutMillis?: number
  /** How much one transaction may change, in bytes of its rows as text, before and after. Default 16 MiB, about 100,000 small rows updated; beyond: 54000. */
  maxChangesetBytes?: number
}

export function replicaConfigs(options: QuorumOptions & pg.ClientConfig): pg.ClientConfig[] {
  const list = options.replicas ?? (process.env['PG_QUORUM_REPLICAS'] ?? '').split(',').map((s) => s.trim()).filter((s) => s !== '')
  if (list.length === 0) throw badInput('no replicas: pass { replicas: [url, …] }, or set PG_QUORUM_REPLICAS to comma-separated urls')
  const { replicas: _, ...shared } = options
  const urls = new Set<string>()
  return list.map((replica) => {
    const own = typeof replica === 'string' ? { connectionString: replica } : replica
    const key = JSON.stringify(own)
    if (urls.has(key)) throw badInput(`the replica ${typeof replica === 'string' ? replica.replace(/:[^:@/]*@/, ':…@') : replica.host} is listed twice`)
    urls.add(key)
    return Object.freeze({ ...shared, ...own })
  })
}

export function limitsOf(options: QuorumOptions & pg.ClientConfig): Limits {
  return Object.freeze({
    connect_ms: options.connectionTimeoutMillis || 3000, call_ms: options.callTimeoutMillis ?? 4000, lock_ms: options.lockTimeoutMillis ?? 10_000, grace_ms: 3000, pulse_ms: 300, changeset_bytes: options.maxChangesetBytes ?? 16 * 2 ** 20,
  })
}
