/** pg-query-stream. */
import { expect } from 'chai'
import type pg from 'pg'
import QueryStream from 'pg-query-stream'
import { both, pause } from './both.ts'

both('query streams', (kind) => {
  let pool: pg.Pool
  let client: pg.PoolClient
  before(async () => {
    pool = kind.pool()
    await pool.query('CREATE TABLE str (id int PRIMARY KEY, t text)')
    await pool.query("INSERT INTO str SELECT g, 'row ' || g FROM generate_series(1, 1000) g")
    client = await pool.connect()
  })
  after(() => client.release())
  const all = async (stream: AsyncIterable<unknown>): Promise<unknown[]> => {
    const rows: unknown[] = []
    for await (const row of stream) rows.push(row)
    return rows
  }

  it('gives all rows', async () => {
    const rows = await all(
      client.query(new QueryStream('SELECT id FROM str WHERE id > $1 ORDER BY id', [10], { batchSize: 7 })),
    )
    expect(rows).to.have.length(990)
    expect(rows[0]).to.deep.equal({ id: 11 })
  })
  it('rowMode array', async () => {
    expect(
      await all(client.query(new QueryStream('SELECT id, t FROM str WHERE id = 1', [], { rowMode: 'array' }))),
    ).to.deep.equal([[1, 'row 1']])
  })
  it('an error arrives by the stream', async () => {
    const error = await all(client.query(new QueryStream('SELECT nothing'))).then(
      () => undefined,
      (e: unknown) => e as { code: string },
    )
    expect(error?.code).to.equal('42703')
    expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
  it('destroyed early, the client goes on', async () => {
    const stream = client.query(new QueryStream('SELECT id FROM str ORDER BY id', [], { batchSize: 2 }))
    for await (const row of stream) {
      if ((row as { id: number }).id === 5) break
    }
    expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
  it('slow readers', async () => {
    let n = 0
    for await (const _ of client.query(
      new QueryStream('SELECT id FROM str ORDER BY id LIMIT 20', [], { batchSize: 3 }),
    )) {
      n++
      await pause(1)
    }
    expect(n).to.equal(20)
  })
  it('one that writes is committed when it ends', async () => {
    expect(
      await all(
        client.query(new QueryStream("INSERT INTO str SELECT g, 's' FROM generate_series(5001, 5300) g RETURNING id")),
      ),
    ).to.have.length(300)
    expect((await pool.query('SELECT count(*)::int AS n FROM str WHERE id > 5000')).rows).to.deep.equal([{ n: 300 }])
  })
  it('in a transaction', async () => {
    await client.query('BEGIN')
    await client.query('DELETE FROM str WHERE id > 10')
    expect(await all(client.query(new QueryStream('SELECT id FROM str')))).to.have.length(10)
    await client.query('ROLLBACK')
    expect((await client.query('SELECT count(*)::int AS n FROM str WHERE id <= 1000')).rows).to.deep.equal([
      { n: 1000 },
    ])
  })
  it('by pool.query, when it is iterated', async () => {
    const small = kind.pool({ max: 1 })
    for (let i = 0; i < 3; i++) {
      const stream = new QueryStream('SELECT id FROM str ORDER BY id LIMIT 30')
      void small.query(stream)
      expect(await all(stream)).to.have.length(30)
    }
    expect((await small.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
})
