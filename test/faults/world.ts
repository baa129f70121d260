/**
 * What the cells of the matrix share: three servers, a proxy before each for the owner, a bystander with direct
 * urls, and an owner's process to be had.
 */
import { fork, type ChildProcess } from 'node:child_process'
import pg from 'pg'
import { startServers, type EmbeddedServer } from '../../driver/embedded/embedded.ts'
import { init } from '../../driver/schema/install.ts'
import { until } from '../cluster.ts'
import { ask } from '../servers.ts'
import { Bystander } from './bystander.ts'
import type { Told } from './owner.ts'
import { startProxy, type Proxy } from './proxy.ts'

export interface World {
  servers: EmbeddedServer[]
  proxies: Proxy[]
  bystander: Bystander
  doubts: Doubts
  balances: [number, number]
  destroy(): Promise<void>
}

export async function world(): Promise<World> {
  const servers = await startServers(3)
  const urls = servers.map((s) => s.url)
  await init(
    urls.map((connectionString) => ({ connectionString })),
    urls,
  )
  const proxies = await Promise.all(urls.map(startProxy))
  const bystander = new Bystander(urls)
  await bystander.pool.query('CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL)')
  await bystander.pool.query('CREATE TABLE entries (id text PRIMARY KEY)')
  await bystander.pool.query('INSERT INTO accounts SELECT g, 1000 FROM generate_series(1, 10) g')
  const doubts = new Doubts(servers)
  return {
    servers,
    proxies,
    bystander,
    doubts,
    balances: [1000, 1000],
    async destroy() {
      await bystander.pool.end()
      await doubts.end()
      await Promise.all([...proxies.map((p) => p.close()), ...servers.map((s) => s.destroy())])
    },
  }
}

/** All is well again: whoever is next meets three members that are up, equal, and trusted. */
export async function calm({ bystander, proxies }: World): Promise<void> {
  for (const p of proxies) p.heal()
  const { cluster } = bystander.pool
  await until(
    'the bystander trusts all members',
    10_000,
    async () => cluster.suspects.size === 0 && cluster.lagging.size === 0,
  )
}

/** Looks into pg_prepared_xacts of each server on a connection of its own, past driver and proxies. */
export class Doubts {
  readonly #servers: EmbeddedServer[]
  readonly #clients = new Map<EmbeddedServer, Promise<pg.Client>>()

  constructor(servers: EmbeddedServer[]) {
    this.#servers = servers
  }

  /**
   * For each server that is not left out: how long ago the oldest transaction of this owner was prepared there;
   * undefined: no answer.
   */
  look(owner: string, without: ReadonlySet<number>): Promise<(number | undefined)[]> {
    return Promise.all(
      this.#servers.map(async (server, i) => {
        if (without.has(i)) return undefined
        const late = new Promise<undefined>((r) => setTimeout(() => r(undefined), 2000).unref())
        const rows = await Promise.race([
          late,
          this.#ask(server, owner).catch(() => {
            this.#clients.delete(server)
            return undefined
          }),
        ])
        return rows
      }),
    )
  }

  async #ask(server: EmbeddedServer, owner: string): Promise<number> {
    if (!this.#clients.has(server)) {
      const fresh = new pg.Client(server.url)
      fresh.on('error', () => this.#clients.delete(server))
      this.#clients.set(
        server,
        fresh.connect().then(() => fresh),
      )
    }
    const client = await this.#clients.get(server)!
    const text =
      'SELECT coalesce(max(extract(epoch FROM clock_timestamp() - prepared) * 1000), 0)::int AS ms FROM pg_prepared_xacts WHERE strpos(gid, $1) > 0'
    return (await client.query<{ ms: number }>(text, [`_${owner}_`])).rows[0]!.ms
  }

  async end(): Promise<void> {
    await Promise.all([...this.#clients.values()].map((c) => c.then((x) => x.end()).catch(() => undefined)))
  }
}

type Everything = {
  [K in Told extends infer T ? (T extends unknown ? keyof T : never) : never]: Extract<Told, Record<K, unknown>>[K]
}

/** An owner's process and what it has said. */
export class Owner {
  readonly process: ChildProcess
  readonly #told: Told[] = []
  #wake: () => void = () => undefined
  exit: string | undefined

  constructor() {
    this.process = fork(new URL('owner.ts', import.meta.url), [], {
      execArgv: ['--import', 'tsx'],
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    this.process.on('message', (m) => {
      this.#told.push(m as Told)
      this.#wake()
    })
    this.process.on('error', () => undefined)
    this.process.on('exit', (code, signal) => {
      this.exit = String(signal ?? code)
      this.#wake()
    })
  }

  get said(): readonly Told[] {
    return this.#told
  }

  say(what: object | string): void {
    if (this.exit === undefined && this.process.connected) this.process.send(what, () => undefined)
  }

  /** The first thing it told of this kind, or undefined when it told an answer instead, died, or kept silent. */
  async hear<K extends keyof Everything>(kind: K, ms: number): Promise<Everything[K] | undefined> {
    const end = performance.now() + ms
    for (;;) {
      const found = this.#told.find((t) => kind in t)
      if (found) return (found as unknown as Everything)[kind]
      const left = end - performance.now()
      if (left <= 0 || this.exit !== undefined || (kind === 'reached' && this.#told.some((t) => 'answer' in t)))
        return undefined
      await new Promise<void>((resolve) => {
        this.#wake = resolve
        setTimeout(resolve, left).unref()
      })
    }
  }

  forget(): void {
    this.#told.splice(0)
  }

  async kill(): Promise<void> {
    if (this.exit !== undefined) return
    const gone = new Promise((r) => this.process.once('exit', r))
    this.process.kill('SIGKILL')
    await gone
  }
}

/** What each server holds, in one line, for a report of a difference. */
export async function describeServers(servers: readonly EmbeddedServer[]): Promise<string> {
  const text = `SELECT quorum.position() AS position, (SELECT count(*)::int FROM entries) AS entries, (SELECT json_agg(balance ORDER BY id) FROM accounts WHERE id IN (1, 2, 9)) AS balances,
    (SELECT json_agg(gid) FROM pg_prepared_xacts) AS prepared`
  return (await Promise.all(servers.map((s) => ask(s, text).then((r) => JSON.stringify(r[0]), String)))).join(' | ')
}
