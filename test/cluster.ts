/**
 * A fresh cluster for a test file: real servers, initialised, with a small bank; and the checks every fault test
 * ends with.
 */
import { fork, type ChildProcess } from 'node:child_process'
import { expect } from 'chai'
import pg from 'pg'
import { Pool, type Client, type PoolOptions } from '../driver/index.ts'
import type { Changeset } from '../driver/replica/replica.ts'
import { onStep } from '../driver/runtime.ts'
import { init } from '../driver/schema/install.ts'
import { ask, destroyAll, threeServers, type TestServer } from './servers.ts'

export interface TestCluster {
  servers: TestServer[]
  urls: string[]
  pool(options?: PoolOptions): Pool
  destroy(): Promise<void>
}

/**
 * Drivers in tests connect as a plain role that owns the database, as an application would;
 * PG_QUORUM_TEST_ROLE=superuser: as the superuser. `ask` is always the superuser.
 */
export const PLAIN = process.env['PG_QUORUM_TEST_ROLE'] !== 'superuser'
export const asApp = (url: string): string => (PLAIN ? url.replace('//postgres@', '//app@') : url)

/** Makes servers a cluster; the urls for drivers. */
export async function found(servers: readonly { url: string }[]): Promise<string[]> {
  const urls = servers.map((s) => s.url)
  await Promise.all(
    servers.map((s) => ask(s, 'CREATE ROLE app LOGIN CREATEROLE; ALTER DATABASE postgres OWNER TO app')),
  )
  await init(
    urls.map((connectionString) => ({ connectionString })),
    urls,
    ['app'],
  )
  return urls.map(asApp)
}

export async function cluster(n = 3): Promise<TestCluster> {
  const servers = await threeServers({}, n)
  const urls = await found(servers)
  const pools: Pool[] = []
  return {
    servers,
    urls,
    pool(options = {}) {
      const pool = new Pool({ replicas: urls, max: 5, ...options })
      pools.push(pool)
      return pool
    },
    async destroy() {
      await Promise.all(pools.filter((p) => !p.ending).map((p) => p.end()))
      await destroyAll(servers)
    },
  }
}

export async function bank(pool: Pool, accounts = 10): Promise<void> {
  await pool.query('CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0))')
  await pool.query('INSERT INTO accounts SELECT g, 1000 FROM generate_series(1, $1::int) g', [accounts])
}

export async function until(what: string, ms: number, condition: () => Promise<boolean>): Promise<number> {
  const start = performance.now()
  for (;;) {
    if (await condition().catch(() => false)) return performance.now() - start
    if (performance.now() - start > ms) throw new Error(`not within ${ms} ms: ${what}`)
    await new Promise((r) => setTimeout(r, 25))
  }
}

const STATE = `SELECT quorum.position() AS position, quorum.schema_hash() AS schema, coalesce((SELECT jsonb_object_agg(t, quorum.table_hash(to_regclass(t)) ORDER BY t) FROM quorum.tracked)::text, '') AS rows,
  (SELECT count(*)::int FROM pg_prepared_xacts) AS prepared, (SELECT count(*)::int FROM quorum.capture) AS captured`

/** All given servers hold the same rows and histories, and nothing is left in doubt. */
export async function settled(servers: readonly TestServer[], ms = 5000): Promise<void> {
  let states: unknown[] = []
  await until('replicas equal and nothing in doubt', ms, async () => {
    states = await Promise.all(servers.map(async (s) => (await ask(s, STATE))[0]))
    return states.every(
      (s) => (s as { prepared: number }).prepared === 0 && JSON.stringify(s) === JSON.stringify(states[0]),
    )
  }).catch((error: unknown) =>
    expect(states, String(error)).to.deep.equal(states.map(() => ({ ...(states[0] as object), prepared: 0 }))),
  )
}

export async function drained(servers: readonly TestServer[], ms = 2000): Promise<number> {
  return until('nothing left in pg_prepared_xacts', ms, async () => {
    const left = await Promise.all(servers.map((s) => ask(s, 'SELECT gid FROM pg_prepared_xacts')))
    return left.every((rows) => rows.length === 0)
  })
}

export async function failure(
  work: Promise<unknown>,
): Promise<Error & { code?: string; outcome?: string; retryable?: boolean; gid?: string }> {
  const nothing = Symbol()
  const result: unknown = await work.then(
    () => nothing,
    (e: unknown) => e,
  )
  if (result === nothing) throw new Error('expected a failure, but it succeeded')
  return result as Error
}

/** A driver in a process of its own (child.ts) that is killed, or with `pause` stands still, at the named step. */
export function child(
  step: string,
  job: { urls: string[]; locks?: string[]; statements: string[]; pause?: boolean },
): ChildProcess {
  return fork(new URL('child.ts', import.meta.url), [step, JSON.stringify(job)], {
    execArgv: ['--import', 'tsx'],
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
}

/** Seals a change on the lead and gives it up there: a changeset that nobody else has seen yet. */
export async function sealed(pool: Pool, statement: string): Promise<Changeset & { lead: number }> {
  const client = await pool.connect()
  const raw = pg.Client.prototype.query.bind(client) as (text: string, values?: unknown[]) => Promise<pg.QueryResult>
  let gid = ''
  let body = ''
  onStep(async (step, g) => {
    if (step !== 'sealed') return
    gid = g
    await raw('SET LOCAL ROLE quorum_txn')
    body = ((await raw('SELECT body FROM quorum.changeset WHERE gid = $1', [gid])).rows[0] as { body: string }).body
    throw new Error('stop here')
  })
  await client.query('BEGIN')
  await client.query(statement)
  await failure(client.query('COMMIT'))
  onStep(undefined)
  client.release(true)
  const lead = (client as unknown as Client).leadReplica.index
  return { gid, body, lead }
}

/** What one server itself says, not what a quorum would. */
export async function balanceOn(server: TestServer, id: number): Promise<number> {
  return Number((await ask(server, 'SELECT balance FROM accounts WHERE id = $1', [id]))[0]?.['balance'])
}

/** What this process asked servers by pg's clients while the work lasted. */
export async function asked(work: () => Promise<unknown>): Promise<{ text: string; values: readonly unknown[] }[]> {
  const real = pg.Client.prototype.query
  const queries: { text: string; values: readonly unknown[] }[] = []
  pg.Client.prototype.query = function (this: pg.Client, ...args: unknown[]): unknown {
    const [first] = args as [{ text?: string; values?: unknown[] } | string]
    queries.push(
      typeof first === 'string' ? { text: first, values: [] } : { text: first.text ?? '', values: first.values ?? [] },
    )
    return Reflect.apply(real, this, args)
  } as typeof real
  try {
    await work()
  } finally {
    pg.Client.prototype.query = real
  }
  return queries
}
