/** The ways to say one query: text, values, config, callback, promise, Query object. */
import { expect } from 'chai'
import pg from 'pg'
import { failure } from '../cluster.ts'
import { both, called } from './both.ts'

both('the forms of query()', (kind) => {
  let pool: pg.Pool
  let client: pg.PoolClient
  before(async () => {
    pool = kind.pool()
    await pool.query('CREATE TABLE forms (id int PRIMARY KEY, t text)')
    client = await pool.connect()
  })
  after(() => client.release())

  for (const what of ['pool', 'client'] as const) {
    const it_ = (title: string, test: (on: pg.Pool) => Promise<void>): void =>
      void it(`${what}: ${title}`, () => test(what === 'pool' ? pool : (client as unknown as pg.Pool)))
    it_('text', async (on) => {
      expect((await on.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
    })
    it_('text and values', async (on) => {
      expect((await on.query('SELECT $1::int + $2::int AS n', [1, 2])).rows).to.deep.equal([{ n: 3 }])
    })
    it_('config', async (on) => {
      expect((await on.query({ text: 'SELECT $1::text AS t', values: ['x'] })).rows).to.deep.equal([{ t: 'x' }])
    })
    it_('config and values', async (on) => {
      expect((await on.query({ text: 'SELECT $1::text AS t' }, ['y'])).rows).to.deep.equal([{ t: 'y' }])
    })
    it_('text, callback', async (on) => {
      const { callback, once } = called<[Error | undefined, pg.QueryResult]>()
      expect(on.query('SELECT 2 AS two', callback as never)).to.equal(undefined)
      const [error, result] = await once
      expect(error ?? undefined).to.equal(undefined)
      expect(result.rows).to.deep.equal([{ two: 2 }])
    })
    it_('text, values, callback', async (on) => {
      const { callback, once } = called<[Error | undefined, pg.QueryResult]>()
      void on.query('SELECT $1::int AS n', [3], callback as never)
      expect((await once)[1].rows).to.deep.equal([{ n: 3 }])
    })
    it_('config, callback; config, values, callback', async (on) => {
      const a = called<[Error | undefined, pg.QueryResult]>()
      void on.query({ text: 'SELECT 4 AS n' }, a.callback as never)
      expect((await a.once)[1].rows).to.deep.equal([{ n: 4 }])
      const b = called<[Error | undefined, pg.QueryResult]>()
      ;(on.query as (...args: unknown[]) => void).call(on, { text: 'SELECT $1::int AS n' }, [5], b.callback)
      expect((await b.once)[1].rows).to.deep.equal([{ n: 5 }])
    })
    it_('an error goes to the callback', async (on) => {
      const { callback, once } = called<[Error & { code: string }, unknown]>()
      void on.query('SELECT nothing', callback as never)
      const [error, result] = await once
      expect(error).to.be.instanceOf(pg.DatabaseError)
      expect(error.code).to.equal('42703')
      expect(result).to.equal(undefined)
    })
    it_('an error rejects', async (on) => {
      expect((await failure(on.query('SELECT nothing'))).code).to.equal('42703')
    })
    it_('nothing at all', async (on) => {
      expect((await failure((async () => on.query(null as never))())).message).to.match(/null or undefined query/)
      expect((await failure((async () => on.query({} as never))())).message).to.match(/either text or a name/)
    })
    it_('values that are no array', async (on) => {
      expect((await failure(on.query('SELECT $1', 5 as never))).message).to.match(/must be an array/)
    })
    it_('a template object whose text is a getter of its class', async (on) => {
      class Sql {
        readonly values = [6]
        get text(): string {
          return 'SELECT $1::int AS n'
        }
      }
      expect((await on.query(new Sql())).rows).to.deep.equal([{ n: 6 }])
    })
    it_('the config is not changed', async (on) => {
      const config = Object.freeze({ text: 'SELECT $1::int AS n', values: Object.freeze([7]) as unknown as number[] })
      expect((await on.query(config)).rows).to.deep.equal([{ n: 7 }])
    })
    it_('a write', async (on) => {
      const result = await on.query('INSERT INTO forms VALUES ($1, $2) RETURNING id, t', [
        what === 'pool' ? 1 : 2,
        what,
      ])
      expect(result).to.include({ command: 'INSERT', rowCount: 1 })
      expect(result.rows).to.deep.equal([{ id: what === 'pool' ? 1 : 2, t: what }])
    })
  }

  it('client: null throws at once, as does a callback that is none', () => {
    expect(() => client.query(null as never)).to.throw(TypeError, /null or undefined query/)
  })
  it('pool: a function as the first argument is an error by callback', async () => {
    const { callback, once } = called<[Error]>()
    pool.query(callback as never)
    expect((await once)[0].message).to.match(/function as the first parameter/)
  })
  it('a Query object: returned as it is, with row and end events', async () => {
    const query = new pg.Query('SELECT g FROM generate_series(1, $1::int) g', [3])
    const rows: unknown[] = []
    query.on('row', (row) => rows.push(row))
    const ended = new Promise((resolve, reject) => query.on('end', resolve).on('error', reject))
    expect(client.query(query)).to.equal(query)
    await ended
    expect(rows).to.deep.equal([{ g: 1 }, { g: 2 }, { g: 3 }])
  })
  it('a Query object that writes, with a callback', async () => {
    const { callback, once } = called<[Error | null, pg.QueryResult]>()
    client.query(new pg.Query('INSERT INTO forms VALUES ($1, $2) RETURNING id', [10, 'query'], callback as never))
    const [error, result] = await once
    expect(error).to.equal(null)
    expect(result.rows).to.deep.equal([{ id: 10 }])
    expect((await pool.query('SELECT t FROM forms WHERE id = 10')).rows).to.deep.equal([{ t: 'query' }])
  })
  it('a Query object that fails says so by its event', async () => {
    const query = new pg.Query('SELECT nothing')
    const error = new Promise<Error & { code?: string }>((resolve) => query.on('error', resolve))
    client.query(query)
    expect((await error).code).to.equal('42703')
    expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
  it('queries queued on one client come back in their order', async () => {
    const order: number[] = []
    await Promise.all(
      [1, 2, 3, 4].map((n) => client.query('SELECT pg_sleep($1)', [(5 - n) / 200]).then(() => order.push(n))),
    )
    expect(order).to.deep.equal([1, 2, 3, 4])
  })
  it('two hundred at once on a pool of ten', async () => {
    const all = await Promise.all(Array.from({ length: 200 }, (_, i) => pool.query('SELECT $1::int AS n', [i])))
    expect(all.map((r) => r.rows[0].n)).to.deep.equal(Array.from({ length: 200 }, (_, i) => i))
  })
})
