/**
 * A server with data becomes a cluster and plain databases again, in small; `cli/adopt.test.ts` has it in full.
 * Without pg_dump: the schema is there already.
 */
import { expect } from 'chai'
import { adopt } from '../driver/cli/adopting.ts'
import { uninstall } from '../driver/cli/uninstall.ts'
import { Pool } from '../driver/index.ts'
import { failure, settled } from './cluster.ts'
import { ask, destroyAll, threeServers, type TestServer } from './servers.ts'

describe('adopt and leave', function () {
  this.timeout(30_000)
  let servers: TestServer[] = []
  const yes = { consent: (): Promise<boolean> => Promise.resolve(true) }
  before(async () => {
    servers = await threeServers()
    for (const s of servers) await ask(s, 'CREATE TABLE old (id serial PRIMARY KEY, text text)')
    await ask(servers[0]!, "INSERT INTO old (text) SELECT 'x' || g FROM generate_series(1, 100) g")
  })
  after(() => destroyAll(servers))

  it('the rows are on all members, and a plain client’s write has to wait for uninstall', async () => {
    const urls = servers.map((s) => s.url)
    const from = new URL(urls[0]!).host
    await ask(servers[2]!, "INSERT INTO old (text) VALUES ('its own')")
    expect((await failure(adopt({ urls, from, ...yes }))).message).to.include(
      'it is not empty (schema public: public.old)',
    )
    await ask(servers[2]!, 'TRUNCATE old')
    expect(await adopt({ urls, from, ...yes })).to.containSubset({ rows: 200, done: true })
    const pool = new Pool({ replicas: urls })
    const { rows } = await pool.query<{ id: number }>("INSERT INTO old (text) VALUES ('new') RETURNING id")
    expect(rows[0]?.id).to.be.above(100)
    await pool.end()
    await settled(servers)
    expect((await failure(ask(servers[0]!, 'DELETE FROM old'))).message).to.include('goes round pg-quorum')
    expect(await uninstall({ urls, ...yes })).to.containSubset({
      done: true,
      replicas: urls.map(() => ({ state: 'plain', roles: 'dropped' })),
    })
    for (const s of servers) {
      await ask(s, "INSERT INTO old (text) VALUES ('plain')")
      expect(await ask(s, 'SELECT count(*)::int AS n FROM old')).to.deep.equal([{ n: 102 }])
    }
  })
})
