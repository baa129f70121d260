/**
 * LISTEN on every member. A NOTIFY is heard only on the server whose lead committed it, so a client that listens on
 * its own lead would miss what others commit elsewhere. One connection a member, shared by the clients of a pool,
 * listens there too; each client hears its own lead by itself and the others through these, so everything once.
 * They reconnect by themselves; what a member said in between is not heard (docs/guarantees.md).
 */
import pg from 'pg'
import type { Self, Replica } from '../replica/replica.ts'
import { SQL } from '../replica/statements.ts'
import { jitter, sleep, within } from '../runtime.ts'
import { plain, type Wiring } from './connect.ts'
import { cut } from './lead.ts'

export interface Listener {
  readonly leadReplica: Replica
  emit(event: 'notification', message: pg.Notification): boolean
}

class Ear {
  readonly #wiring: Wiring
  readonly #replica: Replica
  readonly #hear: (replica: Replica, message: pg.Notification) => void
  #wanted: readonly string[] = []
  #client: pg.Client | undefined
  #tending = false
  /** Until it was tried to connect. */
  readonly #waiting: (() => void)[] = []
  #turn: Promise<void> = Promise.resolve()

  constructor(wiring: Wiring, replica: Replica, hear: (replica: Replica, message: pg.Notification) => void) {
    this.#wiring = wiring
    this.#replica = replica
    this.#hear = hear
  }

  /** Resolves when it listens to these, or cannot be reached. */
  async want(channels: readonly string[]): Promise<void> {
    this.#wanted = channels
    if (channels.length === 0) return void this.#client?.end().catch(() => undefined)
    if (this.#client) return this.#tell(this.#client)
    const tried = new Promise<void>((resolve) => this.#waiting.push(resolve))
    void this.#tend()
    await within(this.#wiring.cluster.limits.connect_ms, tried, () => undefined)
  }

  cut(): void {
    if (this.#client) cut(this.#client)
  }

  /** All at once, so that nothing is missed between two of them. */
  #tell(client: pg.Client): Promise<void> {
    this.#turn = this.#turn.then(async () => {
      await client
        .query(['UNLISTEN *', ...this.#wanted.map((c) => `LISTEN ${pg.escapeIdentifier(c)}`)].join('; '))
        .catch(() => cut(client))
    })
    return this.#turn
  }

  async #tend(): Promise<void> {
    if (this.#tending) return
    this.#tending = true
    const tried = (): void => this.#waiting.splice(0).forEach((go) => go())
    const { cluster } = this.#wiring
    const { connect_ms, call_ms, pulse_ms } = cluster.limits
    while (this.#wanted.length > 0 && !cluster.closed) {
      const client = new pg.Client({
        ...plain(this.#wiring.configs[this.#replica.index] ?? {}),
        connectionTimeoutMillis: connect_ms,
        query_timeout: call_ms,
        keepAlive: true,
        keepAliveInitialDelayMillis: 1000,
        application_name: 'pg-quorum listen',
      })
      const gone = new Promise<void>((resolve) => client.on('error', () => resolve()).on('end', () => resolve()))
      client.on('notification', (message) => this.#hear(this.#replica, message))
      try {
        await client.connect()
        cluster.check(
          (await client.query<{ hello: Self }>(SQL.hello, [cluster.owner])).rows[0]?.hello as Self,
          this.#replica.index,
        )
        await this.#tell(client)
        this.#client = client
        tried()
        await gone
      } catch {
        cut(client)
      } finally {
        this.#client = undefined
        tried()
      }
      await within(call_ms, client.end(), () => cut(client)).catch(() => undefined)
      if (this.#wanted.length > 0) await sleep(jitter(pulse_ms))
    }
    this.#tending = false
  }
}

export class Listening {
  readonly #ears: readonly Ear[]
  readonly #replicas: readonly Replica[]
  readonly #listeners = new Map<Listener, ReadonlySet<string>>()

  constructor(wiring: Wiring) {
    this.#replicas = wiring.cluster.replicas
    this.#ears = this.#replicas.map(
      (replica) =>
        new Ear(wiring, replica, (from, message) => {
          for (const [listener, channels] of this.#listeners)
            if (listener.leadReplica !== from && channels.has(message.channel)) listener.emit('notification', message)
        }),
    )
  }

  /** The channels of one client from now on. */
  async set(listener: Listener, channels: readonly string[]): Promise<void> {
    if (channels.length === 0 && !this.#listeners.has(listener)) return
    if (channels.length > 0) this.#listeners.set(listener, new Set(channels))
    else this.#listeners.delete(listener)
    const all = [...new Set([...this.#listeners.values()].flatMap((c) => [...c]))]
    await Promise.all(this.#ears.map((ear) => ear.want(all)))
  }

  /** It no longer answers: its connection would wait for TCP. */
  silent(replica: Replica): void {
    this.#ears[replica.index]?.cut()
  }

  async close(): Promise<void> {
    this.#listeners.clear()
    await Promise.all(this.#ears.map((ear) => ear.want([])))
  }
}
