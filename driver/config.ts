/**
 * Options in, frozen configuration out. Whatever is wrong is said here, in a sentence, before anything is connected.
 */
import type pg from 'pg'
import { badInput } from './errors.ts'
import type { Quorum, Reads, Recovering } from './protocol/dial.ts'
import type { Limits } from './transaction/cluster.ts'

/**
 * A server. name: in messages and for `write.prefer`, host:port/database by default. weight: its share of the
 * weaker reads, 1 by default, 0 for none.
 */
export type ReplicaConfig = pg.ClientConfig & { name?: string; zone?: string; weight?: number }

export interface QuorumOptions extends DialOptions {
  /** One url or pg config for each PostgreSQL server. Default: PG_QUORUM_REPLICAS, comma-separated urls. */
  replicas?: readonly (string | ReplicaConfig)[]
  /**
   * The replica, by name or host:port, that leads writes while it can; default: the first in the list. Changes
   * nothing of what is safe.
   */
  write?: { readonly prefer: string }
  /** Where this process is: replicas of the same zone answer weaker reads and lead writes rather than others. */
  zone?: string
  /** How long a transaction queues for its locks, in ms. Default 10 000. */
  lockTimeoutMillis?: number
  /** Deadline of the driver's own calls, in ms; a call that misses it costs the socket. Default 4000. */
  callTimeoutMillis?: number
  /**
   * May one-shot writes that are asked at the same time share a transaction (docs/performance.md)? now() is then
   * the same in them, and nothing else shows. Default true.
   */
  groups?: boolean
  /**
   * Shortens the log in the background, about every ten minutes while a pool is in use: what every replica has is
   * deleted, and what is not among the last `changesets` or is older than `days` also if a replica that is away
   * lacks it; that one then needs a clone. After `outcomeDays` also that a transaction was committed is forgotten,
   * if every replica has it: outcomeOf then says 'unknown'. Default: the log is kept whole.
   */
  keep?: { readonly changesets?: number; readonly days?: number; readonly outcomeDays?: number }
  /**
   * How much one transaction may change, in bytes of its rows as text, before and after. Default 16 MiB, about
   * 100,000 small rows updated; beyond: 54000.
   */
  maxChangesetBytes?: number
}

export interface DialOptions {
  /** W and R; the default is 'majority', or what PG_QUORUM_QUORUM says. */
  quorum?: Quorum
  /**
   * What a one-shot read asks for that says nothing; the default is 'strong' ('session' under 'read-one'), or what
   * PG_QUORUM_READS says.
   */
  reads?: Reads
  /** May replicas that are known to be behind answer reads that are not strong? Default 'refuse'. */
  recovering?: Recovering
}

const RESTARTED = 'else a replica that is only restarted would need a clone'
/** What each may be at least. */
const KEEP = {
  changesets: { least: 1000, says: `a whole number, at least 1000: ${RESTARTED}` },
  days: { least: 1 / 24, says: `a number, at least 0.0417 (an hour): ${RESTARTED}` },
  outcomeDays: { least: 1, says: 'a number, at least 1: else nobody could ask what became of a transaction' },
} as const

export function keepOf(keep: NonNullable<QuorumOptions['keep']>): NonNullable<QuorumOptions['keep']> {
  for (const [name, value] of Object.entries(keep) as [keyof typeof KEEP, unknown][]) {
    const rule = KEEP[name] as (typeof KEEP)[keyof typeof KEEP] | undefined
    if (!rule) throw badInput(`keep has no "${name}"; there are ${Object.keys(KEEP).join(', ')}`)
    const fits = name === 'changesets' ? Number.isSafeInteger(value) : Number.isFinite(value)
    if (!fits || (value as number) < rule.least) throw badInput(`keep: ${name} must be ${rule.says}`)
  }
  return keep
}

export function replicaConfigs(options: QuorumOptions & pg.ClientConfig): ReplicaConfig[] {
  const list =
    options.replicas ??
    (process.env['PG_QUORUM_REPLICAS'] ?? '')
      .split(',')
      .map((s) => s.trim())
      .filter((s) => s !== '')
  if (list.length === 0)
    throw badInput('no replicas: pass { replicas: [url, …] }, or set PG_QUORUM_REPLICAS to comma-separated urls')
  const { replicas: _, write: _w, zone: _z, quorum: _q, reads: _r, recovering: _c, ...shared } = options
  const urls = new Set<string>()
  return list.map((replica, i) => {
    const own = typeof replica === 'string' ? { connectionString: replica } : replica
    const key = JSON.stringify(own)
    if (urls.has(key)) throw badInput(`replica ${i + 1} is listed twice`) // not which: its url may hold a password
    urls.add(key)
    return Object.freeze({ ...shared, ...own })
  })
}

export function limitsOf(options: QuorumOptions & pg.ClientConfig): Limits {
  return Object.freeze({
    connect_ms: options.connectionTimeoutMillis || 3000,
    call_ms: options.callTimeoutMillis ?? 4000,
    lock_ms: options.lockTimeoutMillis ?? 10_000,
    grace_ms: 3000,
    pulse_ms: 300,
    changeset_bytes: options.maxChangesetBytes ?? 16 * 2 ** 20,
    ...(options.keep ? { keep: keepOf(options.keep) } : {}),
  })
}
