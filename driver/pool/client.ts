/**
 * A pg.Client whose inherited connection is the lead's. It reads each statement's kind, and tells the conductor (transaction/transaction.ts)
 * what begins, works and ends; rows, types, cursors and errors of the user's own statements are pg's, untouched.
 */
import { Mutex } from 'async-mutex'
import pg from 'pg'
import { notSupported, QuorumError } from '../errors.ts'
import type { QuorumOptions } from '../config.ts'
import { parseLocks, type Lock, type LockRequest } from '../protocol/locks.ts'
import { leadOver } from '../replica/postgres-lead.ts'
import type { LeadSession, Replica } from '../replica/replica.ts'
import { isConflict, isServersWord } from '../replica/sqlstate.ts'
import { SQL } from '../replica/statements.ts'
import { catchUp } from '../repair/catch-up.ts'
import { Sweep } from '../repair/sweep.ts'
import { jitter, sleep } from '../runtime.ts'
import { analyse, loadParser } from '../sql/analyse.ts'
import { inferAll, type Inferred } from '../sql/infer.ts'
import type { Statement } from '../sql/statement.ts'
import { readStrongly } from '../transaction/read.ts'
import { Transaction } from '../transaction/transaction.ts'
import { answer, read, type Config } from './arguments.ts'
import { CLUSTER, wire, type Wiring } from './connect.ts'
import { aim, cut, inPlainWords } from './lead.ts'

export type ClientOptions = pg.ClientConfig & QuorumOptions & { [CLUSTER]?: Wiring }
const ONE_SHOT_TRIES = 6

export class Client extends pg.Client {
  #wiring: Wiring
  #owned: boolean
  #replica: Replica
  #locks: LockRequest[] = []
  #transaction: Transaction | undefined
  readonly #turn = new Mutex()
  readonly #lead: LeadSession

  constructor(options: ClientOptions = {}) {
    const wiring = options[CLUSTER] ?? wire(options)
    const replica = wiring.cluster.preferred()
    super(wiring.configs[replica.index])
    this.#wiring = wiring
    this.#owned = options[CLUSTER] === undefined
    this.#replica = replica
    const raw = (text: string, values?: unknown[]): Promise<pg.QueryResult> => this.#raw({ text, ...(values ? { values } : {}) }) as Promise<pg.QueryResult>
    this.#lead = leadOver({ replica: () => this.#replica, query: raw, status: () => this.getTransactionStatus(), destroy: () => cut(this) })
  }

