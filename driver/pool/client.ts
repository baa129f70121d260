/**
 * A pg.Client whose inherited connection is the lead's: connecting, its events and its end. What becomes of its
 * statements is dispatch.ts's.
 */
import { Mutex } from 'async-mutex'
import pg from 'pg'
import type { QuorumOptions } from '../config.ts'
import { parseLocks, type Lock, type LockRequest } from '../protocol/locks.ts'
import { OWN_TYPES } from '../replica/answers.ts'
import { asOnePacket } from '../replica/packet.ts'
import { leadOver } from '../replica/postgres-lead.ts'
import type { LeadSession, Replica, Row } from '../replica/replica.ts'
import { isServersWord } from '../replica/sqlstate.ts'
import { SQL } from '../replica/statements.ts'
import { Sweep } from '../repair/sweep.ts'
import { now_ms } from '../runtime.ts'
import { loadParser } from '../sql/analyse.ts'
import { answer, hasMore, isSubmittable, read, send, type Config } from './arguments.ts'
import { CLUSTER, wire, type Wiring } from './connect.ts'
import type { Asked } from './desk.ts'
import { Dispatch } from './dispatch.ts'
import { aim, close, cut, isTimeout } from './lead.ts'
import { Listening } from './listening.ts'
import { Prepared } from './prepared.ts'
import { readShortly } from './reads.ts'
import { Relay } from './submittable.ts'

/** So many looks in succession, at least so far apart. */
const ASTRAY_LOOKS = 3
const LOOK_MS = 200

export type ClientOptions = pg.ClientConfig & QuorumOptions & { [CLUSTER]?: Wiring }

export class Client extends pg.Client {
  #wiring: Wiring
  #owned: boolean
  #replica: Replica
  #begun = false
  readonly #turn = new Mutex()
  readonly #dispatch: Dispatch
  readonly #lead: LeadSession
  /** pg's own query. */
  readonly #plain = { query: super.query.bind(this) as pg.Client['query'] }
  readonly #prepared = new Prepared((name) => close(this, name))

