/**
 * The port (driver/replica/replica.ts) over the simulated network: what PostgresReplica is over pg. Connections are
 * kept and used again, every call has a deadline, and a call that missed it costs the connection.
 */
import type { Decision, Evidence } from '../../driver/protocol/decision.ts'
import type { BaseEntry, LockRequest, Versions } from '../../driver/protocol/locks.ts'
import { QuorumError } from '../../driver/errors.ts'
import {
  acceptLockMs,
  type AcceptReply,
  type Ballot,
  type Changeset,
  type LeadSession,
  type LockReply,
  type Log,
  type Look,
  type Observation,
  type PromiseReply,
  type Pulse,
  type Replica,
  type Row,
  type Sealed,
  type Self,
  type Session,
} from '../../driver/replica/replica.ts'
import { isServersWord, refusalOf } from '../../driver/replica/sqlstate.ts'
import { within } from '../../driver/runtime.ts'
import { Connection, type Link } from './network.ts'
import type { Server } from './server.ts'
import { normalise } from './state.ts'
import type { Actor, World } from './world.ts'

const PATIENCE_MS = 200

export interface SimReplicaOptions {
  world: World
  server: Server
  members: number
  link: Link
  client: Actor
  connectMs: number
  callMs: number
  check: (self: Self, index: number) => void
}

export class SimReplica implements Replica {
  readonly name: string
  readonly index: number
  readonly o: SimReplicaOptions
  readonly #idle: Connection[] = []

  constructor(o: SimReplicaOptions) {
    this.o = o
    this.name = o.server.name
    this.index = o.server.index
  }

  async connect(): Promise<Connection> {
    for (let c = this.#idle.pop(); c; c = this.#idle.pop()) if (c.open) return c
    const { o } = this
    const connection = new Connection(o.world, o.link, o.client)
    try {
      await within(o.connectMs, connection.connect(o.server))
      const self = await within(o.callMs, connection.call<Self>('hello', []))
      o.check({ ...self, members: o.members }, this.index)
      return connection
    } catch (error) {
      connection.close()
      throw isServersWord(error) && error.code === '42883'
        ? new QuorumError(`${this.name} is not initialised`, {
            code: '08004',
            outcome: 'not-committed',
            retryable: false,
            cause: error,
          })
        : error
    }
  }

  giveBack(connection: Connection): void {
    if (connection.open) this.#idle.push(connection)
  }

  async open(): Promise<Session> {
    return new SimSession(this, await this.connect())
  }

  async #call<T>(verb: string, args: readonly unknown[], ms = this.o.callMs): Promise<T> {
    const connection = await this.connect()
    try {
      const value = await within(ms, connection.call<T>(verb, args))
      this.giveBack(connection)
      return value
    } catch (error) {
      if (isServersWord(error) && verb !== 'replay') this.giveBack(connection)
      else connection.close()
      throw error
    }
  }

  /** Disks that go back in time are not simulated. */
  flushed = (): Promise<Record<string, string>> => Promise.resolve({})
  settled = (row: Row, patience_ms: number): Promise<void> => this.#call('looks', [[row], patience_ms])
  #looker: Promise<Connection> | undefined
  #life = 0
  async looks(rows: readonly Row[]): Promise<{ life: number; looks: Look[] }> {
    let connection: Connection | undefined
    try {
      connection = await (this.#looker ??= this.connect().then((c) => (this.#life++, c)))
      const life = this.#life
      return { life, looks: await within(this.o.callMs, connection.call<Look[]>('looks', [rows, null])) }
    } catch (error) {
      connection?.close()
      this.#looker = undefined
      throw error
    }
  }
  hello = (): Promise<Self> => this.#call('hello', [])
  evidence = (gid: string): Promise<Evidence> => this.#call('evidence', [gid])
  promise = (gid: string, ballot: Ballot, decision: Decision | null): Promise<PromiseReply> =>
    this.#call('promise', [gid, ballot.number, ballot.by, decision])
  present = (gids: readonly string[]): Promise<string[]> => this.#call('present', [gids])
  versions = (): Promise<Versions> => this.#call('versions', [])
  beyond = (versions: Versions, most: number): Promise<string[]> => this.#call('beyond', [versions, most])
  against = (base: readonly BaseEntry[]): Promise<string> => this.#call('against', [base])
  changesets = (gids: readonly string[]): Promise<Changeset[]> => this.#call('changesets', [gids])
  replay = (changesets: readonly Changeset[]): Promise<number> =>
    this.#call('replay', [changesets, this.o.callMs / 2], this.o.callMs * 5)
  /** Nothing prunes in the simulator: its logs are short, and no driver there has a policy. */
  readonly log: Log = {
    limit: nothing,
    entries: nothing,
    committed: nothing,
    prune: nothing,
    pruneAborted: nothing,
    outcomes: nothing,
    forgettable: nothing,
    forget: nothing,
  }
  close(): Promise<void> {
    for (const c of this.#idle.splice(0)) c.close()
    return Promise.resolve()
  }
}

const nothing = (): Promise<never> => Promise.reject(new Error('pruning is not simulated'))

class SimSession implements Session {
  readonly replica: SimReplica
  readonly #connection: Connection
  #guarded = false
  #broken = false
  #released = false

  constructor(replica: SimReplica, connection: Connection) {
    this.replica = replica
    this.#connection = connection
  }

  async #call<T>(verb: string, args: readonly unknown[], ms = this.replica.o.callMs): Promise<T> {
    try {
      return await within(ms, this.#connection.call<T>(verb, args))
    } catch (error) {
      if (!isServersWord(error)) this.#broken = true
      throw error
    }
  }

  async lock(requests: readonly LockRequest[], waitMs: number | null): Promise<LockReply> {
    this.#guarded = true
    const reply = await this.#call<LockReply>(
      'lock',
      [requests, waitMs, PATIENCE_MS],
      waitMs === null ? this.replica.o.callMs : waitMs + 500,
    )
    this.#guarded = reply.granted
    return reply
  }
  hold = (requests: readonly LockRequest[], patienceMs: number): Promise<Observation> =>
    this.#call('hold', [requests, patienceMs])
  letGo = async (): Promise<void> => void (await this.#call('commit', []))

  async accept(changeset: Changeset, ballot: Ballot): Promise<AcceptReply> {
    try {
      const tag = await this.#call<string>('accept', [
        changeset,
        ballot.number,
        ballot.by,
        acceptLockMs(this.replica.o.callMs),
      ])
      if (tag === 'PREPARE') return { answer: 'yes' }
      return {
        answer: 'no',
        why: 'refused',
        error: new Error(`${this.replica.name} answered PREPARE TRANSACTION with ${tag}`),
      }
    } catch (error) {
      if (!isServersWord(error)) return { answer: 'silent', error }
      await this.#call('rollback', []).catch(() => undefined)
      return { answer: 'no', why: refusalOf(error), error }
    }
  }

