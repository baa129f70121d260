/** pg-cursor, on a client and on a pool, inside a transaction and outside. */
import { expect } from 'chai'
import Cursor from 'pg-cursor'
import type pg from 'pg'
import { failure } from '../cluster.ts'
import { both, called, pause } from './both.ts'

both('cursors', (kind) => {
  let pool: pg.Pool
  let client: pg.PoolClient
  before(async () => {
    pool = kind.pool()
    await pool.query('CREATE TABLE cur (id int PRIMARY KEY, t text); CREATE VIEW cur_view AS SELECT id, t FROM cur')
    await pool.query("INSERT INTO cur SELECT g, 'row ' || g FROM generate_series(1, 250) g")
    client = await pool.connect()
  })
  after(() => client.release())
  const ids = (rows: { id: number }[]): number[] => rows.map((r) => r.id)

  it('reads in portions, to the end, and says end', async () => {
    const cursor = client.query(
      new Cursor<{ id: number; t: string }>('SELECT * FROM cur WHERE id > $1 ORDER BY id', [5]),
    )
    const ended = new Promise((resolve) => cursor.on('end', resolve))
    expect(ids(await cursor.read(3))).to.deep.equal([6, 7, 8])
    expect(await cursor.read(1)).to.deep.equal([{ id: 9, t: 'row 9' }])
    expect(await cursor.read(1000)).to.have.length(241)
    await ended
    expect(await cursor.read(10)).to.deep.equal([])
    expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
  it('the callback form, with its Result', async () => {
    const cursor = client.query(new Cursor('SELECT id FROM cur ORDER BY id LIMIT 2'))
    const { callback, once } = called<[Error | null, { id: number }[], pg.QueryResult]>()
    cursor.read(5, callback as never)
    const [error, rows, result] = await once
    expect(error).to.equal(null)
    expect(ids(rows)).to.deep.equal([1, 2])
    expect(result.fields.map((f) => f.name)).to.deep.equal(['id'])
    expect(result.rowCount).to.equal(2)
  })
  it('is closed early, and the client goes on', async () => {
    const cursor = client.query(new Cursor('SELECT id FROM cur ORDER BY id'))
    expect(await cursor.read(2)).to.have.length(2)
    await cursor.close()
    expect(await cursor.read(2)).to.deep.equal([])
    expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
  it('a query after an open cursor waits for it', async () => {
    const cursor = client.query(new Cursor('SELECT id FROM cur ORDER BY id'))
    const order: string[] = []
    const waiting = client.query('SELECT 1').then(() => order.push('query'))
    await cursor.read(5)
    await pause(30)
    order.push('close')
    await cursor.close()
    await waiting
    expect(order).to.deep.equal(['close', 'query'])
  })
  it('an error of the text, of a value, of a row', async () => {
    expect((await failure(client.query(new Cursor('SELECT nothing')).read(1))).code).to.equal('42703')
    expect((await failure(client.query(new Cursor('SELECT $1::int', ['x'])).read(1))).code).to.equal('22P02')
    const cursor = client.query(new Cursor('SELECT 10 / (3 - id) FROM cur ORDER BY id'))
    expect(await cursor.read(2)).to.have.length(2)
    expect((await failure(cursor.read(2))).code).to.equal('22012')
    expect((await failure(cursor.read(2))).code).to.equal('22012')
    expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
  it('rowMode array, types', async () => {
    const cursor = client.query(
      new Cursor('SELECT id, t FROM cur ORDER BY id', undefined, {
        rowMode: 'array',
        types: { getTypeParser: () => (v: string) => `<${v}>` } as never,
      }),
    )
    expect(await cursor.read(1)).to.deep.equal([['<1>', '<row 1>']])
    await cursor.close()
  })
  it('through a view', async () => {
    const cursor = client.query(new Cursor('SELECT id FROM cur_view ORDER BY id'))
    expect(await cursor.read(300)).to.have.length(250)
    expect(await cursor.read(1)).to.deep.equal([])
  })
  it('in a transaction: sees its writes, and goes on after it', async () => {
    await client.query('BEGIN')
    await client.query("INSERT INTO cur VALUES (1000, 'new')")
    const cursor = client.query(new Cursor('SELECT id FROM cur WHERE id >= 250 ORDER BY id'))
    expect(await cursor.read(10)).to.deep.equal([{ id: 250 }, { id: 1000 }])
    await cursor.close()
    await client.query('ROLLBACK')
    expect((await pool.query('SELECT count(*)::int AS n FROM cur')).rows).to.deep.equal([{ n: 250 }])
  })
  it('that writes: committed when it has ended', async () => {
    const cursor = client.query(
      new Cursor("INSERT INTO cur SELECT g, 'c' FROM generate_series(2001, 2003) g RETURNING id"),
    )
    expect(await cursor.read(10)).to.deep.equal([{ id: 2001 }, { id: 2002 }, { id: 2003 }])
    expect((await pool.query('SELECT count(*)::int AS n FROM cur WHERE id > 2000')).rows).to.deep.equal([{ n: 3 }])
    const early = client.query(new Cursor('DELETE FROM cur WHERE id > 2000 RETURNING id'))
    expect(await early.read(1)).to.have.length(1)
    await early.close()
    await client.query('SELECT 1')
    expect((await pool.query('SELECT count(*)::int AS n FROM cur WHERE id > 2000')).rows).to.deep.equal([{ n: 0 }])
  })
  it('that violates a constraint fails where it is read, and nothing stays', async () => {
    const cursor = client.query(new Cursor("INSERT INTO cur VALUES (3001, 'x'), (1, 'twice') RETURNING id"))
    expect((await failure(cursor.read(10))).code).to.equal('23505')
    expect((await client.query('SELECT count(*)::int AS n FROM cur WHERE id > 3000')).rows).to.deep.equal([{ n: 0 }])
    expect(client.getTransactionStatus()).to.equal('I')
  })
  it('an empty query', async () => {
    const cursor = client.query(new Cursor(''))
    expect(await cursor.read(1)).to.deep.equal([])
  })
  it('twenty on a pool of two give their clients back', async () => {
    const small = kind.pool({ max: 2 })
    await Promise.all(
      Array.from({ length: 20 }, async (_, i) => {
        const c = await small.connect()
        const cursor = c.query(new Cursor('SELECT id FROM cur WHERE id > $1 ORDER BY id', [i]))
        expect(await cursor.read(1)).to.deep.equal([{ id: i + 1 }])
        await cursor.close()
        c.release()
      }),
    )
    expect(small.totalCount).to.be.at.most(2)
  })
  if (kind.name === 'pg-quorum') {
    it('pool.query(cursor) returns the cursor, and its client comes back (pg never gives it back)', async () => {
      const small = kind.pool({ max: 1 })
      for (let i = 0; i < 3; i++) {
        const cursor = small.query(new Cursor('SELECT id FROM cur ORDER BY id'))
        expect(cursor).to.be.instanceOf(Cursor)
        expect(await cursor.read(2)).to.deep.equal([{ id: 1 }, { id: 2 }])
        await cursor.close()
        const failing = small.query(new Cursor('SELECT nothing'))
        expect((await failure(failing.read(1))).code).to.equal('42703')
      }
      expect((await small.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
      expect([small.totalCount, small.waitingCount]).to.deep.equal([1, 0])
    })
    it('a strong read: each cursor sees what was acknowledged before it, whichever member leads', async () => {
      const elsewhere = kind.pool({ replicas: [...kind.servers()].reverse().map((s) => s.url) })
      for (let i = 0; i < 8; i++) {
        await pool.query('UPDATE cur SET t = $1 WHERE id = 1', [String(i)])
        const c = await elsewhere.connect()
        const cursor = c.query(new Cursor(`SELECT t FROM ${i % 2 ? 'cur' : 'cur_view'} WHERE id = 1`))
        expect(await cursor.read(2)).to.deep.equal([{ t: String(i) }])
        await cursor.close()
        c.release()
      }
    })
    it('in a transaction what it reads is watched: write skew is a 40001', async () => {
      const one = async (c: pg.PoolClient, id: number): Promise<void> => {
        await c.query('BEGIN')
        const cursor = c.query(new Cursor('SELECT sum(id) FROM cur'))
        await cursor.read(1)
        await cursor.close()
        await c.query('UPDATE cur SET t = $2 WHERE id = $1', [id, 'skewed'])
      }
      const other = await pool.connect()
      await one(client, 1)
      await one(other, 2)
      const ends = await Promise.allSettled([client.query('COMMIT'), other.query('COMMIT')])
      other.release()
      expect(ends.filter((e) => e.status === 'fulfilled').length).to.be.at.most(1)
    })
  }
})
