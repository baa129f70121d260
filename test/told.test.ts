/**
 * Where texts tell all that is read, the seal does not look for it, and what is asked by key in a transaction is
 * prepared (docs/protocol.md, (q) and (r)): what must not follow from that.
 */
import { expect } from 'chai'
import type pg from 'pg'
import type { Pool } from '../driver/index.ts'
import { asked, cluster, failure, settled, type TestCluster } from './cluster.ts'

describe('texts that tell all they read', function () {
  this.timeout(30_000)
  let c: TestCluster
  let pool: Pool
  let other: Pool
  let client: pg.PoolClient
  before(async () => {
    c = await cluster()
    other = c.pool()
    await other.query('CREATE TABLE rates (id int PRIMARY KEY, rate int NOT NULL); INSERT INTO rates VALUES (1, 5)')
  })
  beforeEach(async () => {
    pool = c.pool({ max: 1 })
    client = await pool.connect()
  })
  afterEach(async () => {
    client.release()
    await pool.end()
  })
  after(() => c.destroy())

  /** Did a seal look for what was read? */
  const looked = async (work: () => Promise<unknown>): Promise<unknown[]> =>
    (await asked(work)).filter(({ text }) => text.includes('quorum.seal(')).map(({ values }) => values[2])
  const transaction = async (...texts: (string | [text: string, values: unknown[]])[]): Promise<pg.QueryResult[]> => {
    const results: pg.QueryResult[] = []
    await client.query('BEGIN')
    for (const t of texts) results.push(await (typeof t === 'string' ? client.query(t) : client.query(...t)))
    await client.query('COMMIT')
    return results
  }
  const fresh = async (columns: string, ...more: string[]): Promise<void> => {
    await other.query(
      `DO $$ BEGIN EXECUTE (SELECT format('DROP %s things CASCADE', CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END) FROM pg_class WHERE oid = to_regclass('things')); EXCEPTION WHEN null_value_not_allowed THEN NULL; END $$`,
    )
    await other.query(`CREATE TABLE things (${columns})`)
    for (const m of more) await other.query(m)
    await settled(c.servers)
  }
  const ROW = 'UPDATE things SET v = 2 WHERE id = 1'
  const READ = 'SELECT * FROM things WHERE id = $1'

  it('a row read and a row written by key: nobody looks; where anything of the application’s is called, somebody does', async () => {
    await fresh('id int PRIMARY KEY, v int', 'INSERT INTO things VALUES (1, 1)')
    await transaction(ROW)
    expect(await looked(() => transaction([READ, [1]], ROW))).to.deep.equal([false])
    expect(
      await looked(() => transaction([READ, [1]], ROW, 'SELECT 1 FROM generate_series(1, 2)')),
      'no table of ours',
    ).to.deep.equal([true])
    await other.query(
      "CREATE FUNCTION small(int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT $1 < 100'; CREATE DOMAIN little AS int CHECK (small(VALUE))",
    )
    for (const columns of [
      'id int PRIMARY KEY, v int CHECK (small(v))',
      'id int PRIMARY KEY, v little',
      'id int PRIMARY KEY, v int, w bool DEFAULT small(1)',
    ]) {
      await fresh(columns, 'INSERT INTO things VALUES (1, 1)')
      await transaction(ROW).catch(() => transaction(ROW)) // of another table than was thought: a conflict
      expect(await looked(() => transaction([READ, [1]], ROW)), columns).to.deep.equal([true])
    }
  })

  it('an operator that reads a table is watched, as it was', async () => {
    await fresh('id int PRIMARY KEY, v int', 'INSERT INTO things VALUES (1, 1)')
    await transaction(ROW)
    await other.query(
      "CREATE FUNCTION rated(int, int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1 * $2 * rate FROM rates WHERE id = 1'; CREATE OPERATOR *** (LEFTARG = int, RIGHTARG = int, FUNCTION = rated)",
    )
    await settled(c.servers)
    try {
      await client.query('BEGIN')
      await client.query('UPDATE things SET v = 2 *** 3 WHERE id = 1')
      await other.query('UPDATE rates SET rate = rate + 1 WHERE id = 1')
      expect((await failure(client.query('COMMIT'))).code).to.equal('40001')
    } finally {
      await other.query('DROP OPERATOR *** (int, int)')
    }
  })

  it('a table that is a view by now, in a transaction that only reads', async () => {
    await fresh('id int PRIMARY KEY, v int', 'INSERT INTO things VALUES (1, 1)')
    await transaction(ROW, [READ, [1]])
    await other.query('ALTER TABLE things RENAME TO base_of_things; CREATE VIEW things AS SELECT * FROM base_of_things')
    await settled(c.servers)
    await client.query('BEGIN')
    await client.query(READ, [1])
    await other.query('UPDATE base_of_things SET v = 9 WHERE id = 1')
    expect((await failure(client.query('COMMIT'))).code).to.equal('40001')
    await client.query('ROLLBACK').catch(() => undefined)
    expect((await other.query(READ, [1])).rows).to.deep.equal([{ id: 1, v: 9 }])
  })

  it('a row that moves between the look and the end', async () => {
    await fresh('id int PRIMARY KEY, v int', 'INSERT INTO things VALUES (1, 1), (2, 1)')
    await transaction(ROW)
    await client.query('BEGIN')
    expect((await client.query(READ, [2])).rows).to.deep.equal([{ id: 2, v: 1 }])
    await other.query('UPDATE things SET v = 5 WHERE id = 2')
    await client.query(ROW)
    expect((await failure(client.query('COMMIT'))).code).to.equal('40001')
  })

  it('what is asked by key in transactions is prepared; an older schema is a conflict, and an error of the statement’s stays one', async () => {
    const prepared = async (): Promise<number> =>
      (await client.query('SELECT name FROM pg_prepared_statements')).rows.length
    const write: [string, unknown[]] = ['UPDATE things SET v = $2 WHERE id = $1', [1, 7]]
    await fresh('id int PRIMARY KEY, v int', 'INSERT INTO things VALUES (1, 1)')
    for (let i = 0; i < 3; i++) await transaction(write, [READ, [1]])
    expect(await prepared()).to.equal(2)
    await client.query('BEGIN')
    expect((await failure(client.query(write[0], [1, 'no number']))).code).to.equal('22P02')
    await client.query('ROLLBACK')
    await other.query('ALTER TABLE things ADD COLUMN w int DEFAULT 5')
    await settled(c.servers)
    await client.query('BEGIN')
    const older = await client.query(READ, [1]).then(
      ({ rows }) => rows,
      (error: { code?: string }) => error.code,
    )
    expect(older).to.equal('40001')
    await client.query('ROLLBACK')
    expect((await transaction([READ, [1]], write))[0]!.rows).to.deep.equal([{ id: 1, v: 7, w: 5 }])
    await settled(c.servers)
  })
})
