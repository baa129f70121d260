/**
 * The port over pg. Every call has a deadline, and a call that missed it costs the socket: a connection in doubt is
 * never used again. Each new connection proves whom it reaches (cluster, member, system identifier) before it is
 * used (docs/protocol.md, section 11).
 */
import pg from 'pg'
import { QuorumError } from '../errors.ts'
import type { Decision, Evidence } from '../protocol/decision.ts'
import type { BaseEntry, LockRequest, Versions } from '../protocol/locks.ts'
import { chance } from '../runtime.ts'
import {
  acceptLockMs,
  type AcceptReply,
  type Ballot,
  type Changeset,
  type Flushed,
  type LockReply,
  type Log,
  type Observation,
  type PromiseReply,
  type Pulse,
  type Replica,
  type Row,
  type Self,
  type Session,
} from './replica.ts'
import { OWN_TYPES } from './answers.ts'
import { Looker, looksOf } from './looker.ts'
import { asOnePacket } from './packet.ts'
import { isServersWord, refusalOf } from './sqlstate.ts'
import { acceptTexts, finishText, replayText, SQL, seizeText } from './statements.ts'

export interface ReplicaOptions {
  name: string
  index: number
  config: pg.ClientConfig
  /** Most internal connections to this replica. */
  links: number
  connectMs: number
  callMs: number
  /** The driver whose sessions these are; none: nobody ends them if they stand still. */
  owner?: string
  /** Throws when the server is not the member it should be. */
  check: (self: Self, index: number) => void
}

export class PostgresReplica implements Replica {
  readonly name: string
  readonly index: number
  readonly #pool: pg.Pool
  readonly #callMs: number
  readonly #check: ReplicaOptions['check']
  readonly #user: string
  readonly #owner: string
  #self: Self | undefined

