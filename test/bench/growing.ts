/**
 * The steps of `npm run bench:growth`. Rows and logs are made to grow by SQL on each server alike, round the
 * driver: a million transactions of ours would take hours.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import type { Pool } from '../../driver/index.ts'
import { startServers } from '../../driver/embedded/embedded.ts'
import { found, settled } from '../cluster.ts'
import { ask, destroyAll, type TestServer } from '../servers.ts'
import { median } from './measure.ts'
import { used } from './meter.ts'
import { published } from './published.ts'
import { ROWS, run, through, type Name, type Pooled } from './workloads.ts'

type Told = (size: number, costs: Readonly<Record<string, number>>) => void
interface Step {
  readonly grows: string
  readonly unit: string
  readonly sizes: readonly number[]
  grow(sizes: readonly number[], ms: number, told: Told): Promise<void>
}

const SETTINGS = { shared_buffers: '128MB', max_wal_size: '1GB', max_connections: 1000 }
/** As one who may write round the triggers. */
const plainly = (servers: readonly TestServer[], text: string): Promise<unknown> =>
  Promise.all(servers.map((s) => ask(s, `SET session_replication_role = replica; ${text}`)))

interface Ours {
  servers: TestServer[]
  urls: string[]
  pool: Pool
}
async function ours<T>(n: number, work: (c: Ours) => Promise<T>): Promise<T> {
  const servers = await startServers(n, { settings: SETTINGS })
  let pool: Pool | undefined
  try {
    for (const s of servers)
      await ask(
        s,
        `CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL); GRANT ALL ON accounts TO PUBLIC; INSERT INTO accounts SELECT g, 1000 FROM generate_series(1, ${ROWS}) g`,
      )
    const urls = await found(servers)
    pool = new (await published()).Pool({ replicas: urls, max: 32 })
    return await work({ servers, urls, pool })
  } finally {
    await pool?.end()
    await destroyAll(servers)
  }
}

/** Median latency, and processor time of client and servers together, per transaction. */
async function cost(
  pool: Pooled,
  servers: readonly TestServer[],
  name: Name,
  workers: number,
  ms: number,
): Promise<{ p50_ms: number; cpu_ms: number }> {
  const { [name]: workload } = through(pool)
  await run(workload, workers, 300)
  const before = used(servers)
  const { took, errors } = await run(workload, workers, ms)
  const after = used(servers)
  if (errors.length > 0) throw new Error(`${errors.length} failed: ${errors[0]}`)
  return {
    p50_ms: median(took),
    cpu_ms: ((after.client_s - before.client_s + after.servers_s - before.servers_s) * 1000) / took.length,
  }
}

/** UPDATE and strong SELECT of one row. */
async function both({ pool, servers }: Pick<Ours, 'pool' | 'servers'>, ms: number): Promise<Record<string, number>> {
  const [update, select] = [await cost(pool, servers, 'update', 1, ms), await cost(pool, servers, 'select', 1, ms)]
  return { 'UPDATE, p50': update.p50_ms, 'UPDATE, processor': update.cpu_ms, 'strong SELECT, p50': select.p50_ms }
}

async function median_ms(times: number, work: () => Promise<unknown>): Promise<number> {
  const took: number[] = []
  for (let i = 0; i < times; i++) {
    const from = performance.now()
    await work()
    took.push(performance.now() - from)
  }
  return median(took)
}

/** Only what is counted by gid and stripe grows: versions below 0 are older than any that a server would look for. */
const LOG = (from: number, to: number): string => `
  INSERT INTO quorum.changeset SELECT 'quorum_grown_1_o_' || g || '_' || md5(g::text), repeat('x', 900) FROM generate_series(${from}, ${to}) g;
  INSERT INTO quorum.applied SELECT 'quorum_grown_1_o_' || g || '_' || md5(g::text) FROM generate_series(${from}, ${to}) g;
  INSERT INTO quorum.history SELECT 'public.accounts', g % 1024, -g, 'quorum_grown_1_o_' || g || '_' || md5(g::text) FROM generate_series(${from}, ${to}) g;
  ANALYZE quorum.changeset, quorum.applied, quorum.history`

/**
 * Processes with a pool and one caller each: this file, forked. What the pools cost while nobody calls is their
 * looking round (section 7 of docs/protocol.md).
 */
async function clients(
  { urls, servers }: Pick<Ours, 'urls' | 'servers'>,
  many: number,
  ms: number,
): Promise<{ per_s: number; p50_ms: number; idle_ms: number }> {
  const children = Array.from({ length: many }, () =>
    fork(import.meta.filename, [JSON.stringify(urls), String(ms)], { execArgv: ['--import', 'tsx'] }),
  )
  await Promise.all(children.map((c) => once(c, 'message')))
  const [idle, from] = [used(servers), performance.now()]
  await sleep(1500)
  const idle_ms = ((used(servers).servers_s - idle.servers_s) * 1e6) / (performance.now() - from)
  const said = children.map((c) => once(c, 'message') as Promise<[{ p50_ms: number; done: number; errors: string[] }]>)
  for (const c of children) c.send('go')
  const all = (await Promise.all(said)).map(([s]) => s)
  await Promise.all(children.map((c) => c.connected && once(c, 'exit')))
  const errors = all.flatMap((s) => s.errors)
  if (errors.length > 0) throw new Error(`${errors.length} failed: ${errors[0]}`)
  return { per_s: (all.reduce((n, s) => n + s.done, 0) * 1000) / ms, p50_ms: median(all.map((s) => s.p50_ms)), idle_ms }
}

