/**
 * A member gets level whatever the load. While changesets are brought to it less than twice as fast as new ones are
 * written, each of this driver's writers waits a little after its commit, when it holds nothing any more. Every
 * driver that brings changesets sees the same, and does the same.
 */
import type { Replica } from '../replica/replica.ts'

/** Versions between two judgements: fewer are chance. */
const ENOUGH = 200
const FIRST_MS = 2
const MOST_MS = 500

export class Brake {
  /** How long a writer waits. */
  ms = 0
  readonly #last = new Map<Replica, { readonly here: number; readonly furthest: number }>()

  /** At each pulse of a member to which this driver brings changesets: how far it is, and how far anybody is. */
  look(replica: Replica, here: number, furthest: number): void {
    const last = this.#last.get(replica)
    const [brought, written] = [here - (last?.here ?? 0), furthest - (last?.furthest ?? 0)]
    if (last && brought < ENOUGH && written < ENOUGH) return
    this.#last.set(replica, { here, furthest })
    if (!last) return
    // Who is brought nothing is not helped by waiting.
    if (brought > 0 && brought < 2 * written) this.ms = Math.min(MOST_MS, Math.max(FIRST_MS, 2 * this.ms))
    else this.ms = this.ms > FIRST_MS ? this.ms / 2 : 0
  }

  /** It is level, or cannot be brought further now. */
  release(replica: Replica): void {
    this.#last.delete(replica)
    if (this.#last.size === 0) this.ms = 0
  }
}
