/**
 * Which member is silent while others answer? Being slow is not being silent: who has not answered for a while is
 * compared with others that are asked only then, and the while grows with what answers took of late, so that a busy
 * machine silences nobody, and no distance. A wrong word costs work, never more: nothing of the promise rests on
 * it.
 */
import type { Replica } from '../replica/replica.ts'
import { now_ms, sleep, within } from '../runtime.ts'

/** Without an answer for so long, a member is silent whatever the others say. */
const SILENT_MS = 1000
const LEAST_PATIENCE_MS = 200
const MOST_PATIENCE_MS = 500
/** As a multiple of anybody's longest answer among its last so many. */
const PATIENCE = 5
const REMEMBERED = 20
const FEWEST = 5
const AGAIN_MS = 25

export class Hearing {
  readonly #waiting = new Map<Replica, number>()
  /** When the question was asked that was answered last. */
  readonly #heard = new Map<Replica, number>()
  readonly #took_ms = new Map<Replica, number[]>()

  /** Beyond what its own answers take: it may be far away. */
  #patience_ms(replica: Replica): number {
    return (
      Math.min(
        MOST_PATIENCE_MS,
        Math.max(LEAST_PATIENCE_MS, PATIENCE * Math.max(0, ...[...this.#took_ms.values()].flat())),
      ) + Math.max(0, ...(this.#took_ms.get(replica) ?? []))
    )
  }

  /** The median of its last answers; undefined: there are too few. */
  usual_ms(replica: Replica): number | undefined {
    const took = this.#took_ms.get(replica) ?? []
    return took.length < FEWEST ? undefined : [...took].sort((a, b) => a - b)[took.length >> 1]
  }

  /** Since when this member has owed an answer. */
  waiting_ms(replica: Replica): number {
    const from = this.#waiting.get(replica)
    return from === undefined ? 0 : now_ms() - from
  }

  /**
   * Asks; rejects when it is silent. others: asks the others now. doubted: it does not answer, and another one
   * does.
   */
  async ask<T>(replica: Replica, question: () => Promise<T>, others: () => void, doubted: () => void): Promise<T> {
    const from = now_ms()
    this.#waiting.set(replica, from)
    void this.#compare(replica, from, others, doubted)
    try {
      const answer = await within(SILENT_MS, question())
      this.#heard.set(replica, from)
      this.#took_ms.set(replica, [now_ms() - from, ...(this.#took_ms.get(replica) ?? [])].slice(0, REMEMBERED))
      return answer
    } finally {
      this.#waiting.delete(replica)
    }
  }

  async #compare(replica: Replica, from: number, others: () => void, doubted: () => void): Promise<void> {
    await sleep(this.#patience_ms(replica))
    const doubt = now_ms()
    for (;;) {
      if (this.#waiting.get(replica) !== from) return
      if ([...this.#heard].some(([other, asked]) => other !== replica && asked >= doubt)) break
      others()
      await sleep(AGAIN_MS)
    }
    await sleep(AGAIN_MS) // its answer may have come with theirs, and not have been read yet
    if (this.#waiting.get(replica) === from) doubted()
  }
}
