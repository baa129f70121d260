/**
 * Guards on a majority (docs/protocol.md, section 4, step 2). First the mutexes of this process, then every member
 * at once without waiting; if that is contended, the turnstile: queue at each member in the one fixed order. Guards
 * only save work, so losing one is harmless.
 */
import { Semaphore } from 'async-mutex'
import { codeOf, noQuorum, QuorumError, sentenceOf } from '../errors.ts'
import { localNames, type BaseEntry, type Granule, type LockRequest } from '../protocol/locks.ts'
import { tally } from '../protocol/quorum.ts'
import type { Observation, Replica, Session } from '../replica/replica.ts'
import { isServersWord } from '../replica/sqlstate.ts'
import { jitter, now_ms, sleep, step, within } from '../runtime.ts'
import type { Cluster } from './cluster.ts'
import { endDoubt } from './doubt.ts'
import { WORD_MS } from './hold.ts'

/**
 * Units of a semaphore, so the most that share one lock in this process at once. async-mutex counts down through
 * all of them at each release.
 */
const WHOLE = 1024

/**
 * How long to queue at one member: it may be frozen, or its holder a half-open connection, while a majority is free
 * elsewhere.
 */
const TURN_MS = 1000
const HURRY_MS = 200

/** In-process locks by name; shared takes one unit, exclusive all. */
class LocalLocks {
  readonly #semaphores = new Map<string, { semaphore: Semaphore; users: number }>()

  async acquire(requests: readonly LockRequest[], wait_ms: number): Promise<() => void> {
    const releases: (() => void)[] = []
    const release = (): void => {
      for (const r of releases.splice(0)) r()
    }
    try {
      for (const { name, exclusive } of localNames(requests)) {
        const entry = this.#semaphores.get(name) ?? { semaphore: new Semaphore(WHOLE), users: 0 }
        this.#semaphores.set(name, entry)
        entry.users++
        const leave = (): void => {
          if (--entry.users === 0) this.#semaphores.delete(name)
        }
        const acquiring = entry.semaphore.acquire(exclusive ? WHOLE : 1)
        try {
          const [, give] = await within(wait_ms, acquiring)
          releases.push(() => {
            give()
            leave()
          })
        } catch (error) {
          void acquiring.then(([, give]) => give()).finally(leave) // its turn comes all the same, and passes on
          throw error
        }
      }
      return release
    } catch (error) {
      release()
      throw new QuorumError(
        `the locks were not free within ${wait_ms} ms (held by another transaction of this process)`,
        { code: '55P03', outcome: 'not-committed', retryable: true, cause: error },
      )
    }
  }
}
const locals = new WeakMap<Cluster, LocalLocks>()

/** Guards held, and what the members that granted them know. */
export class Guard {
  readonly sessions = new Map<Replica, Session>()
  readonly observations = new Map<Replica, Observation>()
  readonly #releaseLocal: () => void
  #released = false

  constructor(releaseLocal: () => void) {
    this.#releaseLocal = releaseLocal
  }

  get granules(): Granule[] {
    return [...this.observations.values()][0]?.granules ?? []
  }

  baseOf(replica: Replica): BaseEntry[] | undefined {
    return this.observations.get(replica)?.base
  }