  constructor(o: ReplicaOptions) {
    this.name = o.name
    this.index = o.index
    this.#callMs = o.callMs
    this.#check = o.check
    this.#owner = o.owner ?? ''
    this.#user = new pg.Client(o.config).user ?? ''
    this.#pool = new pg.Pool({
      ...o.config,
      max: o.links,
      min: 0,
      idleTimeoutMillis: 10_000,
      allowExitOnIdle: true,
      connectionTimeoutMillis: o.connectMs,
      query_timeout: o.callMs,
      pipeline: true,
      keepAlive: true,
      keepAliveInitialDelayMillis: 1000,
      application_name: 'pg-quorum',
      fallback_application_name: 'pg-quorum',
      // The role of an accept: to change it there would throw away every plan of the connection.
      // The application's own timeouts and defaults are for its statements: they would cut ours short.
      types: OWN_TYPES,
      options:
        `${o.config.options ?? ''} -c role=quorum_txn -c statement_timeout=0 -c lock_timeout=0 ` +
        '-c idle_in_transaction_session_timeout=0 -c default_transaction_read_only=off ' +
        '-c synchronous_commit=on -c standard_conforming_strings=on -c session_replication_role=replica ' +
        '-c default_transaction_isolation=read\\ committed',
      // pg-pool awaits it; its types do not say so yet.
      onConnect: ((client: pg.ClientBase) => this.#verify(client)) as unknown as (client: pg.ClientBase) => void,
    })
    this.#pool.on('error', () => undefined) // an idle link that died is simply gone; the next call opens another
  }

  async #verify(client: pg.ClientBase): Promise<void> {
    client.on('error', () => undefined)
    const self = (await client.query<{ hello: Self }>(SQL.helloLink, [this.#owner])).rows[0]?.hello
    if (!self)
      throw new QuorumError(`${this.name} is not initialised: run \`pg-quorum init\` on all replicas`, {
        code: '08004',
        outcome: 'not-committed',
        retryable: false,
      })
    this.#check(self, this.index)
    this.#self = self // only once it is accepted: one that is refused today (being built) may be a member tomorrow
  }

  /** Whom we reached was judged when the connection was made; what is the cluster may have become known only since. */
  async #connect(): Promise<pg.PoolClient> {
    if (this.#self) this.#check(this.#self, this.index)
    try {
      return await this.#pool.connect()
    } catch (error) {
      throw this.#said(error)
    }
  }

  #said(error: unknown): unknown {
    if (!(error instanceof pg.DatabaseError)) return error
    const said =
      (error.code === '22023' && error.message.includes('quorum_txn')) ||
      error.code === '42883' ||
      error.code === '3F000'
        ? `${this.name} is not initialised: run \`pg-quorum init\` on all replicas`
        : error.code === '42501' && error.message.includes('quorum_txn')
          ? `the role ${this.#user} may not use pg-quorum on ${this.name}: ` +
            `a superuser runs \`pg-quorum init --role ${this.#user}\` on all replicas, ` +
            `or there: GRANT quorum_app TO ${pg.escapeIdentifier(this.#user)}`
          : undefined
    return said === undefined
      ? error
      : new QuorumError(said, { code: '08004', outcome: 'not-committed', retryable: false, cause: error })
  }

  async open(): Promise<Session> {
    return new PostgresSession(this, await this.#connect(), this.#callMs)
  }

  async #call<T>(text: string | { name: string; text: string }, values: unknown[]): Promise<T> {
    const client = await this.#connect()
    try {
      const result = await client.query<{ r: T }>(typeof text === 'string' ? { text, values } : { ...text, values })
      client.release()
      return result.rows[0]?.r as T
    } catch (error) {
      client.release(!isServersWord(error))
      throw error
    }
  }

  looks: Replica['looks'] = (rows) => this.#looker.looks(rows)
  settled = async (row: Row, patience_ms: number): Promise<void> =>
    void (await this.#call(SQL.looks, looksOf([row], patience_ms)))
  readonly #looker = new Looker(() => this.#connect())
  hello = (): Promise<Self> => this.#call(SQL.helloCall, [])
  evidence = (gid: string): Promise<Evidence> => this.#call(SQL.evidence, [gid])
  promise = (gid: string, ballot: Ballot, decision: Decision | null): Promise<PromiseReply> =>
    this.#call(SQL.promise, [gid, ballot.number, ballot.by, decision])
  present = (gids: readonly string[]): Promise<string[]> => this.#call(SQL.present, [gids])
  versions = (): Promise<Versions> => this.#call(SQL.versions, [])
  beyond = (versions: Versions, most: number): Promise<string[]> =>
    this.#call(SQL.beyond, [JSON.stringify(versions), most])
  flushed = (seen: Flushed): Promise<Flushed> => this.#call(SQL.flushed, [JSON.stringify(seen)])
  against = (base: readonly BaseEntry[]): Promise<string> => this.#call(SQL.against, [JSON.stringify(base)])

  changesets = (gids: readonly string[]): Promise<Changeset[]> => this.#call(SQL.changesets, [gids])
  readonly log: Log = {
    limit: (keep) => this.#call<string>(SQL.logLimit, [keep.changesets ?? null, keep.days ?? null]).then(Number),
    entries: (after, most) => this.#call(SQL.logEntries, [after, most]),
    committed: (gids) => this.#call(SQL.committed, [gids]),
    prune: (gids, dry) => this.#call(SQL.prune, [gids, dry]),
    pruneAborted: (most, dry) => this.#call(SQL.pruneAborted, [most, dry]),
    outcomes: (after, days, most) => this.#call(SQL.outcomes, [after, days, most]),
    forgettable: (gids, days) => this.#call(SQL.forgettable, [gids, days]),
    forget: (gids, dry) => this.#call(SQL.forget, [gids, dry]),
  }

  async replay(changesets: readonly Changeset[]): Promise<number> {
    const client = await this.#connect()
    try {
      const query_timeout = this.#callMs * 5 + sizeMs(changesets)
      await client.query({ text: seizeText(changesets, this.#callMs / 2), query_timeout } as pg.QueryConfig)
      const kept = changesets.map((c) => client.query({ ...keepOf(c), query_timeout } as pg.QueryConfig))
      const results = (
        await Promise.all([
          client.query({ text: replayText(changesets, this.#callMs / 2), query_timeout } as pg.QueryConfig),
          ...kept,
        ])
      )[0] as unknown as pg.QueryResult<{ brought?: boolean }>[]
      client.release()
      return results.filter((r) => r.rows[0]?.brought).length
    } catch (error) {
      client.release(true)
      throw error
    }
  }

  async close(): Promise<void> {
    await this.#looker.close()
    return this.#pool.end()
  }
}

const keepOf = ({ gid, body }: Changeset): pg.QueryConfig => ({ name: 'keep', text: SQL.keep, values: [gid, body] })

/** What the rows add to a call's deadline: five times what applying them took where it was measured. */
const sizeMs = (changesets: readonly Changeset[]): number =>
  changesets.reduce((bytes, c) => bytes + c.body.length, 0) / 400

/** Ten pulses that did not come: if others wait for what such a driver holds, its sessions are ended. */
const UNHEARD_MS = 3000
/** That is looked for at every so many pulses; they come more often where somebody waits. */
const END_BEATS = 5

class PostgresSession implements Session {
  readonly replica: Replica
  readonly #client: pg.PoolClient
  readonly #callMs: number
  #guarded = false
  #beats = 0
  #broken = false
  #released = false

  constructor(replica: Replica, client: pg.PoolClient, callMs: number) {
    this.#callMs = callMs
    this.replica = replica
    this.#client = client
  }

  async #query<R extends pg.QueryResultRow>(
    text: string | (pg.QueryConfig & { query_timeout?: number }),
    values?: unknown[],
  ): Promise<pg.QueryResult<R>> {
    try {
      return await this.#client.query<R>(text, values)
    } catch (error) {
      if (!isServersWord(error)) this.#broken = true
      throw error
    }
  }

  async lock(requests: readonly LockRequest[], waitMs: number | null): Promise<LockReply> {
    if (waitMs !== null) await this.#query(`SET lock_timeout = ${Math.ceil(waitMs)}`)
    try {
      this.#guarded = true
      const result = await this.#query<{ r: LockReply }>({
        text: SQL.lock,
        values: [JSON.stringify(requests), waitMs !== null],
        ...(waitMs === null ? {} : { query_timeout: waitMs + 500 }),
      })
      const reply = result.rows[0]?.r ?? { granted: false }
      this.#guarded = reply.granted
      return reply
    } finally {
      if (waitMs !== null && !this.#broken) await this.#query('SET lock_timeout = 0')
    }
  }

  async hold(requests: readonly LockRequest[], patienceMs: number): Promise<Observation> {
    const [, result] = await Promise.all([
      this.#query('BEGIN'),
      this.#query<{ r: Observation }>({
        name: 'observe',
        text: SQL.observe,
        values: [JSON.stringify(requests), patienceMs],
      }),
    ])
    const reply = result.rows[0]?.r
    if (!reply) throw new Error('no reply')
    return reply
  }

  async letGo(): Promise<void> {
    await this.#query('COMMIT')
  }

  async accept(changeset: Changeset, ballot: Ballot): Promise<AcceptReply> {
    const query_timeout = this.#callMs + sizeMs([changeset])
    // Two that wait for each other under two leads shall not both give up, and meet again.
    const most_ms = acceptLockMs(this.#callMs)
    const lock_ms = most_ms / 2 + chance(Math.ceil(most_ms / 2))
    const [begin, accept, prepare] = acceptTexts(changeset, ballot, Math.ceil(lock_ms))
    const [kept, , accepted, prepared] = await Promise.allSettled(
      asOnePacket(
        this.#client,
        () =>
          [
            this.#query({ ...keepOf(changeset), query_timeout }),
            this.#query({ text: begin, query_timeout } as pg.QueryConfig),
            this.#query({ ...accept, query_timeout }),
            this.#query({ text: prepare, query_timeout } as pg.QueryConfig),
          ] as const,
      ),
    )
    if (prepared.status === 'fulfilled' && prepared.value.command === 'PREPARE') return { answer: 'yes' }
    if (prepared.status === 'rejected') {
      if (!isServersWord(prepared.reason)) return { answer: 'silent', error: prepared.reason }
      await this.#query('ROLLBACK').catch(() => undefined)
    }
    // It lacks the table, or the functions are of an older version: whichever, the longer one knows.
    if (
      changeset.via !== undefined &&
      accepted.status === 'rejected' &&
      isServersWord(accepted.reason) &&
      accepted.reason.code === '42883'
    )
      return this.accept({ gid: changeset.gid, body: changeset.body }, ballot)
    // what could not be kept is then missing
    const failed = [kept, accepted, prepared].find((r) => r.status === 'rejected')
    const error: unknown =
      failed?.reason ?? new Error(`${this.replica.name} answered PREPARE TRANSACTION with ROLLBACK`)
    return { answer: 'no', why: isServersWord(error) ? refusalOf(error) : 'refused', error }
  }

  async finish(gid: string, decision: Decision): Promise<boolean> {
    try {
      await this.#query(finishText(gid, decision))
      return decision === 'commit'
    } catch (error) {
      // 42704 proves nothing, 55000 is another finisher at work: only `applied` knows.
      if (!isServersWord(error) || (error.code !== '42704' && error.code !== '55000')) throw error
      const result = await this.#query<{ r: Evidence }>(SQL.evidence, [gid])
      if (result.rows[0]?.r.prepared) throw error
      return result.rows[0]?.r.committed ?? false
    }
  }

  async liveness(owner: string): Promise<void> {
    await this.#query(SQL.liveness, [owner])
    this.#guarded = true
  }

  async pulse(): Promise<Pulse> {
    const ends = this.#beats++ % END_BEATS === 0
    const [result] = await Promise.all([
      this.#query<{ r: Pulse }>(SQL.pulse),
      ends ? this.#query(SQL.endUnheard, [UNHEARD_MS]).catch(() => undefined) : undefined,
    ])
    if (!result.rows[0]) throw new Error('no pulse')
    return result.rows[0].r
  }

  release(broken = false): void {
    if (this.#released) return
    this.#released = true
    if (broken || this.#broken) return this.#client.release(true)
    if (!this.#guarded) return this.#client.release()
    this.#query(SQL.unguard).then(
      () => this.#client.release(),
      () => this.#client.release(true),
    )
  }
}
