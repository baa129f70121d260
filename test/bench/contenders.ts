/**
 * Who is measured: plain pg on one server (the floor), PostgreSQL's own synchronous replication, the same
 * statements on every server with two-phase commit by hand, and ours. Every server has PostgreSQL's own settings
 * for buffers and log size.
 */
import pg from 'pg'
import { binaries, sh, type Major } from '../../driver/embedded/binaries.ts'
import { EmbeddedServer, startServers } from '../../driver/embedded/embedded.ts'
import { found, settled, until } from '../cluster.ts'
import { ask, destroyAll, type TestServer } from '../servers.ts'
import { published } from './published.ts'
import { anAccount, ROWS, SELECT, through, twoAccounts, UPDATE, type Name, type Workload } from './workloads.ts'

export interface Contender {
  readonly name: string
  readonly servers: readonly TestServer[]
  /** Connections for so many callers, and each workload through them. */
  open(workers: number): { readonly does: Readonly<Record<Name, Workload>>; end(): Promise<unknown> }
  /** Throws unless the servers hold what they should. */
  check?(): Promise<void>
  destroy(): Promise<void>
}
/** How a server's url becomes the one that clients use: itself, or a longer way. */
export type Way = (url: string) => Promise<string>

export const SETTINGS = { shared_buffers: '128MB', max_wal_size: '1GB' }

export async function load(server: TestServer): Promise<void> {
  await ask(
    server,
    'CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL); GRANT ALL ON accounts TO PUBLIC',
  )
  await ask(server, `INSERT INTO accounts SELECT g, 1000 FROM generate_series(1, ${ROWS}) g`)
  await ask(server, 'VACUUM ANALYZE accounts')
}

export async function floor(_n: number, way: Way): Promise<Contender> {
  const servers = await startServers(1, { settings: SETTINGS })
  await load(servers[0]!)
  const url = await way(servers[0]!.url)
  return {
    name: 'floor',
    servers,
    destroy: () => destroyAll(servers),
    open(max) {
      const pool = new pg.Pool({ connectionString: url, max })
      return { does: through(pool), end: () => pool.end() }
    },
  }
}

export async function ours(n: number, way: Way): Promise<Contender> {
  const { Pool } = await published()
  const servers = await startServers(n, { settings: SETTINGS })
  await Promise.all(servers.map(load))
  const replicas = await Promise.all((await found(servers)).map(way))
  return {
    name: 'pg-quorum',
    servers,
    destroy: () => destroyAll(servers),
    async check() {
      // with a driver: who was behind when the last one ended is brought level by the next
      const pool = new Pool({ replicas })
      await pool.query('SELECT 1')
      await settled(servers, 20_000).finally(() => pool.end())
    },
    open(max) {
      const pool = new Pool({ replicas, max })
      return { does: through(pool, pool.reads('eventual') as unknown as Pick<pg.Pool, 'query'>), end: () => pool.end() }
    },
  }
}

/**
 * A primary whose commits wait for as many standbys as make a majority with it. Standbys are made from its files
 * while it is down: the package has no pg_basebackup.
 */
export async function synchronous(n: number, way: Way): Promise<Contender> {
  const [primary] = (await startServers(1, { settings: SETTINGS })) as [EmbeddedServer]
  await load(primary)
  await primary.stop()
  const { port } = new URL(await way(primary.url))
  const standbys = await Promise.all(
    Array.from({ length: n - 1 }, async (_, i) => {
      const standby = new EmbeddedServer(binaries(Number(process.env['PG_MAJOR'] || 18) as Major))
      standby.settings = {
        ...SETTINGS,
        primary_conninfo: `host=127.0.0.1 port=${port} user=postgres application_name=standby${i}`,
      }
      await sh(
        'cp -R "$1/." "$2"; rm "$2/server.log"; touch "$2/server.log" "$2/standby.signal"',
        primary.dir,
        standby.dir,
      )
      return standby
    }),
  )
  const servers = [primary, ...standbys]
  await Promise.all(servers.map((s) => s.start()))
  await ask(primary, `ALTER SYSTEM SET synchronous_standby_names = 'ANY ${Math.floor(n / 2)} (*)'`)
  await ask(primary, 'SELECT pg_reload_conf()')
  await until(
    'the standbys stream',
    20_000,
    async () =>
      (await ask(primary, "SELECT FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'quorum'"))
        .length ===
      n - 1,
  )
  const [first, second] = [await way(primary.url), await way(servers[1]!.url)]
  return {
    name: 'synchronous',
    servers,
    destroy: () => destroyAll(servers),
    open(max) {
      const [pool, standby] = [
        new pg.Pool({ connectionString: first, max }),
        new pg.Pool({ connectionString: second, max }),
      ]
      return { does: through(pool, standby), end: () => Promise.all([pool.end(), standby.end()]) }
    },
  }
}

/**
 * Nobody repairs anything here: it is the price of the messages alone. Two that wait for each other on different
 * servers are found by lock_timeout only, and count as failed.
 */
export async function byHand(n: number, way: Way): Promise<Contender> {
  const servers = await startServers(n, { settings: SETTINGS })
  await Promise.all(servers.map(load))
  const urls = await Promise.all(servers.map((s) => way(s.url)))
  let last = 0
  type Statements = readonly (readonly [text: string, values: unknown[]])[]
  const everywhere = async (pools: readonly pg.Pool[], statements: Statements, inOrder = false): Promise<void> => {
    const clients = await Promise.all(pools.map((p) => p.connect()))
    const gid = `bench_${++last}`
    const work = async (c: pg.PoolClient): Promise<void> => {
      await c.query('BEGIN')
      for (const [text, values] of statements) await c.query(text, values)
    }
    try {
      if (inOrder) await work(clients[0]!)
      await Promise.all(
        clients.map(async (c, i) => {
          if (!inOrder || i > 0) await work(c)
          await c.query(`PREPARE TRANSACTION '${gid}'`)
        }),
      )
      await Promise.all(clients.map((c) => c.query(`COMMIT PREPARED '${gid}'`)))
    } catch (error) {
      await Promise.all(
        clients.map(async (c) => {
          await c.query('ROLLBACK')
          await c.query(`ROLLBACK PREPARED '${gid}'`).catch(() => undefined)
        }),
      )
      throw error
    } finally {
      for (const c of clients) c.release()
    }
  }
  return {
    name: 'by hand',
    servers,
    destroy: () => destroyAll(servers),
    open(max) {
      const pools = urls.map(
        (connectionString) => new pg.Pool({ connectionString, max, options: '-c lock_timeout=1000' }),
      )
      const majority = pools.slice(0, Math.floor(n / 2) + 1)
      const does: Record<Name, Workload> = {
        update: (w) => everywhere(pools, [[UPDATE, [anAccount(w), 1]]]),
        transfer: (w) => {
          const [from, to] = twoAccounts(w)
          return everywhere(pools, [
            [SELECT, [from]],
            [UPDATE, [from, -1]],
            [UPDATE, [to, 1]],
          ])
        },
        hot: () => everywhere(pools, [[UPDATE, [1, 1]]], true),
        select: (w) => {
          const id = anAccount(w)
          return Promise.all(majority.map((p) => p.query(SELECT, [id])))
        },
        eventual: (w) => pools[0]!.query(SELECT, [anAccount(w)]),
      }
      return { does, end: () => Promise.all(pools.map((p) => p.end())) }
    },
  }
}

export const CONTENDERS = { floor, synchronous, 'by hand': byHand, 'pg-quorum': ours }
