/**
 * A transaction that changes too much is refused with its limit; one below it is carried, also to a replica that
 * has to catch up.
 */
import { expect } from 'chai'
import pg from 'pg'
import { quoted } from '../driver/replica/statements.ts'
import { cluster, failure, settled, type TestCluster } from './cluster.ts'
import { ask } from './servers.ts'

describe('large transactions', () => {
  let c: TestCluster
  before(async () => {
    c = await cluster()
  })
  after(() => c.destroy())

  it('beyond maxChangesetBytes: 54000, nothing is committed, and it says what to do; raised, it goes', async () => {
    const pool = c.pool({ maxChangesetBytes: 100_000 })
    await pool.query('CREATE TABLE big (id int PRIMARY KEY, v text NOT NULL)')
    const insert = "INSERT INTO big SELECT g, repeat('x', 90) FROM generate_series(1, 2000) g"
    const error = await failure(pool.query(insert))
    expect([error.code, error.outcome, error.retryable]).deep.equal(['54000', 'not-committed', false])
    expect(error.message).match(/changes 1 MB of rows, more than the limit of 0\.1 MB/)
    expect((error as Error & { hint?: string }).hint).contain('maxChangesetBytes')
    expect((await pool.query('SELECT count(*)::int n FROM big')).rows).deep.equal([{ n: 0 }])
    await c.pool().query(insert)
    await settled(c.servers)
  })

  it('40,000 rows in one transaction, live and through catch-up', async () => {
    await c.servers[2]!.kill()
    const pool = c.pool()
    await pool.query('TRUNCATE big')
    await pool.query("INSERT INTO big SELECT g, repeat('x', 50) FROM generate_series(1, 40000) g")
    await c.servers[2]!.start()
    await settled(c.servers, 15_000)
    expect((await ask(c.servers[2]!, 'SELECT count(*)::int n FROM big'))[0]).deep.equal({ n: 40_000 })
  })

  it('a changeset is quoted as pg would quote it', () => {
    for (const text of ['', "it's", '\\', "\\' ''\\\\", "$1 $& $' é \u{1F600}", '{"a": "\\"b\\""}'])
      expect(quoted(text)).equal(pg.escapeLiteral(text))
  })
})
