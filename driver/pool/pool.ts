/**
 * The face: a pg.Pool in everything that takes one. What it adds: replicas instead of a host, declared locks,
 * transactions that are retried, and the word on a transaction whose outcome was unknown.
 */
import pg from 'pg'
import type { DialOptions, QuorumOptions } from '../config.ts'
import { leadLost, QuorumError, sentenceOf, type Outcome } from '../errors.ts'
import { checkReads, quorumOf, type Quorum, type Reads as Mode } from '../protocol/dial.ts'
import type { Lock, LockRequest } from '../protocol/locks.ts'
import type { Replica } from '../replica/replica.ts'
import { resolve } from '../repair/resolve.ts'
import { Sweep } from '../repair/sweep.ts'
import { jitter, now_ms, sleep } from '../runtime.ts'
import type { Cluster } from '../transaction/cluster.ts'
import { Client } from './client.ts'
import { answer, isSubmittable, read, type Callback, type Config } from './arguments.ts'
import { CLUSTER, wire, type Wiring } from './connect.ts'
import { agree, dialOf } from './dial.ts'
import { Groups } from './group.ts'
import { cut, isTimeout, mayRepeat } from './lead.ts'
import { Reads, type Told } from './reads.ts'

interface Held {
  client?: QuorumPoolClient
}
export type PoolOptions = pg.PoolConfig & QuorumOptions
export type QuorumPoolClient = Client & { release(destroy?: boolean | Error): void }
export interface TransactionOptions {
  /** Locks declared up front. None: they are inferred from the statements, and conflicts show at COMMIT. */
  locks?: readonly Lock[]
  /**
   * How often a transaction that certainly did not commit is tried again. Default 10. While a replica without which
   * it cannot commit is being brought forward, tries do not count (lockTimeoutMillis). Never after an unknown outcome.
   */
  retries?: number
  /** W of this transaction, instead of the pool's; never less than what the members have agreed on. */
  quorum?: Quorum
}
export type { Told } from './reads.ts'
/** A query that says how old what it reads may be. */
export type ReadConfig = pg.QueryConfig & { reads?: Mode }

export class Pool extends pg.Pool {
  readonly #cluster: Cluster
  readonly #wiring: Wiring
  readonly #reads: Reads
  readonly #groups: Groups | undefined
  /** The client that commits groups, while there are any. */
  readonly #grouping: Held = {}
  #swept = false

  constructor(options: PoolOptions = {}) {
    const wiring: Wiring = wire(options)
    super({ ...options, Client, [CLUSTER]: wiring } as unknown as pg.PoolConfig)
    // As pg hides `password`: what is printed or logged shall not show a url's.
    for (const key of ['connectionString', 'replicas', CLUSTER])
      if (key in this.options) Object.defineProperty(this.options, key, { enumerable: false })
    this.#cluster = wiring.cluster
    this.#reads = new Reads(wiring, options.max ?? 10, (client) => this.emit('connect', client))
    this.#wiring = wiring
    if (options.groups ?? true) {
      this.#groups = new Groups(
        (configs) => this.#attempt(10, (client) => client.together(configs), this.#grouping),
        (config) => this.#alone(config),
        () => {
          this.#grouping.client?.release()
          delete this.#grouping.client
        },
      )
    }
    this.on('error', () => undefined) // an idle client whose server died is replaced; that must never end the process
    this.on('connect', (client) => client.once('end', () => this.#dead(client)))
    this.on('acquire', (client) => Object.assign(client.on('error', ignore), { repeats: false }))
    this.on('release', (_error, client) => {
      Object.assign(client.removeListener('error', ignore), { repeats: true })
      const ours = client as unknown as Client
      if (!ours.reset() || ours.isAstray()) Object.assign(client, { _queryable: false }) // the next is a new one
    })
  }

  /**
   * Whoever holds a client may never give it back once its server has died (drizzle-orm does not, where BEGIN fails):
   * it takes no place of another's then, and end() does not wait for it. Given back after all, it is just gone.
   */
  #dead(client: pg.PoolClient): void {
    const inner = this as unknown as { _clients: pg.PoolClient[]; _pulseQueue(): void }
    inner._clients = inner._clients.filter((c) => c !== client)
    inner._pulseQueue()
  }

  /** @internal */
  get cluster(): Cluster {
    return this.#cluster
  }

