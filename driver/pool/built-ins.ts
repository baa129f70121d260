/**
 * Names of functions that touch no tracked table (SQL.functions): by them it is judged what a statement is. The
 * first lead that is connected to is asked, for all clients.
 */
import type pg from 'pg'
import { within } from '../runtime.ts'

const SOON_MS = 250

export class BuiltIns {
  names: ReadonlySet<string> | undefined
  #tell = (): void => undefined
  readonly #known = new Promise<void>((resolve) => {
    this.#tell = resolve
  })
  #asking: Promise<void> | undefined
  #first: Promise<void> | undefined

  /**
   * The first of all runs, and its client learns them; until then the others wait, or each would have a client of
   * its own.
   */
  first<T>(work: () => Promise<T>): Promise<T> {
    if (this.names) return work()
    if (this.#first) return Promise.race([this.#known, this.#first]).then(work)
    const first = work()
    const over = (): void => {
      this.#first = undefined
    }
    this.#first = first.then(over, over)
    return first
  }

  /**
   * One connection asks (it costs its server 10 ms), the others wait. Where it fails, or is not answered soon, each
   * asks for itself.
   */
  async learn(ask: () => Promise<pg.QueryResult>): Promise<void> {
    if (!this.names && this.#asking) await within(SOON_MS, this.#asking, () => undefined).catch(() => undefined)
    if (!this.names) await (this.#asking = this.#ask(ask))
  }

  async #ask(ask: () => Promise<pg.QueryResult>): Promise<void> {
    const { rows } = await ask()
    this.names = new Set((rows[0] as { r: string[] }).r)
    this.#tell()
  }
}
