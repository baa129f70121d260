/**
 * Connections for reads that need not run on a client's lead: to any replica, nearest first. A slow one is not
 * waited for: after the time that nineteen of twenty reads take, the next is asked as well, and the first answer
 * counts (Dean and Barroso, The Tail at Scale, 2013). The time is the quickest replica's: else a slow one would
 * soon have taught everybody to wait for it.
 */
import pg from 'pg'
import { codeOf, leadLost, QuorumError, sentenceOf } from '../errors.ts'
import { leadOver } from '../replica/postgres-lead.ts'
import type { LeadSession, Replica, Self } from '../replica/replica.ts'
import { isServersWord } from '../replica/sqlstate.ts'
import { SQL } from '../replica/statements.ts'
import { after, chance, now_ms } from '../runtime.ts'
import type { Recovering } from '../protocol/dial.ts'
import type { Cluster } from '../transaction/cluster.ts'
import { send, type Config } from './arguments.ts'
import type { Wiring } from './connect.ts'
import { close, cut } from './lead.ts'
import { Prepared } from './prepared.ts'
import { Times } from './times.ts'
import type { Waits } from './waits.ts'

export interface Reader extends LeadSession {
  query(config: Config): Promise<pg.QueryResult>
  readonly prepared: Prepared
}
/** What reads are alike in what they take. */
export type Class = 'strong' | 'weaker'
/** at: where it runs, once that is known. */
export interface Attempt<T> {
  readonly at: () => Replica | undefined
  readonly run: () => Promise<T | undefined>
}

/** Below this a second request costs more than it saves. */
const LEAST_HEDGE_MS = 10
const FIRST_HEDGE_MS = 100
/**
 * One in twenty is asked twice, and not more: when everything is slow, second requests would make it slower. Not
 * counted are those that wait for a suspect.
 */
const SECOND_SHARE = 1 / 20
const MOST_SECONDS = 5
/** A replica that took twice the patience so often on end is asked last, but for one read in TRY_LATE. */
const LATE = 3
const TRY_LATE = 50
const IN_A_ROW = 15

/** Another replica may do what this one cannot: it was lost, or is not a member. */
const NOT_HERE = new Set(['08006', '08004'])

function inOne(failures: readonly unknown[]): unknown {
  const [first] = failures
  return failures.length === 1 || failures.every((f) => codeOf(f) === '08004')
    ? first
    : leadLost(`no replica answered the read. ${failures.map(sentenceOf).join('; ')}`, first)
}

