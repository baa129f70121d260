/**
 * One simulated PostgreSQL server: a write-ahead log of which a crash keeps what was flushed (and perhaps a little
 * more), a state made of it, a lock table, and backends that each work off what their connection brings. A backend
 * is a process: it can be paused or killed.
 */
import { LockTable, type Holder, type Mode } from './lock-table.ts'
import type { Connection, Request } from './network.ts'
import { refuse } from './refusals.ts'
import { State, type Effects, type Entry, type Row } from './state.ts'
import { ownerOf, verbs } from './verbs.ts'
import { Actor, type World } from './world.ts'

/** What the checks are told, at the moment it takes effect on a server. */
export interface Observer {
  committed(server: Server, gid: string): void
  rolledBack(server: Server, gid: string): void
}

export class Server {
  readonly world: World
  readonly index: number
  readonly observer: Observer
  readonly wal: Entry[] = []
  flushed = 0
  state = new State()
  locks: LockTable
  readonly backends = new Set<Backend>()
  readonly holders = new Map<string, Holder>()
  readonly finishing = new Set<string>()
  postmaster: Actor | undefined
  destroyed = false
  /** Down without a word: packets to it are answered by nobody. */
  silent = false
  /** An empty disk: PostgreSQL runs there, but it is no member. */
  wiped = false
  /** quorum.write_floor(): it does not change in a run. */
  floor = 2
  clock_ms = 0
  fsync_ms = 3
  #forks = 0
  readonly #ghost: Entry[] = []

  constructor(world: World, index: number, observer: Observer) {
    this.world = world
    this.index = index
    this.observer = observer
    this.locks = new LockTable(world)
    this.start()
  }

  get name(): string {
    return `s${this.index + 1}`
  }

  start(): void {
    if (this.postmaster || this.destroyed) return
    this.postmaster = new Actor(`${this.name}#${this.#forks}`)
    this.locks = new LockTable(this.world)
    this.holders.clear()
    this.finishing.clear()
    for (const [gid, p] of this.state.prepared) {
      const holder = { name: `prepared ${gid}` }
      this.holders.set(gid, holder)
      for (const [key, mode] of p.effects.locks ?? [])
        if (!this.locks.try(key, holder, mode, false)) throw new Error(`${this.name}: recovery could not lock ${key}`)
    }
    this.world.trace(`${this.name} starts, ${this.state.prepared.size} prepared`)
  }

  apply(entry: Entry): void {
    this.state.apply(entry)
    if (entry.kind === 'commit' && entry.effects.gid !== undefined) this.observer.committed(this, entry.effects.gid)
    if (entry.kind === 'commit-prepared') this.observer.committed(this, entry.gid)
    if (entry.kind === 'rollback-prepared') this.observer.rolledBack(this, entry.gid)
  }

  /** kill -9, or with `silently` the power. */
  crash(silently = false): void {
    if (!this.postmaster) return
    this.postmaster.die()
    this.postmaster = undefined
    this.silent = silently
    this.wal.length = this.flushed = this.flushed + this.world.dice('crash').below(this.wal.length - this.flushed + 1)
    this.state = new State()
    for (const entry of this.wal) this.apply(entry)
    for (const b of this.backends) b.connection.closedByServer(silently)
    this.backends.clear()
    this.world.trace(`${this.name} crashes, keeps ${this.wal.length}`)
  }

  destroy(): void {
    this.crash(true)
    this.destroyed = true
    this.silent = true
    this.#lose()
  }

  wipe(): void {
    this.crash()
    this.wiped = true
    this.#lose()
    this.start()
  }

  #lose(): void {
    this.#ghost.push(...this.wal.splice(0))
    this.flushed = 0
    this.state = new State()
  }

  /**
   * Durably accepted or committed here, or was when the disk was lost: a loss uses up the losses that the promise
   * speaks of.
   */
  vouches(gid: string): boolean {
    const durable = this.#ghost.length > 0 ? this.#ghost : this.wal.slice(0, this.flushed)
    return durable.some(
      (e) => (e.kind === 'prepare' && e.gid === gid) || (e.kind === 'commit' && e.effects.gid === gid),
    )
  }

  fork(connection: Connection): Backend {
    const backend = new Backend(this, `${this.name}.${++this.#forks}`, connection)
    this.backends.add(backend)
    return backend
  }

  clock(): number {
    return this.world.now + this.clock_ms
  }
  ownerAlive(gid: string): boolean {
    return this.locks.held(`L ${ownerOf(gid)}`) !== undefined
  }
}

export interface Tx {
  readonly isolation: 'read committed' | 'repeatable read'
  failed: boolean
  readonly rows: Map<string, Row>
  readonly captured: Map<
    string,
    { readonly t: string; readonly k: string; readonly old: string | null; new: string | null }
  >
  readonly read: Set<string>
  cover: string | undefined
  snapshot: State | undefined
  sealed: Effects | undefined
  /** Of locks that go to the prepared transaction. */
  readonly locks: [string, Mode][]
  lock_ms: number
}

