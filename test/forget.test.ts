/**
 * Forgetting that a transaction was committed (keep.outcomeDays, docs/decisions/0011): only what every member has for
 * good; and from then on nobody may say that it was not committed.
 */
import { expect } from 'chai'
import { verify } from '../driver/repair/verify.ts'
import { prune, type PruneReport } from '../driver/repair/prune.ts'
import { Witness } from '../driver/replica/witness.ts'
import { QuorumError, type Pool } from '../driver/index.ts'
import { balanceOn, bank, cluster, sealed, settled, until, type TestCluster } from './cluster.ts'
import { ask, type TestServer } from './servers.ts'

const ADD = 'UPDATE accounts SET balance = balance + 1 WHERE id = $1'
const DAYS = 2

describe('forgetting', function () {
  this.timeout(30_000)
  let c: TestCluster
  let pool: Pool
  const at = (i: number): TestServer => c.servers[i] ?? expect.fail(`no server ${i}`)
  const gids = async (i = 0): Promise<string[]> =>
    (await ask(at(i), 'SELECT gid FROM quorum.applied ORDER BY seq')).map((r) => String(r['gid']))
  const age = async (...servers: TestServer[]): Promise<void> => {
    for (const s of servers) await ask(s, "UPDATE quorum.applied SET at = at - interval '3 days'")
  }
  /** Of each member. */
  const known = (): Promise<number[]> => Promise.all([0, 1, 2].map(async (i) => (await gids(i)).length))
  const forget = async (dry = false): Promise<PruneReport> => {
    const report = await prune(pool.cluster, { outcomeDays: DAYS }, dry)
    expect(report.replicas.map((r) => r.error)).to.deep.equal([null, null, null])
    return report
  }
  /** As a driver might ask that waits for somebody else's; it does not take long to say that nobody knows. */
  const outcome = async (gid: string): Promise<string> => {
    const from = performance.now()
    const said = await pool.outcomeOf(gid)
    expect(performance.now() - from).to.be.below(1000)
    return said
  }
  const sibling = (gid: string, n: string): string =>
    gid.replace(/_[^_]+_[^_]+$/, `_${n}_00000000000000000000000000000000`)

  beforeEach(async () => {
    c = await cluster()
    pool = c.pool()
    await bank(pool)
    for (const id of [1, 2, 3]) await pool.query(ADD, [id])
    await settled(c.servers)
  })
  afterEach(() => c.destroy())

  it('what all have and is old: of that nobody says afterwards that it was not committed; the rest is known', async () => {
    const old = await gids()
    await age(...c.servers)
    await pool.query(ADD, [4])
    await settled(c.servers)
    const [young] = (await gids()).slice(-1)
    await prune(pool.cluster, {}) // their changesets
    expect((await forget(true)).replicas.map((r) => r.outcomes)).to.deep.equal([5, 5, 5])
    expect(await known()).to.deep.equal([6, 6, 6])
    expect((await forget()).replicas.map((r) => r.outcomes)).to.deep.equal([5, 5, 5])
    expect(await known()).to.deep.equal([1, 1, 1])
    expect(await Promise.all(old.map(outcome))).to.deep.equal(old.map(() => 'unknown'))
    expect(await outcome(young!)).to.equal('committed')
    expect(await outcome(sibling(young!, '1')), 'never heard of, and so early').to.equal('unknown')
    expect(await outcome(sibling(young!, 'zzzz')), 'never heard of').to.equal('not-committed')
    expect((await forget()).replicas.map((r) => r.outcomes)).to.deep.equal([0, 0, 0])

    await pool.query(ADD, [4])
    await settled(c.servers)
    expect(await balanceOn(at(2), 4)).to.equal(1002)
    const witnesses = c.urls.map((connectionString, i) => new Witness({ connectionString }, i))
    expect((await verify(witnesses)).findings).to.deep.equal([])
    await Promise.all(witnesses.map((w) => w.close()))
  })

  it('what is forgotten is neither accepted nor promised again', async () => {
    const [gid] = (await gids()).slice(-1)
    const [changeset] = await pool.cluster.replicas[0]!.changesets([gid!])
    await age(...c.servers)
    await prune(pool.cluster, {})
    await forget()
    for (const replica of pool.cluster.replicas) {
      expect(await replica.promise(gid!, { number: 2 ** 28, by: 'x' }, null)).to.include({
        yes: false,
        forgotten: true,
      })
      const session = await replica.open()
      expect(await session.accept(changeset!, { number: 0, by: '' })).to.include({ answer: 'no', why: 'ahead' })
      session.release()
    }
    // and what only may have been forgotten, though its stripes would let it pass
    const now = await sealed(pool, 'UPDATE accounts SET balance = 7 WHERE id = 5')
    const follower = pool.cluster.replicas.find((r) => r.index !== now.lead)!
    const session = await follower.open()
    expect(
      await session.accept({ ...now, gid: now.gid.replace(/_[^_]+_([^_]+)$/, '_1_$1') }, { number: 0, by: '' }),
    ).to.include({ answer: 'no', why: 'ahead' })
    expect(await session.accept(now, { number: 0, by: '' }), 'control').to.include({ answer: 'yes' })
    await session.finish(now.gid, 'abort')
    session.release()
    expect(await ask(at(0), 'SELECT gid FROM quorum.ballot')).to.deep.equal([])
  })

  it('not what a member lacks, is young on one, has a changeset still, or began after one in doubt', async () => {
    const nothing = async (why: string): Promise<void> => {
      expect(
        (await prune(pool.cluster, { outcomeDays: DAYS })).replicas.map((r) => r.outcomes),
        why,
      ).to.deep.equal([0, 0, 0])
    }
    const before = await known()
    await age(at(0), at(1))
    await nothing('young on one')
    await age(at(2))
    const gid = (await gids())[0]!
    await ask(at(1), `BEGIN; SELECT 1; PREPARE TRANSACTION '${sibling(gid, '0')}'`)
    await nothing('one in doubt')
    await ask(at(1), `ROLLBACK PREPARED '${sibling(gid, '0')}'`)
    for (const one of await gids()) await ask(at(1), "INSERT INTO quorum.changeset VALUES ($1, '{}')", [one])
    await at(2).kill()
    await nothing('one is away')
    expect(await Promise.all([gids(0), gids(1)]).then((g) => g.map((x) => x.length))).to.deep.equal(before.slice(0, 2))
    await at(2).start()
    await until('it is there', 10_000, () => Promise.resolve(pool.cluster.suspects.size === 0))
    await ask(at(1), 'DELETE FROM quorum.changeset')
    await forget()
    expect(await known()).to.deep.equal([0, 0, 0])
  })

  it('a member that lacks a transaction is brought it, though a later one of its driver was forgotten there', async () => {
    await ask(at(2), 'INSERT INTO quorum.forgotten VALUES ($1, $2)', [pool.cluster.owner, 'z'.repeat(13)])
    await at(2).kill()
    await pool.query(ADD, [5])
    await at(2).start()
    await settled(c.servers, 10_000)
    expect(await balanceOn(at(2), 5)).to.equal(1001)
  })

  it('where a driver died in the middle, those who know still say so', async () => {
    const old = await gids()
    await age(...c.servers)
    await prune(pool.cluster, {})
    await pool.cluster.replicas[0]!.log.forget(old, false)
    expect(await Promise.all(old.map(outcome))).to.deep.equal(old.map(() => 'committed'))
    await forget()
    expect(await known()).to.deep.equal([0, old.length, old.length])
  })

  it('a policy that would forget what callers still ask for is refused', () => {
    expect(() => c.pool({ keep: { outcomeDays: 0.5 } }))
      .to.throw(QuorumError, 'keep: outcomeDays must be a number, at least 1: else nobody could ask')
      .with.property('code', '22023')
  })
})