  add(session: Session, observation: Observation): void {
    if (this.#released) return session.release()
    this.sessions.set(session.replica, session)
    this.observations.set(session.replica, observation)
  }

  /** Hands one session over to somebody who will release it. */
  give(replica: Replica): Session | undefined {
    const session = this.sessions.get(replica)
    this.sessions.delete(replica)
    return session
  }

  release(): void {
    if (this.#released) return
    this.#released = true
    for (const session of this.sessions.values()) session.release()
    this.sessions.clear()
    this.#releaseLocal()
  }
}

export async function acquire(cluster: Cluster, requests: readonly LockRequest[]): Promise<Guard> {
  let local = locals.get(cluster)
  if (!local) locals.set(cluster, (local = new LocalLocks()))
  const deadline = now_ms() + cluster.limits.lock_ms
  const guard = new Guard(await local.acquire(requests, cluster.limits.lock_ms))
  try {
    while (!(await tryAll(cluster, guard, requests)) && !(await turnstile(cluster, guard, requests, deadline))) {
      if (now_ms() > deadline) throw busy(cluster)
      await sleep(jitter(20))
    }
    await settleDoubt(cluster, guard, requests, deadline)
    await step('locked')
    return guard
  } catch (error) {
    guard.release()
    throw error
  }
}

const busy = (cluster: Cluster): QuorumError =>
  new QuorumError(
    `the locks were not granted by ${cluster.needed} of ${cluster.replicas.length} replicas ` +
      `within ${cluster.limits.lock_ms} ms`,
    { code: '55P03', outcome: 'not-committed', retryable: true },
  )

/** All members at once, nobody waits. False: contended, and everything was let go again. */
function tryAll(cluster: Cluster, guard: Guard, requests: readonly LockRequest[]): Promise<boolean> {
  return new Promise((resolve, reject) => {
    let yes = 0
    const pending = new Set(cluster.replicas)
    let over = false
    let refused = false
    let hurried = false
    const granted: Session[] = []
    const failures: unknown[] = []
    const hurry = (ms: number): void =>
      void sleep(ms).then(() => {
        hurried = true
        judge()
      })
    const due = (): number =>
      hurried ? 0 : refused ? [...pending].filter((r) => !cluster.suspects.has(r)).length : pending.size
    const judge = (): void => {
      const state = tally(cluster.needed, yes, due())
      if (over || state === 'pending') return
      // A table that some know and others do not yet: its DDL is decided, and on its way to them. So those who have
      // not answered have a say.
      const unheard = failures.some((f) => codeOf(f) === 'QB007')
      if (state === 'lost' && pending.size > 0 && !hurried && (unheard || !refused))
        return hurry(unheard ? HURRY_MS : WORD_MS)
      over = true
      if (state === 'won') return resolve(true)
      for (const session of granted) {
        guard.sessions.delete(session.replica)
        guard.observations.delete(session.replica)
        session.release()
      }
      if (refused || (unheard && granted.length > 0)) resolve(false)
      else
        reject(
          failures.find(isServersWord) ??
            noQuorum(
              `${yes} of ${cluster.replicas.length} replicas answered, ` +
                `${cluster.needed} are needed; without answer: ` +
                `${[...cluster.suspects].map((r) => r.name).join(', ')}. ${failures.map(sentenceOf).join('; ')}`,
              failures[0],
            ),
        )
    }
    for (const replica of cluster.replicas) {
      // A grant that comes after the verdict still has an owner: it joins the guard, or goes straight back.
      withSession(cluster, replica, (session) => session.lock(requests, null)).then(
        ([session, reply]) => {
          pending.delete(replica)
          if (!reply.granted) {
            // Contended: others wait for what we hold, so a member that does not answer now is not waited for.
            if (!refused) hurry(HURRY_MS)
            refused = true
            session.release()
          } else if (over && yes < cluster.needed) session.release()
          else {
            yes++
            granted.push(session)
            guard.add(session, reply)
          }
          judge()
        },
        (error: unknown) => {
          pending.delete(replica)
          failures.push(error)
          if (!isServersWord(error)) cluster.suspect(replica, error)
          judge()
        },
      )
    }
  })
}

async function turnstile(
  cluster: Cluster,
  guard: Guard,
  requests: readonly LockRequest[],
  deadline: number,
): Promise<boolean> {
  for (const replica of cluster.inOrder()) {
    if (guard.sessions.size >= cluster.needed) break
    if (cluster.suspects.has(replica) && cluster.suspects.size <= cluster.replicas.length - cluster.needed) continue
    const wait_ms = Math.max(50, Math.min(TURN_MS, deadline - now_ms()))
    const turn = withSession(cluster, replica, (s) => s.lock(requests, wait_ms))
    try {
      // Opening a connection has a deadline of its own, which a frozen member would use up first.
      const [session, reply] = await within(wait_ms + 500, cluster.unlessSuspected(replica)(turn))
      if (reply.granted) guard.add(session, reply)
      else session.release()
    } catch (error) {
      turn.then(
        ([late]) => late.release(),
        () => undefined,
      )
      if (codeOf(error) === '55P03') break
      if (!isServersWord(error)) cluster.suspect(replica, error)
    }
  }
  if (guard.sessions.size >= cluster.needed) return true
  for (const replica of [...guard.sessions.keys()]) guard.give(replica)?.release()
  guard.observations.clear()
  return false
}

async function withSession<T>(
  cluster: Cluster,
  replica: Replica,
  work: (session: Session) => Promise<T>,
): Promise<[Session, T]> {
  let session: Session | undefined
  try {
    session = await replica.open()
    return [session, await work(session)]
  } catch (error) {
    session?.release(true)
    if (codeOf(error) === '' || codeOf(error).startsWith('E')) cluster.suspect(replica, error)
    throw error
  }
}

/**
 * With G held, A must be free: who holds it is in doubt. It ends by itself within milliseconds, or its owner is
 * gone and we end it.
 */
async function settleDoubt(
  cluster: Cluster,
  guard: Guard,
  requests: readonly LockRequest[],
  deadline: number,
): Promise<void> {
  for (;;) {
    const blocked = [...guard.observations].filter(([, o]) => !o.free)
    // One member in doubt is as good as one member down, as long as a majority speaks plainly.
    if (guard.observations.size - blocked.length >= cluster.needed) {
      for (const [replica] of blocked) guard.observations.delete(replica)
      return
    }
    if (now_ms() > deadline) throw busy(cluster)
    await endDoubt(
      cluster,
      blocked.flatMap(([, o]) => o.doubt),
    )
    for (const [replica] of blocked) {
      const session = guard.sessions.get(replica)
      if (!session) continue
      try {
        const again = await cluster.unlessSuspected(replica)(session.lock(requests, null))
        if (again.granted) guard.observations.set(replica, again)
      } catch (error) {
        guard.give(replica)?.release(true)
        guard.observations.delete(replica)
        if (guard.sessions.size < cluster.needed)
          throw noQuorum(
            `${guard.sessions.size} of ${cluster.replicas.length} replicas hold the locks, ` +
              `${cluster.needed} are needed: ${sentenceOf(error)}`,
            error,
          )
      }
    }
  }
}