  constructor(options: ClientOptions = {}) {
    const wiring = options[CLUSTER] ?? wire(options)
    const replica = wiring.cluster.preferred()
    super(wiring.configs[replica.index])
    this.#wiring = wiring
    this.#owned = options[CLUSTER] === undefined
    this.#replica = replica
    const own = (text: string, values?: unknown[]): Promise<pg.QueryResult> => this.#own(text, values)
    this.#dispatch = new Dispatch({
      wiring,
      own,
      ask: (config) => this.#ask(config),
      named: (config, everything) => this.#named(config, everything),
      flight: (sends) => this.#flight(sends),
      listen: (channels) => this.#listen(channels),
      warn: (message) => void this.emit('notice', { message, severity: 'WARNING' } as never),
      lead: (this.#lead = leadOver({
        replica: () => this.#replica,
        query: own,
        status: () => this.getTransactionStatus(),
        destroy: () => cut(this),
        flight: (sends) => this.#flight(sends),
        changes: () => this.#dispatch.changes,
      })),
    })
    this.once('end', () => {
      wiring.clients.delete(this)
      void wiring.listening?.set(this, [])
    })
  }

  /** The member that runs this client's statements. */
  get replicaName(): string {
    return this.#replica.name
  }
  /** @internal */
  get leadReplica(): Replica {
    return this.#replica
  }
  get inTransaction(): boolean {
    return this.#dispatch.inTransaction
  }
  /**
   * @internal Nobody would notice if it were lost: it is connecting or idle, or what runs here is begun again
   *   elsewhere.
   */
  repeats = true

  /** @internal W of the open transaction. */
  mustReach(write: number): void {
    this.#dispatch.mustReach(write)
  }

  /** Locks for the transactions that begin on this client from now on. [] returns to inference. */
  declare(locks: readonly Lock[]): void {
    this.#dispatch.locks = parseLocks(locks)
  }

  override connect(): Promise<this>
  override connect(callback: (error: Error) => void): void
  override connect(callback?: (error: Error) => void): Promise<this> | void {
    const work = this.#begun
      ? new Promise<void>((resolve, reject) =>
          super.connect((error: Error | undefined) => (error ? reject(error) : resolve())),
        )
      : this.#connect()
    this.#begun = true
    if (!callback) return work.then(() => this)
    work.then(
      () => process.nextTick(callback as unknown as (error: null, client: this) => void, null, this),
      (error: Error) => process.nextTick(callback, error),
    )
  }

  async #connect(): Promise<void> {
    const { cluster } = this.#wiring
    const [answered] = await Promise.all([cluster.assemble(), loadParser()])
    const best = cluster.preferred([...answered].sort((a, b) => a.index - b.index))
    if (best !== this.#replica) {
      aim(this, this.#wiring.configs[best.index] ?? {})
      this.#replica = best
    }
    const ignore = (): void => undefined // nobody else can listen yet, and connecting is more here than pg's connect
    this.on('error', ignore)
    this.#wiring.clients.add(this)
    try {
      await this.#wiring.waits.during(
        best,
        new Promise<void>((resolve, reject) =>
          super.connect((error: Error | undefined) => (error ? reject(error) : resolve())),
        ),
      )
      await Promise.all([
        this.#own(SQL.worksFor, [cluster.owner]),
        this.#wiring.builtIns.learn(() => this.#own(SQL.functions)),
      ])
    } catch (error) {
      this.#wiring.clients.delete(this)
      if (!isServersWord(error)) cluster.shun(this.#replica, error)
      throw error
    } finally {
      this.off('error', ignore)
    }
    if (this.#owned)
      new Sweep(cluster, (replica, surely) => {
        if (!surely) return // what runs here nobody repeats
        if (replica === this.#replica) cut(this) // statements that wait for it would wait for ever
        this.#wiring.listening?.silent(replica)
      })
  }

  override end(): Promise<void>
  override end(callback: (error: Error) => void): void
  override end(callback?: (error: Error) => void): Promise<void> | void {
    this.#dispatch.drop()
    const work = Promise.resolve(super.end()).then(() => (this.#owned ? (this.#closing ??= this.#close()) : undefined))
    if (!callback) return work
    work.then(() => (callback as (e?: Error) => void)(), callback)
  }

  async #close(): Promise<void> {
    await this.#wiring.listening?.close()
    await this.#wiring.cluster.close()
  }
  #closing: Promise<void> | undefined

  /**
   * @internal For half a second another member has been the lead of choice. The clients of a pool shall share a
   * lead: with two, transactions whose rows have a stripe in common wait for each other, each with its lock on its
   * own lead, until an accept gives up.
   */
  isAstray(): boolean {
    if (this.#astray < ASTRAY_LOOKS && now_ms() >= this.#look_at) {
      this.#look_at = now_ms() + LOOK_MS
      this.#astray = this.#wiring.cluster.preferred() === this.#replica ? 0 : this.#astray + 1
    }
    return this.#astray >= ASTRAY_LOOKS
  }
  #astray = 0
  #look_at = 0

  /**
   * @internal The pool calls this at release: nothing of one checkout reaches the next. False: the connection must
   *   go.
   */
  reset(): boolean {
    this.#dispatch.locks = []
    const open = this.#dispatch.drop()
    return !open && this.getTransactionStatus() !== 'T' && this.getTransactionStatus() !== 'E'
  }

  /** pg says drain when nothing is queued; between two steps of one statement something still is. */
  override emit = ((event: string, ...args: unknown[]): boolean =>
    event === 'drain' && this.#turn.isLocked() ? false : super.emit(event, ...args)) as pg.Client['emit']

  /** A question of the driver's own. It has a deadline, and one that was missed costs the socket. */
  async #own(text: string, values?: unknown[]): Promise<pg.QueryResult> {
    try {
      return await this.#wiring.waits.during(
        this.#replica,
        super.query({
          text,
          types: OWN_TYPES,
          query_timeout: 4 * this.#wiring.cluster.limits.call_ms,
          ...(values ? { values } : {}),
        } as pg.QueryConfig),
      )
    } catch (error) {
      if (isTimeout(error)) cut(this)
      throw await this.#when(error)
    }
  }

  #named(config: Asked, everything: number): Asked {
    return this.#prepared.named(config, `${this.#dispatch.changes} ${everything}`)
  }

  async #ask(asked: Asked): Promise<unknown> {
    const { relay } = asked
    try {
      if (!relay) return await this.#wiring.waits.during(this.#replica, send(this.#plain, asked))
      super.query(relay)
      return await relay.ended
    } catch (error) {
      throw await this.#when(error)
    }
  }

  async #flight(sends: readonly (() => Promise<unknown>)[]): Promise<PromiseSettledResult<unknown>[]> {
    const mode = this as { pipeline: boolean } // pg reads it at each query
    const theirs = this.pipeline
    mode.pipeline = true
    try {
      return await Promise.allSettled(asOnePacket(this, () => sends.map(async (send) => send())))
    } finally {
      mode.pipeline = theirs
    }
  }

  /** pg rejects before the server has said that it is ready, and in what state: what follows depends on that. */
  async #when(error: unknown): Promise<unknown> {
    const { connection, readyForQuery } = this as unknown as { connection: pg.Connection; readyForQuery: boolean }
    if (isServersWord(error) && !readyForQuery && this.getTransactionStatus() !== null) {
      this.#ready ??= new Promise<void>((resolve) => {
        const ready = (): void => {
          connection.off('readyForQuery', ready).off('end', ready)
          this.#ready = undefined
          resolve()
        }
        connection.on('readyForQuery', ready).on('end', ready)
      })
      await this.#ready
    }
    return error
  }
  #ready: Promise<void> | undefined

  async #listen(channels: readonly string[]): Promise<void> {
    await (this.#wiring.listening ??= new Listening(this.#wiring)).set(this, channels)
  }

  // pg's own overloads are not repeated: they come with the cast below.
  override query = ((first: unknown, second?: unknown, third?: unknown): unknown => {
    if (isSubmittable(first)) {
      void this.submitted(first, [second, third])
      return first
    }
    const { config, callback } = read(first, second, third)
    return answer(
      this.#inTurn(() => this.#run(config)),
      callback,
    )
  }) as pg.Client['query']

  /** @internal Several one-shot writes as one transaction: each one's result; or Apart, and none of them happened. */
  together(configs: readonly Config[]): Promise<unknown[]> {
    return this.#inTurn(() => this.#dispatch.together(configs))
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await this.#turn.runExclusive(work)
    } finally {
      if (!this.#turn.isLocked()) super.emit('drain')
    }
  }

  async #run(config: Config): Promise<unknown> {
    await loadParser()
    // A prepared statement by its name alone: its text was told when it was prepared.
    const { parsedStatements } = this.connection as unknown as { parsedStatements: Record<string, string> }
    if (config.text === undefined && config.name !== undefined && parsedStatements[config.name] !== undefined)
      config.text = parsedStatements[config.name] as string
    return this.#dispatch.run(config)
  }

  /** @internal A plain read of these, of whoever has just got this client. */
  async read(config: Config, requests: readonly LockRequest[]): Promise<unknown> {
    const ask = ({ everything }: Row): Promise<unknown> => this.#ask(this.#named(config, everything))
    const short =
      this.#turn.isLocked() || this.inTransaction
        ? undefined
        : await readShortly(
            this.#wiring.cluster,
            this.#lead,
            requests,
            ask,
            !(this as unknown as { connectionParameters: { query_timeout?: number } }).connectionParameters
              .query_timeout && !hasMore(config),
          )
    return short ? short.result : this.query(config as pg.QueryConfig)
  }

  /** @internal Resolves when a cursor, a stream or a Query object has ended; its errors are its own. */
  async submitted(submittable: pg.Submittable, callbacks: unknown[] = []): Promise<void> {
    const target = submittable as { callback?: unknown }
    const callback = callbacks.find((c) => typeof c === 'function')
    if (!target.callback && callback) target.callback = callback
    const relay = new Relay(submittable)
    await this.#inTurn(async () => {
      if (relay.gone) return
      try {
        if (this.pipeline && !(submittable instanceof pg.Query))
          throw new Error(
            'Custom query classes such as pg-cursor and pg-query-stream are not supported in pipeline mode',
          )
        await this.#run({ text: relay.text as string, values: relay.values as unknown[], relay })
      } catch (error) {
        relay.fail(error as Error)
      }
    })
  }
}
