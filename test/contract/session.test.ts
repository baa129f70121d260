/** What lives in a session: settings, temporary tables, advisory locks, prepared statements, cursors of SQL's own. */
import { expect } from 'chai'
import type pg from 'pg'
import { failure, settled } from '../cluster.ts'
import { both } from './both.ts'

both('the session', (kind) => {
  let pool: pg.Pool
  let client: pg.PoolClient
  before(async () => {
    pool = kind.pool()
    await pool.query('CREATE TABLE ses (id int PRIMARY KEY, t text)')
    await pool.query("INSERT INTO ses SELECT g, 'row ' || g FROM generate_series(1, 20) g")
    client = await pool.connect()
  })
  after(() => client.release())
  const one = async (text: string, on: pg.ClientBase = client): Promise<unknown> =>
    Object.values((await on.query(text)).rows[0] as Record<string, unknown>)[0]

  it('SET, RESET, SET LOCAL, SHOW, set_config', async () => {
    await client.query("SET work_mem = '7MB'")
    expect(await one('SHOW work_mem')).to.equal('7MB')
    await client.query('BEGIN')
    await client.query("SET LOCAL work_mem = '8MB'")
    await client.query("SELECT set_config('my.key', 'value', true)")
    expect(await one("SELECT current_setting('my.key')")).to.equal('value')
    expect(await one('SHOW work_mem')).to.equal('8MB')
    await client.query('COMMIT')
    expect(await one('SHOW work_mem')).to.equal('7MB')
    await client.query("SELECT set_config('my.key', 'stays', false)")
    expect(await one("SELECT current_setting('my.key') FROM ses WHERE id = 1")).to.equal('stays')
    await client.query('RESET ALL')
    expect(await one('SHOW work_mem')).not.to.equal('7MB')
  })
  it('RESET ALL inside a transaction that writes, and alters', async () => {
    await client.query('BEGIN')
    await client.query("UPDATE ses SET t = 'x' WHERE id = 1")
    await client.query('ALTER TABLE ses ADD COLUMN extra text')
    await client.query("UPDATE ses SET extra = 'y' WHERE id = 1")
    await client.query('RESET ALL')
    await client.query("UPDATE ses SET t = 'row 1', extra = 'z' WHERE id = 1")
    await client.query('ALTER TABLE ses DROP COLUMN extra')
    await client.query('COMMIT')
    expect((await pool.query('SELECT t FROM ses WHERE id = 1')).rows).to.deep.equal([{ t: 'row 1' }])
    if (kind.name === 'pg-quorum') await settled(kind.servers())
  })
  it('a pool’s sessions are apart, and a client keeps its own', async () => {
    const other = await pool.connect()
    await other.query("SET application_name = 'other'")
    expect(await one('SHOW application_name')).not.to.equal('other')
    expect(await one('SHOW application_name', other)).to.equal('other')
    other.release()
  })
  it('SET TIME ZONE, DateStyle, bytea_output, extra_float_digits: what is stored is the same', async () => {
    await client.query(
      "SET TIME ZONE 'Asia/Tokyo'; SET DateStyle = 'German'; SET IntervalStyle = 'sql_standard'; SET bytea_output = 'escape'; SET extra_float_digits = 0",
    )
    await client.query(
      'CREATE TABLE ses_types (id int PRIMARY KEY, w timestamptz, d date, i interval, b bytea, f float8)',
    )
    await client.query(
      "INSERT INTO ses_types VALUES (1, '2026-01-02 03:04:05+00', '3.2.2026', '1 2:03:04', '\\\\001', 0.1::float8 + 0.2)",
    )
    await client.query('UPDATE ses_types SET f = f + 0.1')
    await client.query('DISCARD ALL')
    const {
      rows: [row],
    } = await pool.query(
      "SELECT to_char(w AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') w, d::text, i::text, f::text FROM ses_types",
    )
    expect(row).to.deep.equal({ w: '2026-01-02 03:04:05', d: '2026-02-03', i: '1 day 02:03:04', f: '0.4' })
  })
  describe('temporary tables', () => {
    afterEach(async () => {
      await client.query('DISCARD TEMP')
    })
    it('outside transactions: made, filled, read, altered, dropped', async () => {
      await client.query('CREATE TEMP TABLE tt (id int PRIMARY KEY, n int)')
      await client.query('INSERT INTO tt SELECT id, 1 FROM ses')
      expect((await client.query('UPDATE tt SET n = 2 WHERE id <= 5')).rowCount).to.equal(5)
      await client.query('ALTER TABLE tt ADD COLUMN more text DEFAULT $$m$$')
      await client.query('CREATE INDEX tt_n ON tt (n)')
      expect(await one('SELECT more FROM tt WHERE id = 1')).to.equal('m')
      expect(
        (await client.query('SELECT s.t FROM ses s JOIN tt USING (id) WHERE n = 2 ORDER BY id')).rows,
      ).to.have.length(5)
      await client.query('TRUNCATE tt')
      expect(await one('SELECT count(*)::int FROM tt')).to.equal(0)
      await client.query('DROP TABLE tt')
      expect((await failure(client.query('SELECT * FROM tt'))).code).to.equal('42P01')
    })
    it('CREATE TEMP TABLE AS, SELECT INTO TEMP, a temporary view and sequence', async () => {
      await client.query('CREATE TEMP TABLE tt_as AS SELECT * FROM ses WHERE id < 4')
      await client.query('SELECT * INTO TEMP tt_into FROM ses WHERE id < 3')
      await client.query('CREATE TEMP VIEW tt_view AS SELECT * FROM tt_as')
      await client.query('CREATE TEMP SEQUENCE tt_seq')
      expect([
        await one('SELECT count(*)::int FROM tt_as'),
        await one('SELECT count(*)::int FROM tt_into'),
        await one('SELECT count(*)::int FROM tt_view'),
        await one("SELECT nextval('tt_seq')::int"),
        await one("SELECT nextval('tt_seq')::int"),
      ]).to.deep.equal([3, 2, 3, 1, 2])
      await client.query('DROP VIEW tt_view; DROP TABLE tt_as, tt_into; DROP SEQUENCE tt_seq')
    })
    it('in a transaction with real tables, read and written; ON COMMIT DROP', async () => {
      await client.query('BEGIN')
      await client.query('CREATE TEMP TABLE tt_in (id int, t text) ON COMMIT DROP')
      await client.query("INSERT INTO tt_in SELECT id, 'temp' FROM ses WHERE id <= 3")
      await client.query('UPDATE ses SET t = tt_in.t FROM tt_in WHERE ses.id = tt_in.id')
      await client.query('INSERT INTO ses SELECT id + 1000, t FROM tt_in')
      await client.query('COMMIT')
      expect((await pool.query("SELECT count(*)::int AS n FROM ses WHERE t = 'temp'")).rows).to.deep.equal([{ n: 6 }])
      expect((await failure(client.query('SELECT * FROM tt_in'))).code).to.equal('42P01')
      await client.query("DELETE FROM ses WHERE id > 1000; UPDATE ses SET t = 'row ' || id WHERE t = 'temp'")
    })
    it('one that hides a real table: the real one is not touched', async () => {
      await client.query('CREATE TEMP TABLE ses (id int PRIMARY KEY, t text)')
      await client.query("INSERT INTO ses VALUES (1, 'hidden')")
      expect(await one('SELECT t FROM ses WHERE id = 1')).to.equal('hidden')
      expect((await pool.query('SELECT t FROM ses WHERE id = 1')).rows).to.deep.equal([{ t: 'row 1' }])
      await client.query('DROP TABLE ses')
      expect(await one('SELECT t FROM ses WHERE id = 1')).to.equal('row 1')
    })
  })
  describe('advisory locks', () => {
    it('of the session: held over transactions, given back, refused to others', async () => {
      const other = await pool.connect()
      await client.query('SELECT pg_advisory_lock(42)')
      await client.query('UPDATE ses SET t = t WHERE id = 1')
      expect(await one('SELECT pg_try_advisory_lock(42)', other)).to.equal(false)
      expect(await one('SELECT pg_advisory_unlock(42)')).to.equal(true)
      expect(await one('SELECT pg_try_advisory_lock(42)', other)).to.equal(true)
      await other.query('SELECT pg_advisory_unlock_all()')
      other.release()
    })
    it('of the transaction', async () => {
      const other = await pool.connect()
      await client.query('BEGIN')
      await client.query('SELECT pg_advisory_xact_lock(1, 2)')
      expect(await one('SELECT pg_try_advisory_xact_lock(1, 2)', other)).to.equal(false)
      await client.query('COMMIT')
      expect(await one('SELECT pg_try_advisory_xact_lock(1, 2)', other)).to.equal(true)
      other.release()
    })
    it('pg_advisory_unlock_all() in the middle of a transaction that writes, and around others', async () => {
      const other = await pool.connect()
      await client.query('BEGIN')
      await client.query("UPDATE ses SET t = 'unlocked' WHERE id = 2")
      await client.query('SELECT pg_advisory_unlock_all()')
      await other.query('SELECT pg_advisory_unlock_all()')
      await client.query('COMMIT')
      other.release()
      expect((await pool.query('SELECT t FROM ses WHERE id = 2')).rows).to.deep.equal([{ t: 'unlocked' }])
      if (kind.name === 'pg-quorum') await settled(kind.servers())
    })
  })
  it('PREPARE, EXECUTE, DEALLOCATE', async () => {
    await client.query('PREPARE ses_get (int) AS SELECT t FROM ses WHERE id = $1')
    await client.query('PREPARE ses_put (int, text) AS UPDATE ses SET t = $2 WHERE id = $1')
    expect(await one('EXECUTE ses_get(3)')).to.equal('row 3')
    expect((await client.query("EXECUTE ses_put(3, 'put')")).rowCount).to.equal(1)
    expect((await pool.query('SELECT t FROM ses WHERE id = 3')).rows).to.deep.equal([{ t: 'put' }])
    await client.query('DEALLOCATE ALL')
    expect((await failure(client.query('EXECUTE ses_get(3)'))).code).to.equal('26000')
  })
  it('DECLARE, FETCH, MOVE, CLOSE; WITH HOLD; outside a transaction', async () => {
    expect((await failure(client.query('DECLARE c CURSOR FOR SELECT id FROM ses'))).code).to.equal('25P01')
    await client.query('BEGIN')
    await client.query('DECLARE c SCROLL CURSOR FOR SELECT id FROM ses ORDER BY id')
    expect((await client.query('FETCH 2 FROM c')).rows).to.deep.equal([{ id: 1 }, { id: 2 }])
    await client.query('MOVE 5 IN c')
    expect((await client.query('FETCH BACKWARD 1 FROM c')).rows).to.deep.equal([{ id: 6 }])
    await client.query('CLOSE c')
    await client.query('COMMIT')
    await client.query('DECLARE h CURSOR WITH HOLD FOR SELECT id FROM ses ORDER BY id')
    expect((await client.query('FETCH 1 FROM h')).rows).to.deep.equal([{ id: 1 }])
    await client.query('CLOSE h')
  })
  it('EXPLAIN, EXPLAIN ANALYZE of a write, ANALYZE', async () => {
    expect((await client.query('EXPLAIN SELECT * FROM ses')).rows.length).to.be.above(0)
    await client.query("EXPLAIN (ANALYZE) UPDATE ses SET t = 'explained' WHERE id = 4")
    expect((await pool.query('SELECT t FROM ses WHERE id = 4')).rows).to.deep.equal([{ t: 'explained' }])
    await client.query('ANALYZE ses')
  })
  it('SELECT FOR UPDATE, SKIP LOCKED, NOWAIT', async () => {
    const other = await pool.connect()
    await client.query('BEGIN')
    expect((await client.query('SELECT id FROM ses WHERE id <= 2 ORDER BY id FOR UPDATE')).rows).to.deep.equal([
      { id: 1 },
      { id: 2 },
    ])
    await other.query('BEGIN')
    if (kind.name === 'pg')
      expect(
        (await other.query('SELECT id FROM ses WHERE id <= 3 ORDER BY id FOR UPDATE SKIP LOCKED')).rows,
      ).to.deep.equal([{ id: 3 }])
    await other.query('ROLLBACK')
    await client.query('COMMIT')
    other.release()
  })
})
