/** pg-copy-streams: COPY … FROM STDIN and TO STDOUT. */
import { once } from 'node:events'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { expect } from 'chai'
import type pg from 'pg'
import copy from 'pg-copy-streams'
import { failure } from '../cluster.ts'
import { both } from './both.ts'

both('COPY', (kind) => {
  let pool: pg.Pool
  let client: pg.PoolClient
  before(async () => {
    pool = kind.pool()
    await pool.query('CREATE TABLE cop (id int PRIMARY KEY, t text)')
    client = await pool.connect()
  })
  after(() => client.release())
  beforeEach(async () => {
    await client.query('TRUNCATE cop')
  })
  const count = async (): Promise<number> =>
    (await pool.query<{ n: number }>('SELECT count(*)::int AS n FROM cop')).rows[0]!.n
  const lines = (n: number): Readable =>
    Readable.from(
      (function* (): Generator<string> {
        for (let i = 1; i <= n; i++) yield `${i}\trow ${i}\n`
      })(),
    )
  const text = async (stream: Readable): Promise<string> => {
    const chunks: Buffer[] = []
    for await (const chunk of stream) chunks.push(chunk as Buffer)
    return Buffer.concat(chunks).toString()
  }

  it('FROM STDIN: committed when the stream has finished', async () => {
    const stream = client.query(copy.from('COPY cop FROM STDIN'))
    await pipeline(lines(3000), stream)
    expect(stream.rowCount).to.equal(3000)
    expect(await count()).to.equal(3000)
  })
  it('FROM STDIN of nothing, as CSV, and with columns', async () => {
    await pipeline(Readable.from([]), client.query(copy.from('COPY cop FROM STDIN')))
    await pipeline(Readable.from(['1,"a,b"\n']), client.query(copy.from('COPY cop (id, t) FROM STDIN (FORMAT csv)')))
    expect((await client.query('SELECT * FROM cop')).rows).to.deep.equal([{ id: 1, t: 'a,b' }])
  })
  it('bad data: the stream fails, and nothing stays', async () => {
    const error = await failure(
      pipeline(Readable.from(['1\ta\n', 'x\tb\n']), client.query(copy.from('COPY cop FROM STDIN'))),
    )
    expect(error.code).to.equal('22P02')
    const twice = await failure(
      pipeline(Readable.from(['1\ta\n1\tb\n']), client.query(copy.from('COPY cop FROM STDIN'))),
    )
    expect(twice.code).to.equal('23505')
    expect(await count()).to.equal(0)
    expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
  it('an unknown table', async () => {
    expect((await failure(pipeline(lines(1), client.query(copy.from('COPY cop_nowhere FROM STDIN'))))).code).to.equal(
      '42P01',
    )
    expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
  it('the source fails: nothing stays', async () => {
    const broken = Readable.from(
      (function* (): Generator<string> {
        yield '1\ta\n'
        throw new Error('the source broke')
      })(),
    )
    expect((await failure(pipeline(broken, client.query(copy.from('COPY cop FROM STDIN'))))).message).to.match(
      /the source broke/,
    )
    expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
    expect(await count()).to.equal(0)
  })
  it('in a transaction, with other statements; rolled back and committed', async () => {
    await client.query('BEGIN')
    await pipeline(lines(5), client.query(copy.from('COPY cop FROM STDIN')))
    await client.query('ROLLBACK')
    expect(await count()).to.equal(0)
    await client.query('BEGIN')
    await pipeline(lines(5), client.query(copy.from('COPY cop FROM STDIN')))
    await client.query('DELETE FROM cop WHERE id = 1')
    await client.query('COMMIT')
    expect(await count()).to.equal(4)
  })
  it('TO STDOUT', async () => {
    await client.query("INSERT INTO cop VALUES (1, 'a'), (2, 'b')")
    const stream = client.query(copy.to('COPY (SELECT * FROM cop ORDER BY id) TO STDOUT'))
    expect(await text(stream)).to.equal('1\ta\n2\tb\n')
    expect(await text(client.query(copy.to('COPY cop TO STDOUT (FORMAT csv, HEADER)')))).to.equal('id,t\n1,a\n2,b\n')
    expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
  it('TO STDOUT in a transaction, and an error', async () => {
    await client.query('BEGIN')
    await client.query("INSERT INTO cop VALUES (7, 'x')")
    expect(await text(client.query(copy.to('COPY cop TO STDOUT')))).to.equal('7\tx\n')
    await client.query('ROLLBACK')
    const stream = client.query(copy.to('COPY cop_nowhere TO STDOUT'))
    const [error] = (await once(stream.resume(), 'error').catch((e: unknown) => [e])) as [{ code: string }]
    expect(error.code).to.equal('42P01')
    expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
  it('COPY FROM STDIN as a plain query is refused', async () => {
    expect((await failure(client.query('COPY cop FROM STDIN'))).code).to.equal('57014')
    expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
  it('a large one, by pg’s backpressure', async () => {
    await pipeline(lines(20_000), client.query(copy.from('COPY cop FROM STDIN')))
    expect((await text(client.query(copy.to('COPY cop TO STDOUT')))).split('\n')).to.have.length(20_001)
  })
})
