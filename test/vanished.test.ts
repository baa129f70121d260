/**
 * A lead that stands still without a word: whatever waits for it fails in time, says that its session is gone, and
 * the pool goes on.
 */
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { expect } from 'chai'
import pg from 'pg'
import copy from 'pg-copy-streams'
import Cursor from 'pg-cursor'
import { Client, type Pool } from '../driver/index.ts'
import { bank, cluster, failure, settled, until, type TestCluster } from './cluster.ts'
import { ask } from './servers.ts'

const IN_TIME_MS = 6000

describe('a lead that vanishes silently', function () {
  this.timeout(60_000)
  let c: TestCluster
  let pool: Pool
  before(async () => {
    c = await cluster()
    pool = c.pool()
    await bank(pool)
  })
  after(() => c.destroy())
  afterEach(async () => {
    await Promise.all(c.servers.map((s) => s.thaw()))
    await settled(c.servers, 15_000)
  })

  const timed = async (work: Promise<unknown>): Promise<Error & { code?: string }> => {
    const from = performance.now()
    const error = await Promise.race([
      failure(work),
      new Promise<never>((_, reject) => setTimeout(() => reject(new Error('it hangs')), IN_TIME_MS)),
    ])
    expect(performance.now() - from).to.be.below(IN_TIME_MS)
    return error
  }

  it('a statement, a cursor, COPY, LISTEN, COMMIT and end(), each waiting for it', async () => {
    const clients = await Promise.all(
      Array.from({ length: 5 }, () => pool.connect() as unknown as Promise<pg.PoolClient & Client>),
    )
    expect(new Set(clients.map((x) => x.replicaName)).size).to.equal(1)
    const [statement, cursorClient, copyClient, listener, committer] = clients as unknown as [
      pg.PoolClient,
      pg.PoolClient,
      pg.PoolClient,
      pg.PoolClient,
      pg.PoolClient,
    ]
    const cursor = cursorClient.query(new Cursor('SELECT * FROM accounts'))
    await cursor.read(1)
    await committer.query('BEGIN')
    await committer.query('UPDATE accounts SET balance = balance + 1 WHERE id = 1')
    const lone = new Client({ replicas: c.urls })
    lone.on('error', () => undefined)
    await lone.connect()
    const lead = c.servers.find((s) => (clients[0] as Client).replicaName.includes(String(s.port)))!
    await lead.freeze()
    const endless = Readable.from(
      (async function* () {
        for (let i = 100; ; i++) {
          yield `${i}\t1\n`
          await new Promise((r) => setTimeout(r, 50))
        }
      })(),
    )
    const errors = await Promise.all([
      timed(statement.query('SELECT pg_sleep(0)')),
      timed(cursor.read(5)),
      timed(pipeline(endless, copyClient.query(copy.from('COPY accounts FROM STDIN')))),
      timed(listener.query('LISTEN news')),
      timed(committer.query('COMMIT')),
      timed(lone.query('SELECT 1')),
    ])
    expect(errors[0]).to.include({ code: '08006' })
    expect(errors[0].message).to.match(/SET, temporary tables, LISTEN.* is gone/)
    for (const x of clients) x.release()
    await Promise.race([
      lone.end(),
      new Promise((_, reject) => setTimeout(() => reject(new Error('end() hangs')), IN_TIME_MS)),
    ])
    expect((await pool.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
    expect((await pool.query('UPDATE accounts SET balance = 5 WHERE id = 2')).rowCount).to.equal(1)
  })

  it('control: plain pg waits for ever (longer than we have patience)', async () => {
    const client = new pg.Client(c.urls[1])
    client.on('error', () => undefined)
    await client.connect()
    await c.servers[1]!.freeze()
    const first = await Promise.race([
      client.query('SELECT 1').then(
        () => 'answer',
        () => 'error',
      ),
      new Promise((r) => setTimeout(r, 3000, 'nothing')),
    ])
    expect(first).to.equal('nothing')
    await c.servers[1]!.thaw()
    await client.end()
  })

  it('LISTEN hears again from a member that was killed and came back', async () => {
    const client = (await pool.connect()) as unknown as pg.PoolClient & Client
    const heard: unknown[] = []
    client.on('notification', (m) => heard.push(m.payload))
    await client.query('LISTEN news')
    const other = c.servers.findIndex((s) => !client.replicaName.includes(String(s.port)))
    await c.servers[other]!.kill()
    await pool.query("NOTIFY news, 'without it'")
    await until('heard without it', 3000, async () => heard.length === 1)
    await c.servers[other]!.start()
    await until(
      'it listens there again',
      10_000,
      async () =>
        (await ask(c.servers[other]!, "SELECT FROM pg_stat_activity WHERE application_name = 'pg-quorum listen'"))
          .length === 1,
    )
    const elsewhere = c.pool({ replicas: [...c.urls.slice(other), ...c.urls.slice(0, other)] })
    await until('and hears', 10_000, async () => {
      await elsewhere.query("NOTIFY news, 'again'")
      await new Promise((r) => setTimeout(r, 100))
      return heard.includes('again')
    })
    client.release()
  })
})
