/**
 * What tables can do, carried to all replicas: keys, constraints, cascades, triggers, sequences, TRUNCATE, DDL.
 * Every test ends with the replicas equal.
 */
import { expect } from 'chai'
import { Pool } from '../driver/index.ts'
import { init } from '../driver/schema/install.ts'
import { cluster, failure, settled, type TestCluster } from './cluster.ts'
import { ask as askServer, destroyAll, threeServers, type TestServer } from './servers.ts'

describe('tables, carried to all replicas', () => {
  let c: TestCluster
  let pool: Pool
  before(async () => {
    c = await cluster()
    pool = c.pool()
  })
  after(() => c.destroy())
  /** A follower commits a moment after the caller was told: look when it has. */
  const ask = async (server: TestServer, text: string): Promise<Record<string, unknown>[]> => {
    await settled(c.servers)
    return askServer(server, text)
  }
  afterEach(() => settled(c.servers))

  it('foreign keys, with cascades', async () => {
    await pool.query(
      'CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE)',
    )
    await pool.query('INSERT INTO parent VALUES (1), (2), (3)')
    await pool.query('INSERT INTO child SELECT g, g % 3 + 1 FROM generate_series(1, 9) g')
    await pool.query('UPDATE parent SET id = 20 WHERE id = 2')
    await pool.query('DELETE FROM parent WHERE id = 1')
    expect((await ask(c.servers[2]!, 'SELECT count(*)::int n FROM child'))[0]?.['n']).to.equal(6)
    expect((await failure(pool.query('INSERT INTO child VALUES (100, 77)'))).code).to.equal('23503')
  })

  it('unique and exclusion constraints: the user gets PostgreSQL’s own error', async () => {
    await pool.query(
      'CREATE TABLE booking (id int PRIMARY KEY, room int, during int4range, code text UNIQUE, EXCLUDE USING gist (during WITH &&))',
    )
    await pool.query("INSERT INTO booking VALUES (1, 1, '[1,5)', 'a')")
    expect((await failure(pool.query("INSERT INTO booking VALUES (2, 1, '[4,6)', 'b')"))).code).to.equal('23P01')
    const error = await failure(pool.query("INSERT INTO booking VALUES (3, 1, '[7,9)', 'a')"))
    expect(error.code).to.equal('23505')
    expect(error.message).to.include('booking_code_key')
  })

  it('a second unique column exchanged between two rows', async () => {
    await pool.query('CREATE TABLE seat (id int PRIMARY KEY, place int UNIQUE)')
    await pool.query('INSERT INTO seat VALUES (1, 10), (2, 20)')
    await pool.transaction({ locks: ['seat'] }, async (tx) => {
      await tx.query('UPDATE seat SET place = 0 WHERE id = 1')
      await tx.query('UPDATE seat SET place = 10 WHERE id = 2')
      await tx.query('UPDATE seat SET place = 20 WHERE id = 1')
    })
  })

  it('N32: user triggers fire once, on the lead; their rows travel', async () => {
    await pool.query(
      'CREATE TABLE item (id int PRIMARY KEY, v int); CREATE TABLE audit (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item int, at timestamptz DEFAULT clock_timestamp(), r float8 DEFAULT random())',
    )
    await pool.query(
      'CREATE FUNCTION item_audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit (item) VALUES (new.id); UPDATE item SET v = v + 1 WHERE id = new.id AND v < 100; RETURN NULL; END $$',
    )
    await pool.query('CREATE TRIGGER item_audit AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION item_audit()')
    await pool.query('INSERT INTO item SELECT g, g FROM generate_series(1, 5) g')
    for (const s of c.servers)
      expect((await ask(s, 'SELECT count(*)::int n FROM audit'))[0]?.['n'], 'audit rows').to.equal(5)
  })

  it('N30: a deferred trigger adds its row before the rows are read out', async () => {
    await pool.query('CREATE TABLE late (id int PRIMARY KEY); CREATE TABLE late_log (id int PRIMARY KEY)')
    await pool.query(
      'CREATE FUNCTION late_fn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO late_log VALUES (new.id); RETURN NULL; END $$',
    )
    await pool.query(
      'CREATE CONSTRAINT TRIGGER late_trigger AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late_fn()',
    )
    await pool.query('INSERT INTO late VALUES (1), (2)')
    for (const s of c.servers) expect((await ask(s, 'SELECT count(*)::int n FROM late_log'))[0]?.['n']).to.equal(2)
  })

  it('N33: a deferred foreign key that is violated at the end is the user’s 23503, and nothing is prepared', async () => {
    await pool.query(
      'CREATE TABLE p2 (id int PRIMARY KEY); CREATE TABLE c2 (id int PRIMARY KEY, p int REFERENCES p2 DEFERRABLE INITIALLY DEFERRED)',
    )
    const error = await failure(pool.query('INSERT INTO c2 VALUES (1, 99)'))
    expect(error.code).to.equal('23503')
  })

  it('identity and serial columns; generated columns; returned values', async () => {
    await pool.query(
      'CREATE TABLE gen (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n serial, a int, twice int GENERATED ALWAYS AS (a * 2) STORED)',
    )
    const ids = new Set<unknown>()
    for (let i = 0; i < 5; i++)
      ids.add((await pool.query('INSERT INTO gen (a) VALUES ($1) RETURNING id, twice', [i])).rows[0].id)
    expect(ids.size).to.equal(5)
    await pool.query('UPDATE gen SET a = a + 1')
  })

  it('a sequence that was used before init: two leads never hand out the same number', async () => {
    const servers = await threeServers()
    try {
      const urls = servers.map((s) => s.url)
      for (const s of servers)
        await askServer(
          s,
          'CREATE TABLE n (id serial PRIMARY KEY, a int); INSERT INTO n (a) SELECT g FROM generate_series(1, 5) g',
        )
      await init(
        urls.map((connectionString) => ({ connectionString })),
        urls,
      )
      const pools = [urls, [...urls].reverse()].map((replicas) => new Pool({ replicas }))
      try {
        for (let i = 0; i < 6; i++) for (const p of pools) await p.query('INSERT INTO n (a) VALUES (0)')
        await settled(servers)
        const classes = await Promise.all(
          servers.map(async (s) =>
            Number((await askServer(s, "SELECT nextval('n_id_seq') % 3 AS class"))[0]?.['class']),
          ),
        )
        expect(new Set(classes).size, `residue classes ${classes.join(' ')}`).to.equal(3)
      } finally {
        await Promise.all(pools.map((p) => p.end()))
      }
    } finally {
      await destroyAll(servers)
    }
  })

  it('N31: two leads never hand out the same number', async () => {
    await pool.query('CREATE TABLE numbered (id serial PRIMARY KEY, who text)')
    const other = c.pool({ replicas: [...c.urls].reverse() })
    await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        (i % 2 ? pool : other).query('INSERT INTO numbered (who) VALUES ($1)', [String(i)]),
      ),
    )
    await settled(c.servers)
    expect((await ask(c.servers[0]!, 'SELECT count(DISTINCT id)::int n FROM numbered'))[0]?.['n']).to.equal(20)
    const drawn = await Promise.all(
      c.servers.map(async (s) => Number((await ask(s, "SELECT nextval('numbered_id_seq') v"))[0]?.['v'])),
    )
    expect(new Set(drawn).size, `drawn directly on each server: ${drawn}`).to.equal(3)
    await other.end()
  })

  it('a table without a primary key, with equal rows', async () => {
    await pool.query('CREATE TABLE plain (a int, b text)')
    await pool.query("INSERT INTO plain VALUES (1, 'x'), (1, 'x'), (1, 'x'), (2, NULL)")
    await pool.query('DELETE FROM plain WHERE ctid IN (SELECT ctid FROM plain WHERE a = 1 LIMIT 1)')
    await pool.query("UPDATE plain SET b = 'y' WHERE a = 2")
  })

  it('TRUNCATE', async () => {
    await pool.query('CREATE TABLE gone (id int PRIMARY KEY)')
    await pool.query('INSERT INTO gone SELECT generate_series(1, 100)')
    await pool.query('TRUNCATE gone')
    for (const s of c.servers) expect((await ask(s, 'SELECT count(*)::int n FROM gone'))[0]?.['n']).to.equal(0)
  })

  it('N36: a savepoint that was rolled back leaves nothing', async () => {
    await pool.query('CREATE TABLE sp (id int PRIMARY KEY)')
    const client = await pool.connect()
    await client.query('BEGIN')
    await client.query('INSERT INTO sp VALUES (1)')
    await client.query('SAVEPOINT a')
    await client.query('INSERT INTO sp VALUES (2)')
    await client.query('ROLLBACK TO a')
    await client.query('INSERT INTO sp VALUES (3)')
    await client.query('COMMIT')
    client.release()
    expect(await ask(c.servers[1]!, 'SELECT id FROM sp ORDER BY id')).to.deep.equal([{ id: 1 }, { id: 3 }])
  })

  it('DDL through the driver, mixed with rows, and altered later', async () => {
    await pool.transaction(async (tx) => {
      await tx.query('CREATE TABLE evolving (id int PRIMARY KEY, a text)')
      await tx.query("INSERT INTO evolving VALUES (1, 'one')")
      await tx.query('ALTER TABLE evolving ADD COLUMN b int DEFAULT 7')
      await tx.query("INSERT INTO evolving VALUES (2, 'two', 8)")
    })
    await pool.query('ALTER TABLE evolving DROP COLUMN a')
    await pool.query('UPDATE evolving SET b = b + 1')
    for (const s of c.servers)
      expect(await ask(s, 'SELECT * FROM evolving ORDER BY id')).to.deep.equal([
        { id: 1, b: 8 },
        { id: 2, b: 9 },
      ])
    await pool.query('DROP TABLE evolving')
  })

  it('tables that are renamed, exchange their names, or have names alike in their first 60 letters', async () => {
    const long = 'a_table_whose_name_is_as_long_as_a_name_can_be_and_then_some_'
    await pool.query(
      `CREATE TABLE cold (id int PRIMARY KEY, v text); CREATE TABLE warm (id int PRIMARY KEY, v int); CREATE TABLE ${long}1 (id int PRIMARY KEY, v text); CREATE TABLE ${long}2 (id int PRIMARY KEY, v int)`,
    )
    await pool.query(
      'ALTER TABLE cold RENAME TO kept; ALTER TABLE warm RENAME TO cold; ALTER TABLE kept RENAME TO warm',
    )
    await pool.query("INSERT INTO warm VALUES (1, 'was cold')")
    await pool.query('INSERT INTO cold VALUES (1, 2)')
    await pool.query(`INSERT INTO ${long}1 VALUES (1, 'one')`)
    await pool.query(`INSERT INTO ${long}2 VALUES (1, 2)`)
    for (const s of c.servers)
      expect(
        await ask(s, `SELECT w.v a, c.v b, x.v d, y.v e FROM warm w, cold c, ${long}1 x, ${long}2 y`),
      ).to.deep.equal([{ a: 'was cold', b: 2, d: 'one', e: 2 }])
  })

  it('changesets of one row and of 8,000 by turns: both ways of planning them', async () => {
    await pool.query(
      'CREATE TABLE heap (id int PRIMARY KEY, v int NOT NULL); CREATE TABLE leaf (id int PRIMARY KEY, heap int NOT NULL REFERENCES heap)',
    )
    for (let i = 0; i < 8; i++) await pool.query('INSERT INTO heap VALUES ($1, 0)', [-i - 1])
    await pool.query('INSERT INTO heap SELECT g, 0 FROM generate_series(1, 8000) g')
    await pool.query('INSERT INTO leaf SELECT g, g FROM generate_series(1, 8000) g')
    await pool.query('UPDATE heap SET v = v + 1')
    await pool.query('UPDATE heap SET v = v + 1 WHERE id = 7')
    await pool.query('DELETE FROM leaf WHERE id > 10')
    await pool.query('DELETE FROM heap WHERE id > 10')
    expect((await failure(pool.query('DELETE FROM heap WHERE id = 7'))).code).to.equal('23503')
  })

  it('DDL whose rows would differ is refused, before anything is committed', async () => {
    const error = await failure(pool.query('CREATE TABLE dice AS SELECT random() AS r FROM generate_series(1, 3)'))
    expect(error.message).to.match(/gave something else here/)
    expect((await ask(c.servers[0]!, "SELECT to_regclass('dice') AS t"))[0]?.['t']).to.equal(null)
  })

  for (const [what, text] of [
    ['unlogged tables', 'CREATE UNLOGGED TABLE u (id int PRIMARY KEY)'],
    ['deferrable unique constraints', 'CREATE TABLE du (id int UNIQUE DEFERRABLE)'],
    ['PREPARE TRANSACTION', "PREPARE TRANSACTION 'x'"],
  ] as const) {
    it(`${what}: refused with a sentence`, async () => {
      const error = await failure(pool.query(text))
      expect(error.code).to.equal('0A000')
      expect(error.message.length).to.be.greaterThan(20)
    })
  }

  it('values at the edges survive the trip', async () => {
    await pool.query(
      'CREATE TABLE edge (id int PRIMARY KEY, f float8, n numeric, ts timestamptz, i interval, b bytea, j json, arr int[], t text, c char(5))',
    )
    await pool.query(
      `INSERT INTO edge VALUES (1, '-0', '1e-100', 'infinity', '-1 mon +2 days -3:00', '\\x00ff', '{"a":1,"a":2}', '[2:3]={1,2}', E'tab\\t nl\\n "q" \\\\', 'ab'), (2, 'NaN', 'NaN', '0044-03-15 BC', NULL, '', '[1e400]', '{NULL}', '', '')`,
    )
    await pool.query("SET datestyle = 'German'")
    await pool.query("UPDATE edge SET t = t || 'é😀'")
  })
})
