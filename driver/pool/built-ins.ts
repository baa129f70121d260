/** Names of functions that touch no tracked table (SQL.functions): by them it is judged what a statement is. The first lead that is connected to is asked, for all clients. */
import type pg from 'pg'

export class BuiltIns {
  names: ReadonlySet<string> | undefined
  /** Resolves once there are names. */
  readonly known: Promise<void>
  #tell = (): void => undefined
  #asking: Promise<void> | undefined

  constructor() {
    this.known = new Promise((resolve) => { this.#tell = resolve })
  }

  /** One connection asks (it costs its server 10 ms), the others wait; if it fails, another asks. */
  async learn(ask: () => Promise<pg.QueryResult>): Promise<void> {
    while (!this.names) {
      if (this.#asking) await this.#asking.catch(() => undefined)
      else await (this.#asking = this.#ask(ask).finally(() => { this.#asking = undefined }))
    }
  }

  async #ask(ask: () => Promise<pg.QueryResult>): Promise<void> {
    const { rows } = await ask()
    this.names = new Set((rows[0] as { r: string[] }).r)
    this.#tell()
  }
}
