/**
 * DDL where the text that was sent does not show it: in functions, in DO, in temporary objects. Carried, left
 * alone, or refused; never on the lead only.
 */
import { expect } from 'chai'
import type { Pool } from '../driver/index.ts'
import { cluster, failure, settled, type TestCluster } from './cluster.ts'
import { ask } from './servers.ts'

describe('DDL that the text does not show', () => {
  let c: TestCluster
  let pool: Pool
  before(async () => {
    c = await cluster()
    pool = c.pool()
    await pool.query(
      "CREATE FUNCTION open_queue(name text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('CREATE TABLE %I (id int PRIMARY KEY)', name); EXECUTE format('INSERT INTO %I VALUES (1)', name); END $$",
    )
  })
  after(() => c.destroy())
  afterEach(() => settled(c.servers))
  const columns = (): Promise<unknown[]> =>
    Promise.all(
      c.servers.map(async (s) =>
        (
          await ask(
            s,
            "SELECT table_schema || '.' || table_name || '.' || column_name AS c FROM information_schema.columns WHERE table_schema !~ '^(pg_|quorum|information_schema)' ORDER BY 1",
          )
        ).map((r) => r['c']),
      ),
    )
  const have = async (name: string): Promise<boolean[]> => (
    await settled(c.servers),
    (await columns()).map((list) => JSON.stringify(list).includes(name))
  )

  it('in a function, in DO, in a function that DO calls, mixed with rows', async () => {
    await pool.query("SELECT open_queue('mails')")
    await pool.query(
      "DO $$ BEGIN CREATE TABLE a (id int PRIMARY KEY, v int); INSERT INTO a VALUES (1, 1); PERFORM open_queue('inner'); ALTER TABLE a\n ADD COLUMN w int; UPDATE a SET w = v + 1; ALTER TABLE a DROP COLUMN v; END $$",
    )
    expect(await have('public.inner.id')).to.deep.equal([true, true, true])
    await pool.query(
      'DO $$ BEGIN DROP TABLE mails; DROP TABLE IF EXISTS nothing; CREATE TABLE IF NOT EXISTS a (id int); END $$',
    )
    await settled(c.servers)
    expect(await Promise.all(c.servers.map((s) => ask(s, 'SELECT * FROM a')))).to.deep.equal([
      [{ id: 1, w: 2 }],
      [{ id: 1, w: 2 }],
      [{ id: 1, w: 2 }],
    ])
    expect(await have('mails')).to.deep.equal([false, false, false])
  })

  it('schemas, types, views, indexes and comments too, and what its own EXCEPTION takes back is not carried', async () => {
    await pool.query(
      "DO $$ BEGIN CREATE SCHEMA shop; CREATE TYPE shop.mood AS ENUM ('ok'); CREATE TABLE shop.t (x int, m shop.mood); COMMENT ON TABLE shop.t IS 'it''s'; CREATE VIEW shop.v AS SELECT * FROM shop.t; CREATE INDEX ON shop.t (x); END $$",
    )
    for (let i = 0; i < 2; i++)
      await pool.query(
        "DO $$ BEGIN CREATE TYPE shop.mood AS ENUM ('ok'); EXCEPTION WHEN duplicate_object THEN NULL; END $$",
      )
    await pool.query(
      "DO $$ BEGIN BEGIN CREATE TABLE shop.gone (x int); RAISE 'no'; EXCEPTION WHEN OTHERS THEN NULL; END; INSERT INTO shop.t VALUES (1, 'ok'); END $$",
    )
    expect(await have('shop.v.m')).to.deep.equal([true, true, true])
    expect(await have('gone')).to.deep.equal([false, false, false])
  })

  it('in a declared transaction, with a rolled back savepoint', async () => {
    const client = await pool.connect({ locks: ['a'] })
    await client.query('BEGIN')
    await client.query('SAVEPOINT s')
    await client.query("SELECT open_queue('not_this')")
    await client.query('ROLLBACK TO s')
    await client.query("SELECT open_queue('but_this')")
    await client.query('INSERT INTO a VALUES (2)')
    await client.query('COMMIT')
    client.release()
    expect(await have('not_this')).to.deep.equal([false, false, false])
    expect(await have('but_this')).to.deep.equal([true, true, true])
  })

  it('temporary objects are the session’s; an extension’s parts come with it', async () => {
    const client = await pool.connect()
    await client.query('CREATE TEMP TABLE scratch (id int PRIMARY KEY)')
    await client.query('INSERT INTO scratch VALUES (5)')
    await client.query(
      'DO $$ BEGIN CREATE TEMP TABLE more AS SELECT 6 AS id; INSERT INTO a SELECT id FROM more; DROP TABLE more; END $$',
    )
    await client.query(
      'BEGIN; CREATE TEMP TABLE third (id int) ON COMMIT DROP; CREATE ROLE compat_role; INSERT INTO a SELECT id FROM scratch; COMMIT',
    )
    await client.query('DROP TABLE scratch')
    client.release()
    await pool.query('CREATE EXTENSION hstore')
    await settled(c.servers)
    for (const s of c.servers)
      expect(
        (
          await ask(
            s,
            "SELECT (SELECT count(*)::int FROM a WHERE id IN (5, 6)) a, (SELECT count(*)::int FROM pg_roles WHERE rolname = 'compat_role') r, (SELECT count(*)::int FROM pg_extension WHERE extname = 'hstore') e",
          )
        )[0],
      ).to.deep.equal({ a: 2, r: 1, e: 1 })
  })

  it('what cannot be seen is refused: a function in SQL, a string of more than 64 kB', async () => {
    await pool.query('CREATE FUNCTION in_sql() RETURNS void LANGUAGE sql AS $$ CREATE TABLE sq (id int PRIMARY KEY) $$')
    for (const text of ['SELECT in_sql()', `CREATE TABLE sq (id int PRIMARY KEY); SELECT '${'x'.repeat(70_000)}'`]) {
      const error = await failure(pool.query(text))
      expect(error.code).to.equal('0A000')
      expect(error.message).to.include('CREATE TABLE was run where its text could not be seen')
    }
    expect(await have('sq')).to.deep.equal([false, false, false])
  })

  it('columns of any name', async () => {
    const names = [
      'x',
      'y',
      'i',
      'v',
      'r',
      'o',
      'd',
      'k',
      'at',
      'olds',
      'news',
      'got',
      'want',
      'few',
      'name',
      'old_rows',
      'new_rows',
    ]
    for (const key of ['', ', PRIMARY KEY (x)']) {
      await pool.query(`CREATE TABLE named (${names.map((n) => `${n} text`).join(', ')}${key})`)
      await pool.query(`INSERT INTO named (x, y, news) VALUES ('1', 'why', 'none'), ('2', NULL, '(3)')`)
      await pool.query("UPDATE named SET y = 'so', olds = news")
      await pool.query("DELETE FROM named WHERE x = '2'")
      await settled(c.servers)
      for (const s of c.servers)
        expect(await ask(s, 'SELECT x, y, olds FROM named')).to.deep.equal([{ x: '1', y: 'so', olds: 'none' }])
      await pool.query('DROP TABLE named')
    }
  })

  it('control: without the event trigger a table is made on the lead only', async () => {
    for (const s of c.servers) await ask(s, 'ALTER EVENT TRIGGER quorum_ddl DISABLE')
    await pool.query('DO $$ BEGIN CREATE TABLE lonely (id int PRIMARY KEY); END $$')
    expect((await columns()).filter((list) => JSON.stringify(list).includes('lonely'))).to.have.length(1)
    for (const s of c.servers) await ask(s, 'DROP TABLE IF EXISTS lonely')
    for (const s of c.servers) await ask(s, 'ALTER EVENT TRIGGER quorum_ddl ENABLE')
  })
})
