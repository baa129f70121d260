/**
 * A bad network on demand: a TCP proxy before one server, for one client, that knows enough of PostgreSQL's
 * protocol to strike at a named message. It passes whole messages only, in order, so "the reply of PREPARE is lost"
 * is exact and not a matter of timing. What it cannot do: lose bytes and bring them later, as TCP's retransmission
 * would. So after heal() a connection that lost bytes is reset.
 */
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { commandTag, Frames, Statements, type Message } from './wire.ts'

export type Direction = 'to-server' | 'to-client'
export interface Rule {
  direction: Direction
  /** Frontend/backend message type byte as a letter ('Q','P','B','E','C','Z','T','D', …); any if absent. */
  message?: string
  /**
   * Frontend: SQL text of Query/Parse (remembered for what follows up to Sync); backend: the command tag of
   * CommandComplete (anchor it: /^PREPARE TRANSACTION$/), or the SQL text of the statement being answered. With
   * `match` and no `message`, one statement counts once: its first message.
   */
  match?: RegExp
  /** Act on the nth match only (1 = first), counted over all connections; default: on all. */
  nth?: number
  /**
   * drop: this and everything after it in this direction on this connection, a half-open TCP. blackhole: both
   * directions of this connection from now on. reset: RST to both sides instead of it. tear: half of its bytes,
   * then RST. lose-reply: the server executes it, the client hears nothing more on this connection.
   */
  action: 'drop' | 'delay' | 'blackhole' | 'reset' | 'tear' | 'lose-reply'
  delay_ms?: number
}
export interface Proxy {
  readonly port: number
  /** The server's url with host 127.0.0.1 and the proxy's port. */
  readonly url: string
  add(rule: Rule): { remove(): void; readonly hits: number }
  /** One-way or two-way loss of everything, for existing and new connections, silently (no RST), until healed. */
  cut(direction: Direction | 'both'): void
  latency(ms: number): void
  /** Removes rules, cuts, latency; connections that lost bytes are reset (TCP could not go on), the others go on. */
  heal(): void
  resetAll(): void
  close(): Promise<void>
  readonly connections: number
  /** Messages and ends of connections that were swallowed so far. */
  readonly lost: number
}

interface Active extends Rule {
  seen: number
  hits: number
}
interface State {
  rules: Set<Active>
  cuts: Set<Direction>
  latency_ms: number
  connections: Set<Connection>
  lost: number
}
const HIGH_WATER = 1 << 18

class Connection {
  readonly client: Socket
  readonly server: Socket
  readonly #statements = new Statements()
  readonly #state: State
  readonly #silent = new Set<Direction>()
  readonly #counted = new WeakMap<Active, object>()
  readonly #frames = new Frames()
  #ended = 0
  lost = false // or rather: has lost something, and cannot go on after heal()

  constructor(state: State, client: Socket, port: number, host: string) {
    this.#state = state
    this.client = client
    // Under a cut no handshake could have been completed: the server must not hear of it.
    this.lost = state.cuts.size > 0
    if (this.lost) this.#silent.add('to-server').add('to-client')
    this.server = connect({ port, host, noDelay: true, allowHalfOpen: true })
    if (this.lost) this.server.destroy()
    state.connections.add(this)
    this.#pump('to-server', client, this.server)
    this.#pump('to-client', this.server, client)
  }

  #pump(direction: Direction, from: Socket, to: Socket): void {
    const queue: (Message | 'end' | 'gone')[] = []
    let parts: Buffer[] = []
    let came = 0
    let needed = 1
    let bytes = 0
    let busy = false
    const work = async (): Promise<void> => {
      if (busy) return
      busy = true
      for (let item = queue.shift(); item !== undefined; item = queue.shift()) {
        if (typeof item !== 'string') {
          bytes -= item.bytes.length
          if (bytes < HIGH_WATER) from.resume()
        }
        await this.#deliver(direction, item, to)
      }
      busy = false
    }
    const put = (item: Message | 'end' | 'gone'): void => {
      queue.push(item)
      void work()
    }
    from.on('data', (chunk: Buffer) => {
      parts.push(chunk)
      came += chunk.length
      if (came < needed) return // joined only once for a message of many megabytes
      let rest = Buffer.concat(parts)
      for (;;) {
        const message = this.#frames.next(direction, rest)
        if (typeof message === 'number') {
          needed = message
          break
        }
        rest = rest.subarray(message.bytes.length)
        bytes += message.bytes.length
        put(message)
      }
      parts = [rest]
      came = rest.length
      if (bytes >= HIGH_WATER) from.pause()
    })
    from.on('error', () => undefined) // 'close' follows
    from.once('end', () => put('end'))
    from.once('close', (failed) => {
      if (failed) put('gone')
      if (++this.#ended === 2) this.#state.connections.delete(this)
    })
  }

