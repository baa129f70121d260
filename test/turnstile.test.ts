/**
 * Waiting for a lock must not hang on one member. Found by `npm run faults` (sealed,lead-stop and
 * sealed,lead-cut-server): who queued at a member that froze, or whose holder was a half-open connection, waited
 * there until lockTimeoutMillis, although a majority was free long before.
 */
import { once } from 'node:events'
import { expect } from 'chai'
import pg from 'pg'
import { bank, child, cluster, settled, until, type TestCluster } from './cluster.ts'

describe('the turnstile', () => {
  let c: TestCluster
  const holders: pg.Client[] = []
  before(async () => {
    c = await cluster()
    await bank(c.pool())
  })
  afterEach(async () => {
    await Promise.all(c.servers.map((s) => s.thaw()))
    await Promise.all(holders.splice(0).map((h) => h.end()))
  })
  after(() => c.destroy())

  /** A session that holds the guard of accounts/1 on one member, as one of a driver that nobody hears any more. */
  async function hold(i: number): Promise<pg.Client> {
    const client = new pg.Client(c.servers[i]!.url)
    client.on('error', () => undefined)
    await client.connect()
    holders.push(client)
    const text = `SELECT quorum.lock('[{"t": "public.accounts", "k": ["1"], "w": true}]', false, 0) AS r`
    await until('nobody else holds it', 5000, async () => (await client.query(text)).rows[0].r.granted)
    return client
  }
  const write = (pool = c.pool()): Promise<number> => {
    const from = performance.now()
    return pool
      .transaction({ locks: ['accounts/1'] }, (tx) =>
        tx.query('UPDATE accounts SET balance = balance + 1 WHERE id = 1'),
      )
      .then(() => performance.now() - from)
  }

  for (const [what, freeze] of [
    ['stays held', false],
    ['freezes', true],
  ] as const) {
    it(`a majority comes free while the first member ${what}`, async () => {
      await hold(0)
      const second = await hold(1)
      const pool = c.pool()
      await pool.query('SELECT 1')
      const writing = write(pool)
      await new Promise((r) => setTimeout(r, 300))
      if (freeze) await c.servers[0]!.freeze()
      await second.end()
      expect(await writing).to.be.within(300, 5000)
    })
  }

  it('an owner that died in doubt is resolved while a member is frozen, without waiting for it', async () => {
    const pool = c.pool()
    await pool.query('SELECT 1')
    const owner = child('accepted', {
      urls: c.urls,
      locks: ['accounts/1'],
      statements: ['UPDATE accounts SET balance = balance + 1 WHERE id = 1'],
      pause: true,
    })
    await once(owner, 'message')
    await c.servers[2]!.freeze()
    owner.kill('SIGKILL')
    const took = await write(pool)
    await c.servers[2]!.thaw()
    expect(took).to.be.below(6000) // it was 13 s: one call deadline after another
    await settled(c.servers, 10_000)
  })

  it('control: while two of three are held, nobody writes', async () => {
    await hold(0)
    await hold(1)
    const pool = c.pool({ lockTimeoutMillis: 1500 })
    const error = await pool
      .transaction({ locks: ['accounts/1'], retries: 0 }, (tx) => tx.query('SELECT 1'))
      .catch((e: unknown) => e as { code: string })
    expect((error as { code: string }).code).to.equal('55P03')
  })
})
