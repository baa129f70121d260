/**
 * The connection on which a member is looked at for reads of one row: one, kept, so that a question costs a message
 * and nothing more. It does not keep the process alive.
 */
import pg from 'pg'
import { looksFrom, type Look, type Row } from './replica.ts'
import { isServersWord } from './sqlstate.ts'
import { SQL } from './statements.ts'

export const looksOf = (rows: readonly Row[], patience_ms: number | null): unknown[] => [
  rows.map((r) => r.t),
  rows.map((r) => r.key),
  patience_ms,
]

export class Looker {
  readonly #connect: () => Promise<pg.PoolClient>
  #client: Promise<pg.PoolClient> | undefined
  #life = 0
  #drop: (broken: boolean) => void = () => undefined

  constructor(connect: () => Promise<pg.PoolClient>) {
    this.#connect = connect
  }

  /** One call at a time. */
  async looks(rows: readonly Row[]): Promise<{ life: number; looks: Look[] }> {
    const client = await (this.#client ??= this.#open())
    const life = this.#life
    const idle = client as unknown as { ref(): void; unref(): void }
    idle.ref()
    try {
      return { life, looks: looksFrom(await this.#ask(client, looksOf(rows, null))) }
    } catch (error) {
      this.#drop(!isServersWord(error))
      throw error
    } finally {
      idle.unref()
    }
  }

  /** As client.query({ name, text, values }) does it; but that copies its argument property by property. */
  #ask(client: pg.PoolClient, values: unknown[]): Promise<string> {
    return new Promise((resolve, reject) => {
      const query = new pg.Query(SQL.looks, values) as pg.Query & {
        name: string
        callback: (error: Error | null, result: pg.QueryResult<{ r: string }>) => void
      }
      query.name = 'looks'
      query.callback = (error, result) => {
        if (error) reject(error)
        else resolve(result.rows[0]?.r ?? '')
      }
      client.query(query)
    })
  }

  async #open(): Promise<pg.PoolClient> {
    try {
      const client = await this.#connect()
      this.#life++
      this.#drop = (broken) => {
        this.#client = undefined
        this.#drop = () => undefined
        client.release(broken)
      }
      client.once('end', () => this.#drop(true))
      return client
    } catch (error) {
      this.#client = undefined
      throw error
    }
  }

  async close(): Promise<void> {
    await this.#client?.catch(() => undefined)
    this.#drop(false)
  }
}
