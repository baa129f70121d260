/**
 * Names and values that were chosen to be taken for SQL, and users' objects that shadow what statements of ours
 * name. Whatever the driver makes of them must be one name or one value: the planted statements would make a table
 * `owned`, and every server would tell.
 */
import { expect } from 'chai'
import pg from 'pg'
import type { Pool, QuorumPoolClient } from '../driver/index.ts'
import { cluster, failure, settled, type TestCluster } from './cluster.ts'
import { ask } from './servers.ts'

const BAIT = 'CREATE TABLE owned()'
/** 63 bytes at most: the longest that PostgreSQL keeps. */
const NAMES = [
  `a"b'c`,
  `back\\slash\\`,
  `\\'; ${BAIT}; --`,
  `'; ${BAIT}; --`,
  `"; ${BAIT}; --`,
  `$$; ${BAIT}; $$`,
  `$made$; ${BAIT}; --`,
  `$body$; ${BAIT}; --`,
  `$f$ $made$ $body$ $x$`,
  'new\nline\r\n-- ',
  '%s %I %1$s %',
  'ünï😀‮code',
  'accounts‌',
  ' ',
  '{"t":"*"}',
  'a,b/c',
  '*',
  '@x',
  '/',
  'quorum.self',
  'x'.repeat(63),
  `${'é'.repeat(31)}"`,
  'select',
  'NULL',
  '/* */',
  ':v',
  '$1',
  '?',
]
const VALUES = [
  ...NAMES,
  `E'\\''; ${BAIT}; --`,
  '\\x00',
  '\\',
  "''",
  '{}',
  '{"a":null}',
  '(,)',
  '(1,"2")',
  '\u0001\u007f',
  '"'.repeat(1000),
  '\\'.repeat(1000),
]
const q = pg.escapeIdentifier