export class Readers {
  readonly #cluster: Cluster
  readonly #pools: readonly pg.Pool[]
  readonly #open = new Map<pg.Client, { readonly replica: Replica; readonly reader: Reader }>()
  readonly #selves = new Map<number, Self>()
  readonly #waits: Waits
  readonly #times: Readonly<Record<Class, Map<Replica, Times>>> = {
    strong: new Map<Replica, Times>(),
    weaker: new Map<Replica, Times>(),
  }
  readonly #late: Readonly<Record<Class, Map<Replica, number>>> = {
    strong: new Map<Replica, number>(),
    weaker: new Map<Replica, number>(),
  }
  #seconds = MOST_SECONDS

  /**
   * onConnect: as the pool's own 'connect': where users set what their statements rest on (search_path, a time
   * zone).
   */
  constructor(wiring: Wiring, max: number, onConnect: (client: pg.PoolClient) => void) {
    this.#cluster = wiring.cluster
    this.#waits = wiring.waits
    this.#pools = wiring.configs.map((config, index) => {
      const pool = new pg.Pool({
        ...config,
        max,
        min: 0,
        allowExitOnIdle: true,
        options: `${config.options ?? ''} -c default_transaction_read_only=on`,
        onConnect: (async (client: pg.Client) => {
          await this.#verify(client, index, wiring)
          await (config as { onConnect?: (client: pg.Client) => unknown }).onConnect?.(client)
        }) as unknown as (client: pg.ClientBase) => void,
      })
      pool.on('error', () => undefined)
      pool.on('connect', onConnect)
      return pool
    })
  }

  async #verify(client: pg.Client, index: number, wiring: Wiring): Promise<void> {
    const replica = this.#cluster.replicas[index]
    client.on('error', () => undefined)
    const self = (await client.query<{ hello: Self }>(SQL.hello, [this.#cluster.owner])).rows[0]?.hello
    if (self) {
      this.#cluster.check(self, index)
      this.#selves.set(index, self)
    }
    await wiring.builtIns.learn(() => client.query(SQL.functions))
    if (!replica) return
    const query = (text: string, values?: unknown[]): Promise<pg.QueryResult> => client.query(text, values)
    // Only reads run here: what names mean does not change.
    this.#open.set(client, {
      replica,
      reader: {
        query: (config) => send(client, config),
        prepared: new Prepared((name) => close(client, name)),
        ...leadOver({
          replica: () => replica,
          query,
          status: () => client.getTransactionStatus(),
          destroy: () => cut(client),
          changes: () => 0,
        }),
      },
    })
    client.once('end', () => this.#open.delete(client))
  }

  /** It was late several times on end; now and then it is tried all the same. */
  isLate(replica: Replica | undefined, of: Class): boolean {
    return replica !== undefined && (this.#late[of].get(replica) ?? 0) >= LATE && chance(TRY_LATE) > 0
  }

  #strike<T>(of: Class, attempt: Attempt<T>, more: 0 | 1): void {
    const replica = attempt.at()
    const before = replica && (this.#late[of].get(replica) ?? 0)
    if (!replica || before === undefined || (more === 0 && before === 0)) return
    this.#late[of].set(replica, more && before + more)
    this.#strikes += more || -before
  }

  /**
   * Nearest first: of this driver's zone, then by weight and chance. Not one that is known to be behind, unless
   * that is asked for.
   */
  order(recovering: Recovering, of: Class): readonly Replica[] {
    const cluster = this.#cluster
    const last = this.#order
    if (
      last &&
      last.left-- > 0 &&
      last.recovering === recovering &&
      last.places === cluster.places &&
      cluster.suspects.size === 0 &&
      cluster.lagging.size === 0 &&
      this.#strikes === 0
    )
      return last.replicas
    const fit = cluster.replicas.flatMap((r) => {
      const { near, weight } = cluster.placeOf(r)
      if (weight <= 0 || (recovering !== 'serve-stale' && cluster.lagging.has(r))) return []
      return [
        {
          r,
          trouble: cluster.suspects.has(r) ? 2 : this.isLate(r, of) ? 1 : 0,
          far: near ? 0 : 1,
          lot: ((chance(1 << 20) + 1) / (1 << 20)) ** (1 / weight),
        },
      ]
    })
    const replicas = fit.sort((a, b) => a.trouble - b.trouble || a.far - b.far || b.lot - a.lot).map(({ r }) => r)
    this.#order = { replicas, recovering, places: cluster.places, left: IN_A_ROW }
    return replicas
  }
  /**
   * The lot is drawn for several reads at once, while nobody is in trouble: what works without a pause works
   * better.
   */
  #order:
    | {
        readonly replicas: readonly Replica[]
        readonly recovering: Recovering
        readonly places: Cluster['places']
        left: number
      }
    | undefined
  #strikes = 0

  /** Whatever keeps this replica from answering is 08006 or 08004: another may. */
  async on<T>(replica: Replica, of: Class, work: (reader: Reader) => Promise<T>): Promise<T> {
    const lost = (error: unknown): QuorumError => {
      if (error instanceof QuorumError) return error
      if (!isServersWord(error)) this.#cluster.suspect(replica, error)
      return leadLost(`${replica.name}: ${sentenceOf(error)}`, error)
    }
    const client = await this.#connect(replica).catch((error: unknown) => {
      throw lost(error)
    })
    const open = this.#open.get(client as unknown as pg.Client)
    const from = now_ms()
    try {
      if (!open) throw leadLost(`the connection to ${replica.name} ended`)
      const result = await work(open.reader)
      if (result !== undefined) this.took(replica, of, now_ms() - from)
      client.release(client.getTransactionStatus() !== 'I')
      return result
    } catch (error) {
      if (client.getTransactionStatus() !== 'I') await client.query('ROLLBACK').catch(() => undefined)
      client.release(client.getTransactionStatus() !== 'I')
      throw isServersWord(error) ? error : lost(error)
    }
  }

  /** What is the cluster may have become known only since the connection was made. */
  async #connect(replica: Replica): Promise<pg.PoolClient> {
    const pool = this.#pools[replica.index]
    if (!pool) throw new Error(`no replica ${replica.index}`)
    const self = this.#selves.get(replica.index)
    if (self) this.#cluster.check(self, replica.index)
    return pool.connect()
  }

  /** After how long the next replica is asked as well. */
  patience_ms(of: Class): number {
    let least = Infinity
    for (const { p95_ms } of this.#times[of].values()) if (p95_ms !== undefined && p95_ms < least) least = p95_ms
    return least === Infinity ? FIRST_HEDGE_MS : Math.max(LEAST_HEDGE_MS, least)
  }

  took(replica: Replica, of: Class, ms: number): void {
    let times = this.#times[of].get(replica)
    if (!times) this.#times[of].set(replica, (times = new Times()))
    times.add(ms)
  }

  /**
   * The first answer. An attempt that gives undefined is not good enough: the next is made at once, as after one
   * that got no answer. An error that is a word about the statement is the answer. undefined in the end: none was
   * good enough. further: who else, made up only if it comes to that.
   */
  hedged<T>(
    of: Class,
    attempts: readonly Attempt<T>[],
    further: () => readonly Attempt<T>[] = () => [],
  ): Promise<T | undefined> {
    return new Promise((resolve, reject) => {
      const waiting = [...attempts]
      const cluster = this.#cluster
      const patience_ms = this.patience_ms(of)
      const unanswered = new Set<Attempt<T>>()
      const failures: unknown[] = []
      let asked = 0
      let all = false
      let over = false
      const end = (settle: () => void): void => {
        if (!over) settle()
        over = true
      }
      const another = (): Attempt<T> | undefined => {
        if (waiting.length === 0 && !all) {
          all = true
          waiting.push(...further())
        }
        return waiting.shift()
      }
      const next = (): void => {
        const attempt = another()
        if (!attempt) {
          if (unanswered.size === 0)
            end(() => (failures.length === asked ? reject(inOne(failures)) : resolve(undefined)))
          return
        }
        asked++
        unanswered.add(attempt)
        this.#seconds = Math.min(MOST_SECONDS, this.#seconds + SECOND_SHARE)
        const from = now_ms()
        const late = (): void => {
          if (over || !unanswered.has(attempt)) return
          if (cluster.suspects.has(attempt.at() as Replica)) return next()
          if (this.#seconds < 1) return void (calm = after(patience_ms, late))
          this.#seconds--
          next()
        }
        let calm = after(patience_ms, () => {
          if (over || (waiting.length === 0 && all)) return
          // One in twenty is beyond the patience; at a distance three on end often are, and nobody else would have
          // been quicker.
          after(patience_ms, () => {
            if (unanswered.has(attempt)) this.#strike(of, attempt, 1)
          })
          late()
        })
        void this.#run(attempt).then(
          (answer) => {
            calm()
            unanswered.delete(attempt)
            if (now_ms() - from <= 2 * patience_ms) this.#strike(of, attempt, 0)
            if (answer !== undefined) return end(() => resolve(answer))
            if (!over) next()
          },
          (error: unknown) => {
            calm()
            unanswered.delete(attempt)
            if (isServersWord(error) || (error instanceof QuorumError && !NOT_HERE.has(error.code)))
              return end(() => reject(error))
            failures.push(error)
            if (!over) next()
          },
        )
      }
      if (waiting.length > 0) next()
      else
        reject(
          leadLost(
            "no replica may answer: all are known to be behind. Wait for catch-up, or set recovering to 'serve-stale'",
          ),
        )
    })
  }

  #run<T>(attempt: Attempt<T>): Promise<T | undefined> {
    const at = attempt.at()
    return at ? this.#waits.during(at, attempt.run()) : attempt.run()
  }

  /** A member that no longer answers: what waits for it there would wait for ever. */
  abandon(replica: Replica): void {
    for (const [client, at] of this.#open) if (at.replica === replica) cut(client)
  }

  async end(): Promise<void> {
    await Promise.all(this.#pools.map((p) => p.end()))
  }
}
