/**
 * A server that was away comes back: what it left prepared ends, and it gets level although writers go on (how
 * fast: `npm run bench:return`).
 */
import { expect } from 'chai'
import type { Client } from '../driver/index.ts'
import type { Replica } from '../driver/replica/replica.ts'
import { Sweep } from '../driver/repair/sweep.ts'
import { onStep } from '../driver/runtime.ts'
import { Brake } from '../driver/transaction/brake.ts'
import { Cluster } from '../driver/transaction/cluster.ts'
import { balanceOn, bank, cluster, settled, until } from './cluster.ts'
import { ask } from './servers.ts'

describe('a server that comes back', () => {
  afterEach(() => onStep(undefined))

  it('what it had prepared when it died ends within a second, although its owner lives, and it is level', async function () {
    this.timeout(30_000)
    const c = await cluster()
    try {
      const pool = c.pool()
      await bank(pool)
      const client = await pool.connect()
      const lead = (client as unknown as Client).leadReplica.index
      client.release()
      const follower = c.servers.find((_, i) => i !== lead)!
      let killed = false
      onStep(async (step) => {
        if (step !== 'accepted' || killed) return
        killed = true
        await until(
          'the follower has prepared too',
          5000,
          async () => (await ask(follower, 'SELECT 1 FROM pg_prepared_xacts')).length > 0,
        )
        await follower.kill()
      })
      await pool.query('UPDATE accounts SET balance = balance + 5 WHERE id = 1')
      await follower.start()
      const back = performance.now()
      await settled(c.servers, 10_000)
      const ms = performance.now() - back
      expect(
        (await ask(follower, "SELECT pg_read_file('server.log') AS said"))[0]!['said'],
        'it had something in doubt',
      ).to.contain('recovering prepared transaction')
      expect(ms, 'others give the owner 3 s; it knows better').to.be.below(2000)
      expect(await balanceOn(follower, 1)).to.equal(1005)
    } finally {
      await c.destroy()
    }
  })

  describe('the brake', () => {
    const member = {} as Replica
    /** What writers wait after so many looks, between each of which so much was brought and so much written. */
    const after = (...looks: (readonly [brought: number, written: number])[]): number => {
      const brake = new Brake()
      let [here, furthest] = [0, 5000]
      brake.look(member, here, furthest)
      for (const [brought, written] of looks) brake.look(member, (here += brought), (furthest += written))
      return brake.ms
    }
    const times = <T>(n: number, what: T): T[] => Array.from({ length: n }, () => what)

    it('is put on while less than twice as much is brought as is written, up to half a second, and comes off when it is enough', () => {
      expect(after([300, 200])).to.equal(2)
      expect(after(...times(3, [300, 200] as const))).to.equal(8)
      expect(after(...times(20, [300, 200] as const))).to.equal(500)
      expect(after(...times(3, [300, 200] as const), [500, 200])).to.equal(4)
      expect(after(...times(3, [300, 200] as const), ...times(3, [500, 200] as const))).to.equal(0)
    })
    it('is not put on by chance, nor for a member to which nothing can be brought', () => {
      expect(after([3, 10], [3, 10])).to.equal(0)
      expect(after(...times(5, [0, 300] as const))).to.equal(0)
      expect(after(...times(5, [900, 300] as const))).to.equal(0)
    })
    it('is off when the member dies on the way', async () => {
      const limits = { connect_ms: 100, call_ms: 100, lock_ms: 100, grace_ms: 100, pulse_ms: 100, changeset_bytes: 1e6 }
      const dead = {
        name: 'dead',
        index: 0,
        open: () => Promise.reject(new Error('connection refused')),
        close: () => Promise.resolve(),
      } as unknown as Replica
      const its = new Cluster(() => [dead], limits)
      its.name = 'x'
      for (let i = 0; i < 5; i++) its.brake.look(dead, 300 * i, 5000 + 300 * i)
      void new Sweep(its, () => undefined)
      await until('writers wait no more', 1000, () => Promise.resolve(its.brake.ms === 0))
      await its.close()
    })
    it('is off once nobody is behind', () => {
      const brake = new Brake()
      for (let i = 0; i < 5; i++) brake.look(member, 300 * i, 5000 + 300 * i)
      expect(brake.ms).to.be.above(0)
      brake.release(member)
      expect(brake.ms).to.equal(0)
    })
  })
})
