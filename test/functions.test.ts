/** Which functions a statement may call without locking everything: those that cannot touch a table. */
import { expect } from 'chai'
import type { Pool } from '../driver/index.ts'
import { cluster, failure, settled, type TestCluster } from './cluster.ts'

describe('functions in statements', () => {
  let c: TestCluster
  let pool: Pool
  before(async () => {
    c = await cluster()
    const founder = c.pool()
    await founder.query(
      'CREATE EXTENSION hstore; CREATE SCHEMA app; CREATE TABLE a (id serial PRIMARY KEY, v text); CREATE TABLE b (id serial PRIMARY KEY, v text)',
    )
    for (const [name, volatility] of [
      ['pure', 'IMMUTABLE'],
      ['app.pure2', 'IMMUTABLE'],
      ['careful', 'STABLE'],
      ['wild', 'VOLATILE'],
      ['mixed', 'IMMUTABLE'],
    ]) {
      await founder.query(
        `CREATE FUNCTION ${name}(t text) RETURNS text LANGUAGE plpgsql ${volatility} AS $$ BEGIN RETURN upper(t); END $$`,
      )
    }
    await founder.query(
      'CREATE FUNCTION app.mixed(n int) RETURNS text LANGUAGE plpgsql VOLATILE AS $$ BEGIN RETURN n; END $$',
    )
    pool = c.pool() // what functions there are is asked once
  })
  after(() => c.destroy())

  /** Two transactions that have nothing in common but the call: the codes of their commits. */
  const together = async (call: string): Promise<string[]> => {
    const [one, two] = await Promise.all([pool.connect(), pool.connect()])
    try {
      for (const [client, table] of [
        [one, 'a'],
        [two, 'b'],
      ] as const) {
        await client.query('BEGIN')
        await client.query(`INSERT INTO ${table} (v) VALUES (${call})`)
      }
      const codes: string[] = []
      for (const client of [one, two])
        codes.push(
          await client.query('COMMIT').then(
            () => 'ok',
            (e: { code: string }) => e.code,
          ),
        )
      return codes
    } finally {
      one.release()
      two.release()
      await settled(c.servers)
    }
  }

  for (const call of ["upper('x')", "pure('x')", "app.pure2('x')", "hstore('k', 'x')::text"])
    it(`${call} does not`, async () => expect(await together(call)).to.deep.equal(['ok', 'ok']))
  for (const call of ["careful('x')", "wild('x')", "mixed('x')"])
    it(`control: ${call} does`, async () => expect(await together(call)).to.deep.equal(['ok', '40001']))

  it('an IMMUTABLE function that reads a table all the same is found out', async () => {
    await pool.query("CREATE FUNCTION liar() RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT count(*) FROM a'")
    const fresh = c.pool()
    expect(Number((await fresh.query<{ n: string }>('SELECT liar() + $1::int AS n', [0])).rows[0]?.n)).to.be.above(0)
    const client = await fresh.connect()
    await client.query('BEGIN')
    await client.query('INSERT INTO b (v) SELECT liar()::text FROM (VALUES ($1::int)) x', [1])
    const error = await failure(client.query('COMMIT'))
    client.release()
    expect(error.code).to.equal('40001')
    expect(error.message).to.match(/(public|app)\.a\b/) // (the login may have the schema's name)
  })
})