  /** The member that runs this client's statements. */
  get replicaName(): string { return this.#replica.name }
  /** @internal */
  get leadReplica(): Replica { return this.#replica }
  get inTransaction(): boolean { return this.#transaction !== undefined }

  /** @internal W of the open transaction. */
  mustReach(write: number): void {
    this.#transaction?.mustReach(write)
  }

  /** Locks for the transactions that begin on this client from now on. [] returns to inference. */
  declare(locks: readonly Lock[]): void {
    this.#locks = parseLocks(locks)
  }

  override connect(): Promise<this>
  override connect(callback: (error: Error) => void): void
  override connect(callback?: (error: Error) => void): Promise<this> | void {
    const work = this.#connect()
    if (!callback) return work.then(() => this)
    work.then(() => (callback as (e?: Error) => void)(), callback)
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
    try {
      await new Promise<void>((resolve, reject) => super.connect((error: Error | undefined) => (error ? reject(error) : resolve())))
      this.#wiring.builtIns ??= new Set(((await this.#raw({ text: SQL.functions })) as pg.QueryResult<{ r: string[] }>).rows[0]?.r)
    } catch (error) {
      if (!isServersWord(error)) cluster.shun(this.#replica, error)
      throw error
    } finally {
      this.off('error', ignore)
    }
    if (this.#owned) new Sweep(cluster, () => undefined)
  }

  override end(): Promise<void>
  override end(callback: (error: Error) => void): void
  override end(callback?: (error: Error) => void): Promise<void> | void {
    this.#transaction?.drop()
    this.#transaction = undefined
    const work = Promise.resolve(super.end()).then(() => (this.#owned ? this.#wiring.cluster.close() : undefined))
    if (!callback) return work
    work.then(() => (callback as (e?: Error) => void)(), callback)
  }

  /** @internal The pool calls this at release: nothing of one checkout reaches the next. False: the connection must go. */
  reset(): boolean {
    this.#locks = []
    const open = this.#transaction
    this.#transaction = undefined
    open?.drop()
    return open === undefined && this.getTransactionStatus() !== 'T' && this.getTransactionStatus() !== 'E'
  }

  #raw(config: Config): Promise<pg.QueryResult | pg.QueryResult[]> {
    return super.query(config as pg.QueryConfig) as Promise<pg.QueryResult>
  }

  // pg's own overloads are not repeated: they come with the cast below.
  override query = ((first: unknown, second?: unknown, third?: unknown): unknown => {
    if (typeof (first as { submit?: unknown } | null)?.submit === 'function') return super.query(first as pg.Submittable)
    const { config, callback } = read(first, second, third)
    return answer(this.#turn.runExclusive(() => this.#run(config).catch((error: unknown) => { throw this.#said(error) })), callback)
  }) as pg.Client['query']

  async #run(config: Config): Promise<unknown> {
    if (typeof config.text !== 'string') return this.#raw(config)
    await loadParser()
    const statements = analyse(config.text)
    if (statements.length <= 1) return this.#one(statements[0], config)
    if (config.values && config.values.length > 0) return this.#raw(config) // the server's own 42601
    // Several statements are one implicit transaction, unless they control it themselves.
    const controlled = this.#transaction !== undefined || statements.some((s) => ['begin', 'commit', 'rollback', 'savepoint'].includes(s.kind))
    if (controlled) {
      const results: unknown[] = []
      for (const s of statements) results.push(await this.#one(s, { ...config, text: s.text }))
      return results
    }
    return this.#retrying(statements.every((s) => s.kind === 'session') ? null : inferAll(statements, undefined, this.#wiring.builtIns), async () => {
      const results: unknown[] = []
      for (const s of statements) results.push(await this.#work(s, { ...config, text: s.text }))
      return results
    }, config)
  }

  async #one(statement: Statement | undefined, config: Config): Promise<unknown> {
    if (!statement) return this.#raw(config)
    const open = this.#transaction
    switch (statement.kind) {
      case 'two-phase':
        throw notSupported('PREPARE TRANSACTION, COMMIT PREPARED and ROLLBACK PREPARED are what pg-quorum itself commits with', 'Use BEGIN … COMMIT; the commit is already atomic on a majority of the replicas.')
      case 'outside':
        throw notSupported(`${statement.text.trim().split(/\s+/).slice(0, 3).join(' ')} … cannot run inside a transaction, and so not on all replicas at once`, 'Run it on each replica by itself (for VACUUM, REINDEX and the like that is safe).')
      case 'begin':
        return open ? this.#raw(config) : this.#start(new Transaction(this.#wiring.cluster, this.#lead, this.#locks, statement.begin), () => this.#raw(config))
      case 'commit':
      case 'rollback': {
        if (!open) return this.#raw(config)
        this.#transaction = undefined
        const result = await (statement.kind === 'commit' ? open.commit(() => this.#raw({ text: 'COMMIT' })) : this.#raw({ text: 'ROLLBACK' }).finally(() => open.drop()))
        if (statement.chain) await this.#start(open.next(), () => this.#raw({ text: open.beginText }))
        return result
      }
      case 'savepoint':
      case 'session':
        return this.#raw(config)
      case 'lock':
        if (open && statement.lock) await open.declare(statement.lock.tables.map((t) => ({ t, w: statement.lock?.mode === 'exclusive' })))
        return this.#raw(config)
      case 'read':
      case 'write':
      case 'ddl':
      case 'unknown':
        return open ? this.#work(statement, config) : this.#oneShot(statement, config)
      default:
        return statement.kind satisfies never
    }
  }

  async #start<T>(transaction: Transaction, begin: () => Promise<T>): Promise<T> {
    await transaction.prepare()
    this.#transaction = transaction
    try {
      const result = await begin()
      await transaction.began()
      return result
    } catch (error) {
      this.#transaction = undefined
      transaction.drop()
      throw error
    }
  }

  /** One statement inside the open transaction. */
  async #work(statement: Statement, config: Config): Promise<unknown> {
    const transaction = this.#transaction
    if (!transaction || ['session', 'savepoint'].includes(statement.kind)) return this.#raw(config)
    if (this.getTransactionStatus() === 'E') return this.#raw(config) // 25P02, in PostgreSQL's own words
    if (statement.kind === 'ddl' || statement.sets) await transaction.declareEverything()
    else await transaction.touch(inferAll([statement], config.values, this.#wiring.builtIns).requests)
    if (statement.sets) await this.#raw({ text: SQL.beforeSetval })
    const result = await this.#raw(config)
    if (statement.sets) await this.#raw({ text: SQL.afterSetval })
    if (statement.kind === 'ddl') await this.#raw({ text: SQL.ddl, values: [statement.text] })
    return result
  }

  /** Whatever statement met it: a lost lead is said as such, in one place. */
  #said(error: unknown): unknown {
    const said = inPlainWords(error, this.#replica.name)
    if (said !== error) this.#wiring.cluster.suspect(this.#replica, error)
    return said
  }

  async #oneShot(statement: Statement, config: Config): Promise<unknown> {
    const inferred = inferAll([statement], config.values, this.#wiring.builtIns)
    if (inferred.readOnly && inferred.requests.length === 0) return this.#raw(config)
    return this.#retrying(inferred, () => this.#work(statement, config), config)
  }

  /** An implicit transaction around `work`. A conflict is retried unseen, from the second time on under guards. */
  async #retrying(inferred: Inferred | null, work: () => Promise<unknown>, config: Config): Promise<unknown> {
    if (!inferred) return this.#raw(config)
    let requests = inferred.requests
    for (let attempt = 1; ; attempt++) {
      const transaction = new Transaction(this.#wiring.cluster, this.#lead, attempt > 1 ? requests.map((r) => ({ ...r })) : [], { readOnly: inferred.readOnly, implicit: true })
      try {
        if (inferred.readOnly) return await readStrongly(this.#wiring.cluster, this.#lead, inferred.requests, () => this.#raw(config))
        await this.#start(transaction, () => this.#raw({ text: 'BEGIN' }))
        transaction.also(requests)
        const result = await work()
        this.#transaction = undefined
        await transaction.commit(() => this.#raw({ text: 'COMMIT' }))
        return result
      } catch (error) {
        this.#transaction = undefined
        transaction.drop()
        const status = this.getTransactionStatus()
        if (status === 'T' || status === 'E') await this.#raw({ text: 'ROLLBACK' }).catch(() => undefined)
        const said = this.#said(error)
        const again = (said instanceof QuorumError && said.code === '40001' && said.retryable) || (isServersWord(said) && isConflict(said.code ?? ''))
        if (!again || attempt >= ONE_SHOT_TRIES) throw said
        requests = [...inferred.requests, ...transaction.missed]
        await catchUp(this.#wiring.cluster, this.#replica).catch(() => undefined)
        if (attempt > 1) await sleep(jitter(5 * attempt))
      }
    }
  }
}
