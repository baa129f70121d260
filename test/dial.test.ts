// The dial in small, on three servers: what each position refuses, what each kind of read may miss, and what it
// says about itself. All positions and losses: npm run test:dial.
import { expect } from 'chai'
import type pg from 'pg'
import { checkReads, leastRead, quorumFrom, quorumOf, readsFrom } from '../driver/protocol/dial.ts'
import { Seen, stripesFrom } from '../driver/protocol/seen.ts'
import type { Pool } from '../driver/index.ts'
import { bank, cluster, failure, settled, until, type TestCluster } from './cluster.ts'
import { startProxy } from './faults/proxy.ts'
import { ask } from './servers.ts'

type Row = { balance: string }
type Result = pg.QueryResult<Row> & {
  quorum?: { replica: string; reads: unknown; staleness_ms?: number; behind?: number }
}
const BALANCE = 'SELECT balance FROM accounts WHERE id = 1'

describe('the dial', () => {
  describe('arithmetic', () => {
    it('names the nearest setting that keeps the promise', () => {
      expect(quorumOf('majority', 5)).deep.equal({ write: 3, read: 3, reads: 'strong' })
      expect(quorumOf('all', 5)).deep.equal({ write: 5, read: 1, reads: 'strong' })
      expect(quorumOf({ write: 3, read: 2 }, 4)).deep.equal({ write: 3, read: 2, reads: 'strong' })
      expect(() => quorumOf({ write: 2, read: 3 }, 5)).throw(
        /two writes must meet.*write \+ read > 5.*nearest that does is \{ write: 3, read: 3 \}/,
      )
      expect(() => quorumOf({ write: 4, read: 1 }, 5)).throw(/nearest that does is \{ write: 4, read: 2 \}/)
      expect(() => quorumOf({ write: 6, read: 1 }, 5)).throw(/from 1 to 5/)
      expect(() => quorumOf('some' as never, 5)).throw(/'majority', 'all', 'read-one'/)
      for (let n = 1; n <= 9; n++)
        for (let w = Math.floor(n / 2) + 1; w <= n; w++)
          expect(() => quorumOf({ write: w, read: leastRead(n, w) }, n)).not.throw()
    })
    it('reads text', () => {
      expect([quorumFrom('all'), quorumFrom('3,1'), readsFrom('staleness 500'), readsFrom('lag=2')]).deep.equal([
        'all',
        { write: 3, read: 1 },
        { maxStalenessMs: 500 },
        { maxLag: 2 },
      ])
      expect(() => quorumFrom('most')).throw(/majority, all, read-one/)
      expect(() => checkReads({ maxLag: 0.5 })).throw(/maxLag/)
    })
    it('a token says what was seen', () => {
      const [a, b] = [new Seen(), new Seen()]
      a.learn([
        ['public.t', 3, 5],
        ['public.t', 4, 1],
      ])
      b.join(a.token())
      const covered = (stripes: [string, number, number][], n = -1, t = 'public.t'): boolean =>
        b.coveredBy(stripes, [{ t, n }])
      expect([
        covered([
          ['public.t', 3, 5],
          ['public.t', 4, 2],
        ]),
        covered([['public.t', 3, 5]]),
        covered([['public.t', 3, 5]], 3),
        covered([], 9),
        covered([], -1, 'public.u'),
        covered([], -1, '*'),
      ]).deep.equal([true, false, true, true, true, false])
      expect(() => b.join('nonsense')).throw(/not a token/)
    })
  })

  describe('on three servers', () => {
    let c: TestCluster
    let pool: Pool
    beforeEach(async () => {
      c = await cluster()
      pool = c.pool({ callTimeoutMillis: 1000 })
      await bank(pool, 3)
      await settled(c.servers)
    })
    afterEach(() => c.destroy())
    const read = async (reads: unknown, from = pool): Promise<Result> =>
      (await from.query({ text: BALANCE, reads } as pg.QueryConfig)) as Result
    /** A write that the third server does not have. */
    const without3 = async (amount: number): Promise<void> => {
      await c.servers[2]!.freeze()
      await pool.query('UPDATE accounts SET balance = $1 WHERE id = 1', [amount])
      await settled(c.servers.slice(0, 2))
    }

    it("'all': one down refuses writes definitely, and says who; reads go on, also from one", async () => {
      await pool.setClusterQuorum('all')
      pool.setDial({ quorum: 'all' })
      await pool.query('UPDATE accounts SET balance = 1 WHERE id = 1')
      const [, second, third] = c.servers
      await third!.kill()
      const refused = await failure(pool.query('UPDATE accounts SET balance = 2 WHERE id = 1'))
      expect(refused).containSubset({ outcome: 'not-committed', code: '08001' })
      expect(refused.message).match(new RegExp(`3 of 3.*${third!.port}`))
      expect((await read('strong')).rows[0]?.balance).equal('1')
      expect(await failure(pool.setClusterQuorum('majority')), 'the dial itself needs all').containSubset({
        outcome: 'not-committed',
      })
      await pool.setClusterQuorum('majority', { lost: 1 })
      pool.setDial({})
      await pool.query('UPDATE accounts SET balance = 3 WHERE id = 1')
      await third!.start()
      await pool.setClusterQuorum('all')
      pool.setDial({ quorum: 'all' })
      await settled(c.servers)
      await third!.kill()
      expect((await read('strong')).rows[0]?.balance).equal('3')
      await drained2()
      await second!.kill()
      expect((await read('strong')).rows[0]?.balance).equal('3')
    }).timeout(30_000)
    const drained2 = (): Promise<unknown> =>
      until(
        'nothing in doubt',
        8000,
        async () => (await ask(c.servers[0]!, 'SELECT gid FROM pg_prepared_xacts')).length === 0,
      )

    it("W of the cluster holds for every client, whatever its own dial says; a reader's R follows", async () => {
      const other = c.pool({ quorum: 'majority', callTimeoutMillis: 1000 })
      await pool.setClusterQuorum({ write: 3, read: 1 })
      await other.query('SELECT * FROM accounts')
      await c.servers[2]!.kill()
      expect(await failure(other.query('UPDATE accounts SET balance = 2 WHERE id = 1'))).containSubset({
        outcome: 'not-committed',
      })
      await c.servers[2]!.start()
      await pool.setClusterQuorum('majority')
      await c.servers[2]!.kill()
      await other.query('UPDATE accounts SET balance = 2 WHERE id = 1')
      expect((await read('strong', other)).rows[0]?.balance).equal('2')
    }).timeout(30_000)

    it('eventual may be stale, session is not, a token carries it to another process', async () => {
      const far = c.pool({
        replicas: c.urls.map((connectionString, i) => ({ connectionString, weight: i === 2 ? 1 : 0 })),
        recovering: 'serve-stale',
        callTimeoutMillis: 1000,
      })
      expect(await read('eventual', far)).containSubset({ rows: [{ balance: '1000' }], quorum: { reads: 'eventual' } })
      void pool.session
      await without3(7)
      await c.servers[2]!.thaw()
      const token = pool.session.token()
      const eventual = await read('eventual', far)
      expect(['7', '1000']).include(eventual.rows[0]?.balance)
      far.session.join(token)
      expect((await read('session', far)).rows[0]?.balance).equal('7')
      expect((await read('session')).rows[0]?.balance).equal('7')
    }).timeout(30_000)

    it('a write that was not committed is nothing that a session has seen', async () => {
      void pool.session
      await pool.query('UPDATE accounts SET balance = 7 WHERE id = 1')
      await settled(c.servers)
      for (const server of c.servers.slice(1)) await server.kill()
      const write = pool.query('UPDATE accounts SET balance = 8 WHERE id = 1')
      expect(await failure(write)).containSubset({ outcome: 'not-committed' })
      expect((await read('session')).rows[0]?.balance).equal('7')
      const session = Object.fromEntries(
        stripesFrom(pool.session.token()).map(([t, n, version]) => [`${t}/${n}`, version]),
      )
      expect(Object.values(session), 'what it changed is in it all the same').include(2)
    }).timeout(30_000)

    it('bounded reads say how old they were; snapshots can be read again', async () => {
      const first = await read({ maxStalenessMs: 60_000 })
      expect(first.quorum?.staleness_ms).equal(0)
      const snapshot = await pool.snapshot()
      await pool.query('UPDATE accounts SET balance = 5 WHERE id = 1')
      await pool.query('INSERT INTO accounts VALUES (9, 9)')
      const again = await Promise.all([1, 2, 3, 4, 5, 6].map(() => read({ maxStalenessMs: 60_000 })))
      for (const r of again)
        expect(
          r.quorum?.staleness_ms === 0 || r.rows[0]?.balance === '1000' || r.rows[0]?.balance === '5',
          JSON.stringify([r.rows, r.quorum]),
        ).equal(true)
      await settled(c.servers)
      expect(await read({ maxLag: 0 })).containSubset({ rows: [{ balance: '5' }], quorum: { behind: 0 } })
      const earlier = (await pool.query({
        text: 'SELECT id, balance FROM accounts ORDER BY id',
        reads: { snapshot },
      } as pg.QueryConfig)) as Result
      expect(earlier.rows.map((r) => r.balance)).deep.equal(['1000', '1000', '1000'])
      expect(earlier.quorum?.behind).equal(2)
      expect((await read('strong')).rows[0]?.balance).equal('5')
      expect(await failure(pool.query({ text: BALANCE, reads: { snapshot: 'x' } } as pg.QueryConfig))).containSubset({
        code: '22023',
      })
      await settled(c.servers)
    }).timeout(30_000)

    it('a slow lead does not make reads slow: another is asked as well', async () => {
      for (let i = 0; i < 30; i++) await read('strong')
      await c.servers[0]!.freeze()
      const from = performance.now()
      const result = await read('strong')
      expect([result.rows[0]?.balance, performance.now() - from < 700], String(performance.now() - from)).deep.equal([
        '1000',
        true,
      ])
      expect(result.quorum?.replica).not.include(String(c.servers[0]!.port))
      await c.servers[0]!.thaw()
    }).timeout(30_000)

    it('writes are led where it is preferred', async () => {
      const prefers = c.pool({ write: { prefer: `127.0.0.1:${c.servers[1]!.port}` } })
      const client = (await prefers.connect()) as unknown as { replicaName: string; release(): void }
      client.release()
      expect(client.replicaName).include(String(c.servers[1]!.port))
      expect(() => c.pool({ write: { prefer: 'nobody' } })).throw(/no replica is called 'nobody'; there are/)
    })

    it('a session knows the table that it has made, also where that is not yet', async () => {
      const proxy = await startProxy(c.urls[2]!)
      const writer = c.pool({ replicas: [...c.urls.slice(0, 2), proxy.url], callTimeoutMillis: 1000 })
      const reader = c.pool({
        replicas: c.urls.map((connectionString, i) => ({ connectionString, weight: i === 2 ? 1 : 0 })),
        recovering: 'serve-stale',
      })
      void writer.session
      await Promise.all([writer, reader].map((p) => p.query(BALANCE)))
      proxy.cut('both')
      await writer.query('CREATE TABLE made (id int PRIMARY KEY)')
      expect((await failure(reader.reads('eventual').query('SELECT * FROM made'))).message, 'control').match(/made/)
      reader.session.join(writer.session.token())
      expect((await reader.reads('session').query('SELECT * FROM made')).rows).deep.equal([])
      await writer.end()
      await proxy.close()
    })

    it('a pool that only reads is not held up by a server that stands still, and ends', async () => {
      const far = c.pool({
        replicas: c.urls.map((connectionString, i) => ({ connectionString, weight: i === 2 ? 1 : 0.0001 })),
      })
      expect((await read('eventual', far)).quorum?.replica).include(String(c.servers[2]!.port))
      await c.servers[2]!.freeze()
      expect((await read('eventual', far)).quorum?.replica).not.include(String(c.servers[2]!.port))
      const from = performance.now()
      await far.end()
      expect(performance.now() - from).below(6000)
      await c.servers[2]!.thaw()
    }).timeout(30_000)

    it("what a 'connect' listener sets counts for weaker reads", async () => {
      const own = c.pool()
      own.on('connect', (client) => void client.query("SET application_name = 'mine'"))
      expect(
        (
          await own
            .reads('eventual')
            .query("SELECT current_setting('application_name') AS a FROM accounts WHERE id = 1")
        ).rows,
      ).deep.equal([{ a: 'mine' }])
    })

    it('a weaker read writes nothing', async () => {
      await pool.reads('eventual').query('UPDATE accounts SET balance = 3 WHERE id = 1')
      expect((await read('strong')).rows[0]?.balance).equal('3')
    })
  })
})
