/**
 * Somebody else who goes on writing while the fault lasts: one writer in conflict with the owner's transaction, one
 * on another row. Counts exactly what was committed, so that a lost or a doubled write shows in the balance; and
 * measures how long writes stood still.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Pool, QuorumError } from '../../driver/index.ts'

export interface Writer {
  readonly row: number
  committed: number
  acks: number[]
  unknown: number
  errors: string[]
}

export class Bystander {
  readonly pool: Pool
  /** In conflict with the owner; not in conflict. */
  readonly writers: [Writer, Writer]
  #on = false
  #loops: Promise<void>[] = []

  constructor(urls: string[]) {
    this.pool = new Pool({ replicas: urls, max: 4 })
    this.writers = [1, 2].map((row) => ({ row, committed: 0, acks: [], unknown: 0, errors: [] })) as unknown as [
      Writer,
      Writer,
    ]
  }

  start(): void {
    this.#on = true
    this.#loops = this.writers.map((w) => this.#write(w))
  }

  /** Returns when no write is open any more. */
  async stop(): Promise<void> {
    this.#on = false
    await Promise.all(this.#loops)
  }

  async #write(w: Writer): Promise<void> {
    w.acks = [performance.now()]
    w.errors = []
    const add = 'UPDATE accounts SET balance = balance + 1 WHERE id = '
    while (this.#on) {
      try {
        if (w.row === 1) await this.pool.transaction({ locks: ['accounts/1'] }, (tx) => tx.query(`${add}1`))
        else await this.pool.query(`${add}${w.row}`)
        w.committed++
        w.acks.push(performance.now())
      } catch (error) {
        w.errors.push(`${(error as { code?: string }).code} ${(error as Error).message}`)
        if (error instanceof QuorumError && error.outcome === 'unknown') {
          w.unknown++
          if (await this.#came(error.gid ?? '')) w.committed++
        }
      }
      await sleep(15)
    }
  }

  async #came(gid: string): Promise<boolean> {
    for (;;) {
      const outcome = await this.pool.outcomeOf(gid)
      if (outcome !== 'unknown') return outcome === 'committed'
      await sleep(100)
    }
  }

  /** The longest time without an acknowledged write from `from` on; with what lay across it. */
  pauses(from: number, to: number): [conflicting: number, other: number] {
    return this.writers.map(({ acks }) => {
      const seen = [...acks.filter((t) => t <= from).slice(-1), ...acks.filter((t) => t > from && t < to), to]
      return Math.round(Math.max(...seen.slice(1).map((t, i) => t - seen[i]!)))
    }) as [number, number]
  }

  /** Both have written something that was begun after `since`. */
  movedOn(since: number): boolean {
    return this.writers.every((w) => w.acks.filter((t) => t > since).length >= 2)
  }
}
