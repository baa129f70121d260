/**
 * Who waits for which lead. While somebody has waited for a while, that member is asked on a connection of the
 * sweep's whether it answers at all: so a slow statement is told from a silent server, and a silent server is
 * noticed long before any deadline.
 */
import type { Replica } from '../replica/replica.ts'
import { now_ms, sleep } from '../runtime.ts'
import type { Cluster } from '../transaction/cluster.ts'

const LONG_MS = 75
const LOOK_MS = 25
/** Between two questions, as long as it lasts. */
const AGAIN_MS = 100

export class Waits {
  readonly #cluster: Cluster
  /** Oldest first. */
  readonly #open = new Set<{ readonly replica: Replica; readonly from: number }>()
  readonly #asked = new Map<Replica, number>()
  #looking = false

  constructor(cluster: Cluster) {
    this.#cluster = cluster
  }

  async during<T>(replica: Replica, work: Promise<T>): Promise<T> {
    const wait = { replica, from: now_ms() }
    this.#open.add(wait)
    if (!this.#looking) void this.#look()
    try {
      return await work
    } finally {
      this.#open.delete(wait)
    }
  }

  async #look(): Promise<void> {
    this.#looking = true
    while (this.#open.size > 0) {
      await sleep(LOOK_MS)
      const now = now_ms()
      for (const { replica, from } of this.#open) {
        if (now - from < LONG_MS) break
        if (now - (this.#asked.get(replica) ?? -Infinity) < AGAIN_MS) continue
        this.#asked.set(replica, now)
        this.#cluster.hurry(replica)
      }
    }
    this.#looking = false
  }
}
