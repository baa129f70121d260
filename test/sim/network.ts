/**
 * TCP as applications meet it: bytes of one direction stay in order; a lost packet is a delay; a direction that is
 * cut stays silent, both ends stay open, and when it heals the bytes arrive after all, long after, or the
 * connection is reset.
 */
import type { Actor, World } from './world.ts'
import type { Backend, Server } from './server.ts'

export const KEEPALIVE_MS = 8000
export type Direction = 'to-server' | 'to-client'
export interface Request {
  readonly id: number
  readonly verb: string
  readonly args: readonly unknown[]
}

export class Lost extends Error {
  readonly code = 'ECONNRESET'
}

/** What lies between one client process and one server; every connection of the pair shares it. */
export class Link {
  readonly cut: Record<Direction, boolean> = { 'to-server': false, 'to-client': false }
  slow_ms = 0
  readonly connections = new Set<Connection>()
  readonly #world: World
  #cuts = 0
  /** The way's own length. */
  readonly far_ms: number
  constructor(world: World, far_ms = 0) {
    this.#world = world
    this.far_ms = far_ms
  }

  /** Silence in these directions. After a while the kernels give the connections up (keepalive, tcp_user_timeout). */
  sever(directions: readonly Direction[]): void {
    for (const d of directions) this.cut[d] = true
    const since = ++this.#cuts
    this.#world.at(KEEPALIVE_MS, this.#world.nobody, () => {
      if (this.#cuts === since && (this.cut['to-server'] || this.cut['to-client']))
        for (const c of [...this.connections]) c.reset()
    })
  }

  heal(): void {
    this.slow_ms = 0
    this.#cuts++
    const late = this.#world.dice('network')
    for (const d of ['to-server', 'to-client'] as const) {
      if (!this.cut[d]) continue
      this.cut[d] = false
      for (const c of this.connections)
        if (c.stalled[d].length > 0) {
          if (late.hits(0.5)) c.reset()
          else for (const deliver of c.stalled[d].splice(0)) deliver()
        }
    }
  }
}

export class Connection {
  readonly client: Actor
  readonly stalled: Record<Direction, (() => void)[]> = { 'to-server': [], 'to-client': [] }
  readonly #world: World
  readonly #link: Link
  readonly #last: Record<Direction, number> = { 'to-server': 0, 'to-client': 0 }
  readonly #pending = new Map<number, { resolve: (value: unknown) => void; reject: (error: unknown) => void }>()
  #backend: Backend | undefined
  #next = 0
  open = false
  #ended = false

  constructor(world: World, link: Link, client: Actor) {
    this.#world = world
    this.#link = link
    this.client = client
    link.connections.add(this)
  }

  /**
   * Resolves once the server has said that it is ready. A server that is down refuses, one that is unreachable says
   * nothing.
   */
  connect(server: Server): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#pending.set(-1, {
        resolve: () => {
          this.open = true
          resolve()
        },
        reject,
      })
      this.#carry('to-server', this.#world.nobody, () => {
        const { postmaster } = server
        if (!postmaster) {
          if (!server.silent) this.#carry('to-client', this.client, () => this.reset())
          return
        }
        this.#world.at(0, postmaster, () => {
          if (this.#ended) return
          this.#backend = server.fork(this)
          this.reply(-1, undefined, undefined)
        })
      })
    })
  }

  call<T>(verb: string, args: readonly unknown[]): Promise<T> {
    if (this.#ended) return Promise.reject(new Lost('Connection terminated'))
    return new Promise<T>((resolve, reject) => {
      const id = this.#next++
      this.#pending.set(id, { resolve: resolve as (value: unknown) => void, reject })
      this.#send(() => this.#backend?.receive({ id, verb, args }))
    })
  }

  #send(deliver: () => void): void {
    if (!this.client.alive) return
    const { lost } = this.#world.weather
    if (lost > 0 && this.#world.dice('lost').hits(lost)) return this.reset()
    this.#carry('to-server', this.#world.nobody, deliver)
    onSend(this.client)
  }

  reply(id: number, value: unknown, error: unknown): void {
    this.#carry('to-client', this.client, () => {
      const waiting = this.#pending.get(id)
      this.#pending.delete(id)
      if (error === undefined) waiting?.resolve(value)
      else waiting?.reject(error)
    })
  }

  /** The client lets go: what it sent before still arrives, then the end. */
  close(silently = false): void {
    if (this.#ended) return
    this.#end(new Lost('Connection terminated'))
    if (!silently)
      this.#carry('to-server', this.#world.nobody, () => this.#backend?.receive({ id: -1, verb: 'end', args: [] }))
  }

  /**
   * The server's end is gone: the client hears of it; if the machine vanished or the way is cut, only from its own
   * keepalive.
   */
  closedByServer(silently: boolean): void {
    this.#backend = undefined
    this.#link.connections.delete(this)
    this.#world.at(KEEPALIVE_MS, this.client, () => this.#end(new Lost('read ETIMEDOUT')))
    if (!silently)
      this.#carry('to-client', this.client, () => this.#end(new Lost('Connection terminated unexpectedly')))
  }

  /** RST on both sides. */
  reset(): void {
    const backend = this.#backend
    this.#backend = undefined
    this.#link.connections.delete(this)
    if (backend) this.#world.at(0, backend, () => backend.hangUp())
    this.#world.at(0, this.client, () => this.#end(new Lost('read ECONNRESET')))
  }

  #end(error: Error): void {
    if (this.#ended) return
    this.#ended = true
    this.open = false
    if (!this.#backend) this.#link.connections.delete(this)
    for (const waiting of this.#pending.values()) waiting.reject(error)
    this.#pending.clear()
  }

  #carry(direction: Direction, receiver: Actor, deliver: () => void): void {
    const dice = this.#world.dice('network')
    const { late, late_ms } = this.#world.weather
    // Mostly quick, sometimes a retransmission, seldom several.
    const delay =
      dice.between(0.1, 1) +
      this.#link.far_ms +
      this.#link.slow_ms * dice.next() +
      (dice.hits(late) ? dice.between(...late_ms) : 0)
    const at = Math.max(this.#world.now + delay, this.#last[direction])
    this.#last[direction] = at
    this.#world.at(at - this.#world.now, receiver, () => {
      if (this.#link.cut[direction] || this.stalled[direction].length > 0)
        this.stalled[direction].push(() => this.#carry(direction, receiver, deliver))
      else deliver()
    })
  }
}

let onSend: (client: Actor) => void = () => undefined
/** A client may die between any two of its messages. */
export function watchSends(fn: (client: Actor) => void): void {
  onSend = fn
}