describe('hostile', () => {
  let c: TestCluster
  let pool: Pool
  before(async function () {
    this.timeout(60_000)
    c = await cluster()
    pool = c.pool()
  })
  after(() => c.destroy())
  afterEach(async () => {
    await settled(c.servers)
    for (const s of c.servers)
      expect(
        await ask(s, "SELECT relname FROM pg_class WHERE relname = 'owned'"),
        'a planted statement ran',
      ).deep.equal([])
  })
  const withClient = async (work: (client: QuorumPoolClient) => Promise<void>): Promise<void> => {
    const client = (await pool.connect()) as unknown as QuorumPoolClient
    try {
      await work(client)
    } finally {
      client.release(true)
    }
  }

  const named = async (client: QuorumPoolClient, names: readonly string[]): Promise<void> => {
    const all = names.map((name) => ({
      name,
      t: q(name),
      o: q(`${name.slice(0, 20)}_`),
      k: q(`k${name.slice(0, 20)}`),
    }))
    await client.query(
      all
        .map(
          ({ t, o, k }) =>
            `CREATE TABLE ${t} (${t} text, ${o} int CONSTRAINT ${o} CHECK (${o} < 100), n serial, PRIMARY KEY (${t}, ${o})); CREATE TABLE ${k} (a text, b int, CONSTRAINT ${k} FOREIGN KEY (a, b) REFERENCES ${t} ON DELETE CASCADE)`,
        )
        .join('; '),
    )
    await client.query('BEGIN')
    for (const { name, t, o, k } of all) {
      await client.query(`INSERT INTO ${t} VALUES ($1, 1), ($2, 2)`, [name, `'${name}`])
      await client.query(`INSERT INTO ${k} VALUES ($1, 1)`, [name])
      await client.query(`UPDATE ${t} SET ${o} = 3 WHERE ${t} = $1`, [`'${name}`])
    }
    await client.query('COMMIT')
    await settled(c.servers)
    for (const { name, t, o } of all) {
      expect((await client.query(`SELECT ${t} AS v FROM ${t} WHERE ${o} = 1`)).rows, name).deep.equal([{ v: name }])
      expect(
        (await failure(client.query(`INSERT INTO ${t} VALUES ($1, 1)`, [name]) as Promise<unknown>)).code,
        name,
      ).equal('23505')
      expect((await failure(client.query(`INSERT INTO ${t} VALUES ('z', 100)`) as Promise<unknown>)).code, name).equal(
        '23514',
      )
    }
    await client.query('BEGIN')
    for (const { t, o, k } of all) {
      await client.query(`DELETE FROM ${t} WHERE ${o} = 1`)
      expect((await client.query(`SELECT FROM ${k}`)).rowCount).equal(0)
    }
    await client.query('COMMIT')
    await settled(c.servers)
    await client.query(`DROP TABLE ${all.flatMap(({ t, k }) => [t, k]).join(', ')}`)
  }

  it('tables, columns, keys, sequences, constraints, foreign keys', async function () {
    this.timeout(120_000)
    // (each is some ten commits that look at all tables: NAMES as a whole takes a minute)
    await withClient(async (client) => {
      for (const name of process.env['PG_QUORUM_ALL_NAMES']
        ? NAMES
        : NAMES.filter((_, i) => [0, 1, 6, 7, 9].includes(i)))
        await named(client, [name])
    })
  })

  it('the same with standard_conforming_strings off; a backslash in a literal of DDL is refused, as the others would read it otherwise', async function () {
    this.timeout(120_000)
    await withClient(async (client) => {
      await client.query('SET standard_conforming_strings = off')
      for (const name of ['back\\slash\\', '$made$']) await named(client, [name])
      const refused = await failure(
        client.query(`CREATE FUNCTION said() RETURNS text LANGUAGE sql AS 'SELECT ''a\\\\tb'''`) as Promise<unknown>,
      )
      expect([refused.code, /backslash in DDL/.test(refused.message)], refused.message).deep.equal(['0A000', true])
      await client.query('CREATE TABLE fine (v text)')
      await client.query(`INSERT INTO fine VALUES ('a\\\\b')`)
      expect((await client.query('SELECT v FROM fine')).rows).deep.equal([{ v: 'a\\b' }])
    })
  })

  it('locks by name, table and row', async () => {
    await pool.query('CREATE TABLE keyed (k text PRIMARY KEY, v text)')
    for (const text of VALUES) {
      const at = JSON.stringify(text.slice(0, 60))
      await pool.transaction({ locks: [{ name: text }, { table: 'keyed' }] }, async (tx) => {
        await tx.query('INSERT INTO keyed VALUES ($1, $1) ON CONFLICT DO NOTHING', [text])
      })
      if (!text.includes(','))
        await pool.transaction({ locks: [{ row: `keyed/${text}` }], retries: 0 }, async (tx) => {
          expect((await tx.query('UPDATE keyed SET v = k WHERE k = $1', [text])).rowCount, at).equal(1)
        })
      const unknown = await failure(
        pool.transaction({ locks: [{ table: text === '*' || text.startsWith('@') ? 'none' : text }] }, () =>
          Promise.resolve(),
        ),
      )
      expect(unknown.code, at).oneOf(['QB007', '42602', '22023'])
    }
    expect((await pool.query('SELECT count(*)::int AS n FROM keyed')).rows[0]).deep.equal({ n: VALUES.length })
  })

  it('NUL in names and values, half a surrogate, a lock of a megabyte: an error in a sentence, and the client lives', async () => {
    await withClient(async (client) => {
      for (const lock of [
        '@a\0b',
        'a\0b',
        'keyed/a\0b',
        '@\ud800',
        `@${'x'.repeat(1 << 20)}`,
        `keyed/${'y'.repeat(1 << 20)}`,
      ]) {
        const result = await pool
          .transaction({ locks: [lock], retries: 0 }, () => Promise.resolve('fine'))
          .catch((e: unknown) => e as Error & { code: string; outcome?: string })
        if (result !== 'fine')
          expect(
            (result as { code: string }).code,
            `${JSON.stringify(lock.slice(0, 20))}: ${String(result).slice(0, 200)}`,
          ).oneOf(['22023', '22P05', '22021', '22P02'])
        if (lock.includes('\0')) expect(result, lock.slice(0, 20)).not.equal('fine')
      }
      expect(await failure(client.query('INSERT INTO keyed VALUES ($1)', ['a\0b']) as Promise<unknown>)).property(
        'code',
      )
      expect((await client.query('SELECT 1 AS one')).rows).deep.equal([{ one: 1 }])
    })
  })

  it('what shadows: temporary tables, and functions, operators and types that come first in the path', async () => {
    await pool.query(`CREATE TABLE shadowed (id int PRIMARY KEY, v text); CREATE SCHEMA trap;
      CREATE FUNCTION trap.owned() RETURNS bool LANGUAGE plpgsql VOLATILE AS $$ BEGIN RAISE EXCEPTION 'trapped' USING ERRCODE = 'TRAPS'; END $$;
      CREATE FUNCTION trap.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz WHERE trap.owned()';
      CREATE FUNCTION trap.set_config(text, text, bool) RETURNS text LANGUAGE sql AS 'SELECT NULL::text WHERE trap.owned()';
      CREATE FUNCTION trap.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT NULL::text WHERE trap.owned()';
      CREATE FUNCTION trap.current_setting(text, bool) RETURNS text LANGUAGE sql AS 'SELECT NULL::text WHERE trap.owned()';
      CREATE FUNCTION trap.quote_ident(text) RETURNS text LANGUAGE sql AS 'SELECT NULL::text WHERE trap.owned()';
      CREATE FUNCTION trap.to_regclass(text) RETURNS regclass LANGUAGE sql AS 'SELECT NULL::regclass WHERE trap.owned()';
      CREATE FUNCTION trap.jsonb_build_object(VARIADIC text[]) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb WHERE trap.owned()';
      CREATE FUNCTION trap.jsonb_build_array(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb WHERE trap.owned()';
      CREATE FUNCTION trap.jsonb_agg(text) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb WHERE trap.owned()';
      CREATE FUNCTION trap.pg_advisory_unlock_all() RETURNS void LANGUAGE sql AS 'SELECT trap.owned()';
      CREATE FUNCTION trap.eq(text, text) RETURNS bool LANGUAGE sql AS 'SELECT trap.owned()';
      CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.eq);
      CREATE FUNCTION trap.cat(jsonb, jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb WHERE trap.owned()';
      CREATE OPERATOR trap.|| (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = trap.cat);
      CREATE FUNCTION trap.like(text, text) RETURNS bool LANGUAGE sql AS 'SELECT trap.owned()';
      CREATE OPERATOR trap.~~ (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.like);
      CREATE DOMAIN trap.jsonb AS text CHECK (trap.owned()); CREATE DOMAIN trap.text AS pg_catalog.text CHECK (trap.owned()); CREATE DOMAIN trap.regclass AS pg_catalog.text CHECK (trap.owned());
      CREATE VIEW trap.pg_class AS SELECT trap.owned() AS oid; CREATE VIEW trap.pg_prepared_xacts AS SELECT trap.owned() AS gid`)
    const control = await failure(
      pool.query(
        `SET search_path = trap, public, pg_catalog; SELECT now() WHERE 'a'::pg_catalog.text = 'a'::pg_catalog.text`,
      ),
    )
    expect(control.code, String(control)).equal('TRAPS')
    await withClient(async (client) => {
      await client.query(`SET search_path = trap, public, pg_catalog, pg_temp`)
      for (const table of [
        'tracked',
        'stripe',
        'capture',
        'changeset',
        'self',
        'applied',
        'pg_class',
        'pg_proc',
        'unnest',
      ])
        await client.query(`CREATE TEMPORARY TABLE ${table} (gid pg_catalog.text, t pg_catalog.text, n int)`)
      await client.query('INSERT INTO shadowed VALUES (1, $1), (2, $1)', ['a'])
      await client.query('UPDATE shadowed SET v = $1 WHERE id = 1', ['b'])
      await client.query('BEGIN')
      await client.query('SAVEPOINT s')
      await client.query('INSERT INTO shadowed VALUES (3)')
      await client.query('ROLLBACK TO s')
      await client.query('DELETE FROM shadowed WHERE id = 2')
      await client.query('COMMIT')
      client.declare(['shadowed/1'])
      await client.query('BEGIN')
      await client.query("UPDATE shadowed SET v = 'c' WHERE id = 1")
      await client.query('COMMIT')
      client.declare([])
      await client.query('ALTER TABLE shadowed ADD w int')
      await client.query('LISTEN here')
      expect((await client.query('SELECT * FROM shadowed')).rows).deep.equal([{ id: 1, v: 'c', w: null }])
      await client.query('CREATE TEMPORARY TABLE shadowed (id int PRIMARY KEY, v pg_catalog.text)')
      await client.query("INSERT INTO pg_temp.shadowed VALUES (9, 'mine')")
    })
    expect((await pool.query('SELECT * FROM shadowed')).rows).deep.equal([{ id: 1, v: 'c', w: null }])
  })
})
