/** A pool's first moment: what is asked of it at once is not as many beginnings. */
import { expect } from 'chai'
import type pg from 'pg'
import { BuiltIns } from '../driver/pool/built-ins.ts'
import { cluster, failure, type TestCluster } from './cluster.ts'
import { ask } from './servers.ts'

const CALLERS = 20
const all = <T>(work: (i: number) => Promise<T>): Promise<T[]> =>
  Promise.all(Array.from({ length: CALLERS }, (_, i) => work(i)))

describe('many callers of a new pool', function () {
  this.timeout(30_000)
  let c: TestCluster
  before(async () => {
    c = await cluster()
    const pool = c.pool()
    await pool.query(
      'CREATE TABLE notes (id int PRIMARY KEY, v int); INSERT INTO notes SELECT i, 0 FROM generate_series(0, 19) i',
    )
    await pool.end()
  })
  after(() => c.destroy())
  const links = async (): Promise<number[]> =>
    Promise.all(
      c.servers.map(async (s) =>
        Number(
          (await ask(s, "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'pg-quorum'"))[0]!['n'],
        ),
      ),
    )

  it('the first writes are one or two groups, on one client', async () => {
    const pool = c.pool({ max: CALLERS })
    await all((i) => pool.query('UPDATE notes SET v = v + 1 WHERE id = $1', [i]))
    expect(pool.totalCount).to.be.within(1, 2)
    await pool.end()
  })

  it('clients that connect together greet the members once', async () => {
    const pool = c.pool({ max: CALLERS })
    const clients = await all(() => pool.connect())
    expect(Math.max(...(await links()))).to.be.within(1, 5)
    clients.forEach((client) => client.release())
    await pool.end()
  })

  it('who asks for all and is never answered holds nobody up', async () => {
    const builtIns = new BuiltIns()
    void builtIns.learn(() => new Promise(() => undefined))
    await builtIns.learn(() => Promise.resolve({ rows: [{ r: ['abs'] }] } as pg.QueryResult))
    expect(builtIns.names?.has('abs')).to.equal(true)
  })

  it('the first one fails, or takes long: the others go on', async () => {
    const pool = c.pool({ max: CALLERS })
    const wrong = failure(pool.query('SELECT nothing FROM nowhere'))
    const results = await all((i) => pool.query<{ v: number }>('SELECT v FROM notes WHERE id = $1', [i]))
    expect(results.map((r) => r.rows[0]?.v)).to.deep.equal(Array.from({ length: CALLERS }, () => 1))
    expect(await wrong).to.have.property('code', '42P01')
    await pool.end()
    const another = c.pool({ max: CALLERS })
    const slow = another.query('SELECT pg_sleep(2)')
    let over = false
    void slow.then(() => {
      over = true
    })
    await all((i) => another.query('SELECT v FROM notes WHERE id = $1', [i]))
    expect(over).to.equal(false)
    await slow
    await another.end()
  })
})
