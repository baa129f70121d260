/**
 * The dial between consistency and availability (docs/protocol.md, section 9): how many members a write must be on,
 * how many a strong read asks, and how old a weaker read may be. Pure arithmetic and its sentences; what members
 * have agreed on is in schema/dial.sql.
 */
import { badInput } from '../errors.ts'
import { majority } from './quorum.ts'

/** A position by name, or W and R. */
export type Quorum = 'majority' | 'all' | 'read-one' | { readonly write: number; readonly read: number }
/**
 * How old what is read may be.
 * - 'strong': everything that was acknowledged before the read began is in it.
 * - 'session': nothing is missing that this session has read or written, or that was handed to it (`pool.session`).
 * - maxStalenessMs: everything that was acknowledged so many ms before the read began is in it.
 * - maxLag: at most so many changesets, of those that a majority knows when it is asked, are missing.
 * - 'eventual': what the nearest replica has.
 * - snapshot: the state that `pool.snapshot()` named, while the log still reaches back to it.
 */
export type Reads =
  | 'strong'
  | 'session'
  | 'eventual'
  | { readonly maxStalenessMs: number }
  | { readonly maxLag: number }
  | { readonly snapshot: string }
/** May a replica that is known to be behind answer a weaker read? */
export type Recovering = 'refuse' | 'serve-stale'
/** W and R, and what the position means for a read that says nothing. */
export interface Dial {
  readonly write: number
  readonly read: number
  readonly reads: Reads
  readonly recovering: Recovering
}

/** Throws a sentence unless every strong read meets every write, and any two writes meet. */
export function quorumOf(quorum: Quorum, members: number): { write: number; read: number; reads: Reads } {
  const most = majority(members)
  if (quorum === 'majority') return { write: most, read: most, reads: 'strong' }
  if (quorum === 'all') return { write: members, read: 1, reads: 'strong' }
  if (quorum === 'read-one') return { write: most, read: most, reads: 'session' }
  if (typeof quorum !== 'object' || quorum === null)
    throw badInput(`quorum is 'majority', 'all', 'read-one' or { write, read }, not ${JSON.stringify(quorum)}`)
  const { write, read } = quorum
  for (const [name, n] of [
    ['write', write],
    ['read', read],
  ] as const) {
    if (!Number.isSafeInteger(n) || n < 1 || n > members)
      throw badInput(
        `quorum: ${name} must be a whole number from 1 to ${members}, the number of replicas, not ${JSON.stringify(n)}`,
      )
  }
  if (write < most || read + write <= members) {
    const near = { write: Math.max(write, most), read: Math.max(read, members - Math.max(write, most) + 1) }
    throw badInput(
      `quorum { write: ${write}, read: ${read} } of ${members} replicas keeps no promise: ` +
        `two writes must meet on a replica (2 × write > ${members}), ` +
        `and so must a write and a strong read (write + read > ${members}). ` +
        `The nearest that does is { write: ${near.write}, read: ${near.read} }`,
    )
  }
  return { write, read, reads: 'strong' }
}

/** How many members a strong read must ask when every write is on at least `floor` of them. */
export const leastRead = (members: number, floor: number): number => members - floor + 1

export function checkReads(reads: Reads): Reads {
  if (reads === 'strong' || reads === 'session' || reads === 'eventual') return reads
  if (typeof reads === 'object' && reads !== null) {
    if ('snapshot' in reads && typeof reads.snapshot === 'string') return reads
    if ('maxStalenessMs' in reads && Number.isFinite(reads.maxStalenessMs) && reads.maxStalenessMs >= 0) return reads
    if ('maxLag' in reads && Number.isSafeInteger(reads.maxLag) && reads.maxLag >= 0) return reads
  }
  throw badInput(
    "reads is 'strong', 'session', 'eventual', { maxStalenessMs }, { maxLag } (whole changesets) or { snapshot }, " +
      `not ${JSON.stringify(reads)}`,
  )
}

export function checkRecovering(recovering: Recovering): Recovering {
  if (recovering === 'refuse' || recovering === 'serve-stale') return recovering
  throw badInput(`recovering is 'refuse' or 'serve-stale', not ${JSON.stringify(recovering)}`)
}

/** As it stands in an environment variable or on a command line: 'majority', 'all', 'read-one', or 'W,R'. */
export function quorumFrom(text: string): Quorum {
  if (text === 'majority' || text === 'all' || text === 'read-one') return text
  const [, write, read] = /^(\d+),(\d+)$/.exec(text.trim()) ?? []
  if (write === undefined)
    throw badInput(`'${text}' is no quorum: majority, all, read-one, or two numbers 'write,read'`)
  return { write: Number(write), read: Number(read) }
}

/** 'strong', 'session', 'eventual', 'staleness 500' (ms), 'lag 10' (changesets). */
export function readsFrom(text: string): Reads {
  const [, kind, n] = /^(staleness|lag)[ =](\d+)$/.exec(text.trim()) ?? []
  if (kind !== undefined) return kind === 'lag' ? { maxLag: Number(n) } : { maxStalenessMs: Number(n) }
  if (text === 'strong' || text === 'session' || text === 'eventual') return text
  throw badInput(
    `'${text}' is no kind of read: strong, session, eventual, 'staleness 500' (ms) or 'lag 10' (changesets)`,
  )
}
