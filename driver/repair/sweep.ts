/**
 * What every driver does for all of them while it is used: hold its liveness lock on each member, feel their pulse, end what owners left
 * in doubt, and bring laggards forward. A driver that dies owes nothing that the next one does not find here.
 */
import type { Pulse, Replica, Session } from '../replica/replica.ts'
import { jitter, sleep, within } from '../runtime.ts'
import type { Cluster } from '../transaction/cluster.ts'
import { catchUp } from './catch-up.ts'
import { resolve } from './resolve.ts'

/** Of 'versions summed:chains summed'. */
const sumOf = (position: string): number => Number(position.split(':')[0])

/** Pulses between two words to a witness. */
const WITNESS_BEATS = 10

export class Sweep {
  readonly #cluster: Cluster
  readonly #onSilent: (replica: Replica) => void
  readonly #positions = new Map<Replica, string>()
  readonly #catching = new Set<Replica>()

  constructor(cluster: Cluster, onSilent: (replica: Replica) => void) {
    this.#cluster = cluster
    this.#onSilent = onSilent
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
          const pulse = await within(1000, session.pulse())
          this.#cluster.trust(replica)
          this.#look(replica, pulse)
          if (beat++ % WITNESS_BEATS === 0) this.#cluster.background(this.#cluster.witness([replica]))
          await sleep(jitter(limits.pulse_ms))
        }
        session.release()
      } catch (error) {
        session?.release(true)
        this.#cluster.suspect(replica, error)
        this.#onSilent(replica)
        await sleep(jitter(limits.pulse_ms))
      }
    }
  }

  #look(replica: Replica, pulse: Pulse): void {
    const cluster = this.#cluster
    for (const doubt of pulse.doubt) {
      if (cluster.orphaned(doubt)) cluster.background(resolve(cluster, doubt.gid))
    }
    const { position } = pulse
    const before = this.#positions.get(replica)
    this.#positions.set(replica, position)
    // It stands still while somebody is further, or as far by another way: not merely a commit that is still on its way.
    const behind = position === before && [...this.#positions.values()].some((p) => p !== position && sumOf(p) >= sumOf(position))
    if (behind || cluster.lagging.has(replica) || before === undefined) this.catchUp(replica)
  }

  catchUp(replica: Replica): void {
    if (this.#catching.has(replica) || this.#cluster.closed) return
    this.#catching.add(replica)
    this.#cluster.background(catchUp(this.#cluster, replica, { inStep: true }).finally(() => this.#catching.delete(replica)))
  }
}
