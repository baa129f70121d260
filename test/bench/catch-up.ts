/**
 * `npm run bench:catch-up [-- transfers [rounds]]`: a replica catches up N transfers of three rows each that it
 * missed, beside PostgreSQL's own logical replication bringing as many of the same transfers from one server to
 * another. By turns in one run; medians, and the ratio.
 */
import pg from 'pg'
import { randomInt, randomUUID } from 'node:crypto'
import { wire } from '../../driver/pool/connect.ts'
import { catchUp } from '../../driver/repair/catch-up.ts'
import { openBank, transfer } from '../../examples/bank/bank.ts'
import { cluster, settled, until } from '../cluster.ts'
import { ask, destroyAll, threeServers, type TestServer } from '../servers.ts'

const TRANSFERS = Number(process.argv[2] ?? 2000)
const ROUNDS = Number(process.argv[3] ?? 3)
const ACCOUNTS = 1000
const median = (values: number[]): number => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN
const inLanes = (lanes: number, work: () => Promise<void>): Promise<unknown> =>
  Promise.all(
    Array.from({ length: lanes }, async () => {
      for (let i = 0; i < TRANSFERS / lanes; i++) await work()
    }),
  )

/** Seconds. */
async function ours(): Promise<number> {
  const c = await cluster()
  try {
    const pool = c.pool({ max: 4 })
    await openBank(pool)
    await settled(c.servers)
    const target = c.servers[2]
    if (!target) throw new Error('no third server')
    await target.kill()
    await inLanes(4, () => transfer(pool, randomUUID(), 'bench'))
    await pool.end()
    await target.start()
    const wired = wire({ replicas: c.urls }).cluster
    await wired.assemble()
    const replica = wired.replicas[2]
    if (!replica) throw new Error('no third replica')
    const from = performance.now()
    const brought = await catchUp(wired, replica)
    const seconds = (performance.now() - from) / 1000
    if (brought !== TRANSFERS) throw new Error(`${brought} brought, not ${TRANSFERS}`)
    await wired.close()
    await settled(c.servers)
    return seconds
  } finally {
    await c.destroy()
  }
}

async function logical(): Promise<number> {
  const servers = await threeServers({ settings: { wal_level: 'logical' } }, 2)
  const [from, to] = servers as [TestServer, TestServer]
  try {
    const schema =
      'CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0)); CREATE TABLE history (id uuid PRIMARY KEY, source int NOT NULL REFERENCES accounts, target int NOT NULL REFERENCES accounts, amount bigint NOT NULL, client text NOT NULL)'
    for (const s of servers) await ask(s, schema)
    await ask(from, `INSERT INTO accounts SELECT i, 1000 FROM generate_series(1, ${ACCOUNTS}) i`)
    await ask(from, 'CREATE PUBLICATION p FOR ALL TABLES')
    await ask(to, `CREATE SUBSCRIPTION s CONNECTION '${from.url}' PUBLICATION p`)
    await until(
      'the first copy is over',
      20_000,
      async () =>
        Number((await ask(to, 'SELECT count(*) n FROM accounts'))[0]?.['n']) === ACCOUNTS &&
        Number((await ask(to, "SELECT count(*) n FROM pg_subscription_rel WHERE srsubstate <> 'r'"))[0]?.['n']) === 0,
    )
    await ask(to, 'ALTER SUBSCRIPTION s DISABLE')
    const pool = new pg.Pool({ connectionString: from.url, max: 4 })
    await inLanes(4, async () => {
      const [source, target] = [randomInt(1, ACCOUNTS + 1), randomInt(1, ACCOUNTS + 1)].sort((a, b) => a - b)
      await pool.query(
        `BEGIN; UPDATE accounts SET balance = balance - 1 WHERE id = ${source}; UPDATE accounts SET balance = balance + 1 WHERE id = ${target}; INSERT INTO history VALUES ('${randomUUID()}', ${source}, ${target}, 1, 'bench'); COMMIT`,
      )
    })
    await pool.end()
    const seen = new pg.Client(to.url)
    await seen.connect()
    const start = performance.now()
    await seen.query('ALTER SUBSCRIPTION s ENABLE')
    await until(
      'all of it is here',
      60_000,
      async () => Number((await seen.query<{ n: string }>('SELECT count(*) n FROM history')).rows[0]?.n) >= TRANSFERS,
    )
    const seconds = (performance.now() - start) / 1000
    await seen.query('ALTER SUBSCRIPTION s DISABLE; ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s')
    await seen.end()
    return seconds
  } finally {
    await destroyAll(servers)
  }
}

const [mine, theirs]: [number[], number[]] = [[], []]
for (let round = 1; round <= ROUNDS; round++) {
  mine.push(await ours())
  theirs.push(await logical())
  console.log(
    `round ${round}: catch-up ${(TRANSFERS / mine.at(-1)!).toFixed(0)} changesets/s, logical replication ${(TRANSFERS / theirs.at(-1)!).toFixed(0)} transactions/s`,
  )
}
const [a, b] = [TRANSFERS / median(mine), TRANSFERS / median(theirs)]
console.log(
  `medians of ${ROUNDS}: catch-up ${a.toFixed(0)} changesets/s (${(3 * a).toFixed(0)} rows/s), logical replication ${b.toFixed(0)} transactions/s; ratio ${(a / b).toFixed(2)}`,
)
