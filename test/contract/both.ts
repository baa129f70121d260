/**
 * The contract suite's stage: each file says once what must happen, and it happens on plain pg (one server) and on
 * pg-quorum (three). The servers are started by the first file that needs them and stopped after the last one.
 */
import pg from 'pg'
import { Client, Pool, type QuorumOptions } from '../../driver/index.ts'
import { within } from '../../driver/runtime.ts'
import { init } from '../../driver/schema/install.ts'
import { ask, destroyAll, threeServers, type TestServer } from '../servers.ts'

export interface Kind {
  readonly name: 'pg' | 'pg-quorum'
  /** Each ends with the file's tests, if it has not ended before. */
  pool(options?: pg.PoolConfig & QuorumOptions & { [option: string]: unknown }): pg.Pool
  /** Not connected yet. */
  client(options?: pg.ClientConfig & QuorumOptions & { [option: string]: unknown }): pg.Client
  /** Where the data is; the first is the one that pg-quorum prefers as the lead. */
  servers(): readonly TestServer[]
  /** Behind the driver's back, on every server: ends the connections that this condition on pg_stat_activity names. */
  terminate(condition: string): Promise<void>
}

let running: Promise<{ one: TestServer[]; three: TestServer[] }> | undefined

async function start(): Promise<{ one: TestServer[]; three: TestServer[] }> {
  const [one, three] = await Promise.all([threeServers({}, 1), threeServers({}, 3)])
  const urls = three.map((s) => s.url)
  await init(
    urls.map((connectionString) => ({ connectionString })),
    urls,
  )
  return { one, three }
}

async function stop(): Promise<void> {
  const servers = await running
  running = undefined
  await destroyAll([...(servers?.one ?? []), ...(servers?.three ?? [])])
}

let left = 0
const address = ({ url }: TestServer): { host: string; port: number } => ({
  host: new URL(url).hostname,
  port: Number(new URL(url).port),
})
const who = { user: 'postgres', database: 'postgres' }

/** The same tests for both. `kind` may be used from `before` on. */
export function both(title: string, tests: (kind: Kind) => void): void {
  for (const name of ['pg', 'pg-quorum'] as const) {
    left++
    describe(`${title}, on ${name}`, () => {
      let servers: TestServer[] = []
      const pools: pg.Pool[] = []
      const clients: pg.Client[] = []
      before(async function () {
        this.timeout(60_000)
        const both = await (running ??= start())
        servers = name === 'pg' ? both.one : both.three
      })
      const options = <T>(own: T): T =>
        name === 'pg' ? { ...address(servers[0]!), ...who, ...own } : { replicas: servers.map(address), ...who, ...own }
      tests({
        name,
        servers: () => servers,
        pool(own = {}) {
          const pool = name === 'pg' ? new pg.Pool(options(own)) : new Pool(options(own))
          pools.push(pool)
          return pool
        },
        client(own = {}) {
          const client = name === 'pg' ? new pg.Client(options(own)) : new Client(options(own))
          client.on('error', () => undefined)
          clients.push(client)
          return client
        },
        async terminate(condition) {
          for (const s of servers)
            await ask(
              s,
              `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND (${condition})`,
            )
        },
      })
      after(async function () {
        this.timeout(60_000)
        try {
          await within(
            10_000,
            Promise.all([
              ...pools.filter((p) => !p.ending).map((p) => p.end()),
              ...clients.map((c) => c.end().catch(() => undefined)),
            ]),
          )
        } finally {
          if (--left === 0) await stop()
        }
      })
    })
  }
}

/** What an emitter said until now, and from now on. */
export function heard(
  emitter: { on(event: string, listener: (...args: unknown[]) => void): unknown },
  ...events: string[]
): string[] {
  const said: string[] = []
  for (const event of events) emitter.on(event, () => said.push(event))
  return said
}

/** For callbacks: the arguments it is called with. */
export function called<T extends unknown[]>(): { callback: (...args: T) => void; once: Promise<T> } {
  let callback: (...args: T) => void = () => undefined
  const once = new Promise<T>((resolve) => (callback = (...args) => resolve(args)))
  return { callback, once }
}

export const pause = (ms: number): Promise<void> => new Promise((r) => setTimeout(r, ms))