async function client(urls: string[], ms: number): Promise<void> {
  process.once('disconnect', () => process.exit()) // whoever asked is gone
  const pool = new (await published()).Pool({ replicas: urls, max: 1 })
  const seed = process.pid % 1000 // its own rows
  const { update } = through(pool)
  await run(() => update(seed), 1, 200)
  process.send!('ready')
  await once(process, 'message')
  const { took, errors } = await run(() => update(seed), 1, ms)
  process.send!({ p50_ms: median(took), done: took.length, errors })
  await pool.end()
  process.disconnect() // and exits
}

export const STEPS: Readonly<Record<string, Step>> = {
  servers: {
    grows: 'servers',
    unit: 'ms',
    sizes: [1, 3, 5, 7],
    grow: async (sizes, ms, told) => {
      for (const n of sizes) await ours(n, async (c) => told(n, await both(c, ms)))
    },
  },
  log: {
    grows: 'changesets in the log (made by SQL)',
    unit: 'ms',
    sizes: [1e3, 1e4, 1e5, 1e6],
    grow: (sizes, ms, told) =>
      ours(3, async (c) => {
        let have = 0
        for (const size of sizes) {
          await plainly(c.servers, LOG(have + 1, size))
          have = size
          told(size, await both(c, ms))
        }
      }),
  },
  rows: {
    grows: 'rows in the table (made by SQL)',
    unit: 'ms',
    sizes: [1e4, 1e5, 1e6, 1e7],
    grow: (sizes, ms, told) =>
      ours(3, async (c) => {
        let have = ROWS
        for (const size of sizes) {
          await plainly(
            c.servers,
            `INSERT INTO accounts SELECT g, 1000 FROM generate_series(${have + 1}, ${size}) g; ANALYZE accounts`,
          )
          have = Math.max(have, size)
          told(size, await both(c, ms))
        }
      }),
  },
  size: {
    grows: 'rows changed by one transaction',
    unit: 'ms',
    sizes: [1, 10, 100, 1e3, 1e4, 1e5],
    grow: (sizes, _ms, told) =>
      ours(3, async ({ pool, servers }) => {
        await plainly(
          servers,
          `INSERT INTO accounts SELECT g, 1000 FROM generate_series(${ROWS + 1}, 100000) g; ANALYZE accounts`,
        )
        const plain = await startServers(1, { settings: SETTINGS })
        const base = new pg.Pool({ connectionString: plain[0]!.url })
        try {
          await base.query('CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL)')
          await base.query('INSERT INTO accounts SELECT g, 1000 FROM generate_series(1, 100000) g')
          for (const size of sizes) {
            const text = `UPDATE accounts SET balance = balance + 1 WHERE id BETWEEN 1 AND ${size}`
            const times = size >= 1e5 ? 3 : size >= 1e4 ? 5 : 15
            told(size, {
              'pg-quorum': await median_ms(times, () => pool.query(text)),
              'plain pg': await median_ms(times, () => base.query(text)),
            })
          }
        } finally {
          await base.end()
          await destroyAll(plain)
        }
        await settled(servers, 60_000)
      }),
  },
  clients: {
    grows: 'client processes, one caller each',
    unit: '',
    sizes: [1, 2, 4, 8, 16, 32, 64],
    grow: (sizes, ms, told) =>
      ours(3, async (c) => {
        for (const many of sizes) {
          const { per_s, p50_ms, idle_ms } = await clients(c, many, Math.max(ms, 3000))
          told(many, {
            'UPDATEs a second, all together': per_s,
            'UPDATE, p50, ms': p50_ms,
            "the servers' processor, ms a second, before anybody writes": idle_ms,
          })
        }
        await settled(c.servers, 60_000)
      }),
  },
  names: {
    grows: 'lock names ever used (made by SQL)',
    unit: 'ms',
    sizes: [100, 1e3, 1e4, 1e5],
    grow: (sizes, ms, told) =>
      ours(3, async (c) => {
        let have = 0
        for (const size of sizes) {
          await plainly(
            c.servers,
            `INSERT INTO quorum.stripe SELECT '@name-' || g, 0, 1, quorum.link(0, g::text) FROM generate_series(${have + 1}, ${size}) g; ANALYZE quorum.stripe`,
          )
          have = size
          let i = 0
          const named = await median_ms(40, () =>
            c.pool.transaction({ locks: [`@name-${1 + ((i++ * 37) % size)}`, 'accounts/1'] }, (tx) =>
              tx.query('UPDATE accounts SET balance = balance + 1 WHERE id = 1'),
            ),
          )
          told(size, { 'UPDATE under one name, median': named, ...(await both(c, ms)) })
        }
      }),
  },
  locks: {
    grows: 'lock names declared by one transaction',
    unit: 'ms',
    sizes: [1, 10, 100, 1e3, 1e4, 1e5],
    grow: (sizes, _ms, told) =>
      ours(3, async ({ pool }) => {
        for (const size of sizes) {
          const locks = ['accounts/1', ...Array.from({ length: size }, (_, i) => `@name-${i}`)]
          told(size, {
            'a transaction of one UPDATE': await median_ms(size >= 1e4 ? 2 : 7, () =>
              pool.transaction({ locks, retries: 0 }, (tx) =>
                tx.query('UPDATE accounts SET balance = balance + 1 WHERE id = 1'),
              ),
            ),
          })
        }
      }),
  },
}

if (process.argv[1] === import.meta.filename)
  await client(JSON.parse(process.argv[2]!) as string[], Number(process.argv[3]))
