/** The driver prepares what a session is asked again and again (driver/pool/prepared.ts): nobody may notice. */
import { expect } from 'chai'
import type pg from 'pg'
import type { Pool } from '../driver/index.ts'
import { analyse, loadParser } from '../driver/sql/analyse.ts'
import { isSteady } from '../driver/sql/infer.ts'
import { cluster, settled, type TestCluster } from './cluster.ts'
import { ask } from './servers.ts'

describe('prepared statements of the driver', function () {
  this.timeout(30_000)
  let c: TestCluster
  let pool: Pool
  let other: Pool
  before(async () => {
    c = await cluster()
    other = c.pool()
  })
  beforeEach(() => {
    pool = c.pool({ max: 1 })
  })
  afterEach(() => pool.end())
  after(() => c.destroy())

  const prepared = async (): Promise<string[]> =>
    (await pool.query<{ name: string }>('SELECT name FROM pg_prepared_statements')).rows.map((r) => r.name)
  const thrice = async (text: string, values: unknown[]): Promise<void> => {
    for (let i = 0; i < 3; i++) await pool.query(text, values)
  }
  const UPDATE = 'UPDATE things SET v = $2 WHERE id = $1'
  const READ = 'SELECT * FROM things WHERE id = $1'
  const fresh = async (columns: string, values: string): Promise<void> => {
    await other.query(
      `DROP TABLE IF EXISTS things; CREATE TABLE things (${columns}); INSERT INTO things VALUES ${values}`,
    )
  }
  const everywhere = async (text: string): Promise<pg.QueryResultRow[]> => {
    await settled(c.servers)
    return Promise.all(c.servers.map(async (s) => (await ask(s, text))[0]!))
  }

  it('a write and a read by key, from the second time on; not what is no key, has a literal or calls something', async () => {
    await fresh('id int PRIMARY KEY, v int', '(1, 1)')
    await thrice(UPDATE, [1, 2])
    expect(await prepared()).to.have.length(1)
    await thrice(READ, [1])
    expect(await prepared()).to.have.length(2)
    await thrice('SELECT * FROM things WHERE v = $1', [1])
    await thrice("UPDATE things SET v = '7' WHERE id = $1", [1])
    await thrice('UPDATE things SET v = abs($2) WHERE id = $1', [1, 2])
    await pool.query('UPDATE things SET v = 3 WHERE id = 1')
    expect(await prepared()).to.have.length(2)
  })

  it('another column: the row has it, in what is read and what is returned', async () => {
    await fresh('id int PRIMARY KEY, v int', '(1, 1)')
    await thrice(READ, [1])
    await thrice(`${UPDATE} RETURNING *`, [1, 2])
    await other.query('ALTER TABLE things ADD COLUMN w int DEFAULT 5')
    expect((await pool.query(READ, [1])).rows).to.deep.equal([{ id: 1, v: 2, w: 5 }])
    expect((await pool.query(`${UPDATE} RETURNING *`, [1, 3])).rows).to.deep.equal([{ id: 1, v: 3, w: 5 }])
  })

  it('another type: a value is read as it is now', async () => {
    await fresh('id int PRIMARY KEY, v timestamp', "(1, '2026-01-01')")
    await thrice(UPDATE, [1, '2026-01-01T12:00:00+02:00'])
    expect((await everywhere('SELECT v::text AS v FROM things'))[0], 'control: the zone is not heard').to.deep.equal({
      v: '2026-01-01 12:00:00',
    })
    await other.query("ALTER TABLE things ALTER COLUMN v TYPE timestamptz USING v AT TIME ZONE 'UTC'")
    await thrice(UPDATE, [1, '2026-01-01T12:00:00+02:00'])
    expect(await everywhere("SELECT (v AT TIME ZONE 'UTC')::text AS v FROM things")).to.deep.equal(
      c.servers.map(() => ({ v: '2026-01-01 10:00:00' })),
    )
    await fresh('id int PRIMARY KEY, v int', '(1, 1)')
    await thrice(UPDATE, [1, 2])
    await thrice(READ, [1])
    await other.query(
      'ALTER TABLE things ALTER COLUMN id TYPE bigint, ALTER COLUMN v TYPE text; INSERT INTO things VALUES (5000000000, 0)',
    )
    await pool.query(UPDATE, ['5000000000', 'text'])
    expect((await pool.query(READ, ['5000000000'])).rows).to.deep.equal([{ id: '5000000000', v: 'text' }])
  })

  it('another type of the key: the row is the one that has it now', async () => {
    await fresh('id timestamp PRIMARY KEY, v int', "('2026-01-01 10:00', 10), ('2026-01-01 12:00', 12)")
    const BY_TIME = 'SELECT v FROM things WHERE id = $1' // its result's type stays
    const strong = async (): Promise<number> =>
      (await pool.query<{ v: number }>(BY_TIME, ['2026-01-01T12:00:00+02:00'])).rows[0]!.v
    const eventual = async (): Promise<number> =>
      (await pool.reads('eventual').query(BY_TIME, ['2026-01-01T12:00:00+02:00'])).rows[0]['v'] as number
    const each = async (v: number): Promise<void> => {
      await settled(c.servers)
      for (let i = 0; i < 3; i++) expect(await strong()).to.equal(v)
      await new Promise((r) => setTimeout(r, 1500)) // a pulse of each
      for (let i = 0; i < 40; i++) expect(await eventual()).to.equal(v)
    }
    await each(12)
    await other.query("ALTER TABLE things ALTER COLUMN id TYPE timestamptz USING id AT TIME ZONE 'UTC'")
    await each(10)
  })

  it('another table under the name: a temporary one, one found first, one renamed', async () => {
    await fresh('id int PRIMARY KEY, v int', '(1, 1)')
    await thrice(UPDATE, [1, 2])
    await thrice(READ, [1])
    const client = await pool.connect()
    await client.query(
      'CREATE TEMP TABLE things (id int PRIMARY KEY, v int); INSERT INTO pg_temp.things VALUES (1, 70)',
    )
    client.release()
    expect((await pool.query(READ, [1])).rows).to.deep.equal([{ id: 1, v: 70 }])
    await pool.query(UPDATE, [1, 71])
    expect((await pool.query(READ, [1])).rows).to.deep.equal([{ id: 1, v: 71 }])
    expect(await everywhere('SELECT v FROM public.things')).to.deep.equal(c.servers.map(() => ({ v: 2 })))
    await pool.query('DROP TABLE pg_temp.things')
    await thrice(UPDATE, [1, 3])
    await other.query(
      'ALTER TABLE things RENAME TO others; CREATE TABLE things (id int PRIMARY KEY, v int); INSERT INTO things VALUES (1, 0)',
    )
    await pool.query(UPDATE, [1, 4])
    expect((await pool.query(READ, [1])).rows).to.deep.equal([{ id: 1, v: 4 }])
    expect(await everywhere('SELECT v FROM others')).to.deep.equal(c.servers.map(() => ({ v: 3 })))
  })

  it('DISCARD ALL, DEALLOCATE ALL, by name, and in a function', async () => {
    await fresh('id int PRIMARY KEY, v int', '(1, 1)')
    await other.query("CREATE FUNCTION throw_away() RETURNS void LANGUAGE plpgsql AS 'BEGIN DEALLOCATE ALL; END'")
    for (const away of ['DISCARD ALL', 'DEALLOCATE ALL', 'SELECT throw_away()', "DO 'BEGIN DEALLOCATE ALL; END'"]) {
      await thrice(UPDATE, [1, 2])
      await thrice(READ, [1])
      expect(await prepared(), away).to.have.length(2)
      await pool.query(away)
      expect(await prepared(), away).to.have.length(0)
      expect((await pool.query(UPDATE, [1, 3])).rowCount).to.equal(1)
      expect((await pool.query(READ, [1])).rows).to.deep.equal([{ id: 1, v: 3 }])
    }
  })

  it('more texts than it keeps, and a wrong value among right ones', async () => {
    await fresh('id int PRIMARY KEY, v int', '(1, 1)')
    for (let round = 0; round < 2; round++)
      await Promise.all(
        Array.from({ length: 150 }, (_, i) => pool.query(`UPDATE things SET v = $2 /* ${i} */ WHERE id = $1`, [1, i])),
      )
    expect((await prepared()).length).to.be.within(50, 100)
    const outcomes = await Promise.allSettled([
      pool.query(UPDATE, [1, 1]),
      pool.query(UPDATE, [1, 'one']),
      pool.query(UPDATE, [1, 5]),
    ])
    expect(outcomes.map((o) => o.status)).to.deep.equal(['fulfilled', 'rejected', 'fulfilled'])
    expect((outcomes[1] as { reason: unknown }).reason).to.have.property('code', '22P02')
    await settled(c.servers)
  })

  it('eventual reads too, and they hear of the schema with the next pulse', async () => {
    await fresh('id int PRIMARY KEY, v int', '(1, 1)')
    const reads = pool.reads('eventual')
    const sessions = async (): Promise<number> => {
      let most = 0
      for (let i = 0; i < 60; i++)
        most = Math.max(
          most,
          Number(
            (await reads.query('SELECT count(*) AS n FROM pg_prepared_statements, things WHERE id = $1', [1])).rows[0][
              'n'
            ],
          ),
        )
      return most
    }
    await settled(c.servers)
    await new Promise((r) => setTimeout(r, 1500)) // a pulse of each
    for (let i = 0; i < 60; i++) await reads.query(READ, [1])
    expect(await sessions()).to.be.greaterThan(0)
    await other.query('ALTER TABLE things ADD COLUMN w int DEFAULT 5')
    await settled(c.servers)
    for (let i = 0; i < 60; i++) expect((await reads.query(READ, [1])).rows).to.deep.equal([{ id: 1, v: 1, w: 5 }])
  })

  it('what says something else each time is not steady', async () => {
    await loadParser()
    const steady = (text: string): boolean => analyse(text).every(isSteady)
    expect(steady(UPDATE)).to.equal(true)
    for (const text of [
      "UPDATE things SET v = 'now' WHERE id = $1",
      'UPDATE things SET v = $$now$$ WHERE id = $1',
      'UPDATE things SET v = $q$now$q$ WHERE id = $1',
      'UPDATE things SET v = lies() WHERE id = $1',
      'UPDATE things SET v = now() WHERE id = $1',
    ])
      expect(steady(text), text).to.equal(false)
  })
})
