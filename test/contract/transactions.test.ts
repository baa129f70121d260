/** Transaction control as people write it. */
import { expect } from 'chai'
import type pg from 'pg'
import type { Pool } from '../../driver/index.ts'
import { failure } from '../cluster.ts'
import { both, pause } from './both.ts'

both('transactions', (kind) => {
  let pool: pg.Pool
  let client: pg.PoolClient
  let other: pg.Pool
  before(async () => {
    pool = kind.pool()
    other = kind.pool()
    await pool.query('CREATE TABLE tx (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)')
    await pool.query(
      'CREATE TABLE tx_child (id int PRIMARY KEY, parent int REFERENCES tx DEFERRABLE INITIALLY DEFERRED)',
    )
    client = await pool.connect()
  })
  after(() => client.release())
  beforeEach(async () => {
    if (status() !== 'I') await client.query('ROLLBACK') // of a test that failed
    // on the same lead as what follows: elsewhere a REPEATABLE READ snapshot could still be older
    await client.query('TRUNCATE tx CASCADE')
  })
  const ids = async (): Promise<number[]> =>
    (await other.query<{ id: number }>('SELECT id FROM tx ORDER BY id')).rows.map((r) => r.id)
  const status = (): string | null => client.getTransactionStatus()
  /** pg rejects before it knows the new status. */
  const later = (): Promise<string | null> => pause(20).then(status)
  const show = async (what: string): Promise<string> =>
    Object.values((await client.query(`SHOW ${what}`)).rows[0] as Record<string, string>)[0]!

  for (const [begin, commit] of [
    ['BEGIN', 'COMMIT'],
    ['begin work', 'commit work'],
    ['BEGIN TRANSACTION', 'END'],
    ['START TRANSACTION', 'END TRANSACTION'],
    ['/* one */ BEGIN -- two', ' commit ; '],
    ['BEGIN;', 'COMMIT;'],
  ] as const) {
    it(`${begin} … ${commit}`, async () => {
      expect((await client.query(begin)).command).to.match(/^(BEGIN|START)$/)
      expect(status()).to.equal('T')
      await client.query('INSERT INTO tx VALUES (1)')
      expect(await ids()).to.deep.equal([])
      expect((await client.query(commit)).command).to.equal('COMMIT')
      expect(status()).to.equal('I')
      expect(await ids()).to.deep.equal([1])
    })
  }
  for (const rollback of ['ROLLBACK', 'ABORT', 'rollback work', '-- no\nROLLBACK TRANSACTION']) {
    it(`BEGIN … ${JSON.stringify(rollback)}`, async () => {
      await client.query('BEGIN')
      await client.query('INSERT INTO tx VALUES (1)')
      expect((await client.query(rollback)).command).to.equal('ROLLBACK')
      expect(status()).to.equal('I')
      expect(await ids()).to.deep.equal([])
    })
  }
  for (const [options, isolation, readOnly] of [
    ['ISOLATION LEVEL READ UNCOMMITTED', 'read uncommitted', 'off'],
    ['ISOLATION LEVEL REPEATABLE READ', 'repeatable read', 'off'],
    ['ISOLATION LEVEL SERIALIZABLE', 'serializable', 'off'],
    ['READ ONLY', 'read committed', 'on'],
    ['ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE', 'serializable', 'on'],
    ['ISOLATION LEVEL REPEATABLE READ, READ WRITE', 'repeatable read', 'off'],
  ] as const) {
    it(`BEGIN ${options}`, async () => {
      await client.query(`BEGIN ${options}`)
      expect(await show('transaction_isolation')).to.equal(isolation)
      expect(await show('transaction_read_only')).to.equal(readOnly)
      const insert = client.query('INSERT INTO tx VALUES (1)')
      if (readOnly === 'on') expect((await failure(insert)).code).to.equal('25006')
      else await insert
      expect((await client.query('COMMIT')).command).to.equal(readOnly === 'on' ? 'ROLLBACK' : 'COMMIT')
      expect(await ids()).to.deep.equal(readOnly === 'on' ? [] : [1])
    })
  }
  it('a read-only transaction reads', async () => {
    await other.query('INSERT INTO tx VALUES (1, 5)')
    await client.query('BEGIN READ ONLY')
    expect((await client.query('SELECT n FROM tx WHERE id = 1')).rows).to.deep.equal([{ n: 5 }])
    expect((await client.query('COMMIT')).command).to.equal('COMMIT')
  })
  it('SET TRANSACTION after BEGIN', async () => {
    await client.query('BEGIN')
    await client.query('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ')
    expect(await show('transaction_isolation')).to.equal('repeatable read')
    await client.query('INSERT INTO tx VALUES (1)')
    await client.query('COMMIT')
    await client.query('START TRANSACTION')
    await client.query('SET TRANSACTION READ ONLY')
    expect((await failure(client.query('INSERT INTO tx VALUES (2)'))).code).to.equal('25006')
    await client.query('ROLLBACK')
    await client.query('BEGIN')
    await client.query('SELECT 1')
    expect((await failure(client.query('SET TRANSACTION ISOLATION LEVEL SERIALIZABLE'))).code).to.equal('25001')
    await client.query('ROLLBACK')
    expect(await ids()).to.deep.equal([1])
  })
  it('START TRANSACTION; SET TRANSACTION … in one string', async () => {
    const results = (await client.query(
      'START TRANSACTION; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;',
    )) as unknown as pg.QueryResult[]
    expect(results.map((r) => r.command)).to.deep.equal(['START', 'SET'])
    expect(await show('transaction_isolation')).to.equal('serializable')
    await client.query('ROLLBACK')
  })
  for (const how of [
    'SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ',
    "SET default_transaction_isolation = 'repeatable read'",
  ]) {
    it(`${how}: a row that was changed since the snapshot is 40001`, async () => {
      await other.query('INSERT INTO tx VALUES (1), (2)')
      await client.query(how)
      try {
        await client.query('BEGIN')
        await client.query('SELECT n FROM tx WHERE id = 1')
        await other.query('UPDATE tx SET n = n + 1 WHERE id = 1')
        expect(
          (await failure(client.query('UPDATE tx SET n = n + 1 WHERE id = 1').then(() => client.query('COMMIT')))).code,
        ).to.equal('40001')
        await client.query('ROLLBACK')
        await client.query('UPDATE tx SET n = n + 10 WHERE id = 2')
      } finally {
        await client.query('SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED')
      }
      expect((await other.query('SELECT n FROM tx ORDER BY id')).rows).to.deep.equal([{ n: 1 }, { n: 10 }])
    })
  }
  it('default_transaction_read_only', async () => {
    await client.query('SET default_transaction_read_only = on')
    expect((await failure(client.query('INSERT INTO tx VALUES (1)'))).code).to.equal('25006')
    await client.query('BEGIN READ WRITE')
    await client.query('INSERT INTO tx VALUES (1)')
    await client.query('COMMIT')
    await client.query('RESET default_transaction_read_only')
    expect(await ids()).to.deep.equal([1])
  })
  it('COMMIT AND CHAIN, ROLLBACK AND CHAIN, NO CHAIN: the same characteristics again', async () => {
    await client.query('BEGIN')
    await client.query('SET TRANSACTION ISOLATION LEVEL SERIALIZABLE')
    await client.query('INSERT INTO tx VALUES (1)')
    expect((await client.query('COMMIT AND CHAIN')).command).to.equal('COMMIT')
    expect(status()).to.equal('T')
    expect(await show('transaction_isolation')).to.equal('serializable')
    await client.query('INSERT INTO tx VALUES (2)')
    expect((await client.query('ROLLBACK AND CHAIN')).command).to.equal('ROLLBACK')
    expect(status()).to.equal('T')
    await client.query('INSERT INTO tx VALUES (3)')
    await client.query('COMMIT AND NO CHAIN')
    expect(status()).to.equal('I')
    expect(await ids()).to.deep.equal([1, 3])
    expect((await failure(client.query('COMMIT AND CHAIN'))).code).to.equal('25P01')
  })
  it('COMMIT AND CHAIN of nothing, and of a failed one', async () => {
    await client.query('BEGIN')
    await client.query('COMMIT AND CHAIN')
    await client.query('COMMIT AND CHAIN')
    await failure(client.query('SELECT 1/0'))
    expect((await client.query('COMMIT AND CHAIN')).command).to.equal('ROLLBACK')
    expect(status()).to.equal('T')
    await client.query('INSERT INTO tx VALUES (1)')
    await client.query('COMMIT')
    expect(await ids()).to.deep.equal([1])
  })
  it('savepoints: rows undone by ROLLBACK TO are undone everywhere', async () => {
    await client.query('BEGIN')
    await client.query('INSERT INTO tx VALUES (1)')
    await client.query('SAVEPOINT a')
    await client.query('INSERT INTO tx VALUES (2)')
    await client.query('SAVEPOINT "b c"')
    await client.query('UPDATE tx SET n = 9')
    await client.query('ROLLBACK TO SAVEPOINT "b c"')
    await client.query('RELEASE SAVEPOINT a')
    await client.query('SAVEPOINT a')
    await failure(client.query('INSERT INTO tx VALUES (1)'))
    expect(await later()).to.equal('E')
    expect((await failure(client.query('INSERT INTO tx VALUES (4)'))).code).to.equal('25P02')
    await client.query('ROLLBACK TO a')
    expect(status()).to.equal('T')
    await client.query('INSERT INTO tx VALUES (5)')
    await client.query('COMMIT')
    expect((await other.query('SELECT id, n FROM tx ORDER BY id')).rows).to.deep.equal([
      { id: 1, n: 0 },
      { id: 2, n: 0 },
      { id: 5, n: 0 },
    ])
  })
  it('LOCK TABLE after a savepoint, rolled back to it', async () => {
    await client.query('BEGIN')
    await client.query('SAVEPOINT a')
    await client.query('LOCK TABLE tx IN EXCLUSIVE MODE')
    await client.query('ROLLBACK TO a')
    await client.query('INSERT INTO tx VALUES (1)')
    await client.query('COMMIT')
    expect(await ids()).to.deep.equal([1])
  })
  it('SAVEPOINT outside a transaction, ROLLBACK TO one that is none', async () => {
    expect((await failure(client.query('SAVEPOINT a'))).code).to.equal('25P01')
    await client.query('BEGIN')
    expect((await failure(client.query('ROLLBACK TO nowhere'))).code).to.equal('3B001')
    await client.query('ROLLBACK')
  })
  it('BEGIN twice, COMMIT and ROLLBACK without BEGIN: a warning, as a notice', async () => {
    const codes: (string | undefined)[] = []
    const listen = (notice: { code?: string | undefined }): void => void codes.push(notice.code)
    client.on('notice', listen)
    await client.query('BEGIN')
    await client.query('BEGIN')
    await client.query('INSERT INTO tx VALUES (1)')
    await client.query('COMMIT')
    await client.query('COMMIT')
    await client.query('ROLLBACK')
    client.removeListener('notice', listen)
    expect(codes).to.deep.equal(['25001', '25P01', '25P01'])
    expect(await ids()).to.deep.equal([1])
  })
  it('a failed transaction: 25P02 until it ends, COMMIT answers ROLLBACK', async () => {
    await client.query('BEGIN')
    await client.query('INSERT INTO tx VALUES (1)')
    await failure(client.query('SELECT nothing'))
    expect(await later()).to.equal('E')
    for (const text of [
      'SELECT 1',
      'INSERT INTO tx VALUES (2)',
      'LOCK TABLE tx',
      'CREATE TABLE tx_no (i int)',
      'SET x.y = 1',
    ])
      expect((await failure(client.query(text))).code, text).to.equal('25P02')
    expect((await client.query('COMMIT')).command).to.equal('ROLLBACK')
    expect(status()).to.equal('I')
    expect(await ids()).to.deep.equal([])
  })
  it('a deferred constraint fails the COMMIT, and the client is free again', async () => {
    await client.query('BEGIN')
    await client.query('INSERT INTO tx_child VALUES (1, 77)')
    const error = await failure(client.query('COMMIT'))
    expect(error.code).to.equal('23503')
    expect(await later()).to.equal('I')
    expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
    expect((await failure(client.query('INSERT INTO tx_child VALUES (1, 77)'))).code).to.equal('23503')
    expect((await client.query('SELECT count(*)::int AS n FROM tx_child')).rows).to.deep.equal([{ n: 0 }])
  })
  it('SET CONSTRAINTS', async () => {
    await client.query('BEGIN')
    await client.query('SET CONSTRAINTS ALL DEFERRED')
    await client.query('INSERT INTO tx_child VALUES (1, 1)')
    await client.query('INSERT INTO tx VALUES (1)')
    await client.query('SET CONSTRAINTS ALL IMMEDIATE')
    await client.query('COMMIT')
    expect((await other.query('SELECT * FROM tx_child')).rows).to.deep.equal([{ id: 1, parent: 1 }])
  })
  it('several statements in one string are all or nothing', async () => {
    await failure(client.query('INSERT INTO tx VALUES (1); INSERT INTO tx VALUES (1)'))
    expect(await ids()).to.deep.equal([])
    expect(await later()).to.equal('I')
    const results = (await client.query(
      'INSERT INTO tx VALUES (1); SELECT id FROM tx; UPDATE tx SET n = 2 RETURNING n; SHOW timezone',
    )) as unknown as pg.QueryResult[]
    expect(results.map((r) => [r.command, r.rowCount])).to.deep.equal(
      [
        ['INSERT', 1],
        ['SELECT', 1],
        ['UPDATE', 1],
        ['SHOW', 1],
      ].map(([c, n]) => [c, c === 'SHOW' ? results[3]!.rowCount : n]),
    )
    expect(results[1]!.rows).to.deep.equal([{ id: 1 }])
    expect(await ids()).to.deep.equal([1])
  })
  it('BEGIN and COMMIT inside one string', async () => {
    const results = (await client.query(
      'BEGIN; INSERT INTO tx VALUES (1); SAVEPOINT a; INSERT INTO tx VALUES (2); ROLLBACK TO a; COMMIT; INSERT INTO tx VALUES (3)',
    )) as unknown as pg.QueryResult[]
    expect(results.map((r) => r.command)).to.deep.equal([
      'BEGIN',
      'INSERT',
      'SAVEPOINT',
      'INSERT',
      'ROLLBACK',
      'COMMIT',
      'INSERT',
    ])
    expect(await ids()).to.deep.equal([1, 3])
  })
  it('BEGIN in one string, the end in another; an error in between', async () => {
    await client.query('BEGIN; INSERT INTO tx VALUES (1)')
    expect(status()).to.equal('T')
    await client.query('INSERT INTO tx VALUES (2); COMMIT')
    expect(await ids()).to.deep.equal([1, 2])
    await failure(client.query('BEGIN; INSERT INTO tx VALUES (3); SELECT nothing; COMMIT'))
    expect(await later()).to.equal('E')
    await client.query('ROLLBACK')
    expect(await ids()).to.deep.equal([1, 2])
  })
  it('parameters inside a transaction; an error in the middle of a pool.query', async () => {
    await failure(pool.query('INSERT INTO tx VALUES ($1), ($1)', [1]))
    await client.query('BEGIN')
    await client.query('INSERT INTO tx VALUES ($1)', [1])
    expect((await client.query('UPDATE tx SET n = $2 WHERE id = $1 RETURNING n', [1, 4])).rows).to.deep.equal([
      { n: 4 },
    ])
    await client.query('COMMIT')
    expect(await ids()).to.deep.equal([1])
  })
  it('what one transaction has committed, the next statement of anybody reads', async () => {
    for (let i = 0; i < 10; i++) {
      await client.query('BEGIN')
      await client.query('INSERT INTO tx VALUES ($1)', [i])
      await client.query('COMMIT')
      expect((await other.query('SELECT count(*)::int AS n FROM tx')).rows).to.deep.equal([{ n: i + 1 }])
    }
  })
  it('DO and CALL', async () => {
    await client.query('DO $$ BEGIN INSERT INTO tx VALUES (1); END $$')
    await client.query('CREATE OR REPLACE PROCEDURE tx_add(i int) LANGUAGE sql AS $$ INSERT INTO tx VALUES (i) $$')
    await client.query('CALL tx_add($1)', [2])
    expect(await ids()).to.deep.equal([1, 2])
  })
  if (kind.name === 'pg-quorum') {
    it('refused: two-phase commit, and BEGIN after other statements in one string; nothing of it happened', async () => {
      for (const text of [
        "PREPARE TRANSACTION 'x'",
        "COMMIT PREPARED 'x'",
        "ROLLBACK PREPARED 'x'",
        'INSERT INTO tx VALUES (1); BEGIN; INSERT INTO tx VALUES (2); ROLLBACK',
      ]) {
        const error = await failure(client.query(text))
        expect(error.code, text).to.equal('0A000')
        expect(error.outcome).to.equal('not-committed')
      }
      expect(await ids()).to.deep.equal([])
    })
    it('REPEATABLE READ by default, two leads: no update is lost', async () => {
      const urls = kind.servers().map((s) => s.url)
      const leads = urls.map((_, i) =>
        kind.pool({
          replicas: [...urls.slice(i), ...urls.slice(0, i)],
          options: '-c default_transaction_isolation=repeatable\\ read',
          max: 1,
        }),
      )
      await client.query('INSERT INTO tx VALUES (1)')
      let committed = 0
      await Promise.all(
        leads.map(async (lead) => {
          for (let i = 0; i < 6; i++) {
            const c = await lead.connect()
            try {
              await c.query('BEGIN')
              const { rows } = await c.query<{ n: number }>('SELECT n FROM tx WHERE id = 1')
              await c.query('UPDATE tx SET n = $1 WHERE id = 1', [rows[0]!.n + 1])
              await c.query('COMMIT')
              committed++
            } catch (error) {
              expect((error as { code: string }).code).to.match(/^(40001|40P01|55P03|42P01)$/)
              await c.query('ROLLBACK').catch(() => undefined)
            }
            c.release()
          }
        }),
      )
      expect(committed).to.be.above(0)
      expect((await other.query('SELECT n FROM tx')).rows).to.deep.equal([{ n: committed }])
    })
    it('a declared transaction chained by AND CHAIN has its locks too', async () => {
      const mine = await (pool as Pool).connect({ locks: ['tx/5'] })
      await mine.query('BEGIN')
      await mine.query('INSERT INTO tx VALUES (5)')
      await mine.query('COMMIT AND CHAIN')
      await mine.query('UPDATE tx SET n = 1 WHERE id = 5')
      expect((await failure(mine.query('INSERT INTO tx VALUES (6)'))).message).to.match(
        /not covered by the declared locks/,
      )
      await mine.query('ROLLBACK')
      mine.release()
      expect((await other.query('SELECT id, n FROM tx')).rows).to.deep.equal([{ id: 5, n: 0 }])
    })
  }
})
