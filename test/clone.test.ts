/**
 * A member that lost its disk is built from the others (docs/decisions/0005). The first test is the everyday case
 * under writers; the second is why the join exists: a vote that was forgotten must not cost an acknowledged commit,
 * and without the join it does.
 */
import { once } from 'node:events'
import { expect } from 'chai'
import { cloneReplica } from '../driver/cli/building.ts'
import { Pool } from '../driver/index.ts'
import { init } from '../driver/schema/install.ts'
import { balanceOn, bank, child, settled, until } from './cluster.ts'
import { ask, destroyAll, threeServers, type TestServer } from './servers.ts'

describe('clone', function () {
  this.timeout(40_000)
  /** Three members and an empty server that takes the place of one of them. */
  let servers: TestServer[] = []
  const at = (i: number): TestServer => servers[i] ?? expect.fail(`no server ${i}`)
  const initialise = async (...list: TestServer[]): Promise<Awaited<ReturnType<typeof init>>> =>
    init(
      list.map((s) => ({ connectionString: s.url })),
      list.map((s) => s.url),
    )
  beforeEach(async () => {
    servers = await threeServers({}, 4)
    await initialise(at(0), at(1), at(2))
  })
  afterEach(() => destroyAll(servers))

  it('an empty server becomes a member while clients write: the same rows and history, a vote, and sequences that go on', async () => {
    for (const s of servers) await ask(s, 'CREATE ROLE shop LOGIN')
    await init(
      [at(0), at(1), at(2)].map((s) => ({ connectionString: s.url })),
      [at(0), at(1), at(2)].map((s) => s.url),
      ['shop'],
    )
    let pool = new Pool({ replicas: [at(0).url, at(1).url, at(2).url], max: 5 })
    await bank(pool)
    await pool.query('GRANT SELECT, UPDATE ON accounts TO shop')
    await pool.query(
      'CREATE TABLE notes (id bigserial PRIMARY KEY, account int REFERENCES accounts, text text, twice int GENERATED ALWAYS AS (account * 2) STORED)',
    )
    await pool.query('CREATE TABLE log (at timestamptz, value double precision)')
    await pool.query(
      'CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY HASH (id); CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (modulus 1, remainder 0); INSERT INTO parts SELECT generate_series(1, 50)',
    )
    await pool.query('INSERT INTO log SELECT now(), g / 3.0 FROM generate_series(1, 3000) g')
    await pool.query("INSERT INTO log VALUES (NULL, 'NaN'), ('infinity', '-0')")
    await pool.end()
    await at(2).destroy()
    const urls = [at(0).url, at(1).url, at(3).url]

    const report = await initialise(at(0), at(1), at(3))
    expect(
      report.members.map((m) => m.building),
      'who has forgotten everything has no vote',
    ).to.deep.equal([false, false, true])
    pool = new Pool({ replicas: urls, max: 5 })
    let writing = true
    let written = 0
    const writers = [1, 2, 3, 4].map(async (id) => {
      while (writing) {
        await pool.query('INSERT INTO notes (account, text) VALUES ($1, $2)', [id, 'a\tb\\n\u0001'])
        written++
      }
    })
    await until('writers write', 5000, async () => Promise.resolve(written > 20))
    const done = await cloneReplica({ urls, which: new URL(at(3).url).host })
    expect(done.rows).to.be.at.least(3012)
    const before = written
    await until('writers went on', 5000, async () => Promise.resolve(written > before + 20))
    writing = false
    await Promise.all(writers)
    await settled([at(0), at(1), at(3)])

    await at(0).kill()
    const ids = (
      await pool.query<{ id: string }>(
        "INSERT INTO notes (account, text) SELECT 1, 'by the new one' FROM generate_series(1, 5) RETURNING id",
      )
    ).rows
    expect(ids, 'it votes: without it there would be no majority').to.have.length(5)
    await pool.end()
    const shop = new Pool({ replicas: urls.map((u) => u.replace('postgres@', 'shop@')), max: 1 })
    expect(
      (await shop.query('UPDATE accounts SET balance = balance WHERE id = 1')).rowCount,
      'who used the others uses it, too',
    ).to.equal(1)
    await shop.end()
  })

  /**
   * A client stops between its followers' yes and the lead's commit. The follower that said yes loses its disk and
   * is built anew from the others, who know nothing of it. Then the client goes on, is told that it has committed,
   * and the lead is lost. Returns what is left of its write.
   */
  async function afterForgottenVote(withBarrier: boolean): Promise<number> {
    const old = [at(0).url, at(1).url, at(2).url]
    const urls = [at(0).url, at(1).url, at(3).url]
    const pool = new Pool({ replicas: old })
    await bank(pool)
    await pool.end()
    await settled([at(0), at(1), at(2)])
    await at(1).kill()
    const client = child('lead-committing', {
      urls: old,
      statements: ['UPDATE accounts SET balance = 77 WHERE id = 1'],
      pause: true,
    })
    expect((await once(client, 'message'))[0]).to.equal('reached')
    expect(await ask(at(2), 'SELECT gid FROM pg_prepared_xacts'), 'its yes').to.have.length(1)
    await at(2).destroy()
    await at(1).start()

    let waits: () => void = () => undefined
    const waiting = new Promise<void>((resolve) => (waits = resolve))
    const cloned = cloneReplica({
      urls,
      which: new URL(at(3).url).host,
      member: 3,
      withBarrier,
      tell: (line) => {
        if (line.startsWith('waiting')) waits()
      },
    })
    await Promise.race([waiting, cloned])
    if (withBarrier) expect((await ask(at(3), 'SELECT building FROM quorum.self'))[0]).to.deep.equal({ building: true })
    else await at(1).freeze() // nobody tells it before the lead is lost
    client.send('go on')
    expect((await once(client, 'message'))[0]).to.equal('acknowledged')
    if (withBarrier) await cloned
    await at(0).kill()
    await at(1).thaw()
    client.kill('SIGKILL')

    const rest = new Pool({ replicas: urls })
    try {
      const { balance } = (await rest.query<{ balance: string }>('SELECT balance FROM accounts WHERE id = 1')).rows[0]!
      await settled([at(1), at(3)])
      return Number(balance)
    } finally {
      await rest.end()
    }
  }

  it('a vote that was forgotten costs nothing: it joins only once nobody counts it any more', async () =>
    expect(await afterForgottenVote(true)).to.equal(77))
  it('control: without the join the acknowledged write is lost', async () =>
    expect(await afterForgottenVote(false)).to.equal(1000))

  /**
   * A write that only the lead and the member to be wiped hold. Returns what the third one has at the moment when
   * that member has been emptied.
   */
  async function elsewhereWhenWiped(withBarrier: boolean): Promise<number> {
    const urls = [at(0).url, at(1).url, at(2).url]
    const pool = new Pool({ replicas: urls })
    await bank(pool)
    await settled([at(0), at(1), at(2)])
    await at(1).kill()
    await pool.query('UPDATE accounts SET balance = 77 WHERE id = 1')
    await pool.end()
    await at(1).start()
    let found = Promise.resolve(0)
    await cloneReplica({
      urls,
      which: '3',
      wipe: new URL(at(2).url).host,
      withBarrier,
      tell: (line) => {
        if (line.includes('emptied')) found = balanceOn(at(1), 1)
      },
    })
    await settled([at(0), at(2)])
    return found
  }

  it('before a member is emptied, what it voted for is on a majority without it', async () =>
    expect(await elsewhereWhenWiped(true)).to.equal(77))
  it('control: without that, the lead alone would hold it', async () =>
    expect(await elsewhereWhenWiped(false)).to.equal(1000))
})
