/** What a pool or client is told: session settings, timeouts, environment, passwords, TLS, pipeline. */
import { expect } from 'chai'
import type pg from 'pg'
import { failure } from '../cluster.ts'
import { ask } from '../servers.ts'
import { both, pause } from './both.ts'

both('options', (kind) => {
  before(async () => {
    await kind
      .pool()
      .query(
        'CREATE TABLE opt (id int PRIMARY KEY, t text); CREATE SCHEMA opt_s; CREATE TABLE opt_s.opt (id int PRIMARY KEY, t text)',
      )
    await Promise.all(
      kind
        .servers()
        .map((s) =>
          ask(
            s,
            "SET password_encryption = 'scram-sha-256'; CREATE ROLE opt_role LOGIN SUPERUSER PASSWORD 'pass%word'",
          ),
        ),
    )
  })
  const shown = async (pool: pg.Pool, what: string): Promise<unknown> =>
    Object.values((await pool.query(`SHOW ${what}`)).rows[0] as Record<string, unknown>)[0]

  it('application_name, fallback_application_name', async () => {
    expect(await shown(kind.pool({ application_name: 'mine' }), 'application_name')).to.equal('mine')
    expect(await shown(kind.pool({ fallback_application_name: 'other' }), 'application_name')).to.equal('other')
  })
  it('options: settings and search_path, in what is read and in what is written', async () => {
    const pool = kind.pool({ options: '-c search_path=opt_s -c work_mem=5MB' })
    expect(await shown(pool, 'work_mem')).to.equal('5MB')
    await pool.query("INSERT INTO opt VALUES (1, 'in opt_s')")
    expect((await pool.query('SELECT t FROM opt')).rows).to.deep.equal([{ t: 'in opt_s' }])
    expect(
      (await kind.pool().query('SELECT (SELECT count(*)::int FROM opt) a, (SELECT count(*)::int FROM opt_s.opt) b'))
        .rows,
    ).to.deep.equal([{ a: 0, b: 1 }])
  })
  it('SET search_path: the session’s own names, in what is read and in what is written', async () => {
    const client = await kind.pool().connect()
    await client.query('SET search_path = opt_s')
    await client.query("UPDATE opt SET t = 'again' WHERE id = 1")
    expect((await client.query('SELECT t FROM opt WHERE id = 1')).rows).to.deep.equal([{ t: 'again' }])
    await client.query('BEGIN')
    await client.query("INSERT INTO opt VALUES (2, 'two')")
    await client.query('LOCK TABLE opt IN SHARE MODE')
    await client.query('COMMIT')
    await client.query('RESET search_path')
    expect((await client.query('SELECT count(*)::int AS n FROM opt')).rows).to.deep.equal([{ n: 0 }])
    client.release()
  })
  it('statement_timeout, lock_timeout, idle_in_transaction_session_timeout', async () => {
    const pool = kind.pool({ statement_timeout: 300, lock_timeout: 4000, idle_in_transaction_session_timeout: 60_000 })
    expect([
      await shown(pool, 'statement_timeout'),
      await shown(pool, 'lock_timeout'),
      await shown(pool, 'idle_in_transaction_session_timeout'),
    ]).to.deep.equal(['300ms', '4s', '1min'])
    expect((await failure(pool.query('SELECT pg_sleep(5)'))).code).to.equal('57014')
    expect((await failure(pool.query('SELECT pg_sleep(5) FROM opt_s.opt'))).code).to.equal('57014')
    expect((await pool.query("INSERT INTO opt VALUES (10, 'x') RETURNING id")).rows).to.deep.equal([{ id: 10 }])
  })
  it('query_timeout: of the pool, of one query; the client of a pool is replaced', async () => {
    const pool = kind.pool({ max: 1, query_timeout: 1500 })
    expect((await failure(pool.query('SELECT pg_sleep(4)'))).message).to.equal('Query read timeout')
    expect((await pool.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
    const client = await kind.pool().connect()
    const from = performance.now()
    expect(
      (
        await failure(
          client.query({
            text: 'SELECT pg_sleep(0.6) FROM opt_s.opt WHERE id = 1',
            query_timeout: 100,
          } as pg.QueryConfig),
        )
      ).message,
    ).to.equal('Query read timeout')
    expect(performance.now() - from).to.be.below(550)
    expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }]) // behind the one that still ran
    client.release()
  })
  it('PGOPTIONS, PGAPPNAME, PGUSER, PGDATABASE', async () => {
    const before = { ...process.env }
    Object.assign(process.env, {
      PGOPTIONS: '-c work_mem=6MB',
      PGAPPNAME: 'from the environment',
      PGUSER: 'postgres',
      PGDATABASE: 'postgres',
    })
    try {
      const pool = kind.pool({ user: undefined, database: undefined })
      expect([await shown(pool, 'work_mem'), await shown(pool, 'application_name')]).to.deep.equal([
        '6MB',
        'from the environment',
      ])
      await pool.query("INSERT INTO opt VALUES (11, 'env')")
    } finally {
      for (const key of ['PGOPTIONS', 'PGAPPNAME', 'PGUSER', 'PGDATABASE']) {
        if (before[key] === undefined) delete process.env[key]
        else process.env[key] = before[key]
      }
    }
  })
  it('passwords: a string, a function, an async function; not shown', async () => {
    let asked = 0
    const password = async (): Promise<string> => {
      asked++
      await pause(5)
      return 'pass%word'
    }
    const pool = kind.pool({ user: 'opt_role', password })
    expect((await pool.query('SELECT current_user AS u')).rows).to.deep.equal([{ u: 'opt_role' }])
    expect(JSON.stringify(pool.options)).not.to.include('pass%word')
    expect(asked).to.be.at.least(0) // trust on this machine: it need not be asked
    expect((await kind.pool({ user: 'opt_role', password: 'pass%word' }).query('SELECT 1 AS one')).rows).to.deep.equal([
      { one: 1 },
    ])
  })
  it('ssl is asked for, and refused by a server that has none', async () => {
    const error = await failure(
      kind.pool({ ssl: { rejectUnauthorized: false }, connectionTimeoutMillis: 3000 }).query('SELECT 1'),
    )
    expect(error.message).to.match(/server does not support SSL/i)
  })
  it('keepAlive, client_encoding and what else pg takes', async () => {
    const pool = kind.pool({
      keepAlive: true,
      keepAliveInitialDelayMillis: 500,
      client_encoding: 'utf8',
      enableChannelBinding: true,
    })
    expect((await pool.query("SELECT 'ü' AS u")).rows).to.deep.equal([{ u: 'ü' }])
  })
  it('pipeline: queries, errors among them, a transaction', async () => {
    const pool = kind.pool({ pipeline: true, max: 1 })
    const client = await pool.connect()
    expect((client as unknown as { pipeline: boolean }).pipeline).to.equal(true)
    const all = await Promise.allSettled([
      client.query('SELECT 1 AS n'),
      client.query('SELECT nothing'),
      client.query('SELECT $1::int AS n', [3]),
      client.query("INSERT INTO opt VALUES (20, 'p') RETURNING id"),
      client.query('SELECT t FROM opt WHERE id = 20'),
    ])
    expect(
      all.map((r) => (r.status === 'fulfilled' ? (r.value.rows[0] as unknown) : (r.reason as { code: string }).code)),
    ).to.deep.equal([{ n: 1 }, '42703', { n: 3 }, { id: 20 }, { t: 'p' }])
    await Promise.all(['BEGIN', "INSERT INTO opt VALUES (21, 'q')", 'COMMIT'].map((text) => client.query(text)))
    client.release()
    expect((await pool.query('SELECT count(*)::int AS n FROM opt WHERE id = 21')).rows).to.deep.equal([{ n: 1 }])
  })
  it('a url with options of its own', async () => {
    const urls = kind
      .servers()
      .map(
        (s) =>
          `${s.url}?options=${encodeURIComponent('-c search_path=opt_s')}&application_name=by%20url&statement_timeout=800`,
      )
    const pool = kind.pool({
      user: undefined,
      database: undefined,
      ...(kind.name === 'pg' ? { connectionString: urls[0] } : { replicas: urls }),
    })
    expect([
      await shown(pool, 'search_path'),
      await shown(pool, 'application_name'),
      await shown(pool, 'statement_timeout'),
    ]).to.deep.equal(['opt_s', 'by url', '800ms'])
    expect((await pool.query("UPDATE opt SET t = 'by url' WHERE id = 1 RETURNING t")).rows).to.deep.equal([
      { t: 'by url' },
    ])
  })
})
