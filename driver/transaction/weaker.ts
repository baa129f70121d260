/**
 * Reads that ask fewer than a strong one (docs/protocol.md, section 9), each on one replica's session: the answer,
 * or undefined when this replica is not good enough for it; then another is tried, and at last a strong read.
 */
import pSome from 'p-some'
import type { LockRequest } from '../protocol/locks.ts'
import type { Seen } from '../protocol/seen.ts'
import type { LeadSession, Replica } from '../replica/replica.ts'
import { isServersWord } from '../replica/sqlstate.ts'
import { now_ms } from '../runtime.ts'
import type { Cluster } from './cluster.ts'
import { readStrongly } from './read.ts'

/** Not older than what the session has seen; it has then seen this, too. */
export async function readForSession<T>(
  session: LeadSession,
  requests: readonly LockRequest[],
  seen: Seen,
  work: () => Promise<T>,
): Promise<T | undefined> {
  for (;;) {
    await session.beginRead()
    const here = await session.stripes(requests).catch((error: unknown) => {
      if (!isServersWord(error)) throw error
      return undefined // a table that is not here (yet)
    })
    if (!here || !seen.coveredBy(here.stripes, here.granules)) {
      await session.rollback()
      return undefined
    }
    const { granules, stripes } = here
    const result = await work()
    const missed = await session.endRead(granules)
    if (missed.length === 0) {
      seen.learn(stripes)
      return result
    }
    // through a view: once more, with what lies behind it
    requests = [...requests, ...missed.map((t) => ({ t, w: false }))]
  }
}

/**
 * Since when has a replica everything of what a read rests on? By this driver's monotonic clock; a replica only
 * moves forward.
 */
export class Freshness {
  readonly #since = new Map<string, number>()
  /** More than ever are read at once; who is forgotten only asks again. */
  static readonly MOST = 10_000

  age_ms(replica: Replica, requests: readonly LockRequest[]): number {
    return now_ms() - (this.#since.get(keyOf(replica, requests)) ?? -Infinity)
  }
  set(replica: Replica, requests: readonly LockRequest[], since_ms: number): void {
    if (this.#since.size > Freshness.MOST) this.#since.clear()
    this.#since.set(keyOf(replica, requests), since_ms)
  }
}
const keyOf = (replica: Replica, requests: readonly LockRequest[]): string =>
  `${replica.index} ${JSON.stringify(requests)}`

/**
 * Everything that was acknowledged more than max_ms before it began. A strong read that is that old vouches for it;
 * else this one is strong, and vouches for the next.
 */
export async function readFresh<T>(
  cluster: Cluster,
  session: LeadSession,
  requests: readonly LockRequest[],
  max_ms: number,
  freshness: Freshness,
  work: () => Promise<T>,
): Promise<{ result: T; age_ms: number }> {
  for (let wanted = requests; ;) {
    const age_ms = freshness.age_ms(session.replica(), wanted)
    if (age_ms > max_ms) {
      const since = now_ms()
      const result = await readStrongly(cluster, session, wanted, work)
      freshness.set(session.replica(), wanted, since)
      return { result, age_ms: 0 }
    }
    await session.beginRead()
    const { granules, stripes } = await session.stripes(wanted)
    const result = await work()
    const missed = await session.endRead(granules)
    if (missed.length === 0) {
      cluster.seen?.learn(stripes)
      return { result, age_ms }
    }
    wanted = [...wanted, ...missed.map((t) => ({ t, w: false }))]
  }
}

/**
 * At most so many changesets are missing, of those that a majority knows, which every acknowledged write meets
 * whatever the dial says; what is in doubt there counts as missing.
 */
export async function readLagging<T>(
  cluster: Cluster,
  session: LeadSession,
  requests: readonly LockRequest[],
  most: number,
  work: () => Promise<T>,
): Promise<{ result: T; behind: number } | undefined> {
  const own = await pulseOf(session.replica()) // before the snapshot: what is committed in between is in it
  await session.beginRead()
  const versions = await session.versions()
  const stripes = cluster.seen && (await session.stripes(requests)).stripes
  const result = await work()
  await session.rollback()
  const others = cluster.replicas.filter((r) => r !== session.replica())
  const known =
    cluster.needed < 2
      ? []
      : await pSome(
          others.map(async (other) => {
            const { doubt } = await pulseOf(other) // before beyond: what is decided in between is in one of them
            return [...doubt.map((d) => d.gid), ...(await other.beyond(versions, most + 1))]
          }),
          { count: cluster.needed - 1 },
        ).catch(() => undefined)
  const missing = new Set([...own.doubt.map((d) => d.gid), ...(known ?? []).flat()])
  if (!known || missing.size > most) return undefined
  cluster.seen?.learn(stripes ?? [])
  return { result, behind: missing.size }
}

async function pulseOf(replica: Replica): ReturnType<Awaited<ReturnType<Replica['open']>>['pulse']> {
  const session = await replica.open()
  try {
    const pulse = await session.pulse()
    session.release()
    return pulse
  } catch (error) {
    session.release(true)
    throw error
  }
}
