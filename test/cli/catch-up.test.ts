/** `catch-up` on a bad night: interrupted at random points, throttled, under writers that do not rest. */
import { expect } from 'chai'
import { randomInt } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Pool } from '../../driver/index.ts'
import { bank, cluster, settled, until, type TestCluster } from '../cluster.ts'
import { ended, launch, type Ended } from '../command.ts'
import { ask, type TestServer } from '../servers.ts'

const ROUNDS = Number(process.env['ROUNDS'] ?? 100)

describe('catch-up', () => {
  let c: TestCluster
  let urls: string
  let target: TestServer
  beforeEach(async () => {
    c = await cluster()
    urls = c.urls.join(',')
    target = c.servers[2]!
    const pool = c.pool()
    await bank(pool, 100)
    await pool.end()
  })
  afterEach(() => c.destroy())
  const catchUp = (...args: string[]): Promise<Ended> => ended(launch(['catch-up', '3', ...args], urls))
  const missing = async (): Promise<number> => {
    const here = new Set((await ask(target, 'SELECT gid FROM quorum.applied')).map((r) => r['gid']))
    return (await ask(c.servers[0]!, 'SELECT gid FROM quorum.applied')).filter((r) => !here.has(r['gid'])).length
  }
  const write = (pool: Pool, n: number): Promise<unknown> =>
    Promise.all(
      Array.from({ length: n }, () =>
        pool.query('UPDATE accounts SET balance = balance + 1 WHERE id = $1', [randomInt(1, 101)]),
      ),
    )
  /** Writes that the target misses. No driver is left to catch it up. */
  const away = async (n: number): Promise<void> => {
    await target.kill()
    const pool = c.pool({ groups: false })
    await write(pool, n)
    await pool.end()
    await target.start()
  }

  it(`${ROUNDS} interruptions at random points, of the command, the source and the target; each ends equal`, async function () {
    this.timeout(ROUNDS * 30_000)
    const middle: Record<string, number> = {}
    for (let round = 0; round < ROUNDS; round++) {
      await away(40)
      const pool = round % 2 === 0 ? c.pool() : undefined // every other round writers go on, and their sweeps help
      const writing = pool ? write(pool, 20) : Promise.resolve()
      const child = launch(['catch-up', '3', '--throttle', '100'], urls)
      const end = ended(child)
      await until('it is at work', 20_000, async () => child.exitCode !== null || (await missing()) < 40)
      await sleep(randomInt(0, 200)) // as long as the second of its two messages waits for
      const way = ['SIGINT', 'SIGKILL', 'source', 'target'][round % 4]!
      const left = await missing()
      if (left > 0 && child.exitCode === null) middle[way] = (middle[way] ?? 0) + 1
      if (way === 'SIGINT' || way === 'SIGKILL') child.kill(way)
      else {
        const server = way === 'source' ? c.servers[round % 8 < 4 ? 0 : 1]! : target
        await server.kill()
        await server.start()
      }
      await end
      await writing
      await pool?.end()
      for (let again = 0; ; again++) {
        const r = await ended(launch(['catch-up'], urls)) // all: a source that was killed has missed something too
        if (r.code === 0) break
        expect(again, r.out + r.err).lessThan(5)
      }
      await settled(c.servers)
    }
    console.log(`      in the middle of the work: ${JSON.stringify(middle)} of ${ROUNDS}`)
    expect(
      Object.values(middle).reduce((a, b) => a + b, 0),
      'rounds that were struck in the middle',
    ).at.least(ROUNDS / 4)
  })

  it('--throttle is kept; Ctrl-C says how to go on', async () => {
    await away(100)
    const start = performance.now()
    const child = launch(['catch-up', '3', '--throttle', '20'], urls)
    const end = ended(child)
    await until('40 are over', 20_000, async () => (await missing()) <= 60)
    child.kill('SIGINT')
    const r = await end
    expect([r.code, r.err]).deep.equal([130, 'stopped; the same command goes on from here\n'])
    const over = 100 - (await missing())
    expect(over, 'changesets brought').within(40, 20 * ((performance.now() - start) / 1000) + 20)
    expect((await catchUp()).out).match(/current, \d+ changesets brought over in/)
  })

  it('ends although eight writers of one row do not rest, and the target votes again', async () => {
    await away(300)
    const pool = c.pool({ max: 8 })
    let stop = false
    const writers = Array.from({ length: 8 }, async () => {
      while (!stop) await pool.query('UPDATE accounts SET balance = balance + 1 WHERE id = 1')
    })
    try {
      const r = await catchUp()
      expect([r.code, r.ms < 15_000], r.out + r.err).deep.equal([0, true])
      await until('it has what the others have', 5000, async () => (await missing()) <= 1)
      await c.servers[1]!.kill() // from here on nothing is committed without the target's yes
      const before = Number((await ask(target, 'SELECT count(*) n FROM quorum.applied'))[0]?.['n'])
      await until(
        '20 more commits',
        10_000,
        async () => Number((await ask(target, 'SELECT count(*) n FROM quorum.applied'))[0]?.['n']) >= before + 20,
      )
    } finally {
      stop = true
      await Promise.all(writers)
    }
    await c.servers[1]!.start()
  })
})
