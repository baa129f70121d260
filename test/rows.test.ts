/**
 * Changesets of single rows (driver/schema/rows.sql): what has more than one row, keys that change, stripes that
 * are shared, members that know only the longer way.
 */
import { createHash } from 'node:crypto'
import { expect } from 'chai'
import type { Pool } from '../driver/index.ts'
import { OWNER, type Changeset } from '../driver/replica/replica.ts'
import { bank, cluster, failure, sealed, settled, type TestCluster } from './cluster.ts'
import { ask } from './servers.ts'

describe('changesets of single rows', function () {
  this.timeout(30_000)
  let c: TestCluster
  let pool: Pool
  before(async () => {
    c = await cluster()
    pool = c.pool()
    await bank(pool, 200)
    await pool.query(
      'CREATE TABLE seats (id int PRIMARY KEY, row int NOT NULL, who text, UNIQUE (row)); INSERT INTO seats SELECT g, g FROM generate_series(1, 20) g',
    )
    await pool.query(
      'CREATE TABLE kinds (id int PRIMARY KEY, name text); INSERT INTO kinds VALUES (1, NULL), (2, \'{"a",b}\')',
    )
  })
  after(() => c.destroy())

  const everywhere = async (text: string): Promise<unknown> => {
    await settled(c.servers)
    const [first, ...others] = await Promise.all(c.servers.map((s) => ask(s, text)))
    for (const rows of others) expect(rows).to.deep.equal(first)
    return first
  }
  const transaction = (...texts: string[]): Promise<void> =>
    pool.transaction({}, async (tx) => {
      for (const text of texts) await tx.query(text)
    })
  const forms = async (): Promise<string[]> => {
    await settled(c.servers)
    return (
      await ask(
        c.servers[0]!,
        "SELECT CASE WHEN body::jsonb ? 'rows' THEN 'rows' ELSE 'list' END AS form FROM quorum.changeset ORDER BY at DESC LIMIT 1",
      )
    ).map((r) => r['form'] as string)
  }
  /** Sealed and let go, as by an owner that died then. via: who accepts it by the shorter function. */
  const follower = (lead: number): number => (lead === 0 ? 1 : 0)
  const accept = async (changeset: Changeset, member: number): Promise<unknown> => {
    const session = await pool.cluster.replicas[member]!.open()
    const reply = await session.accept(changeset, OWNER)
    if (reply.answer === 'yes') await session.finish(changeset.gid, 'abort')
    session.release()
    return reply.answer === 'no' ? reply.why : reply.answer
  }

  it('one updated, one deleted, one new, all in one stripe', async () => {
    const twins = (
      await ask(
        c.servers[0]!,
        'SELECT min(g) AS a, (array_agg(g ORDER BY g))[2] AS b, (array_agg(g ORDER BY g))[3] AS c FROM generate_series(1000, 9000) g GROUP BY quorum.stripe_of(ARRAY[g::text]::text) HAVING count(*) > 2 LIMIT 1',
      )
    )[0] as { a: number; b: number; c: number }
    await transaction(`INSERT INTO accounts VALUES (${twins.a}, 1)`, `INSERT INTO accounts VALUES (${twins.b}, 2)`)
    await transaction(
      `UPDATE accounts SET balance = 10 WHERE id = ${twins.a}`,
      `DELETE FROM accounts WHERE id = ${twins.b}`,
      `INSERT INTO accounts VALUES (${twins.c}, 30)`,
    )
    expect(await forms()).to.deep.equal(['rows'])
    expect(
      await everywhere(
        `SELECT id, balance::int FROM accounts WHERE id IN (${twins.a}, ${twins.b}, ${twins.c}) ORDER BY id`,
      ),
    ).to.deep.equal([
      { id: twins.a, balance: 10 },
      { id: twins.c, balance: 30 },
    ])
  })

  it('a key that changes beside rows that keep theirs; and a row that is made and unmade', async () => {
    await pool.transaction({ locks: [20, 21, 22, 23, 5000, 5001].map((id) => `accounts/${id}`) }, async (tx) => {
      for (const text of [
        'UPDATE accounts SET balance = 5 WHERE id = 20',
        'UPDATE accounts SET id = 5000, balance = 6 WHERE id = 21',
        'UPDATE accounts SET balance = 7 WHERE id = 22',
        'INSERT INTO accounts VALUES (5001, 1)',
        'DELETE FROM accounts WHERE id = 5001',
        'UPDATE accounts SET balance = balance WHERE id = 23',
      ])
        await tx.query(text)
    })
    expect(await forms()).to.deep.equal(['rows'])
    expect(
      await everywhere('SELECT id, balance::int FROM accounts WHERE id IN (20, 21, 22, 5000, 5001) ORDER BY id'),
    ).to.deep.equal([
      { id: 20, balance: 5 },
      { id: 22, balance: 7 },
      { id: 5000, balance: 6 },
    ])
  })

  it('a second unique index that two updated rows cross', async () => {
    await transaction(
      'UPDATE seats SET row = -1 WHERE id = 1',
      'UPDATE seats SET row = 1 WHERE id = 2',
      'UPDATE seats SET row = 2 WHERE id = 1',
    )
    expect(await everywhere('SELECT id, row FROM seats WHERE id < 3 ORDER BY id')).to.deep.equal([
      { id: 1, row: 2 },
      { id: 2, row: 1 },
    ])
  })

  it('several tables, one of them only read; what is read leaves its mark until it is written', async () => {
    await transaction(
      'SELECT * FROM kinds WHERE id = 2',
      'INSERT INTO seats VALUES (50, 50)',
      'UPDATE accounts SET balance = 1 WHERE id = 30',
    )
    expect(await forms()).to.deep.equal(['rows'])
    expect(await everywhere('SELECT count(*)::int AS n FROM seats WHERE id = 50')).to.deep.equal([{ n: 1 }])
    const mark =
      "SELECT k.version::int - coalesce(s.version, 0)::int AS behind FROM quorum.mark k LEFT JOIN quorum.stripe s USING (t, n) WHERE k.t = 'public.kinds'"
    expect(await everywhere(mark)).to.deep.equal([{ behind: 0 }])
    await pool.query('UPDATE kinds SET name = NULL WHERE id = 2')
    expect(await everywhere(mark)).to.deep.equal([])
  })

  it('a member where one of two rows is another says so', async () => {
    const { lead, ...changeset } = await sealed(
      pool,
      'UPDATE accounts SET balance = 77 WHERE id = 40; UPDATE accounts SET balance = 77 WHERE id = 41',
    )
    const member = follower(lead)
    expect(await accept(changeset, member), 'control').to.equal('yes')
    const spoil = (to: string): Promise<unknown> =>
      ask(
        c.servers[member]!,
        `SET session_replication_role = replica; UPDATE accounts SET balance = ${to} WHERE id = 41`,
      )
    await spoil('balance + 1')
    expect(await accept(changeset, member)).to.equal('differs')
    await spoil('balance - 1')
    expect(await accept(changeset, member)).to.equal('yes')
  })

  it('a member that lacks the shorter function takes the longer way', async () => {
    const { lead, ...changeset } = await sealed(pool, 'UPDATE accounts SET balance = 78 WHERE id = 42')
    const member = follower(lead)
    const via = 'quorum_shadow."accept public.accounts"'
    await ask(c.servers[member]!, 'ALTER FUNCTION quorum_shadow."accept public.accounts" RENAME TO away')
    expect(await accept({ ...changeset, via }, member)).to.equal('yes')
    await ask(c.servers[member]!, 'ALTER FUNCTION quorum_shadow.away RENAME TO "accept public.accounts"')
    expect(await accept({ ...changeset, via }, member)).to.equal('yes')
    expect(await accept({ ...changeset, via: 'quorum_shadow.nobody' }, member), 'whatever it is called').to.equal('yes')
  })

  it('whose BEGIN was not executed is not accepted, and nothing of it is committed', async () => {
    const { lead, ...changeset } = await sealed(pool, 'UPDATE accounts SET balance = 79 WHERE id = 44')
    const member = c.servers[follower(lead)]!
    await ask(member, `INSERT INTO quorum.changeset (gid, body) VALUES ($1, $2)`, [changeset.gid, changeset.body])
    for (const f of ['quorum.accept', 'quorum_shadow."accept public.accounts"'])
      expect((await failure(ask(member, `SELECT ${f}($1, 0, '')`, [changeset.gid]))).code).to.equal('25P01')
    expect(await ask(member, 'SELECT balance::int FROM accounts WHERE id = 44')).to.deep.equal([{ balance: 1000 }])
  })

  it('a changeset from before, which is a list, is accepted still', async () => {
    await pool.query('UPDATE accounts SET balance = 100 WHERE id = 43')
    await settled(c.servers)
    const here = (
      await ask(
        c.servers[0]!,
        `SELECT quorum.stripe_of('{43}') AS n, coalesce((SELECT version FROM quorum.stripe WHERE t = '*' AND n = -1), 0)::int AS everything, coalesce((SELECT version FROM quorum.stripe WHERE t = 'public.accounts' AND n = -1), 0)::int AS own,
      (SELECT version FROM quorum.stripe WHERE t = 'public.accounts' AND n = quorum.stripe_of('{43}'))::int AS v, (SELECT epoch FROM quorum.self)::int AS epoch, (SELECT cluster FROM quorum.self) AS cluster`,
      )
    )[0] as { n: number; everything: number; own: number; v: number; epoch: number; cluster: string }
    const entry = (t: string, n: number, v: number, w = false): object => ({
      t,
      n,
      w,
      i: n === -1,
      v,
      c: '0',
      mk: 0,
      ms: '0',
    })
    const body = JSON.stringify({
      write: 2,
      base: [
        entry('*', -1, here.everything),
        entry('public.accounts', -1, here.own),
        entry('public.accounts', here.n, here.v, true),
      ],
      writes: [['public.accounts', here.n]],
      items: [{ t: 'public.accounts', o: ['(43,100)'], n: ['(43,101)'] }],
      hashes: null,
      epoch: here.epoch,
      lead: 1,
    })
    const changeset = {
      gid: `quorum_${here.cluster}_1_older_1_${createHash('sha256').update(body).digest('hex').slice(0, 32)}`,
      body,
    }
    for (const replica of pool.cluster.replicas) expect(await replica.replay([changeset])).to.equal(1)
    expect(await everywhere('SELECT balance::int FROM accounts WHERE id = 43')).to.deep.equal([{ balance: 101 }])
    await pool.query('UPDATE accounts SET balance = balance + 1 WHERE id = 43')
    expect(await everywhere('SELECT balance::int FROM accounts WHERE id = 43')).to.deep.equal([{ balance: 102 }])
  })
})
