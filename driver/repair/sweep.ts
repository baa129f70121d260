/**
 * What every driver does for all of them while it is used: hold its liveness lock on each member, feel their pulse,
 * end what owners left in doubt, bring laggards forward, and shorten the log where a policy says so. A driver that
 * dies owes nothing that the next one does not find here.
 */
import type { Pulse, Replica, Session } from '../replica/replica.ts'
import { jitter, now_ms, sleep } from '../runtime.ts'
import type { Cluster } from '../transaction/cluster.ts'
import { catchUp } from './catch-up.ts'
import { Hearing } from './hearing.ts'
import { prune } from './prune.ts'
import { resolve } from './resolve.ts'

/** Of 'versions summed:chains summed'. */
const sumOf = (position: string): number => Number(position.split(':')[0])

/** After a catch-up that failed. */
const REST_PULSES = 10
/**
 * The catch-up in succession that makes the writers stand still: one member always has a commit before another, and
 * that alone is no reason.
 */
const INSISTENT = 3
const PRUNE_FIRST_MS = 5000
const PRUNE_EVERY_MS = 600_000
/** Pulses between two exchanges of what was seen flushed. */
const FLUSHED_BEATS = 10

/** A member is slow whose pulses take so many times as long as another's, and so much longer. */
const SLOW_TIMES = 5
const SLOW_MS = 50

export class Sweep {
  readonly #cluster: Cluster
  readonly #onSilent: (replica: Replica, surely: boolean) => void
  readonly #hearing = new Hearing()
  readonly #wake = new Map<Replica, () => void>()
  readonly #positions = new Map<Replica, string>()
  readonly #catching = new Set<Replica>()
  readonly #resting = new Map<Replica, number>()
  readonly #inSuccession = new Map<Replica, number>()
  #prune_at = Infinity

  /** onSilent: a member has not answered for a second; not surely: for a while, and another one does. */
  constructor(cluster: Cluster, onSilent: (replica: Replica, surely: boolean) => void) {
    this.#cluster = cluster
    this.#onSilent = onSilent
    cluster.hurry = (replica) => this.#hurry(replica)
    if (cluster.limits.keep) this.#prune_at = now_ms() + jitter(PRUNE_FIRST_MS)
    for (const replica of cluster.replicas) void this.#attend(replica)
  }

  /** One session a member, kept as long as the driver lives: its liveness lock there. */
  async #attend(replica: Replica): Promise<void> {
    const { limits } = this.#cluster
    let beat = 0
    while (!this.#cluster.closed) {
      let session: Session | undefined
      try {
        if (this.#cluster.name === undefined) await this.#cluster.assemble()
        session = await replica.open()
        await session.liveness(this.#cluster.owner)
        while (!this.#cluster.closed) {
          const pulse = await this.#feel(replica, session)
          this.#cluster.trust(replica)
          this.#compareSpeed()
          this.#look(replica, pulse)
          if (beat++ % FLUSHED_BEATS === 0) this.#cluster.background(this.#cluster.tellFlushed([replica]))
          await this.#rest(replica, jitter(limits.pulse_ms))
        }
        session.release()
      } catch (error) {
        session?.release(true)
        this.#cluster.suspect(replica, error)
        this.#cluster.brake.release(replica)
        this.#onSilent(replica, true)
        await sleep(jitter(limits.pulse_ms))
      }
    }
  }

  #feel(replica: Replica, session: Session): Promise<Pulse> {
    return this.#hearing.ask(
      replica,
      () => session.pulse(),
      () =>
        this.#cluster.replicas.forEach((other) => {
          if (other !== replica) this.#hurry(other)
        }),
      () => {
        this.#cluster.suspect(replica, new Error(`${replica.name} does not answer, while others do`))
        this.#onSilent(replica, false)
      },
    )
  }

  /** Who leads is asked for each statement, so a slow lead makes everything slow; a slow follower, nothing. */
  #compareSpeed(): void {
    const { replicas, suspects, slow } = this.#cluster
    const usual = replicas.map((r) => (suspects.has(r) ? undefined : this.#hearing.usual_ms(r)))
    const quickest = Math.min(...usual.filter((ms) => ms !== undefined))
    for (const [i, ms = quickest] of usual.entries()) {
      const replica = replicas[i] as Replica
      // two limits, lest it go to and fro
      const most = slow.has(replica) ? 0.5 : 1
      if (ms > most * SLOW_TIMES * quickest && ms - quickest > most * SLOW_MS) slow.add(replica)
      else slow.delete(replica)
    }
  }

  /** Until its next pulse, which somebody may want sooner. */
  async #rest(replica: Replica, ms: number): Promise<void> {
    await new Promise<void>((wake) => {
      this.#wake.set(replica, wake)
      void sleep(ms).then(wake)
    })
    this.#wake.delete(replica)
  }

  #hurry(replica: Replica): void {
    this.#wake.get(replica)?.()
  }

  #look(replica: Replica, pulse: Pulse): void {
    const cluster = this.#cluster
    for (const doubt of pulse.doubt) {
      if (cluster.orphaned(doubt)) cluster.background(resolve(cluster, doubt.gid))
    }
    if (now_ms() >= this.#prune_at) {
      this.#prune_at = now_ms() + jitter(PRUNE_EVERY_MS)
      cluster.background(prune(cluster, cluster.limits.keep ?? {}))
    }
    const { position, everything } = pulse
    if (everything !== undefined) cluster.everything.set(replica, everything)
    const before = this.#positions.get(replica)
    this.#positions.set(replica, position)
    // It stands still while somebody is further, or as far by another way: not merely a commit that is still on its
    // way.
    const behind =
      position === before && [...this.#positions.values()].some((p) => p !== position && sumOf(p) >= sumOf(position))
    if (behind || cluster.lagging.has(replica)) this.catchUp(replica)
    else {
      this.#inSuccession.delete(replica)
      cluster.brake.release(replica)
    }
    if (this.#catching.has(replica))
      cluster.brake.look(replica, sumOf(position), Math.max(...[...this.#positions.values()].map(sumOf)))
  }

  catchUp(replica: Replica): void {
    if (this.#catching.has(replica) || this.#cluster.closed || now_ms() < (this.#resting.get(replica) ?? 0)) return
    this.#catching.add(replica)
    const nth = (this.#inSuccession.get(replica) ?? 0) + 1
    this.#inSuccession.set(replica, nth)
    this.#cluster.background(
      catchUp(this.#cluster, replica, { to: nth >= INSISTENT ? 'in step' : 'level' })
        .catch(() => {
          this.#resting.set(replica, now_ms() + jitter(REST_PULSES * this.#cluster.limits.pulse_ms))
          this.#cluster.brake.release(replica)
        })
        .finally(() => this.#catching.delete(replica)),
    )
  }
}
