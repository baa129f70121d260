/**
 * Strong reads (docs/protocol.md, section 5): R members hold A in shared mode and name their versions; the lead's snapshot is taken while
 * they still hold it, so every reader of these stripes sees one order of writes. Validation of a transaction that wrote nothing is the same question.
 */
import { conflict, leadLost, noQuorum, sentenceOf } from '../errors.ts'
import type { BaseEntry, LockRequest, Versions } from '../protocol/locks.ts'
import { isServersWord } from '../replica/sqlstate.ts'
import { tally } from '../protocol/quorum.ts'
import type { LeadSession, Observation, Replica, Session } from '../replica/replica.ts'
import { catchUp } from '../repair/catch-up.ts'
import { now_ms } from '../runtime.ts'
import type { Cluster } from './cluster.ts'
import { isCurrent } from './current.ts'
import { endDoubt } from './doubt.ts'

const PATIENCE_MS = 200

/** Runs `take` while R members hold A; it gets their bases. */
export async function whileHeld<T>(cluster: Cluster, requests: readonly LockRequest[], take: (seen: ReadonlyMap<Replica, Observation>) => Promise<T>): Promise<T> {
  const deadline = now_ms() + cluster.limits.lock_ms
  for (;;) {
    const held = await holdMajority(cluster, requests)
    try {
      const busy = [...held.seen.values()].filter((o) => !o.free)
      if (busy.length === 0) return await take(held.seen)
      if (now_ms() > deadline) throw conflict(`what is read stayed in doubt for ${cluster.limits.lock_ms} ms on ${busy.length} replica(s)`)
      held.letGo()
      await endDoubt(cluster, busy.flatMap((o) => o.doubt))
    } finally {
      held.letGo()
    }
  }
}

function holdMajority(cluster: Cluster, requests: readonly LockRequest[]): Promise<{ seen: Map<Replica, Observation>; letGo: () => void }> {
  return new Promise((resolve, reject) => {
    const seen = new Map<Replica, Observation>()
    const failures: unknown[] = []
    const giveBack = new Map<Replica, () => void>()
    let pending = cluster.replicas.length
    let over = false
    const letGo = (): void => {
      over = true
      for (const give of giveBack.values()) give()
      giveBack.clear()
    }
    const judge = (): void => {
      const state = tally(cluster.needed, [...seen.values()].filter((o) => o.free).length, pending)
      if (over || state === 'pending') return
      // Not free on too many already; but those whose answer is due may still make a majority, which can say who is in doubt.
      if (seen.size < cluster.needed && seen.size + pending >= cluster.needed) return
      over = true
      if (seen.size < cluster.needed) {
        letGo()
        return reject(failures.find(isServersWord) ?? noQuorum(`${seen.size} of ${cluster.replicas.length} replicas answered, ${cluster.needed} are needed. ${failures.map(sentenceOf).join('; ')}`, failures[0]))
      }
      const free = [...seen].filter(([, o]) => o.free)
      resolve({ seen: free.length >= cluster.needed ? new Map(free) : seen, letGo })
    }
    for (const replica of cluster.replicas) {
      void (async () => {
        let session: Session | undefined
        try {
          session = await replica.open()
          const observation = await session.hold(requests, PATIENCE_MS)
          pending--
          const open = session
          const give = (): void => void open.letGo().then(() => open.release(), () => open.release(true))
          if (over) give()
          else {
            giveBack.set(replica, give)
            seen.set(replica, observation)
          }
        } catch (error) {
          session?.release(true)
          pending--
          failures.push(error)
        }
        judge()
      })()
    }
  })
}

/** Throws a conflict unless everything that was read still stands on a majority: for transactions that wrote nothing. */
export async function validate(cluster: Cluster, lead: Replica, requests: readonly LockRequest[], base: readonly BaseEntry[]): Promise<void> {
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

/** A read-only transaction's one statement, in a snapshot that every commit acknowledged before now is part of. */
export async function readStrongly<T>(cluster: Cluster, lead: LeadSession, requests: readonly LockRequest[], work: () => Promise<T>): Promise<T> {
  let base = await snapshot(cluster, lead, requests)
  for (;;) {
    const result = await work()
    const missed = await lead.endRead(base)
    if (missed.length === 0) return result
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
      return !(await isCurrent(mine, () => lead.versions(), seen))
    })
    if (!stale) return mine
    await lead.rollback()
    if (attempt >= 5) throw leadLost(`the lead ${lead.replica().name} stays behind what it should read`)
    await catchUp(cluster, lead.replica()).catch((error: unknown) => {
      throw leadLost(`the lead ${lead.replica().name} is behind what it should read, and could not be brought up to date: ${sentenceOf(error)}`, error)
    })
  }
}
