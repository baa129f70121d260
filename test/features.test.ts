/**
 * What a database can do besides tables, keys and triggers (schema.test.ts): views, rules, policies, materialised
 * views, MERGE, large objects, types that change.
 */
import { expect } from 'chai'
import type { Pool } from '../driver/index.ts'
import { cluster, failure, settled, type TestCluster } from './cluster.ts'
import { ask } from './servers.ts'

describe('features, carried to all replicas or refused', () => {
  let c: TestCluster
  let pool: Pool
  before(async () => {
    c = await cluster()
    pool = c.pool()
    await pool.query(
      "CREATE TABLE t (id int PRIMARY KEY, v int, n text); INSERT INTO t SELECT g, g, 'n' || g FROM generate_series(1, 20) g",
    )
  })
  after(() => c.destroy())
  afterEach(() => settled(c.servers))
  const same = async (text: string): Promise<unknown[]> => {
    await settled(c.servers)
    const all = await Promise.all(c.servers.map((s) => ask(s, text)))
    for (const a of all) expect(a).to.deep.equal(all[0])
    return all[0]!
  }

  it('an updatable view, with INSTEAD OF triggers and WITH CHECK OPTION; rules', async () => {
    await pool.query(
      'CREATE VIEW low AS SELECT * FROM t WHERE v < 10 WITH CHECK OPTION; CREATE TABLE ruled (id int PRIMARY KEY); CREATE TABLE log (id int, at timestamptz DEFAULT clock_timestamp()); CREATE RULE also AS ON INSERT TO ruled DO ALSO INSERT INTO log (id) VALUES (new.id); CREATE RULE no AS ON DELETE TO ruled DO INSTEAD NOTHING',
    )
    await pool.query('UPDATE low SET v = v - 1 WHERE id = 3')
    expect((await failure(pool.query('UPDATE low SET v = 100'))).code).to.equal('44000')
    await pool.query('INSERT INTO ruled VALUES (1), (2)')
    await pool.query('DELETE FROM ruled')
    expect(await same('SELECT (SELECT count(*)::int FROM ruled) r, (SELECT count(*)::int FROM log) l')).to.deep.equal([
      { r: 2, l: 2 },
    ])
    expect((await failure(pool.query('ALTER TABLE ruled ENABLE ALWAYS RULE also'))).code).to.equal('0A000')
  })

  it('row-level security, also forced, sees to it on the lead; what it let through is carried', async () => {
    await pool.query(
      "CREATE TABLE mine (id int PRIMARY KEY, who text DEFAULT 'a'); ALTER TABLE mine ENABLE ROW LEVEL SECURITY; ALTER TABLE mine FORCE ROW LEVEL SECURITY; CREATE POLICY p ON mine USING (who = 'a') WITH CHECK (who = 'a')",
    )
    await pool.query("INSERT INTO mine VALUES (1, 'a'), (2, 'a')")
    expect((await failure(pool.query("INSERT INTO mine VALUES (3, 'b')"))).code).to.equal('42501')
    await pool.query('DELETE FROM mine WHERE id = 2')
    expect(await same('SELECT id FROM mine')).to.deep.equal([{ id: 1 }])
  })

  it('materialised views: refreshed on all, also CONCURRENTLY, and compared', async () => {
    await pool.query(
      'CREATE MATERIALIZED VIEW sums AS SELECT v % 3 AS k, sum(v)::int AS s FROM t GROUP BY 1; CREATE UNIQUE INDEX ON sums (k)',
    )
    await pool.query('UPDATE t SET v = v + 1')
    await pool.query('REFRESH MATERIALIZED VIEW sums')
    await pool.query('UPDATE t SET v = v + 1')
    await pool.query('REFRESH MATERIALIZED VIEW CONCURRENTLY sums')
    expect((await same('SELECT * FROM sums ORDER BY k')).length).to.equal(3)
    expect((await failure(pool.query('CREATE MATERIALIZED VIEW dice AS SELECT random() r'))).message).to.match(
      /gave something else here/,
    )
    await pool.query(
      'CREATE TABLE chance (r float8); CREATE MATERIALIZED VIEW later AS SELECT r + random() AS s, 1 AS k FROM chance; CREATE UNIQUE INDEX ON later (s)',
    )
    await pool.query('INSERT INTO chance VALUES (1)')
    expect((await failure(pool.query('REFRESH MATERIALIZED VIEW CONCURRENTLY later'))).message).to.match(
      /gave something else here/,
    )
  })

  it('MERGE with every action, keys that change places, TRUNCATE … CASCADE', async () => {
    await pool.query(
      'CREATE TABLE m (id int PRIMARY KEY, v int); CREATE TABLE d (id int PRIMARY KEY, m int REFERENCES m); INSERT INTO m SELECT g, 0 FROM generate_series(1, 6) g; INSERT INTO d VALUES (1, 5)',
    )
    await pool.query(
      'MERGE INTO m USING generate_series(3, 9) g ON m.id = g WHEN MATCHED AND g = 3 THEN DELETE WHEN MATCHED AND g = 4 THEN DO NOTHING WHEN MATCHED THEN UPDATE SET v = g WHEN NOT MATCHED THEN INSERT VALUES (g, -g)',
    )
    await pool.transaction({ locks: ['m', 'd'] }, async (tx) => {
      await tx.query('UPDATE m SET id = -1 WHERE id = 1')
      await tx.query('UPDATE m SET id = 1 WHERE id = 2')
      await tx.query('UPDATE m SET id = 2 WHERE id = -1')
    })
    await pool.query('UPDATE m SET id = id + 100 WHERE id <> 5')
    await pool.query('TRUNCATE m CASCADE')
    expect(await same('SELECT (SELECT count(*)::int FROM m) m, (SELECT count(*)::int FROM d) d')).to.deep.equal([
      { m: 0, d: 0 },
    ])
  })

  it('columns that change their type, enums that grow, dropped columns in between, computed columns', async () => {
    await pool.query(
      "CREATE TYPE mood AS ENUM ('a'); CREATE TABLE e (id int PRIMARY KEY, gone text, m mood, twice int GENERATED ALWAYS AS (id * 2) STORED, v int); INSERT INTO e VALUES (1, 'x', 'a', DEFAULT, 7)",
    )
    await pool.query("ALTER TYPE mood ADD VALUE 'b'")
    await pool.query('ALTER TABLE e DROP COLUMN gone')
    await pool.query("INSERT INTO e VALUES (2, 'b', DEFAULT, 8); UPDATE e SET m = 'b'")
    await pool.query('ALTER TABLE e ALTER v TYPE text USING v || chr(33)')
    await pool.query('UPDATE e SET v = v || v')
    if (Number(process.env['PG_MAJOR'] ?? 18) >= 18) {
      await pool.query('ALTER TABLE e ADD COLUMN thrice int GENERATED ALWAYS AS (id * 3) VIRTUAL')
      await pool.query('UPDATE e SET id = id + 10; DELETE FROM e WHERE id = 11')
      await pool.query(
        'CREATE TABLE nokey (a int, b int GENERATED ALWAYS AS (a + 1) VIRTUAL); INSERT INTO nokey VALUES (1), (1), (2)',
      )
      await pool.query('DELETE FROM nokey WHERE ctid IN (SELECT ctid FROM nokey LIMIT 1); UPDATE nokey SET a = 5')
      expect(await same('SELECT b FROM nokey')).to.deep.equal([{ b: 6 }, { b: 6 }])
    }
    await same('SELECT e::text FROM e ORDER BY id')
  })

  it('large objects are refused, however they are made', async () => {
    for (const text of [
      'SELECT lo_create(0)',
      "SELECT lo_from_bytea(0, 'x')",
      'SELECT lo_creat(-1)',
      'DO $$ BEGIN PERFORM lo_create(0); END $$',
    ])
      expect((await failure(pool.query(text))).code, text).to.equal('0A000')
    expect(
      (await failure(pool.transaction({ locks: ['t'] }, (tx) => tx.query("SELECT lo_from_bytea(0, 'x')")))).code,
    ).to.equal('0A000')
    expect(await same('SELECT count(*)::int n FROM pg_largeobject_metadata')).to.deep.equal([{ n: 0 }])
  })
})
