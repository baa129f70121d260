/**
 * The face: what people write against pg, and what goes wrong when they write it badly. Each mistake is a clear
 * error; nothing is lost, nothing hangs.
 */
import { expect } from 'chai'
import pg from 'pg'
import { Client, Pool } from '../driver/index.ts'
import { init } from '../driver/schema/install.ts'
import { bank, cluster, failure, settled, until, type TestCluster } from './cluster.ts'
import { ask, destroyAll, threeServers } from './servers.ts'

describe('the face', function () {
  let c: TestCluster
  let pool: Pool
  before(async () => {
    c = await cluster()
    pool = c.pool()
    await bank(pool)
  })
  after(() => c.destroy())

  it('is a pg.Pool, and its clients are pg.Clients', async () => {
    expect(pool).to.be.instanceOf(pg.Pool)
    const client = await pool.connect()
    expect(client).to.be.instanceOf(pg.Client)
    client.release()
  })

  it('takes PG_QUORUM_REPLICAS', async () => {
    process.env['PG_QUORUM_REPLICAS'] = c.urls.join(', ')
    const mine = new Pool()
    delete process.env['PG_QUORUM_REPLICAS']
    expect((await mine.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
    await mine.end()
  })

  it('a Client by itself', async () => {
    const client = new Client({ replicas: c.urls })
    await client.connect()
    expect((await client.query('UPDATE accounts SET balance = balance + 1 WHERE id = $1', [1])).rowCount).to.equal(1)
    await client.end()
  })

  it('callbacks', (done) => {
    pool.query('SELECT $1::int AS n', [5], (error, result) => {
      expect(error).to.equal(null)
      expect(result.rows).to.deep.equal([{ n: 5 }])
      done()
    })
  })

  it('BEGIN … COMMIT as strings, ROLLBACK, and COMMIT of a failed transaction', async () => {
    const client = await pool.connect({ locks: ['accounts/1'] })
    await client.query('BEGIN')
    expect((await client.query('UPDATE accounts SET balance = 5 WHERE id = 1')).rowCount).to.equal(1)
    expect((await client.query('COMMIT')).command).to.equal('COMMIT')
    await client.query('BEGIN')
    await client.query('UPDATE accounts SET balance = 6 WHERE id = 1')
    await client.query('ROLLBACK')
    expect((await client.query('SELECT balance FROM accounts WHERE id = 1')).rows[0].balance).to.equal('5')
    await client.query('BEGIN')
    await failure(client.query('SELECT 1/0'))
    expect((await failure(client.query('SELECT 1'))).code).to.equal('25P02')
    expect((await client.query('COMMIT')).command).to.equal('ROLLBACK')
    client.release()
  })

  it('LOCK TABLE right after BEGIN is a declaration', async () => {
    const client = await pool.connect()
    await client.query('BEGIN')
    await client.query('LOCK TABLE accounts IN EXCLUSIVE MODE')
    await client.query('UPDATE accounts SET balance = balance + 1')
    await client.query('COMMIT')
    client.release()
    await settled(c.servers)
  })

  it('shared locks, names and everything', async () => {
    await pool.transaction({ locks: [{ row: 'accounts/1', mode: 'shared' }, '@billing', 'accounts/2'] }, async (tx) => {
      const { rows } = await tx.query('SELECT balance FROM accounts WHERE id = 1')
      await tx.query('UPDATE accounts SET balance = $1 WHERE id = 2', [rows[0].balance])
    })
    await pool.transaction({ locks: ['*'] }, (tx) => tx.query('UPDATE accounts SET balance = balance + 1 WHERE id > 5'))
    await settled(c.servers)
  })

  it('a function that writes is caught by its effects, whatever the text says', async () => {
    await pool.query(
      'CREATE FUNCTION pay(a int) RETURNS bigint LANGUAGE sql AS $$ UPDATE accounts SET balance = balance + 1 WHERE id = a RETURNING balance $$',
    )
    await pool.query('SELECT pay(3)')
    await pool.query('CREATE VIEW rich AS SELECT * FROM accounts WHERE balance > 0')
    await pool.query('UPDATE accounts SET balance = (SELECT count(*) FROM rich) WHERE id = 4')
    await settled(c.servers)
  })

  it('REPEATABLE READ: a concurrent change of what was read is a 40001, not a lost update', async () => {
    const client = await pool.connect()
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
    await client.query('SELECT balance FROM accounts WHERE id = 1')
    await pool.query('UPDATE accounts SET balance = balance + 100 WHERE id = 1')
    await client.query('UPDATE accounts SET balance = 0 WHERE id = 2')
    const error = await failure(client.query('COMMIT'))
    expect(error.code).to.equal('40001')
    expect(error.outcome).to.equal('not-committed')
    client.release()
    await settled(c.servers)
  })

  it('write skew by undeclared reads is a 40001 for one of the two (N25)', async () => {
    const [a, b] = [await pool.connect(), await pool.connect()]
    const one = async (client: pg.PoolClient, id: number): Promise<void> => {
      await client.query('BEGIN')
      await client.query('SELECT sum(balance) FROM accounts')
      await client.query('UPDATE accounts SET balance = balance + 1 WHERE id = $1', [id])
    }
    await one(a, 1)
    await one(b, 2)
    const results = await Promise.allSettled([a.query('COMMIT'), b.query('COMMIT')])
    expect(results.filter((r) => r.status === 'fulfilled').length).to.be.at.most(1)
    a.release()
    b.release()
    await settled(c.servers)
  })

  it('a strong read through a view sees what was acknowledged, on a lead that lags', async () => {
    const other = c.pool({ replicas: [...c.urls].reverse() })
    await other.query('CREATE VIEW third AS SELECT balance FROM accounts WHERE id = 3')
    for (let i = 0; i < 10; i++) {
      await pool.query('UPDATE accounts SET balance = $1 WHERE id = 3', [i])
      expect((await other.query('SELECT * FROM third')).rows[0].balance).to.equal(String(i))
    }
    await other.end()
  })

  it('COMMIT AND CHAIN begins the same transaction again', async () => {
    const client = await pool.connect()
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
    await client.query('UPDATE accounts SET balance = 1 WHERE id = 1')
    await client.query('COMMIT AND CHAIN')
    expect((await client.query('SHOW transaction_isolation')).rows[0].transaction_isolation).to.equal('repeatable read')
    await client.query('UPDATE accounts SET balance = 2 WHERE id = 1')
    await client.query('ROLLBACK AND CHAIN')
    await client.query('UPDATE accounts SET balance = 3 WHERE id = 1')
    await client.query('COMMIT')
    expect((await client.query('SELECT balance FROM accounts WHERE id = 1')).rows[0].balance).to.equal('3')
    client.release()
  })

  describe('mistakes', () => {
    it('a typo in the SQL is PostgreSQL’s own error', async () => {
      const error = await failure(pool.query('SELEC 1'))
      expect(error).to.be.instanceOf(pg.DatabaseError)
      expect(error.code).to.equal('42601')
    })
    it('a CHECK violation, in a declared transaction, unchanged', async () => {
      const error = await failure(
        pool.transaction({ locks: ['accounts/1'] }, (tx) => tx.query('UPDATE accounts SET balance = -1 WHERE id = 1')),
      )
      expect(error.code).to.equal('23514')
    })
    it('a lock on an unknown table, a key that does not fit, a lock that is none', async () => {
      expect((await failure(pool.transaction({ locks: ['acounts/1'] }, async () => undefined))).message).to.match(
        /unknown table "acounts"/,
      )
      expect((await failure(pool.transaction({ locks: ['accounts/x'] }, async () => undefined))).message).to.match(
        /integer/,
      )
      expect((await failure(pool.transaction({ locks: ['accounts/1,2'] }, async () => undefined))).message).to.match(
        /needs 1 key value/,
      )
      expect((await failure(pool.transaction({ locks: [''] }, async () => undefined))).message).to.match(
        /is not a lock/,
      )
    })
    it('a lock on a table that a majority does not know yet is waited for', async () => {
      const lead = (await pool.connect()) as unknown as { replicaName: string; release(): void }
      lead.release()
      const others = c.servers.filter((s) => !lead.replicaName.includes(`:${s.port}/`))
      expect(others).to.have.length(2)
      await Promise.all(
        others.map((s) => ask(s, "UPDATE quorum.tracked SET t = 'elsewhere' WHERE t = 'public.accounts'")),
      ) // as before DDL has reached them
      let known = false
      const done = pool.transaction({ locks: ['accounts/1'], retries: 0 }, () => Promise.resolve(known))
      await new Promise((r) => setTimeout(r, 300))
      known = true
      await Promise.all(
        others.map((s) => ask(s, "UPDATE quorum.tracked SET t = 'public.accounts' WHERE t = 'elsewhere'")),
      )
      expect(await done).to.equal(true)
    })
    it('a table that is prepared on the lead and not committed there yet is waited for', async () => {
      const lead = (await pool.connect()) as unknown as { replicaName: string; release(): void }
      lead.release()
      const holder = new pg.Client({
        connectionString: c.servers.find((s) => lead.replicaName.includes(`:${s.port}/`))!.url,
      })
      await holder.connect()
      // unseen by event triggers
      await holder.query('SET session_replication_role = replica; ALTER TABLE accounts RENAME TO soon')
      // as DDL that is prepared
      await holder.query('BEGIN; LOCK TABLE quorum.everything IN EXCLUSIVE MODE; ALTER TABLE soon RENAME TO accounts')
      const done = pool.query('SELECT count(*)::int AS n FROM accounts')
      await new Promise((r) => setTimeout(r, 300))
      await holder.query('COMMIT')
      await holder.end()
      expect((await done).rows[0].n).to.be.greaterThan(0)
    })
    it('a write outside the declared locks', async () => {
      const error = await failure(
        pool.transaction({ locks: ['accounts/1'] }, (tx) => tx.query('UPDATE accounts SET balance = 1 WHERE id = 2')),
      )
      expect(error.message).to.match(/not covered by the declared locks/)
    })
    it('a write that goes round the driver', async () => {
      expect((await failure(ask(c.servers[0]!, 'UPDATE accounts SET balance = 0'))).message).to.match(
        /goes round pg-quorum/,
      )
    })
    it('release() twice, a query after end()', async () => {
      const client = await pool.connect()
      client.release()
      expect(() => client.release()).to.throw(/already been released/)
      const mine = c.pool()
      await mine.end()
      expect((await failure(mine.query('SELECT 1'))).message).to.match(/after calling end/)
    })
    it('a client released in the middle of a transaction leaves nothing of it', async () => {
      const client = await pool.connect({ locks: ['accounts/3'] })
      await client.query('BEGIN')
      await client.query('UPDATE accounts SET balance = 0 WHERE id = 3')
      client.release()
      await pool.transaction({ locks: ['accounts/3'] }, (tx) =>
        tx.query('UPDATE accounts SET balance = 33 WHERE id = 3'),
      )
      expect((await pool.query('SELECT balance FROM accounts WHERE id = 3')).rows[0].balance).to.equal('33')
    })
    it('no replicas, one twice', () => {
      expect(() => new Pool({ replicas: [] })).to.throw(/no replicas/)
      expect(() => new Pool({ replicas: ['postgres://a/b', 'postgres://a/b'] })).to.throw(/listed twice/)
    })
  })

  it('end() with work in flight loses nothing', async () => {
    const mine = c.pool({ max: 5 })
    const work = Promise.allSettled(
      Array.from({ length: 5 }, (_, i) =>
        mine.transaction({ locks: [`accounts/${i + 1}`] }, (tx) =>
          tx.query('UPDATE accounts SET balance = 100 WHERE id = $1', [i + 1]),
        ),
      ),
    )
    await new Promise((r) => setTimeout(r, 30))
    await mine.end()
    const acknowledged = (await work).map((r, i) => (r.status === 'fulfilled' ? i + 1 : 0)).filter((i) => i > 0)
    await settled(c.servers)
    for (const id of acknowledged)
      expect((await ask(c.servers[1]!, 'SELECT balance FROM accounts WHERE id = $1', [id]))[0]?.['balance']).to.equal(
        '100',
      )
  })

  it('all idle sockets cut at once: the next statement works', async () => {
    for (const s of c.servers)
      await ask(
        s,
        'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = $1',
        ['client backend'],
      )
    await pool.query('UPDATE accounts SET balance = balance + 1 WHERE id = 1')
    await settled(c.servers)
  })

  it('a server that is stopped (SIGSTOP) and comes back: follower, then lead', async () => {
    for (const i of [2, 0]) {
      await c.servers[i]!.freeze()
      const start = performance.now()
      await pool.query('UPDATE accounts SET balance = balance + 1 WHERE id = 1')
      expect(performance.now() - start, `ms with server ${i} stopped`).to.be.below(6000)
      await c.servers[i]!.thaw()
      await settled(c.servers, 10_000)
    }
  }).timeout(40_000)
})

describe('bad days', function () {
  this.timeout(30_000)

  it('nobody, or only a minority, is reachable: a definite error within the connection timeout, with the numbers', async () => {
    const c = await cluster()
    const pool = c.pool({ connectionTimeoutMillis: 1500 })
    await bank(pool)
    await c.servers[0]!.kill()
    await c.servers[1]!.kill()
    for (const [what, text] of [
      ['write', 'UPDATE accounts SET balance = 1 WHERE id = 1'],
      ['read', 'SELECT * FROM accounts'],
    ] as const) {
      const start = performance.now()
      const error = await failure(pool.query(text))
      expect(error.outcome, `${what}: ${error.message}`).to.equal('not-committed')
      expect(error.message).to.match(/1 of 3 replicas answered.*2 are needed/)
      expect(performance.now() - start).to.be.below(8000)
    }
    await c.servers[2]!.kill()
    expect((await failure(c.pool({ connectionTimeoutMillis: 1500 }).query('SELECT 1'))).message).to.match(
      /0 of 3 replicas answered/,
    )
    await c.servers[0]!.start()
    await c.servers[1]!.start()
    await until(
      'writes go on by themselves',
      5000,
      async () => (await pool.query('UPDATE accounts SET balance = 2 WHERE id = 1')).rowCount === 1,
    )
    await c.destroy()
  })

  it('clients with several leads come together on one', async () => {
    const c = await cluster()
    const pool = c.pool({ max: 2 })
    await bank(pool)
    type Led = pg.PoolClient & { replicaName: string }
    const first = (await pool.connect()) as Led
    const lead = pool.cluster.replicas.find((r) => r.name === first.replicaName)!
    pool.cluster.lagging.add(lead) // for a moment, as when a server is lost
    const second = (await pool.connect()) as Led
    pool.cluster.lagging.delete(lead)
    expect(second.replicaName).not.to.equal(first.replicaName)
    first.release()
    second.release()
    await until('both have the same lead', 5000, async () => {
      const both = (await Promise.all([pool.connect(), pool.connect()])) as Led[]
      const leads = both.map((client) => client.replicaName)
      for (const client of both) client.release()
      await pool.query('UPDATE accounts SET balance = balance + 1 WHERE id = 1')
      return leads.every((name) => name === lead.name)
    })
    await c.destroy()
  })

  it('a client that is never given back takes no place once its lead has died', async () => {
    const c = await cluster()
    const pool = c.pool({ max: 1 })
    await bank(pool)
    const kept = await pool.connect()
    await c.servers[0]!.kill()
    expect((await failure(kept.query('BEGIN'))).code).to.equal('08006')
    await pool.transaction((tx) => tx.query('UPDATE accounts SET balance = 1 WHERE id = 1'))
    expect((await pool.query('SELECT balance FROM accounts WHERE id = 1')).rows[0].balance).to.equal('1')
    kept.release()
    const another = await pool.connect()
    await c.servers[1]!.kill()
    await pool.end()
    another.release()
    await c.destroy()
  })

  it('five replicas, two killed in the same instant, the lead among them: writes go on, nothing is lost', async () => {
    const c = await cluster(5)
    const pool = c.pool()
    await bank(pool)
    await pool.query('UPDATE accounts SET balance = 1 WHERE id = 1')
    await Promise.all([c.servers[0]!.kill(), c.servers[1]!.kill()])
    const start = performance.now()
    for (let i = 2; i < 10; i++)
      await pool.transaction({ locks: ['accounts/1'] }, (tx) =>
        tx.query('UPDATE accounts SET balance = $1 WHERE id = 1', [i]),
      )
    expect(performance.now() - start, 'ms for 8 writes').to.be.below(8000)
    await Promise.all([c.servers[0]!.start(), c.servers[1]!.start()])
    await settled(c.servers, 10_000)
    for (const s of c.servers)
      expect((await ask(s, 'SELECT balance FROM accounts WHERE id = 1'))[0]?.['balance']).to.equal('9')
    await c.destroy()
  })

  it('one replica that is not initialised, of another cluster, or listed as its copy', async () => {
    const c = await cluster()
    const strangers = await threeServers()
    const with_ = (url: string): Promise<Error> =>
      failure(
        Promise.resolve().then(async () => {
          const pool = c.pool({ replicas: [url, c.urls[0]!, c.urls[1]!] })
          const hello = pool.cluster.replicas[0]!.hello()
          await Promise.allSettled([...pool.cluster.replicas.slice(1).map((r) => r.hello())])
          await hello
        }),
      )
    expect((await with_(strangers[0]!.url)).message).to.match(/not initialised: run/)
    await init(
      strangers.map((s) => ({ connectionString: s.url })),
      strangers.map((s) => s.url),
    )
    const mixed = c.pool({ replicas: [strangers[1]!.url, c.urls[0]!, c.urls[1]!] })
    await mixed.query('SELECT 1')
    expect((await failure(mixed.cluster.replicas[0]!.hello())).message).to.match(/another cluster/)
    await ask(strangers[0]!, 'UPDATE quorum.self SET cluster = (SELECT $1), member = 2', [
      (await ask(c.servers[0]!, 'SELECT cluster FROM quorum.self'))[0]?.['cluster'],
    ])
    const pool = c.pool({ replicas: [c.urls[0]!, c.urls[1]!, strangers[0]!.url] })
    const answers = await Promise.allSettled(pool.cluster.replicas.map((r) => r.hello()))
    expect(
      answers
        .filter((a) => a.status === 'rejected')
        .map((a) => String(a.reason))
        .join(),
    ).to.match(/one is a copy of the other/)
    await ask(c.servers[2]!, "UPDATE quorum.self SET system_identifier = '1'")
    expect((await failure(c.pool().cluster.replicas[2]!.hello())).message).to.match(/restored dump or copy/)
    await c.destroy()
    await destroyAll(strangers)
  })

  it('init says in one sentence what to change', async () => {
    const servers = await threeServers({ settings: { max_prepared_transactions: 0 } })
    expect(
      (
        await failure(
          init(
            servers.map((s) => ({ connectionString: s.url })),
            servers.map((s) => s.url),
          ),
        )
      ).message,
    ).to.match(/max_prepared_transactions is 0.*max_prepared_transactions = 100/)
    await destroyAll(servers)
  })

  it('a wrong password on one: the others serve, and status knows why', async () => {
    const c = await cluster()
    await ask(c.servers[2]!, "CREATE ROLE careful LOGIN SUPERUSER PASSWORD 'right'")
    await ask(
      c.servers[2]!,
      `DO $$ BEGIN EXECUTE format('COPY (VALUES (''host all careful 127.0.0.1/32 scram-sha-256''), (''host all postgres 127.0.0.1/32 trust'')) TO %L', current_setting('hba_file')); PERFORM pg_reload_conf(); END $$`,
    )
    await until(
      'pg_hba.conf is read',
      3000,
      async () =>
        (await failure(ask({ url: c.urls[2]!.replace(/\w+@/, 'careful:wr0ng@') }, 'SELECT 1'))).code === '28P01',
    )
    const pool = c.pool({ replicas: [c.urls[0]!, c.urls[1]!, c.urls[2]!.replace(/\w+@/, 'careful:wr0ng@')] })
    await pool.query('CREATE TABLE t (id int PRIMARY KEY)')
    const error = pool.cluster.problems.get(pool.cluster.replicas[2]!)
    expect(String(error)).to.match(/password authentication failed/)
    expect(String(error)).not.to.match(/wr0ng/)
    const alone = await failure(
      c
        .pool({
          connectionTimeoutMillis: 1000,
          replicas: ['postgres://postgres@127.0.0.1:1/x', c.urls[1]!, c.urls[2]!.replace(/\w+@/, 'careful:wr0ng@')],
        })
        .query('SELECT 1'),
    )
    expect(alone.message).to.match(/1 of 3 replicas answered.*2 are needed.*password authentication failed/)
    expect(alone.message).not.to.match(/wr0ng/)
    await c.destroy()
  })
})