  #sweep(): void {
    if (this.#swept) return
    this.#swept = true
    new Sweep(this.#cluster, (replica, surely) => this.#abandon(replica, surely))
  }

  /**
   * A member that no longer answers: statements that wait for it there would wait for ever. Before that is sure,
   * only what begins again by itself is ended: before its first accept that leaves nothing (the transaction ends
   * with its connection), after it the outcome is found out as ever.
   */
  #abandon(replica: Replica, surely: boolean): void {
    for (const client of this.#wiring.clients)
      if (client.leadReplica === replica && (surely || client.repeats)) cut(client)
    this.#reads.abandon(replica)
    if (!surely) return
    this.#wiring.listening?.silent(replica)
  }

  override connect(): Promise<pg.PoolClient>
  override connect(options: { locks: readonly Lock[] }): Promise<QuorumPoolClient>
  override connect(
    callback: (err: Error | undefined, client: pg.PoolClient | undefined, done: (release?: unknown) => void) => void,
  ): void
  override connect(arg?: unknown): Promise<pg.PoolClient> | void {
    this.#sweep()
    if (typeof arg === 'function') return super.connect(arg as Parameters<pg.Pool['connect']>[0])
    const connecting = this.#connectAgain()
    if (typeof arg !== 'object' || arg === null) return connecting
    const { locks } = arg as { locks?: readonly Lock[] }
    return connecting.then((client) => {
      try {
        ;(client as unknown as Client).declare(locks ?? [])
      } catch (error) {
        client.release()
        throw error
      }
      return client
    })
  }

  /** The lead that was chosen may have died since it answered; the next attempt chooses another. */
  async #connectAgain(): Promise<pg.PoolClient> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await super.connect()
      } catch (error) {
        if (error instanceof QuorumError || this.ending) throw error
        if (attempt >= this.#cluster.replicas.length)
          throw error instanceof pg.DatabaseError
            ? error
            : leadLost(`no replica could be connected to as the lead: nothing was done. ${sentenceOf(error)}`, error)
      }
    }
  }

  override query = ((first: unknown, second?: unknown, third?: unknown): unknown => {
    if (typeof first === 'function') return super.query(first as never)
    if (isSubmittable(first)) {
      void this.#submitted(first, [second, third])
      return first
    }
    this.#sweep() // also for one that only reads: it notices who is silent
    try {
      const { config, callback, reads } = read(first, second, third)
      return answer(this.#ask(config, this.#reads.modeOf(reads)), callback, undefined)
    } catch (error) {
      return answer(
        Promise.reject(error as Error),
        [second, third].find((c) => typeof c === 'function') as Callback | undefined,
        undefined,
      )
    }
  }) as pg.Pool['query']

  #ask(config: Config, reads: Mode): Promise<unknown> {
    const work = (): Promise<unknown> =>
      this.#groups?.query(config, this.#wiring.builtIns.names) ??
      this.#reads.query(config, reads, (plain, at, requests) => this.#alone(plain, at, requests))
    return reads === 'strong' ? this.#wiring.builtIns.first(work) : work()
  }

  #alone(config: Config, at?: (lead: Replica) => void, requests?: readonly LockRequest[]): Promise<unknown> {
    return this.#attempt(10, (client) => {
      at?.(client.leadReplica)
      return requests ? client.read(config, requests) : client.query(config as pg.QueryConfig)
    })
  }

  /**
   * A cursor or a stream has a client until it ends. (pg returns a promise here, and never gets a cursor's client
   * back.)
   */
  async #submitted(submittable: pg.Submittable, callbacks: unknown[]): Promise<void> {
    let client: QuorumPoolClient
    try {
      client = (await this.connect()) as unknown as QuorumPoolClient
    } catch (error) {
      ;(submittable as unknown as { handleError(error: unknown): void }).handleError(error)
      return
    }
    await client.submitted(submittable, callbacks)
    client.release(client.getTransactionStatus() !== 'I')
  }

  /** The same pool, whose one-shot reads ask for this unless a query says otherwise. */
  reads(reads: Mode): {
    query: (text: string | pg.QueryConfig, values?: unknown[]) => Promise<pg.QueryResult & { quorum?: Told }>
  } {
    checkReads(reads)
    return {
      query: async (text, values) => {
        this.#sweep()
        return this.#ask(read(text, values, undefined).config, reads) as Promise<pg.QueryResult & { quorum?: Told }>
      },
    }
  }

  /**
   * What this pool has read and written, from the first time that it is asked for (or a read says 'session'): hand
   * token() to another process, whose join() then never reads less there under 'session'.
   */
  get session(): { token(): string; join(token: string): void } {
    return this.#reads.session
  }

  /** Names a state of the database, for { reads: { snapshot } }. */
  snapshot(): Promise<string> {
    return this.#reads.snapshot()
  }

  /**
   * This pool's position on the dial; what is not named goes back to its default. It counts from the next
   * statement.
   */
  setDial(dial: DialOptions): void {
    this.#cluster.dial = dialOf(dial)(this.#cluster.replicas.length)
    if (this.#cluster.dial.reads === 'session') void this.session
  }

  /**
   * On how many members every write is from now on, whoever makes it: the position's W. Strong reads of all pools
   * then ask N − W + 1 members. Writers wait while it is agreed on.
   */
  setClusterQuorum(quorum: Quorum, options: { lost?: number } = {}): Promise<void> {
    return agree(this, quorum, options.lost)
  }

  /**
   * Runs `work` between BEGIN and COMMIT, and again when it certainly was not committed and may be repeated.
   * @throws QuorumError with outcome 'unknown' (08007): ask outcomeOf(gid); everything else did not happen.
   */
  transaction<T>(options: TransactionOptions, work: (tx: QuorumPoolClient) => Promise<T>): Promise<T>
  transaction<T>(work: (tx: QuorumPoolClient) => Promise<T>): Promise<T>
  transaction<T>(
    first: TransactionOptions | ((tx: QuorumPoolClient) => Promise<T>),
    second?: (tx: QuorumPoolClient) => Promise<T>,
  ): Promise<T> {
    const options = typeof first === 'function' ? {} : first
    const work = typeof first === 'function' ? first : second
    if (!work) throw new TypeError('pool.transaction(options, work): work is missing')
    return this.#attempt(options.retries ?? 10, async (client) => {
      client.declare(options.locks ?? [])
      await client.query('BEGIN')
      if (options.quorum !== undefined) client.mustReach(quorumOf(options.quorum, this.#cluster.replicas.length).write)
      let result: T
      try {
        result = await work(client)
      } catch (error) {
        await client.query('ROLLBACK').catch(() => undefined)
        throw error
      }
      await client.query('COMMIT')
      return result
    })
  }

  /** held: where the client stays afterwards. */
  async #attempt<T>(retries: number, work: (client: QuorumPoolClient) => Promise<T>, held?: Held): Promise<T> {
    const { replicas, suspects, lagging, limits } = this.#cluster
    const deadline = now_ms() + limits.lock_ms
    for (let failed = 0; ;) {
      let client = held?.client
      try {
        client ??= (await this.connect()) as unknown as QuorumPoolClient
        if (held) held.client = client
        client.repeats = failed < retries
        const result = await work(client)
        if (!held) client.release()
        else if (client.isAstray()) {
          delete held.client
          client.release()
        }
        return result
      } catch (error) {
        delete held?.client
        client?.release(client.getTransactionStatus() !== 'I' || isTimeout(error))
        if (this.ending || !mayRepeat(error)) throw error
        const { write } = this.#cluster.dial
        const there = replicas.filter((r) => !suspects.has(r))
        const level = there.filter((r) => !lagging.has(r)).length >= write
        // Enough are there, but one has to be brought forward first: waited for as for a lock.
        const waits = retries > 0 && !level && there.length >= write && now_ms() < deadline
        if (!waits && ++failed > retries) throw error
        await sleep(jitter(level ? Math.min(2 ** failed, 200) : 200))
      }
    }
  }

  /**
   * What became of a transaction whose outcome was unknown. Resolves it if need be; 'unknown' only while no
   * majority answers.
   */
  async outcomeOf(gid: string): Promise<Outcome> {
    const decision = await resolve(this.#cluster, gid)
    return decision === 'commit' ? 'committed' : decision === 'abort' ? 'not-committed' : 'unknown'
  }

  override end(): Promise<void>
  override end(callback: () => void): void
  override end(callback?: () => void): Promise<void> | void {
    const work = Promise.resolve(super.end()).then(async () => {
      await this.#wiring.listening?.close()
      await this.#reads.end()
      await this.#cluster.close()
    })
    if (!callback) return work
    work.then(() => callback(), callback as (error: Error) => void)
  }
}

const ignore = (): void => undefined
