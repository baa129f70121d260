/**
 * `npm run bench:verify [-- rows [rounds]]`: verify on three servers, quiet, then with eight writers, beside one
 * bare md5 sum of the table on all three at once.
 */
import { Pool } from '../../driver/index.ts'
import { verify } from '../../driver/repair/verify.ts'
import { Witness } from '../../driver/replica/witness.ts'
import { init } from '../../driver/schema/install.ts'
import { ask, destroyAll, threeServers } from '../servers.ts'

const ROWS = Number(process.argv[2] ?? 1_000_000)
const ROUNDS = Number(process.argv[3] ?? 3)
const servers = await threeServers()
const urls = servers.map((s) => s.url)
for (const s of servers) {
  await ask(s, 'CREATE TABLE big (id int PRIMARY KEY, name text, n bigint, at timestamptz)')
  await ask(
    s,
    `INSERT INTO big SELECT g, 'name ' || g, g * 7, '2026-01-01'::timestamptz + g * interval '1 s' FROM generate_series(1, ${ROWS}) g`,
  )
  await ask(s, 'VACUUM ANALYZE big')
}
await init(
  urls.map((connectionString) => ({ connectionString })),
  urls,
)

async function run(): Promise<string> {
  const witnesses = urls.map((connectionString, i) => new Witness({ connectionString }, i))
  const { ms, chains_ms, rows, findings } = await verify(witnesses)
  await Promise.all(witnesses.map((w) => w.close()))
  return `${Math.round(ms)} ms (chains ${Math.round(chains_ms)} ms) for ${rows} rows, ${findings.length} findings`
}
for (let i = 0; i < ROUNDS; i++) console.log(`quiet:        ${await run()}`)

const pool = new Pool({ replicas: urls, max: 10 })
let [on, commits] = [true, 0]
const writers = Array.from({ length: 8 }, async () => {
  while (on) {
    const id = 1 + Math.floor(Math.random() * ROWS)
    await pool
      .transaction({ locks: [`big/${id}`] }, (tx) => tx.query('UPDATE big SET n = n + 1 WHERE id = $1', [id]))
      .then(
        () => commits++,
        () => undefined,
      )
  }
})
for (let i = 0; i < ROUNDS; i++) {
  const [before, from] = [commits, performance.now()]
  console.log(
    `with writers: ${await run()}, ${Math.round((commits - before) / ((performance.now() - from) / 1000))} commits/s meanwhile`,
  )
}
on = false
await Promise.all(writers)
await pool.end()
for (let i = 0; i < ROUNDS; i++) {
  const from = performance.now()
  await Promise.all(
    servers.map((s) =>
      ask(s, "SELECT count(*), sum(('x' || substr(md5(x::text), 1, 15))::bit(60)::bigint) FROM big x"),
    ),
  )
  console.log(`one bare sum: ${Math.round(performance.now() - from)} ms`)
}
await destroyAll(servers)
