/** Statements that refuse a transaction block: member by member, with what happens when one fails or is away. */
import { expect } from 'chai'
import type { Pool } from '../driver/index.ts'
import { cluster, failure, settled, until, type TestCluster } from './cluster.ts'
import { ask } from './servers.ts'

describe('statements that refuse a transaction block', () => {
  let c: TestCluster
  let pool: Pool
  before(async () => {
    c = await cluster()
    pool = c.pool()
    await pool.query(
      'CREATE TABLE t (id int PRIMARY KEY, v int, w int); INSERT INTO t SELECT g, g, g FROM generate_series(1, 500) g',
    )
    await settled(c.servers) // the servers are asked themselves in a moment
  })
  after(() => c.destroy())
  const indexes = async (): Promise<string[]> =>
    Promise.all(
      c.servers.map(async (s) =>
        String(
          (
            await ask(
              s,
              "SELECT coalesce(string_agg(relname || CASE WHEN indisvalid THEN '' ELSE '?' END, ' ' ORDER BY relname), '') AS r FROM pg_index JOIN pg_class ON oid = indexrelid WHERE indrelid = 't'::regclass AND NOT indisunique",
            )
          )[0]?.['r'],
        ),
      ),
    )
  const everywhere = async (names: string): Promise<void> => {
    await settled(c.servers)
    expect(await indexes()).to.deep.equal([names, names, names])
  }

  it('VACUUM, REINDEX CONCURRENTLY, CLUSTER: on each', async () => {
    const before = await Promise.all(
      c.servers.map((s) =>
        ask(
          s,
          "SELECT vacuum_count, (SELECT relfilenode FROM pg_class WHERE relname = 't_pkey') AS f FROM pg_stat_user_tables WHERE relname = 't'",
        ),
      ),
    )
    expect((await pool.query('VACUUM (ANALYZE) t')).command).to.equal('VACUUM')
    await pool.query('REINDEX TABLE CONCURRENTLY t')
    await pool.query('CLUSTER')
    for (const [i, s] of c.servers.entries()) {
      await until(
        'counted',
        3000,
        async () =>
          Number((await ask(s, "SELECT vacuum_count AS n FROM pg_stat_user_tables WHERE relname = 't'"))[0]?.['n']) >
          Number(before[i]?.[0]?.['vacuum_count']),
      )
      expect((await ask(s, "SELECT relfilenode AS f FROM pg_class WHERE relname = 't_pkey'"))[0]?.['f']).not.to.equal(
        before[i]?.[0]?.['f'],
      )
    }
  })

  it('CREATE and DROP INDEX CONCURRENTLY', async () => {
    await pool.query('CREATE INDEX CONCURRENTLY t_v ON t (v)')
    await everywhere('t_v')
    await pool.query('CREATE INDEX CONCURRENTLY IF NOT EXISTS t_v ON t (v)')
    expect((await failure(pool.query('CREATE INDEX CONCURRENTLY t_v ON t (v)'))).code).to.equal('42P07')
    await pool.query('DROP INDEX CONCURRENTLY t_v')
    await everywhere('')
    expect((await failure(pool.query('DROP INDEX CONCURRENTLY t_v'))).code).to.equal('42704')
    await pool.query('DROP INDEX CONCURRENTLY IF EXISTS t_v')
  })

  it('one fails: the error names it, other DDL goes on, the same statement again goes on from there', async () => {
    await ask(c.servers[1]!, 'CREATE VIEW t_w AS SELECT 1')
    const error = await failure(pool.query('CREATE INDEX CONCURRENTLY t_w ON t (w)'))
    await ask(c.servers[1]!, 'DROP VIEW t_w')
    expect(error.message).to.match(new RegExp(`was done on .*, and failed on .*${c.servers[1]!.port}|already exists`))
    await pool.query('ALTER TABLE t ADD COLUMN x int')
    await ask(
      c.servers[2]!,
      "CREATE INDEX IF NOT EXISTS t_w ON t (w); UPDATE pg_index SET indisvalid = false WHERE indexrelid = 't_w'::regclass",
    ) // as an attempt that failed leaves it
    await pool.query('CREATE INDEX CONCURRENTLY t_w ON t (w)').catch((e: unknown) => {
      if ((e as { code: string }).code !== '42P07') throw e
    })
    await pool.query('CREATE INDEX CONCURRENTLY IF NOT EXISTS t_w ON t (w)')
    await everywhere('t_w')
  })

  it('one is away: it follows when it catches up', async () => {
    await c.servers[2]!.kill()
    await pool.query('CREATE INDEX CONCURRENTLY t_x ON t (x)')
    await pool.query('DROP INDEX CONCURRENTLY t_w')
    await pool.query('VACUUM t')
    await c.servers[2]!.start()
    await pool.query('UPDATE t SET v = v + 1 WHERE id = 1')
    await everywhere('t_x')
  })

  it('refused with a sentence: what is unique, what has no name, what changes rows, what is no member’s alone', async () => {
    for (const text of [
      'CREATE UNIQUE INDEX CONCURRENTLY t_u ON t (v)',
      'DROP INDEX CONCURRENTLY t_pkey',
      'CREATE INDEX CONCURRENTLY ON t (v)',
      'CREATE DATABASE other',
      'ALTER SYSTEM SET work_mem = 1',
    ])
      expect((await failure(pool.query(text))).code, text).to.match(/^0A000$/)
    const client = await pool.connect()
    await client.query('BEGIN')
    expect((await failure(client.query('VACUUM t'))).code).to.equal('25001')
    await client.query('ROLLBACK')
    client.release()
  })
})