  async finish(gid: string, decision: Decision): Promise<boolean> {
    try {
      await this.#call('finish', [gid, decision])
      return decision === 'commit'
    } catch (error) {
      if (!isServersWord(error) || (error.code !== '42704' && error.code !== '55000')) throw error
      const evidence = await this.#call<Evidence>('evidence', [gid])
      if (evidence.prepared) throw error
      return evidence.committed
    }
  }

  async liveness(owner: string): Promise<void> {
    await this.#call('liveness', [owner])
    this.#guarded = true
  }
  pulse = (): Promise<Pulse> => this.#call('pulse', [])

  release(broken = false): void {
    if (this.#released) return
    this.#released = true
    if (broken || this.#broken) return this.#connection.close()
    if (!this.#guarded) return this.replica.giveBack(this.#connection)
    this.#call('unguard', []).then(
      () => this.replica.giveBack(this.#connection),
      () => this.#connection.close(),
    )
  }
}

/** The connection a simulated user works on. A user's statement has no deadline: it ends when the connection does. */
export class SimLead implements LeadSession {
  readonly #replica: SimReplica
  readonly #connection: Connection
  #status: 'I' | 'T' | 'E' = 'I'
  /** The gid of the last seal. */
  gid: string | undefined

  constructor(replica: SimReplica, connection: Connection) {
    this.#replica = replica
    this.#connection = connection
  }

  async run<T>(verb: string, ...args: unknown[]): Promise<T> {
    try {
      const value = await this.#connection.call<T>(verb, args)
      if (verb === 'begin') this.#status = 'T'
      if (verb === 'commit' || verb === 'rollback' || verb === 'endRead') this.#status = 'I'
      return value
    } catch (error) {
      if (this.#status === 'T') this.#status = 'E'
      throw error
    }
  }

  get usable(): boolean {
    return this.#connection.open && this.#status === 'I'
  }
  replica = (): SimReplica => this.#replica
  status = (): string | null => (this.#connection.open ? this.#status : null)
  destroy = (): void => this.#connection.close()
  closed = (): undefined => undefined
  byKey = (): undefined => undefined // its statements name their rows, and nothing else: they are touched
  cover: LeadSession['cover'] = (granules) =>
    this.run('cover', granules === 'infer' ? granules : JSON.stringify(granules))
  base: LeadSession['base'] = (requests) => this.run('base', requests)
  async seal(
    prefix: string,
    base: readonly BaseEntry[] | undefined,
    inferring: boolean,
    fresh: boolean,
    lock_ms: number,
    _most: number,
    write: number,
  ): Promise<Sealed> {
    const sealed = await this.run<Sealed>('seal', prefix, base ?? [], inferring, fresh, lock_ms, write)
    this.gid = sealed.gid
    return sealed
  }
  async row(request: LockRequest): Promise<Row | null> {
    const [g] = normalise([request])
    return g && g.n >= 0
      ? {
          t: g.t,
          key: `{${request.k?.[0] ?? request.kv?.['k']}}`,
          everything: (this.#everything ??= await this.run<number>('everything_at')),
        }
      : null
  }
  async lookAnd<T>(row: Row, work: () => Promise<T>): Promise<{ look: Look | undefined; result: T }> {
    const looking = this.run<Look[]>('looks', [row], null).catch(() => [])
    const result = await work()
    return { look: (await looking)[0], result }
  }
  #everything: number | undefined
  forget = (): void => {
    this.#everything = undefined
  }
  rollback = (): Promise<void> => this.run('rollback')
  beginRead = (): Promise<void> => this.run('begin', 'repeatable read')
  versions = (): Promise<Versions> => this.run('versions')
  stripes: LeadSession['stripes'] = (requests) => this.run('stripes', requests)
  endRead: LeadSession['endRead'] = (granules) => this.run('endRead', granules)
}
