/** Groups: one-shot writes that are asked at once share a transaction, and nobody notices. */
import { expect } from 'chai'
import pg from 'pg'
import type { Pool } from '../driver/index.ts'
import { cluster, failure, settled, type TestCluster } from './cluster.ts'
import { ask } from './servers.ts'

describe('groups of one-shot writes', function () {
  this.timeout(30_000)
  let c: TestCluster
  let pool: Pool
  before(async () => {
    c = await cluster()
    pool = c.pool()
    await pool.query(
      'CREATE TABLE notes (id int PRIMARY KEY, v text UNIQUE); CREATE TABLE parents (id int PRIMARY KEY); CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents DEFERRABLE INITIALLY DEFERRED)',
    )
    await pool.query(
      'CREATE TABLE watched (id int PRIMARY KEY, tx text); CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.tx := pg_current_xact_id()::text; RETURN NEW; END $$; CREATE TRIGGER stamp BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION stamp()',
    )
  })
  after(() => c.destroy())
  const commits = async (): Promise<number> =>
    Math.max(
      ...(await Promise.all(
        c.servers.map(async (s) => Number((await ask(s, 'SELECT count(*) AS n FROM quorum.applied'))[0]!['n'])),
      )),
    )
  const insert = (p: Pool, id: number, v: string | null = `v${id}`) =>
    p.query<{ id: number; v: string }>('INSERT INTO notes VALUES ($1, $2) RETURNING *', [id, v])

  it('each has its own result; together they are few commits', async () => {
    const before = await commits()
    const results = await Promise.all(Array.from({ length: 40 }, (_, i) => insert(pool, i)))
    expect(results.map((r) => r.rows)).to.deep.equal(Array.from({ length: 40 }, (_, i) => [{ id: i, v: `v${i}` }]))
    const counts = await Promise.all(
      Array.from({ length: 40 }, (_, i) => pool.query('UPDATE notes SET v = $2 WHERE id = $1', [i + 20, `w${i}`])),
    )
    expect(counts.map((r) => r.rowCount)).to.deep.equal(Array.from({ length: 40 }, (_, i) => (i < 20 ? 1 : 0)))
    expect((await commits()) - before).to.be.within(2, 20)
    await settled(c.servers)
  })

  it('control: groups: false, and each is a commit of its own', async () => {
    const alone = c.pool({ groups: false })
    const before = await commits()
    await Promise.all(Array.from({ length: 8 }, (_, i) => insert(alone, 100 + i)))
    expect((await commits()) - before).to.equal(8)
    await alone.end()
  })

  it('one that fails has its own error, and takes nobody with it', async () => {
    const answers = await Promise.allSettled([
      insert(pool, 200),
      insert(pool, 200),
      insert(pool, 201, 'v0'),
      insert(pool, 202),
      pool.query('INSERT INTO notes VALUES ($1, $2)', [
        203,
        {
          toPostgres: () => {
            throw new Error('mine')
          },
        },
      ]),
      pool.query('INSERT INTO nothing VALUES (1)'),
      pool.query("INSERT INTO notes VALUES ('x')"),
      insert(pool, 204),
    ])
    expect(
      answers.map((a) =>
        a.status === 'fulfilled'
          ? a.value.rowCount
          : ((a.reason as { code?: string }).code ?? (a.reason as Error).message),
      ),
    ).to.deep.equal([1, '23505', '23505', 1, 'mine', '42P01', '22P02', 1])
    await settled(c.servers)
  })

  it('one that has to wait for a lock waits alone: whoever holds it may be waiting for the others', async () => {
    const client = await pool.connect()
    await client.query('BEGIN')
    await client.query("UPDATE notes SET v = 'held' WHERE id = 1")
    const waiting = pool.query("UPDATE notes SET v = v || '!' WHERE id = 1")
    let waited = true
    void waiting.then(
      () => (waited = false),
      () => undefined,
    )
    await Promise.all([insert(pool, 300), insert(pool, 301)]) // behind it they would wait for ever
    expect(waited).to.equal(true)
    await client.query('COMMIT')
    client.release()
    await waiting
    expect((await pool.query('SELECT v FROM notes WHERE id = 1')).rows).to.deep.equal([{ v: 'held!' }])
  })

  it('a seal that fails behind its statements: nobody is told that it was committed', async () => {
    const client = (await pool.connect()) as unknown as { replicaName: string; release(): void }
    client.release()
    const holder = new pg.Client({
      connectionString: c.servers.find((s) => client.replicaName.includes(`:${s.port}/`))!.url,
    })
    await holder.connect()
    await holder.query('BEGIN; LOCK TABLE quorum.everything IN EXCLUSIVE MODE') // which only the seal has to wait for
    setTimeout(() => void holder.query('COMMIT').then(() => holder.end()), 2600) // longer than a seal waits
    await Promise.all([insert(pool, 350), insert(pool, 351)])
    expect((await pool.query('SELECT count(*)::int AS n FROM notes WHERE id IN (350, 351)')).rows).to.deep.equal([
      { n: 2 },
    ])
  })

  it('what is checked at the end is checked for each by itself', async () => {
    const answers = await Promise.allSettled([
      pool.query('INSERT INTO children VALUES (1, 1)'),
      pool.query('INSERT INTO parents VALUES (2)'),
      pool.query('INSERT INTO children VALUES (2, 2)'),
    ])
    expect(answers.map((a) => a.status)[0]).to.equal('rejected')
    expect((answers[0] as PromiseRejectedResult).reason).to.have.property('code', '23503')
    expect(answers[1]!.status).to.equal('fulfilled')
  })

  it('triggers of the application’s see transactions of their own', async () => {
    await Promise.all(Array.from({ length: 8 }, (_, i) => pool.query('INSERT INTO watched VALUES ($1)', [i])))
    expect((await pool.query('SELECT count(DISTINCT tx)::int AS n FROM watched')).rows).to.deep.equal([{ n: 8 }])
  })

  it('end() waits for those that were asked before it', async () => {
    const mine = c.pool()
    await mine.query('SELECT 1')
    const asked = Array.from({ length: 100 }, (_, i) => insert(mine, 400 + i))
    await new Promise((r) => setImmediate(r)) // pg's pool serves nobody who has no client yet when it is ended
    await Promise.all([...asked, mine.end()])
    expect(await failure(insert(mine, 500)))
      .to.have.property('message')
      .that.matches(/after calling end/)
  })

  it('a conflict with another process’s group is tried again, unseen', async () => {
    const pools = [pool, c.pool(), c.pool()]
    await pool.query("INSERT INTO notes VALUES (600, '0')")
    await Promise.all(
      pools.flatMap((p) =>
        Array.from({ length: 20 }, () => p.query('UPDATE notes SET v = (v::int + 1)::text WHERE id = 600')),
      ),
    )
    expect((await pool.query('SELECT v FROM notes WHERE id = 600')).rows).to.deep.equal([{ v: '60' }])
    await Promise.all(pools.slice(1).map((p) => p.end()))
    await settled(c.servers)
  })
})
