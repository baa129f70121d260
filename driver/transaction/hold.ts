/**
 * Holding A in shared mode on a majority: while it is held, no commit can come between (docs/protocol.md, sections
 * 5 and 8). What is in doubt there is waited for, or ended.
 */
import { conflict, noQuorum, sentenceOf } from '../errors.ts'
import { leastRead } from '../protocol/dial.ts'
import type { LockRequest } from '../protocol/locks.ts'
import { tally } from '../protocol/quorum.ts'
import type { Observation, Replica, Session } from '../replica/replica.ts'
import { isServersWord } from '../replica/sqlstate.ts'
import { now_ms, sleep } from '../runtime.ts'
import type { Cluster } from './cluster.ts'
import { endDoubt } from './doubt.ts'

const PATIENCE_MS = 200
/** How long a refusal waits for those that it may have to name. */
export const WORD_MS = 30

/**
 * Runs `take` while R members hold A; it gets their bases. Only `among` are asked. least: as many of them at least;
 * more where writes are on too few for that.
 */
export async function whileHeld<T>(
  cluster: Cluster,
  requests: readonly LockRequest[],
  take: (seen: ReadonlyMap<Replica, Observation>) => Promise<T>,
  among: readonly Replica[] = cluster.replicas,
  least = cluster.dial.read,
): Promise<T> {
  const deadline = now_ms() + cluster.limits.lock_ms
  for (;;) {
    const held = await holdEnough(cluster, requests, among, least)
    try {
      const busy = [...held.seen.values()].filter((o) => !o.free)
      if (busy.length === 0) return await take(held.seen)
      if (now_ms() > deadline)
        throw conflict(`what is read stayed in doubt for ${cluster.limits.lock_ms} ms on ${busy.length} replica(s)`)
      held.letGo()
      await endDoubt(
        cluster,
        busy.flatMap((o) => o.doubt),
      )
    } finally {
      held.letGo()
    }
  }
}

function holdEnough(
  cluster: Cluster,
  requests: readonly LockRequest[],
  among: readonly Replica[],
  least: number,
): Promise<{ seen: Map<Replica, Observation>; letGo: () => void }> {
  return new Promise((resolve, reject) => {
    const seen = new Map<Replica, Observation>()
    const failures = new Map<Replica, unknown>()
    const giveBack = new Map<Replica, () => void>()
    let pending = among.length
    let over = false
    const letGo = (): void => {
      over = true
      for (const give of giveBack.values()) give()
      giveBack.clear()
    }
    // Where not all are asked, those who are hold up writers for work that can wait.
    const answer = <T>(replica: Replica, work: Promise<T>): Promise<T> =>
      among === cluster.replicas ? work : cluster.unlessSuspected(replica)(work)
    let waited: Promise<void> | undefined
    const judge = (): void => {
      const free = [...seen].filter(([, o]) => o.free)
      // What a member says of the dial while it holds A is in force there; among so many, one knows of any later
      // change.
      const needed = Math.max(
        least,
        leastRead(cluster.replicas.length, Math.min(...free.map(([, o]) => o.write), cluster.replicas.length)),
      )
      const state = tally(needed, free.length, pending)
      if (over || state === 'pending') return
      // Not free on too many already; but those whose answer is due may still make a majority, which can say who is
      // in doubt.
      if (seen.size < needed && seen.size + pending >= needed) return
      if (seen.size < needed && pending > 0) {
        // lost; who else is missing is known in a moment
        waited ??= sleep(WORD_MS).then(() => {
          pending = 0
          judge()
        })
        return
      }
      over = true
      if (seen.size < needed) {
        letGo()
        const said = [...failures].map(([r, error]) => `${r.name}: ${sentenceOf(error)}`).join('; ')
        return reject(
          [...failures.values()].find(isServersWord) ??
            noQuorum(
              `${seen.size} of ${among.length} replicas answered, ${needed} are needed to read. ${said}`,
              [...failures.values()][0],
            ),
        )
      }
      resolve({ seen: free.length >= needed ? new Map(free) : seen, letGo })
    }
    for (const replica of among) {
      void (async () => {
        const opening = replica.open()
        let session: Session | undefined
        try {
          session = await answer(replica, opening)
          const observation = await answer(replica, session.hold(requests, PATIENCE_MS))
          pending--
          const open = session
          const give = (): void =>
            void open.letGo().then(
              () => open.release(),
              () => open.release(true),
            )
          if (over) give()
          else {
            giveBack.set(replica, give)
            seen.set(replica, observation)
          }
        } catch (error) {
          if (session) session.release(true)
          else
            opening.then(
              (late) => late.release(),
              () => undefined,
            )
          pending--
          failures.set(replica, error)
        }
        judge()
      })()
    }
  })
}
