/**
 * Shortening the log: what every replica has may go and hurts nobody; what one that is away lacks stays, until a
 * policy gives it up, and then catch-up, status and the sweep must see the hole: a log that was cut must never look
 * like one that has nothing more.
 */
import { expect } from 'chai'
import type { Pool } from '../../driver/index.ts'
import { prune } from '../../driver/repair/prune.ts'
import { ask, type TestServer } from '../servers.ts'
import { cluster, settled, until, type TestCluster } from '../cluster.ts'
import { cli, flat } from '../command.ts'

const LOG =
  'SELECT (SELECT count(*)::int FROM quorum.changeset) AS changesets, (SELECT count(*)::int FROM quorum.history) AS history, (SELECT count(*)::int FROM quorum.applied) AS applied'
const OLD = "UPDATE quorum.applied SET at = at - interval '3 days'"
const rows = async (s: TestServer): Promise<number> =>
  Number((await ask(s, 'SELECT count(*) AS n FROM things'))[0]?.['n'])

describe('prune', () => {
  let c: TestCluster
  let pool: Pool
  const at = (i: number): TestServer => c.servers[i] ?? expect.fail(`no server ${i}`)
  const write = async (from: number, n: number): Promise<void> => {
    for (let i = from; i < from + n; i++) await pool.query('INSERT INTO things VALUES ($1, $2)', [i, 'x'.repeat(100)])
  }

  beforeEach(async function () {
    this.timeout(60_000)
    c = await cluster()
    pool = c.pool()
    await pool.query('CREATE TABLE things (id int PRIMARY KEY, v text)')
    await write(0, 20)
    await settled(c.servers)
  })
  afterEach(() => c.destroy())

  it('what every replica has goes, with a dry run that says how much; decisions are still known, writes and catch-up go on', async () => {
    const [gid] = await ask(at(0), 'SELECT gid FROM quorum.applied ORDER BY seq LIMIT 1')
    const dry = await cli(['prune', '--dry-run'], c.urls)
    expect(dry.out.match(/would free [\d.]+ kB: 21 changesets, \d+ history rows\n/g), dry.out + dry.err).length(3)
    expect((await ask(at(0), LOG))[0]).containSubset({ changesets: 21, applied: 21 })
    const real = await cli(['prune'], c.urls)
    expect(real.out.match(/: freed ([\d.]+ kB: 21 changesets, \d+ history rows)\n/g), real.err).length(3)
    expect(/free ([^\n]+)/.exec(dry.out)?.[1]).equal(/freed ([^\n]+)/.exec(real.out)?.[1])
    for (const s of c.servers) expect((await ask(s, LOG))[0]).deep.equal({ changesets: 0, history: 0, applied: 21 })
    expect(await pool.outcomeOf(String(gid?.['gid']))).equal('committed')
    await at(2).kill()
    await write(20, 5)
    await at(2).start()
    await settled(c.servers)
    expect(await rows(at(2))).equal(25)
    expect((await cli(['prune', '--json'], c.urls)).out).contain('"changesets": 5')
  })

  it('--keep-outcomes: that old transactions were committed is forgotten, too', async () => {
    for (const s of c.servers) await ask(s, OLD)
    await pool.query("INSERT INTO things VALUES (100, 'young')")
    await settled(c.servers)
    expect((await cli(['prune', '--keep-outcomes', '0'], c.urls)).err).match(/outcomeDays must be a number, at least 1/)
    await cli(['prune'], c.urls)
    const dry = await cli(['prune', '--keep-outcomes', '2', '--dry-run'], c.urls)
    expect(dry.out.match(/would free [\d.]+ kB: 21 outcomes\n/g), dry.out + dry.err).length(3)
    const real = await cli(['prune', '--keep-outcomes', '2'], c.urls)
    expect(real.out.match(/: freed [\d.]+ kB: 21 outcomes\n/g), real.out + real.err).length(3)
    for (const s of c.servers) expect((await ask(s, LOG))[0]).deep.equal({ changesets: 0, history: 0, applied: 1 })
    expect(JSON.parse((await cli(['prune', '--keep-outcomes', '2', '--json'], c.urls)).out)).containSubset({
      keep: { outcomeDays: 2 },
      replicas: [{ outcomes: 0 }, { outcomes: 0 }, { outcomes: 0 }],
    })
  })

  it('what a replica that is away lacks is kept, and it catches up; the policy alone does not give up what is young', async () => {
    await at(2).kill()
    await write(20, 10)
    const pruned = await cli(['prune', '--keep-days', '1', '--keep-changesets', '1000'], c.urls)
    expect(flat(pruned), pruned.err)
      .match(/nothing to delete; 31 changesets kept, a replica may need them/)
      .and.match(/does not answer, nothing was done there/)
      .and.match(/did not say what it has/)
    await at(2).start()
    await settled(c.servers)
    expect(await rows(at(2))).equal(30)
  })

  it('beyond the policy: only with --yes; the replica is told that it needs a clone, by status, catch-up and the sweep, and nothing diverges', async () => {
    await at(2).kill()
    await write(20, 10)
    await settled(c.servers.slice(0, 2))
    for (const s of c.servers.slice(0, 2)) await ask(s, OLD)
    const refused = await cli(['prune', '--keep-days', '2'], c.urls)
    expect([refused.code, refused.out]).deep.equal([1, ''])
    expect(refused.err).match(
      /would delete 31 changesets that 127.0.0.1:\d+\/postgres \(unreachable\) may still need, and would then need a clone; `--yes`/,
    )
    expect((await ask(at(0), LOG))[0]).containSubset({ changesets: 31 })
    const done = await cli(['prune', '--keep-days', '2', '--yes'], c.urls)
    expect(flat(done), done.err).match(/freed .*31 changesets.*31 of them not known to be on all replicas/)
    await at(2).start()
    const status = await cli(['status'], c.urls)
    expect(flat(status))
      .match(/member 3 {2}too far behind: the log of .* no longer reaches back to it; it needs a clone/)
      .and.contain('Can write: yes. Can read: yes. Can bear no further loss.')
    expect(JSON.parse((await cli(['status', '--json'], c.urls)).out)).containSubset({
      usable: 2,
      replicas: [{ state: 'current' }, { state: 'current' }, { state: 'too-far-behind' }],
    })
    const caught = await cli(['catch-up', '3'], c.urls)
    expect([caught.code, caught.err.includes('needs a clone')], caught.out + caught.err).deep.equal([1, true])
    // The sweep of a pool in use may try as it will: what it lost stays lost, and what else it has is true.
    await write(30, 5)
    expect(await rows(at(0))).equal(35)
    expect(await ask(at(2), 'SELECT id FROM things WHERE id BETWEEN 20 AND 29')).deep.equal([])
    const chains = (s: TestServer): Promise<Record<string, unknown>[]> =>
      ask(s, "SELECT t || '/' || n || '/' || version AS at, chain::text AS chain FROM quorum.stripe")
    const here = new Map((await chains(at(0))).map((r) => [r['at'], r['chain']]))
    for (const r of await chains(at(2))) expect(here.get(r['at']) ?? r['chain'], String(r['at'])).equal(r['chain'])
    const odd = await ask(
      at(0),
      'SELECT t, n, min(version), max(version), count(*) FROM quorum.history GROUP BY 1, 2 HAVING max(version) - min(version) + 1 <> count(*)',
    )
    expect(odd, 'history with a hole in the middle').deep.equal([])
  })

  it('control: without the look for holes the same replica would be called current while it lacks ten rows', async () => {
    await at(2).kill()
    await write(20, 10)
    await pool.end()
    await settled(c.servers.slice(0, 2))
    for (const s of c.servers.slice(0, 2)) await ask(s, OLD)
    await cli(['prune', '--keep-days', '2', '--yes'], c.urls)
    for (const s of c.servers.slice(0, 2)) {
      const [def] = await ask(s, "SELECT pg_get_functiondef('quorum.beyond(jsonb, int)'::regprocedure) AS d")
      await ask(s, String(def?.['d']).replace('IF FOUND THEN', 'IF false THEN'))
    }
    await at(2).start()
    expect((await cli(['status'], c.urls)).out).match(/member 3 {2}current/)
    expect(await rows(at(2))).equal(20)
  })

  it('changesets of transactions that were rolled back go after a day; what is prepared stays', async () => {
    const [self] = await ask(at(0), 'SELECT cluster FROM quorum.self')
    const gid = (n: number): string => `quorum_${String(self?.['cluster'])}_1_0123456789ab_${n}_${'0'.repeat(32)}`
    await pool.end()
    for (let n = 1; n <= 3; n++)
      await ask(
        at(0),
        `INSERT INTO quorum.changeset VALUES ('${gid(n)}', '{}', now() - interval '${n === 1 ? 1 : 49} hours')`,
      )
    await ask(at(0), `BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION '${gid(3)}'`)
    const r = await cli(['prune'], c.urls)
    expect(flat(r), r.err).contain('1 of them of transactions that were rolled back')
    expect(await ask(at(0), 'SELECT gid FROM quorum.changeset ORDER BY gid')).deep.equal([
      { gid: gid(1) },
      { gid: gid(3) },
    ])
    await ask(at(0), `ROLLBACK PREPARED '${gid(3)}'`)
  })

  it('a pool with a policy shortens the log by itself, while it writes; without one it does not', async () => {
    await new Promise((r) => setTimeout(r, 8000))
    expect((await ask(at(0), LOG))[0], 'no policy').containSubset({ changesets: 21 })
    const keeper = c.pool({ keep: { days: 1 } })
    let stop = false
    const writing = (async () => {
      for (let i = 100; !stop; i++) await keeper.query('INSERT INTO things VALUES ($1)', [i])
    })()
    const [first] = await ask(at(0), 'SELECT gid FROM quorum.applied ORDER BY seq LIMIT 1')
    await until(
      'the oldest changeset is gone',
      12_000,
      async () => (await ask(at(0), 'SELECT FROM quorum.changeset WHERE gid = $1', [first?.['gid']])).length === 0,
    )
    stop = true
    await writing
    await settled(c.servers)
  })

  it('pruned all the time without a policy, under writes, while servers are killed: nobody ever needs a clone', async () => {
    let stop = false
    let deleted = 0
    const acknowledged: number[] = []
    const writing = (async () => {
      for (let i = 1000; !stop; i++)
        await pool.query('INSERT INTO things VALUES ($1)', [i]).then(
          () => acknowledged.push(i),
          () => undefined,
        )
    })()
    const pruning = (async () => {
      while (!stop) for (const r of (await prune(pool.cluster, {})).replicas) deleted += r.changesets
    })()
    for (let round = 0; round < 6; round++) {
      const s = at(round % 3)
      await s.kill()
      await new Promise((r) => setTimeout(r, Math.random() * 400))
      await s.start()
      await new Promise((r) => setTimeout(r, 1000))
    }
    stop = true
    await Promise.all([writing, pruning])
    await settled(c.servers, 20_000)
    expect(await ask(at(0), 'SELECT count(*)::int AS n FROM things WHERE id = ANY ($1)', [acknowledged])).deep.equal([
      { n: acknowledged.length },
    ])
    expect([deleted > 100, acknowledged.length > 100], `${deleted} deleted, ${acknowledged.length} written`).deep.equal(
      [true, true],
    )
  })

  it('a policy that could only hurt is refused', async () => {
    const [few, short, odd] = await Promise.all([
      cli(['prune', '--keep-changesets', '10'], c.urls),
      cli(['prune', '--keep-days', '0'], c.urls),
      cli(['prune', '--keep-days', 'x'], c.urls),
    ])
    expect([few.code, short.code, odd.code]).deep.equal([2, 2, 2])
    expect(few.err).contain('at least 1000')
    expect(() => c.pool({ keep: { hours: 3 } as never })).throw('keep has no "hours"')
  })
})