  async #deliver(direction: Direction, item: Message | 'end' | 'gone', to: Socket): Promise<void> {
    if (item === 'end' || item === 'gone') {
      if (this.#isSilent(direction)) this.#lose()
      else if (item === 'end') to.end()
      else to.resetAndDestroy()
      return
    }
    const wait = item.arrived + this.#state.latency_ms - performance.now()
    if (this.#state.latency_ms > 0 && wait > 0) await sleep(wait)
    const statement = direction === 'to-server' ? this.#statements.sent(item) : this.#statements.answered(item)
    const rule = this.#isSilent(direction) ? undefined : this.#rule(direction, item, statement)
    if (rule?.action === 'delay') await sleep(rule.delay_ms ?? 100)
    if (rule?.action === 'blackhole') this.#silent.add('to-server').add('to-client')
    if (rule?.action === 'drop') this.#silent.add(direction)
    if (rule?.action === 'lose-reply') this.#silent.add('to-client')
    if (rule?.action === 'reset') return this.reset()
    if (this.#isSilent(direction)) return this.#lose()
    if (rule?.action === 'tear') {
      if (!to.destroyed)
        await new Promise<void>((r) => to.write(item.bytes.subarray(0, item.bytes.length >> 1), () => r()))
      await sleep(20) // an RST may overtake what the receiver has not read yet, and half a message is the point here
      return this.reset()
    }
    if (!to.destroyed && to.writable && !to.write(item.bytes)) {
      await new Promise<void>((resolve) => {
        const done = (): void => {
          to.off('drain', done).off('close', done)
          resolve()
        }
        to.once('drain', done).once('close', done)
      })
    }
  }

  #lose(): void {
    this.lost = true
    this.#state.lost++
  }

  #isSilent(direction: Direction): boolean {
    return this.#silent.has(direction) || this.#state.cuts.has(direction)
  }

  /** The rule to act by. All rules see every message, so that each counts its own. */
  #rule(direction: Direction, message: Message, statement: { text: string }): Active | undefined {
    let found: Active | undefined
    for (const rule of this.#state.rules) {
      if (rule.direction !== direction || (rule.message !== undefined && rule.message !== message.type)) continue
      if (rule.match) {
        const tag = direction === 'to-client' ? commandTag(message) : undefined
        if (!(tag !== undefined && rule.match.test(tag)) && !rule.match.test(statement.text)) continue
        if (rule.message === undefined) {
          if (this.#counted.get(rule) === statement) continue
          this.#counted.set(rule, statement)
        }
      }
      rule.seen++
      if (found || (rule.nth !== undefined && rule.seen !== rule.nth)) continue
      rule.hits++
      found = rule
    }
    return found
  }

  reset(): void {
    for (const socket of [this.client, this.server]) {
      if (socket.connecting)
        socket.destroy() // nobody is there yet to be told
      else socket.resetAndDestroy()
    }
  }
}

export async function startProxy(serverUrl: string): Promise<Proxy> {
  const target = new URL(serverUrl)
  const state: State = { rules: new Set(), cuts: new Set(), latency_ms: 0, connections: new Set(), lost: 0 }
  const listener = createServer(
    { noDelay: true, allowHalfOpen: true },
    (client) => new Connection(state, client, Number(target.port || 5432), target.hostname),
  )
  await new Promise<void>((resolve, reject) => listener.once('error', reject).listen(0, '127.0.0.1', resolve))
  listener.on('error', () => undefined)
  const { port } = listener.address() as AddressInfo
  const url = new URL(serverUrl)
  url.hostname = '127.0.0.1'
  url.port = String(port)
  return {
    port,
    url: url.href,
    add(rule) {
      const active: Active = { ...rule, seen: 0, hits: 0 }
      // those keep a position between tests
      if (rule.match) active.match = new RegExp(rule.match.source, rule.match.flags.replace(/[gy]/g, ''))
      state.rules.add(active)
      return {
        remove: () => void state.rules.delete(active),
        get hits() {
          return active.hits
        },
      }
    },
    cut(direction) {
      for (const d of direction === 'both' ? (['to-server', 'to-client'] as const) : [direction]) state.cuts.add(d)
    },
    latency: (ms) => void (state.latency_ms = ms),
    heal() {
      state.rules.clear()
      state.cuts.clear()
      state.latency_ms = 0
      for (const c of state.connections) if (c.lost) c.reset()
    },
    resetAll() {
      for (const c of state.connections) c.reset()
    },
    async close() {
      const closed = new Promise<void>((r) => listener.close(() => r()))
      for (const c of state.connections) c.reset()
      await closed
    },
    get connections() {
      return state.connections.size
    },
    get lost() {
      return state.lost
    },
  }
}
