/**
 * Statements that name their row by its key are asked without a touch before them (docs/protocol.md, section 4,
 * step 4): what must not follow from that.
 */
import { expect } from 'chai'
import pg from 'pg'
import type { Pool } from '../driver/index.ts'
import { asked, bank, balanceOn, cluster, failure, settled, type TestCluster } from './cluster.ts'
import { ask } from './servers.ts'

describe('a row named by its key', function () {
  this.timeout(30_000)
  let c: TestCluster
  let pool: Pool
  before(async () => {
    c = await cluster()
    pool = c.pool()
    await bank(pool)
  })
  after(() => c.destroy())

  /** How often the work asked a server for a base. */
  const bases = async (work: () => Promise<unknown>): Promise<number> =>
    (await asked(work)).filter(({ text }) => /quorum\.(base|stand_of)\(/.test(text)).length
  const transaction = async (
    client: { query(text: string, values?: unknown[]): Promise<pg.QueryResult> },
    ...texts: string[]
  ): Promise<(number | null)[]> => {
    const counts: (number | null)[] = []
    await client.query('BEGIN')
    for (const text of texts) counts.push((await client.query(text)).rowCount)
    await client.query('COMMIT')
    return counts
  }
  const one = 'UPDATE accounts SET balance = balance + 1 WHERE id = 1'
  /** How much richer account 1 is after the work, on all three. */
  const gain = async (work: () => Promise<unknown>): Promise<number> => {
    const before = await balanceOn(c.servers[0]!, 1)
    await work()
    await settled(c.servers)
    return (await balanceOn(c.servers[0]!, 1)) - before
  }

  it('costs no question, in a group, in a transaction, and where there are inserts', async () => {
    const client = await pool.connect()
    expect(
      await gain(async () => {
        expect(
          await bases(() =>
            Promise.all([
              pool.query(one),
              pool.query('UPDATE accounts SET balance = 7 WHERE id = 2'),
              pool.query('INSERT INTO accounts VALUES (11, 1)'),
            ]),
          ),
        ).to.equal(0)
        expect(
          await bases(() =>
            transaction(client, one, 'INSERT INTO accounts VALUES (12, 1)', 'DELETE FROM accounts WHERE id = 3'),
          ),
        ).to.equal(0)
        expect(
          await bases(() => transaction(client, 'UPDATE accounts SET balance = 7 WHERE balance = 7')),
          'control',
        ).to.equal(1)
      }),
    ).to.equal(2)
    client.release()
  })

  /**
   * A pool whose lead does not have an account that everybody else has, and a client of it; `go` lets it be
   * brought.
   */
  const behind = async (id: number): Promise<{ here: Pool; client: pg.PoolClient; go: () => Promise<void> }> => {
    const name = (i: number): string => pool.cluster.replicas[i]!.name
    const here = c.pool({ write: { prefer: name(0) } })
    const elsewhere = c.pool({ write: { prefer: name(1) } })
    const client = await here.connect()
    await transaction(client, one)
    await here.query(one)
    const lead = c.servers[0]!
    const blocker = new pg.Client({ connectionString: lead.url })
    await blocker.connect()
    await blocker.query('BEGIN; LOCK TABLE quorum.changeset IN EXCLUSIVE MODE')
    await elsewhere.query('INSERT INTO accounts VALUES ($1, 5)', [id])
    expect(await ask(lead, `SELECT FROM accounts WHERE id = ${id}`)).to.have.length(0)
    return {
      here,
      client,
      go: async () => {
        await blocker.query('ROLLBACK')
        await blocker.end()
      },
    }
  }

  for (const [id, what] of [
    [97, "nextval('numbers')"],
    [98, '6'],
  ] as const) {
    it(`and is not here, though it is elsewhere: a one-shot finds it (${what})`, async () => {
      await pool.query('CREATE SEQUENCE IF NOT EXISTS numbers')
      const { here, client, go } = await behind(id)
      client.release()
      const asked = here.query(`UPDATE accounts SET balance = ${what} WHERE id = ${id}`)
      setTimeout(() => void go(), 300)
      expect((await asked).rowCount).to.equal(1)
      await settled(c.servers)
    })
  }
  it('and is not here, though it is elsewhere: a transaction that was told so does not commit', async () => {
    const { client, go } = await behind(99)
    await client.query('BEGIN')
    expect((await client.query('UPDATE accounts SET balance = 6 WHERE id = 99')).rowCount).to.equal(0)
    const committed = client.query('COMMIT')
    setTimeout(() => void go(), 300)
    expect((await failure(committed)).code).to.equal('40001')
    client.release()
    await settled(c.servers)
  })
  it('and is nowhere: nothing, in a group with others too', async () => {
    const client = await pool.connect()
    expect(
      await gain(async () => {
        const counts = await Promise.all([
          pool.query(one),
          pool.query('DELETE FROM accounts WHERE id = 77'),
          pool.query(one),
        ])
        expect(counts.map((r) => r.rowCount)).to.deep.equal([1, 0, 1])
        expect(await transaction(client, one, 'DELETE FROM accounts WHERE id = 77', one)).to.deep.equal([1, 0, 1])
      }),
    ).to.equal(4)
    client.release()
  })

  it('seen by a statement that is taken back to a savepoint, it is rested on all the same', async () => {
    const client = await pool.connect()
    await transaction(client, one)
    await client.query('BEGIN')
    await client.query('SAVEPOINT s')
    expect(await bases(() => client.query(`${one} RETURNING balance`))).to.equal(1)
    await client.query('ROLLBACK TO s')
    await pool.query(one)
    expect((await failure(client.query('COMMIT'))).code).to.equal('40001')
    client.release()
  })

  it('what a name means may change, and change back', async () => {
    const client = await pool.connect()
    await client.query(
      'CREATE SCHEMA other; CREATE TABLE other.accounts (id int, balance bigint); INSERT INTO other.accounts VALUES (1, 1), (1, 2)',
    )
    expect(
      await gain(async () => {
        await transaction(client, one)
        expect(
          await transaction(
            client,
            'SET LOCAL search_path = other',
            one,
            'UPDATE accounts SET balance = balance + 1 WHERE id = 1',
          ),
        ).to.deep.equal([null, 2, 2])
        expect(await transaction(client, one)).to.deep.equal([1])
        expect(await transaction(client, "SELECT set_config('search_path', 'other', true)", one)).to.deep.equal([1, 2])
        await client.query('BEGIN; SET search_path = other')
        expect((await client.query(one)).rowCount).to.equal(2)
        await client.query('ROLLBACK')
        expect(await transaction(client, one)).to.deep.equal([1])
        expect(
          await transaction(
            client,
            'CREATE TEMPORARY TABLE accounts (id int PRIMARY KEY, balance int) ON COMMIT DROP',
            'INSERT INTO accounts VALUES (1, 1)',
            one,
          ),
        ).to.deep.equal([null, 1, 1])
        expect(await transaction(client, one)).to.deep.equal([1])
      }),
    ).to.equal(4)
    client.release()
    expect((await pool.query('SELECT sum(balance)::int AS sum FROM other.accounts')).rows).to.deep.equal([{ sum: 9 }])
  })

  it('and the schema changed in the same transaction', async () => {
    const client = await pool.connect()
    expect(
      await gain(async () => {
        for (const column of ['a', 'b']) {
          expect(
            await transaction(
              client,
              one,
              `ALTER TABLE accounts ADD ${column} int`,
              one,
              `UPDATE accounts SET ${column} = 1 WHERE id = 1`,
            ),
          ).to.deep.equal([1, null, 1, 1])
          expect(await transaction(client, one, one)).to.deep.equal([1, 1])
        }
      }),
    ).to.equal(8)
    client.release()
  })

  it('a table that has got a trigger since, which stops the statement: it is not fired twice', async () => {
    const client = await c.pool().connect()
    await pool.query('CREATE TABLE stopped (id int PRIMARY KEY, n int)')
    await pool.query('INSERT INTO stopped VALUES (1, 0), (2, 0)')
    await transaction(client, 'UPDATE stopped SET n = 1 WHERE id = 1')
    await pool.query(
      'CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF pg_trigger_depth() = 1 THEN UPDATE stopped SET n = n + 1 WHERE id = 2; RETURN NULL; END IF; RETURN NEW; END $$',
    )
    await pool.query('CREATE TRIGGER stop BEFORE UPDATE ON stopped FOR EACH ROW EXECUTE FUNCTION stop()')
    expect((await failure(transaction(client, 'UPDATE stopped SET n = 1 WHERE id = 1'))).code).to.equal('40001')
    expect(await transaction(client, 'UPDATE stopped SET n = 1 WHERE id = 1')).to.deep.equal([0])
    client.release()
    expect((await pool.query('SELECT n FROM stopped ORDER BY id')).rows).to.deep.equal([{ n: 1 }, { n: 1 }])
  })

  it('a table that has got a trigger since is asked about again', async () => {
    const client = await c.pool().connect() // another's names have been changed too often
    await transaction(client, one)
    expect(await bases(() => transaction(client, one))).to.equal(0)
    await pool.query('CREATE TABLE noted (id int PRIMARY KEY, n int)')
    await pool.query('INSERT INTO noted VALUES (1, 0)')
    await pool.query(
      "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE noted SET n = n + 1; PERFORM set_config('search_path', 'nowhere, public', false); RETURN NULL; END $$",
    )
    await pool.query('CREATE TRIGGER note AFTER UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION note()')
    expect((await failure(transaction(client, one))).code).to.equal('40001')
    await transaction(client, one)
    expect(await bases(() => transaction(client, one))).to.equal(1)
    client.release()
    await settled(c.servers)
    expect((await pool.query('SELECT n FROM noted')).rows).to.deep.equal([{ n: 2 }])
  })
})
