/**
 * Read marks do not grow for ever where a row is read again and again and never written: one transaction in 64 takes
 * them into its own. What is counted stays the same, on every member.
 */
import { expect } from 'chai'
import pg from 'pg'
import type { Pool } from '../driver/index.ts'
import { verify } from '../driver/repair/verify.ts'
import { Witness } from '../driver/replica/witness.ts'
import { bank, cluster, settled, type TestCluster } from './cluster.ts'
import { ask } from './servers.ts'

const TIMES = 600

describe('read marks', function () {
  this.timeout(60_000)
  let c: TestCluster
  let pool: Pool
  before(async () => {
    c = await cluster()
    pool = c.pool({ max: 6 })
    await bank(pool)
  })
  after(() => c.destroy())

  const marks = (): Promise<Record<string, unknown>[]> =>
    Promise.all(
      c.servers.map(
        async (s) =>
          (
            await ask(
              s,
              `SELECT count(*)::int AS rows, sum(many)::int AS many,
                sum(coalesce(total, quorum.link(0, gid)))::text AS total
              FROM quorum.mark`,
            )
          )[0]!,
      ),
    )

  it('a row that is read by many transactions has few, which stand for all; then it is written', async () => {
    let left = TIMES
    const lane = async (id: number): Promise<void> => {
      while (left-- > 0)
        await pool.transaction(async (tx) => {
          await tx.query('SELECT balance FROM accounts WHERE id = 1')
          await tx.query('UPDATE accounts SET balance = balance + 1 WHERE id = $1', [id])
        })
    }
    await Promise.all([2, 3, 4, 5].map(lane))
    await settled(c.servers)
    const [first, ...others] = (await marks()) as { rows: number; many: number; total: string }[]
    expect(first!.many).to.equal(TIMES)
    for (const m of others) expect(m).to.include({ many: TIMES, total: first!.total })
    expect(first!.rows, 'some were taken in').to.be.below(TIMES - 20)
    const witnesses = c.urls.map((connectionString, i) => new Witness({ connectionString }, i))
    expect((await verify(witnesses)).findings).to.deep.equal([])
    await Promise.all(witnesses.map((w) => w.close()))
    await pool.query('UPDATE accounts SET balance = 0 WHERE id = 1')
    await settled(c.servers)
    expect((await marks()).map((m) => m['rows'])).to.deep.equal([0, 0, 0])
  })

  describe('taken in, on one member', () => {
    const clients: pg.Client[] = []
    const session = async (): Promise<pg.Client> => {
      const client = new pg.Client(c.servers[0]!.url)
      await client.connect()
      clients.push(client)
      return client
    }
    const leave = (client: pg.Client, gid: string): Promise<unknown> =>
      client.query("SELECT quorum.leave_marks($1, 'public.x', '{7,8}', '{3,3}')", [gid])
    const stand = async (): Promise<unknown> =>
      (
        await ask(
          c.servers[0]!,
          `SELECT (SELECT count(*)::int FROM quorum.mark WHERE t = 'public.x') AS rows, mk::int,
            ms = (SELECT sum(quorum.link(0, g)) FROM unnest($1::text[]) g) AS right
          FROM quorum.marks('public.x', 7, 3)`,
          [gids],
        )
      )[0]
    const gids: string[] = []
    beforeEach(async () => {
      await ask(c.servers[0]!, "DELETE FROM quorum.mark WHERE t = 'public.x'")
      const client = await session()
      gids.splice(0, Infinity, ...Array.from({ length: 10 }, (_, i) => `g${i}_ff`))
      for (const gid of gids) await leave(client, gid)
    })
    afterEach(async () => {
      for (const client of clients.splice(0)) await client.end()
      await ask(c.servers[0]!, "DELETE FROM quorum.mark WHERE t = 'public.x'")
    })

    it('two at once: nobody waits, and each is counted once', async () => {
      const [one, two] = [await session(), await session()]
      await one.query("BEGIN; SET LOCAL lock_timeout = '1s'")
      await leave(one, 'one_03')
      await two.query("BEGIN; SET LOCAL lock_timeout = '1s'")
      await leave(two, 'two_00')
      expect(await stand(), 'neither is committed').to.deep.equal({ rows: 20, mk: 10, right: true })
      await one.query('COMMIT')
      gids.push('one_03')
      expect(await stand()).to.deep.equal({ rows: 2, mk: 11, right: true })
      await two.query('COMMIT')
      gids.push('two_00')
      expect(await stand()).to.deep.equal({ rows: 4, mk: 12, right: true })
      await leave(two, 'three_01')
      gids.push('three_01')
      expect(await stand()).to.deep.equal({ rows: 2, mk: 13, right: true })
    })

    it('rolled back, it has taken in nothing', async () => {
      const one = await session()
      await one.query('BEGIN')
      await leave(one, 'one_03')
      await one.query('ROLLBACK')
      expect(await stand()).to.deep.equal({ rows: 20, mk: 10, right: true })
    })

    it('above READ COMMITTED nothing is taken in, and nobody fails on what was', async () => {
      const [one, two] = [await session(), await session()]
      await one.query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1')
      await leave(two, 'two_02')
      await leave(one, 'one_03')
      await one.query('COMMIT')
      gids.push('two_02', 'one_03')
      expect(await stand()).to.deep.equal({ rows: 4, mk: 12, right: true })
    })
  })
})
