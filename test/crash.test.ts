/**
 * Every step of a transaction's life × the death of its owner, of a follower, of the lead. After each: no
 * acknowledged commit lost, replicas equal, nothing in doubt within 2 s, with nobody doing anything but using the
 * database.
 */
import { once } from 'node:events'
import { expect } from 'chai'
import { QuorumError, type Pool } from '../driver/index.ts'
import { onStep, STEPS, type Step } from '../driver/runtime.ts'
import { balanceOn, bank, child, cluster, drained, settled, until, type TestCluster } from './cluster.ts'
import { ask } from './servers.ts'

const OWNERS = STEPS.slice(0, STEPS.indexOf('resolving'))
const SURE: Step[] = ['lead-committed', 'told']

describe('death at every step', function () {
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

  const balance = (i: number, id = 1): Promise<number> => balanceOn(c.servers[i]!, id)

  describe('of the owner (kill -9 of its process)', () => {
    for (const step of OWNERS) {
      it(step, async () => {
        const before_ = await balance(0)
        const owner = child(step, {
          urls: c.urls,
          locks: ['accounts/1'],
          statements: ['UPDATE accounts SET balance = balance + 1 WHERE id = 1'],
        })
        const [code, signal] = (await once(owner, 'exit')) as [number | null, string | null]
        expect([code, signal], 'the owner was killed where it should be').to.deep.equal([null, 'SIGKILL'])
        await drained(c.servers, 2000)
        // Using the same row at once must work, whatever the dead owner left.
        await pool.query('UPDATE accounts SET balance = balance + 10 WHERE id = 1')
        await settled(c.servers)
        const gained = (await balance(0)) - before_
        expect(gained).to.be.oneOf(SURE.includes(step) ? [11] : [10, 11])
        if (['locked', 'began', 'worked', 'sealed'].includes(step)) expect(gained, 'nothing was sent').to.equal(10)
      })
    }
  })

  for (const [who, index] of [
    ['the lead', 0],
    ['a follower', 2],
  ] as const) {
    describe(`of ${who} (kill -9 of the server)`, () => {
      for (const step of OWNERS) {
        it(step, async () => {
          const victim = c.servers[index]!
          const mine = c.pool({ max: 2 })
          await mine.query('SELECT 1')
          const before_ = await balance(1)
          let killed = false
          onStep(async (s) => {
            if (s !== step || killed) return
            killed = true
            await victim.kill()
          })
          let acknowledged = 0
          let unknown = 0
          try {
            await mine.transaction({ locks: ['accounts/1'] }, (tx) =>
              tx.query('UPDATE accounts SET balance = balance + 1 WHERE id = 1'),
            )
            acknowledged = 1
          } catch (error) {
            if (!(error instanceof QuorumError)) throw error
            if (error.outcome === 'unknown') unknown = 1
            else throw error
          }
          onStep(undefined)
          expect(killed, 'the step was reached').to.equal(true)
          expect(unknown, 'two of three are up: the outcome is known').to.equal(0)
          await mine.query('UPDATE accounts SET balance = balance + 10 WHERE id = 1')
          await drained(
            c.servers.filter((s) => s !== victim),
            2000,
          )
          await victim.start()
          await settled(c.servers, 10_000)
          expect((await balance(1)) - before_).to.equal(10 + acknowledged)
          await mine.end()
          await until(
            'the pool leads from the first server again',
            5000,
            async () => !pool.cluster.suspects.size && !pool.cluster.lagging.size,
          )
        })
      }
    })
  }

  it('control: the checks see a lost commit', async () => {
    await pool.query('UPDATE accounts SET balance = 7 WHERE id = 9')
    await settled(c.servers)
    await ask(c.servers[1]!, "SET quorum.bypass = 'on'; UPDATE accounts SET balance = 6 WHERE id = 9")
    let seen = false
    await settled(c.servers, 500).catch(() => (seen = true))
    expect(seen).to.equal(true)
    await ask(c.servers[1]!, "SET quorum.bypass = 'on'; UPDATE accounts SET balance = 7 WHERE id = 9")
  })
})