export class Backend extends Actor {
  readonly server: Server
  readonly connection: Connection
  readonly holder: Holder
  tx: Tx | undefined
  lock_ms = 0
  readonly #queue: Request[] = []
  #working = false
  #critical = false
  #doomed = false

  constructor(server: Server, name: string, connection: Connection) {
    super(name, server.postmaster)
    this.server = server
    this.connection = connection
    this.holder = { name }
  }

  receive(request: Request): void {
    if (!this.alive) return
    this.#queue.push(request)
    if (!this.#working) this.server.world.at(0, this, () => void this.#work())
    // client_connection_check_interval: a backend that waits for a lock notices within a second that its client is
    // gone.
    if (request.verb === 'end' && this.#working) this.server.world.at(1000, this, () => this.hangUp())
  }

  async #work(): Promise<void> {
    if (this.#working) return
    this.#working = true
    for (let request = this.#queue.shift(); request; request = this.#queue.shift()) {
      if (request.verb === 'end') return this.hangUp()
      await this.breathe(this.server.world.dice('server').between(0.05, 0.5))
      const verb = verbs[request.verb]
      if (!verb) throw new Error(`no verb ${request.verb}`)
      let value: unknown
      let error: unknown
      try {
        value = await verb(this, ...(request.args as never[]))
      } catch (e) {
        error = e
        // The block stays, failed, until its end; its locks and rows are gone at once.
        if (this.tx) Object.assign(this.tx, { failed: true, sealed: undefined, locks: [] })
        this.server.locks.release(this.holder, 'transaction')
      }
      if (this.#doomed) return this.hangUp()
      if (!this.alive) return
      const fate = fateOf(this, request.verb)
      if (fate === 'lose') return this.connection.reset()
      this.server.world.trace(
        `${this.name} ${request.verb} ${error === undefined ? '' : `! ${(error as Error).message}`}`,
        () => short(value),
      )
      this.connection.reply(request.id, value, error)
      if (fate === 'crash') return this.server.crash()
    }
    this.#working = false
  }

  /** A pause in which others run; seldom a long one. */
  async breathe(ms = 0): Promise<void> {
    const dice = this.server.world.dice('server')
    const { stall, stall_ms } = this.server.world.weather
    const long = dice.hits(stall)
    if (ms > 0 || long) await this.server.world.sleep(long ? dice.between(...stall_ms) : ms, this)
  }

  /** Written and flushed, then visible: nothing interrupts that but a crash. */
  async durable(entry: Entry): Promise<void> {
    const { server } = this
    const lsn = server.wal.push(entry)
    this.#critical = true
    await server.world.sleep(server.world.dice('disk').between(0.2, server.fsync_ms), this)
    this.#critical = false
    server.flushed = Math.max(server.flushed, lsn)
    server.apply(entry)
  }

  /** synchronous_commit = off. */
  lazy(entry: Entry): void {
    this.server.wal.push(entry)
    this.server.apply(entry)
  }

  async lock(key: string, mode: Mode, timeout_ms = this.tx?.lock_ms ?? this.lock_ms): Promise<void> {
    const verdict = await this.server.locks.take(key, this.holder, mode, false, timeout_ms, this)
    if (verdict === 'timeout') throw refuse('55P03', 'canceling statement due to lock timeout')
    if (verdict === 'deadlock') throw refuse('40P01', 'deadlock detected')
    this.tx?.locks.push([key, mode])
  }

  begin(isolation: Tx['isolation'] = 'read committed', lock_ms = this.lock_ms): Tx {
    if (this.tx) throw refuse('25001', 'there is already a transaction in progress')
    this.tx = {
      isolation,
      failed: false,
      rows: new Map(),
      captured: new Map(),
      read: new Set(),
      cover: undefined,
      snapshot: undefined,
      sealed: undefined,
      locks: [],
      lock_ms,
    }
    return this.tx
  }

  endTransaction(): void {
    this.tx = undefined
    this.server.locks.release(this.holder, 'transaction')
  }

  /** pg_terminate_backend: at the next point where it may be interrupted. */
  terminate(): void {
    this.server.world.at(0, this, () => {
      if (this.#critical) this.#doomed = true
      else this.hangUp()
    })
  }

  hangUp(): void {
    if (this.#critical) {
      this.#doomed = true
      return
    }
    if (!this.alive) return
    this.die()
    this.server.locks.release(this.holder, 'all')
    this.server.backends.delete(this)
    this.connection.closedByServer(false)
  }
}

/** May be set by the faults. lose: executed, and nobody hears of it. crash: heard of, and then the server dies. */
let fateOf: (b: Backend, verb: string) => 'send' | 'lose' | 'crash' = () => 'send'
export function watchReplies(fn: typeof fateOf): void {
  fateOf = fn
}

function short(value: unknown): string {
  const text = JSON.stringify(value, (_, v: unknown) => (typeof v === 'bigint' ? String(v) : v)) ?? ''
  return text.length > 100 ? `${text.slice(0, 100)}…` : text
}
