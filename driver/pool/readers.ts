/**
 * Connections for reads that need not run on a client's lead: to any replica, nearest first. A slow one is not waited for: after the time that nineteen of
 * twenty reads take, the next is asked as well, and the first answer counts (Dean and Barroso, The Tail at Scale, 2013).
 */
import pg from 'pg'
import { leadLost, QuorumError, sentenceOf } from '../errors.ts'
import { leadOver } from '../replica/postgres-lead.ts'
import type { LeadSession, Replica, Self } from '../replica/replica.ts'
import { isServersWord } from '../replica/sqlstate.ts'
import { SQL } from '../replica/statements.ts'
import { chance, now_ms, sleep } from '../runtime.ts'
import type { Recovering } from '../protocol/dial.ts'
import type { Cluster } from '../transaction/cluster.ts'
import type { Config } from './arguments.ts'
import type { Wiring } from './connect.ts'
import { cut } from './lead.ts'

export interface Reader extends LeadSession { query(config: Config): Promise<pg.QueryResult> }

const SAMPLES = 200
const FEWEST_SAMPLES = 20
/** Below this a second request costs more than it saves. */
const LEAST_HEDGE_MS = 10
const FIRST_HEDGE_MS = 100
/** One in twenty is asked twice, and not more: when everything is slow, second requests would make it slower. */
const SECOND_SHARE = 1 / 20
const MOST_SECONDS = 5

/** Another replica may do what this one cannot: it was lost, or is not a member. */
const NOT_HERE = new Set(['08006', '08004'])

function inOne(failures: readonly unknown[]): unknown {
  const [first] = failures
  return first instanceof QuorumError || first instanceof pg.DatabaseError ? first : leadLost(`no replica answered the read. ${failures.map(sentenceOf).join('; ')}`, first)
}

export class Readers {
  readonly #cluster: Cluster
  readonly #pools: readonly pg.Pool[]
  readonly #open = new Map<pg.Client, Replica>()
  readonly #took: number[] = []
  #next = 0
  #seconds = MOST_SECONDS

  constructor(wiring: Wiring, max: number) {
    this.#cluster = wiring.cluster
    this.#pools = wiring.configs.map((config, index) => {
      const pool = new pg.Pool({
        ...config, max, min: 0, allowExitOnIdle: true, options: `${config.options ?? ''} -c default_transaction_read_only=on`,
        onConnect: ((client: pg.Client) => this.#verify(client, index, wiring)) as unknown as (client: pg.ClientBase) => void,
      })
      pool.on('error', () => undefined)
      return pool
    })
  }

  async #verify(client: pg.Client, index: number, wiring: Wiring): Promise<void> {
    const replica = this.#cluster.replicas[index]
    client.on('error', () => undefined)
    const self = (await client.query<{ hello: Self }>(SQL.hello)).rows[0]?.hello
    if (self) this.#cluster.check(self, index)
    wiring.builtIns ??= new Set((await client.query<{ r: string[] }>(SQL.functions)).rows[0]?.r)
    if (!replica) return
    this.#open.set(client, replica)
    client.once('end', () => this.#open.delete(client))
  }

  /** Nearest first: of this driver's zone, then by weight and chance. Not one that is known to be behind, unless that is asked for. */
  order(recovering: Recovering): Replica[] {
    const cluster = this.#cluster
    const fit = cluster.replicas.filter((r) => recovering === 'serve-stale' || !cluster.lagging.has(r))
    const lot = new Map(fit.map((r) => [r, ((chance(1 << 20) + 1) / (1 << 20)) ** (1 / cluster.placeOf(r).weight)]))
    const suspect = (r: Replica): number => (cluster.suspects.has(r) ? 1 : 0)
    const far = (r: Replica): number => (cluster.placeOf(r).near ? 0 : 1)
    return fit.filter((r) => cluster.placeOf(r).weight > 0).sort((a, b) => suspect(a) - suspect(b) || far(a) - far(b) || (lot.get(b) ?? 0) - (lot.get(a) ?? 0))
  }

  async on<T>(replica: Replica, work: (reader: Reader) => Promise<T>): Promise<T> {
    const pool = this.#pools[replica.index]
    if (!pool) throw new Error(`no replica ${replica.index}`)
    let client: pg.PoolClient
    try {
      client = await pool.connect()
    } catch (error) {
      if (!(error instanceof QuorumError) && !isServersWord(error)) this.#cluster.suspect(replica, error)
      throw error
    }
    const query = (text: string, values?: unknown[]): Promise<pg.QueryResult> => client.query(text, values)
    const lead = leadOver({ replica: () => replica, query, status: () => client.getTransactionStatus(), destroy: () => cut(client as unknown as pg.Client) })
    const from = now_ms()
    try {
      const result = await work({ ...lead, query: (config) => client.query(config as pg.QueryConfig) })
      this.#took[this.#next++ % SAMPLES] = now_ms() - from
      client.release(client.getTransactionStatus() !== 'I')
      return result
    } catch (error) {
      if (client.getTransactionStatus() !== 'I') await client.query('ROLLBACK').catch(() => undefined)
      client.release(client.getTransactionStatus() !== 'I')
      throw error
    }
  }

  /** After how long the next replica is asked as well. */
  get patience_ms(): number {
    if (this.#took.length < FEWEST_SAMPLES) return FIRST_HEDGE_MS
    const sorted = [...this.#took].sort((a, b) => a - b)
    return Math.max(LEAST_HEDGE_MS, sorted[Math.floor(sorted.length * 0.95)] ?? 0)
  }

  /** For what was read elsewhere than here: it counts for the patience. */
  took(ms: number): void {
    this.#took[this.#next++ % SAMPLES] = ms
  }

  /**
   * The first answer. An attempt that gives undefined is not good enough: the next is made at once, as after one that got no answer. An error that is a word about
   * the statement is the answer. undefined in the end: none was good enough.
   */
  hedged<T>(attempts: readonly (() => Promise<T | undefined>)[]): Promise<T | undefined> {
    return new Promise((resolve, reject) => {
      const waiting = [...attempts]
      const failures: unknown[] = []
      let open = 0
      let over = false
      const end = (settle: () => void): void => {
        if (!over) settle()
        over = true
      }
      const next = (): void => {
        const attempt = waiting.shift()
        if (attempt) {
          open++
          this.#seconds = Math.min(MOST_SECONDS, this.#seconds + SECOND_SHARE)
          void attempt().then((answer) => {
            open--
            if (answer !== undefined) return end(() => resolve(answer))
            if (!over) next()
          }, (error: unknown) => {
            open--
            if (isServersWord(error) || (error instanceof QuorumError && !NOT_HERE.has(error.code))) return end(() => reject(error))
            failures.push(error)
            if (!over) next()
          })
          if (waiting.length > 0) void sleep(this.patience_ms).then(() => { if (!over && open > 0 && this.#seconds >= 1) { this.#seconds--; next() } })
        } else if (open === 0) {
          end(() => (failures.length === attempts.length ? reject(inOne(failures)) : resolve(undefined)))
        }
      }
      if (waiting.length === 0) reject(leadLost("no replica may answer: all are known to be behind. Wait for catch-up, or set recovering to 'serve-stale'"))
      else next()
    })
  }

  /** A member that no longer answers: what waits for it there would wait for ever. */
  abandon(replica: Replica): void {
    for (const [client, at] of this.#open) if (at === replica) cut(client)
  }

  async end(): Promise<void> {
    await Promise.all(this.#pools.map((p) => p.end()))
  }
}
