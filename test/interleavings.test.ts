/**
 * Nasty interleavings of ../shared/design/dangers.md, by their names, on real servers. Each has what must hold, and
 * where it can be broken on purpose, the control that shows the test would see it.
 */
import { once } from 'node:events'
import { expect } from 'chai'
import pg from 'pg'
import type { Pool } from '../driver/index.ts'
import { resolve } from '../driver/repair/resolve.ts'
import { OWNER, type Changeset } from '../driver/replica/replica.ts'
import { onStep } from '../driver/runtime.ts'
import {
  balanceOn,
  bank,
  child,
  cluster,
  drained,
  failure,
  sealed,
  settled,
  until,
  type TestCluster,
} from './cluster.ts'
import { ask } from './servers.ts'

describe('nasty interleavings', function () {
  this.timeout(30_000)
  let c: TestCluster
  let pool: Pool
  before(async () => {
    c = await cluster()
    pool = c.pool()
    await bank(pool)
  })
  after(() => c.destroy())
  afterEach(() => onStep(undefined))
  const balance = (i: number, id: number): Promise<number> => balanceOn(c.servers[i]!, id)
  const accept = async (change: Changeset, ...members: number[]): Promise<string[]> =>
    Promise.all(
      members.map(async (m) => {
        const session = await pool.cluster.replicas[m]!.open()
        const reply = await session.accept(change, OWNER)
        session.release()
        return reply.answer === 'no' ? reply.why : reply.answer
      }),
    )

  const others = (lead: number): number[] => [0, 1, 2].filter((i) => i !== lead)

  it('N1 zombie PREPARE: an accept that arrives after the resolver’s promise is refused', async () => {
    const change = await sealed(pool, 'UPDATE accounts SET balance = 1 WHERE id = 1')
    const [one, two] = others(change.lead) as [number, number]
    pool.cluster.live.add(change.gid)
    expect(await accept(change, one)).to.deep.equal(['yes'])
    const session = await pool.cluster.replicas[one]!.open()
    await session.finish(change.gid, 'abort') // as if it had never been prepared: the resolver sees nothing
    session.release()
    expect(await resolve(pool.cluster, change.gid)).to.equal('abort')
    expect(await accept(change, one, two)).to.deep.equal(['promised', 'promised'])
    expect(await resolve(pool.cluster, change.gid)).to.equal('abort')
    await settled(c.servers)
  })

  it('N1 control: with the promise wiped out, the zombie does prepare', async () => {
    const change = await sealed(pool, 'UPDATE accounts SET balance = 1 WHERE id = 1')
    const [one] = others(change.lead) as [number, number]
    pool.cluster.live.add(change.gid)
    expect(await accept(change, one)).to.deep.equal(['yes'])
    const session = await pool.cluster.replicas[one]!.open()
    await session.finish(change.gid, 'abort')
    session.release()
    expect(await resolve(pool.cluster, change.gid)).to.equal('abort')
    await ask(c.servers[one]!, 'DELETE FROM quorum.ballot')
    expect(await accept(change, one)).to.deep.equal(['yes'])
    expect(await resolve(pool.cluster, change.gid)).to.equal('abort')
    await settled(c.servers)
  })

  it('N2 unseen majority: prepared on both followers, and the lead, which may have committed, is not seen: commit, never abort', async () => {
    const change = await sealed(pool, 'UPDATE accounts SET balance = 2 WHERE id = 2')
    pool.cluster.live.add(change.gid)
    expect(await accept(change, ...others(change.lead))).to.deep.equal(['yes', 'yes'])
    await c.servers[change.lead]!.kill()
    expect(await resolve(pool.cluster, change.gid)).to.equal('commit')
    await c.servers[change.lead]!.start()
    await settled(c.servers, 10_000)
    expect(await balance(change.lead, 2)).to.equal(2)
  })

  it('N3 last copy: the lead committed and is gone; the only prepared copy is adopted, doubled, and committed', async () => {
    const change = await sealed(pool, 'UPDATE accounts SET balance = 3 WHERE id = 3')
    pool.cluster.live.add(change.gid)
    const [holder, other] = others(change.lead) as [number, number]
    expect(await accept(change, holder)).to.deep.equal(['yes'])
    await c.servers[change.lead]!.kill() // whatever it knew is lost for now: the others are the majority
    expect(await resolve(pool.cluster, change.gid)).to.equal('commit')
    expect(await balance(other, 3)).to.equal(3)
    await c.servers[change.lead]!.start()
    await settled(c.servers, 10_000)
  })

  it('N3 control: the lead is there and has not committed: nothing binds the resolver, and it aborts', async () => {
    const change = await sealed(pool, 'UPDATE accounts SET balance = 4 WHERE id = 3')
    pool.cluster.live.add(change.gid)
    const [holder, other] = others(change.lead) as [number, number]
    expect(await accept(change, holder)).to.deep.equal(['yes'])
    await c.servers[other]!.kill()
    expect(await resolve(pool.cluster, change.gid)).to.equal('abort')
    await c.servers[other]!.start()
    await settled(c.servers, 10_000)
  })

  it('N8 silent ROLLBACK: PREPARE in a failed transaction is no yes', async () => {
    const session = await pool.cluster.replicas[1]!.open()
    const reply = await session.accept(
      { gid: `quorum_x_1_${pool.cluster.owner}_1_${'0'.repeat(32)}`, body: '{"base": []}' },
      OWNER,
    )
    session.release()
    expect(reply.answer).to.equal('no')
    const client = new pg.Client(c.urls[1])
    await client.connect()
    await client.query('BEGIN')
    await failure(client.query('SELECT 1/0'))
    expect(
      (await client.query("PREPARE TRANSACTION 'quorum_control'")).command,
      'PostgreSQL’s answer without an error',
    ).to.equal('ROLLBACK')
    await client.end()
  })

  it('N13 42704 after a crash: looked up in applied, not believed', async () => {
    await pool.query('UPDATE accounts SET balance = 13 WHERE id = 4')
    await settled(c.servers)
    const gid = (await ask(c.servers[1]!, 'SELECT gid FROM quorum.applied ORDER BY seq DESC LIMIT 1'))[0]?.[
      'gid'
    ] as string
    const session = await pool.cluster.replicas[1]!.open()
    expect(await session.finish(gid, 'commit'), 'committed earlier').to.equal(true)
    expect(await session.finish(gid.slice(0, -1) + 'z', 'commit'), 'never there').to.equal(false)
    session.release()
  })

  it('N21 a guard is forgotten by a reboot: the checks inside the prepared transaction decide, exactly one commits', async () => {
    const slow = child('worked', {
      urls: c.urls,
      locks: ['accounts/5'],
      statements: ['UPDATE accounts SET balance = balance + 1 WHERE id = 5'],
      pause: true,
    })
    await once(slow, 'message')
    for (const s of [c.servers[1]!, c.servers[2]!]) {
      // the majority reboots: the guards there are gone
      await s.kill()
      await s.start()
    }
    const before_ = await balance(0, 5)
    const other = c.pool({ replicas: [c.urls[1]!, c.urls[2]!, c.urls[0]!], max: 2 })
    const second = other
      .transaction({ locks: ['accounts/5'], retries: 0 }, (tx) =>
        tx.query('UPDATE accounts SET balance = balance + 10 WHERE id = 5'),
      )
      .then(
        () => 10,
        () => 0,
      )
    slow.send('go')
    const [word] = (await once(slow, 'message')) as [unknown]
    const gained = (word === 'acknowledged' ? 1 : 0) + (await second)
    await settled(c.servers, 10_000)
    expect((await balance(2, 5)) - before_).to.equal(gained)
    expect(gained).to.be.greaterThan(0)
    slow.kill()
    await other.end()
  })

  it('N22 split votes: 30 transactions of 3 drivers for one row, all at once, all commit', async () => {
    const pools = [
      pool,
      c.pool({ replicas: [...c.urls].reverse() }),
      c.pool({ replicas: [c.urls[1]!, c.urls[2]!, c.urls[0]!] }),
    ]
    const before_ = await balance(0, 6)
    await Promise.all(
      Array.from({ length: 30 }, (_, i) =>
        pools[i % 3]!.transaction({ locks: ['accounts/6'] }, (tx) =>
          tx.query('UPDATE accounts SET balance = balance + 1 WHERE id = 6'),
        ),
      ),
    )
    await settled(c.servers)
    expect((await balance(1, 6)) - before_).to.equal(30)
    await Promise.all(pools.slice(1).map((p) => p.end()))
  })

  it('two drivers, one conflicting row, nothing declared: no update is lost', async () => {
    const other = c.pool({ replicas: [...c.urls].reverse() })
    const before_ = await balance(0, 7)
    let acknowledged = 0
    await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        (i % 2 ? pool : other).query('UPDATE accounts SET balance = balance + 1 WHERE id = 7').then(
          () => acknowledged++,
          (e: { outcome?: string }) => expect(e.outcome).to.equal('not-committed'),
        ),
      ),
    )
    await settled(c.servers)
    expect((await balance(1, 7)) - before_).to.equal(acknowledged)
    expect(acknowledged).to.be.greaterThan(10)
    await other.end()
  })

  it('N24 undeclared conflict: one unique value by two leads under disjoint locks: exactly one', async () => {
    await pool.query('CREATE TABLE login (id int PRIMARY KEY, name text UNIQUE)')
    await settled(c.servers)
    const other = c.pool({ replicas: [...c.urls].reverse() })
    for (let round = 0; round < 5; round++) {
      const results = await Promise.allSettled(
        [pool, other].map((p, i) =>
          p.transaction({ locks: [`login/${round * 2 + i}`] }, (tx) =>
            tx.query('INSERT INTO login VALUES ($1, $2)', [round * 2 + i, `name${round}`]),
          ),
        ),
      )
      expect(results.filter((r) => r.status === 'fulfilled').length, `round ${round}`).to.be.at.most(1)
    }
    await settled(c.servers)
    await other.end()
  })

  it('N53 read after ack: a strong read sees every acknowledged write, whichever server leads it', async () => {
    const readers = [
      pool,
      c.pool({ replicas: [...c.urls].reverse() }),
      c.pool({ replicas: [c.urls[1]!, c.urls[2]!, c.urls[0]!] }),
    ]
    for (let i = 0; i < 30; i++) {
      await pool.query('UPDATE accounts SET balance = $1 WHERE id = 8', [i])
      for (const reader of readers)
        expect(Number((await reader.query('SELECT balance FROM accounts WHERE id = 8')).rows[0].balance)).to.equal(i)
    }
    await Promise.all(readers.slice(1).map((p) => p.end()))
  })

  it('N53 control: reading a follower directly at the ack does miss writes', async () => {
    let missed = 0
    const reader = new pg.Client(c.urls[2]) // open already: to connect takes longer than the follower's commit
    await reader.connect()
    for (let i = 0; i < 200 && missed === 0; i++) {
      await pool.query('UPDATE accounts SET balance = $1 WHERE id = 8', [1000 + i])
      if (
        Number(
          (await reader.query<{ balance: string }>('SELECT balance FROM accounts WHERE id = 8')).rows[0]?.balance,
        ) !==
        1000 + i
      )
        missed++
    }
    await reader.end()
    expect(missed).to.be.greaterThan(0)
    await settled(c.servers, 10_000)
  })

  it('an owner that was paused while it was resolved learns the decision, and does not trust its memory', async () => {
    const before_ = await balance(0, 10)
    const owner = child('accept-sent', {
      urls: c.urls,
      locks: ['accounts/10'],
      statements: ['UPDATE accounts SET balance = balance + 1 WHERE id = 10'],
      pause: true,
    })
    await once(owner, 'message')
    owner.kill('SIGSTOP')
    await until('resolved by another driver', 15_000, async () =>
      (await Promise.all(c.servers.map((s) => ask(s, 'SELECT gid FROM pg_prepared_xacts')))).every(
        (r) => r.length === 0,
      ),
    )
    owner.kill('SIGCONT')
    owner.send('go')
    const [word] = (await once(owner, 'message')) as [unknown]
    await settled(c.servers, 10_000)
    const gained = (await balance(1, 10)) - before_
    if (word === 'acknowledged') expect(gained).to.equal(1)
    else expect(gained, JSON.stringify(word)).to.equal((word as { outcome: string }).outcome === 'committed' ? 1 : 0)
    owner.kill('SIGKILL')
    await drained(c.servers)
  })
})
