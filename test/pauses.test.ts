/**
 * A server that stands still is told from one that is slow: callers of what repeats itself wait for the first less
 * than a missed deadline, and the second is left alone. How long exactly, and for every fault: `npm run bench --
 * --faults`.
 */
import { expect } from 'chai'
import { Pool, type Client, type QuorumPoolClient } from '../driver/index.ts'
import { Hearing } from '../driver/repair/hearing.ts'
import type { Replica } from '../driver/replica/replica.ts'
import { onStep } from '../driver/runtime.ts'
import { balanceOn, bank, cluster, settled, until, type TestCluster } from './cluster.ts'
import { startProxy, type Proxy } from './faults/proxy.ts'
import type { TestServer } from './servers.ts'

const wait = (ms: number): Promise<void> => new Promise((r) => setTimeout(r, ms))

describe('pauses', function () {
  this.timeout(30_000)
  let c: TestCluster
  let pool: Pool
  before(async () => {
    c = await cluster()
    pool = c.pool({ max: 6 })
    await bank(pool)
  })
  after(() => c.destroy())

  const ADD = 'UPDATE accounts SET balance = balance + 1 WHERE id = $1'
  const leader = async (): Promise<number> => {
    const client = await pool.connect()
    client.release()
    return (client as unknown as Client).leadReplica.index
  }

  it('the lead stands still under load: writes, transactions and reads go on within 2 s, without an error, and are all there', async () => {
    const lead = c.servers[await leader()]!
    const added = [0, 0, 0, 0]
    let over = false
    let frozen = Infinity
    let longest = { ms: 0, lane: -1, began_ms: 0 }
    const lanes = added.map(async (_, i) => {
      while (!over) {
        const from = performance.now()
        if (i === 0) await pool.query('SELECT balance FROM accounts WHERE id = $1', [9])
        else if (i === 1) await pool.query(ADD, [i])
        else await pool.transaction((tx) => tx.query(ADD, [i]))
        if (i > 0) added[i]!++
        const ms = performance.now() - from
        if (ms > longest.ms) longest = { ms, lane: i, began_ms: from - frozen }
      }
    })
    await until('all are at work', 10_000, () => Promise.resolve(Math.min(...added.slice(1)) > 5))
    longest = { ms: 0, lane: -1, began_ms: 0 }
    frozen = performance.now()
    await lead.freeze()
    const before = [...added]
    // seen once to take 3.5 s, in some sixty runs, and nobody knows why: if it is again, this shall say it
    const steps: string[] = []
    onStep((name, gid) => {
      if (
        steps.push(
          `${(performance.now() - frozen).toFixed(0)} ${gid.slice(-34, -31)} ${name} ${[...pool.cluster.suspects].map((r) => r.index).join('')}/${[...pool.cluster.lagging].map((r) => r.index).join('')}`,
        ) > 400
      )
        steps.splice(100, 100)
    })
    await wait(3000)
    over = true
    await Promise.all(lanes).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${steps.join('\n')}`, { cause: error })
    })
    onStep(undefined)
    const during = added.map((n, i) => n - before[i]!)
    await lead.thaw()
    expect(longest.ms, `${JSON.stringify(longest)}\n${longest.ms < 2000 ? '' : steps.join('\n')}`).to.be.below(2000)
    expect(Math.min(...during.slice(1)), 'each went on').to.be.above(0)
    await settled(c.servers, 10_000)
    for (const i of [1, 2, 3]) expect(await balanceOn(lead, i)).to.equal(1000 + added[i]!)
  })

  it('who brings a laggard forward does not wait for a source that stands still, whenever it was suspected', async () => {
    const source = pool.cluster.replicas[0] as { beyond: Replica['beyond'] }
    const laggard = c.servers[(await leader()) === 2 ? 1 : 2]!
    const { beyond } = source
    let frozen = 0
    try {
      await laggard.kill()
      for (let i = 0; i < 3; i++) await pool.query(ADD, [7])
      source.beyond = async (...asked) => {
        const gids = await beyond(...asked)
        if (gids.length > 0 && frozen === 0) {
          await c.servers[0]!.freeze()
          frozen = performance.now()
        }
        return gids
      }
      await laggard.start()
      await until('it is asked', 10_000, () => Promise.resolve(frozen > 0))
      await until('the laggard has all', 10_000, async () => (await balanceOn(laggard, 7)) === 1003)
      expect(performance.now() - frozen).to.be.below(2000)
    } finally {
      source.beyond = beyond
      await c.servers[0]!.thaw()
    }
    await settled(c.servers, 10_000)
  })

  for (const patient of [true, false])
    it(`${patient ? 'a transaction' : 'control: one that waits 500 ms for locks does not wait'} for a laggard without which it cannot commit`, async () => {
      const writer = c.pool(patient ? {} : { lockTimeoutMillis: 500, callTimeoutMillis: 500 })
      await writer.query(ADD, [8])
      const lead = await leader()
      const [laggard, other] = [1, 2].map((i) => c.servers[(lead + i) % 3]!) as [TestServer, TestServer]
      let go = (): void => undefined
      const held = new Promise<void>((r) => (go = r))
      let asked = 0
      const hold = (replica: { replay: Replica['replay'] }): void => {
        const replay = replica.replay.bind(replica)
        replica.replay = async (...all) => {
          asked++
          await held
          return replay(...all)
        }
      }
      try {
        await laggard.kill()
        await writer.query(ADD, [8])
        for (const p of [pool, writer]) hold(p.cluster.replicas[c.servers.indexOf(laggard)]!)
        await laggard.start()
        await until('it is brought forward', 10_000, () => Promise.resolve(asked > 1))
        await other.kill()
        const adding = writer
          .transaction((tx) => tx.query(ADD, [8]))
          .then(
            () => '',
            (error: { code: string }) => error.code,
          )
        expect(await Promise.race([adding, wait(3000).then(() => 'waits')])).to.equal(patient ? 'waits' : '40001')
        go()
        expect(await adding).to.equal(patient ? '' : '40001')
      } finally {
        go()
        await other.start()
        await writer.end()
      }
      await settled(c.servers, 10_000)
    })

  it('control: a slow statement is asked after, and not cut off', async () => {
    await pool.query('SELECT 1')
    const { hurry } = pool.cluster
    let [asked, runs] = [0, 0]
    pool.cluster.hurry = (replica) => {
      asked++
      hurry(replica)
    }
    await Promise.all([
      pool.query('SELECT pg_sleep(1.5)'),
      pool.transaction(async (tx) => {
        runs++
        await tx.query('SELECT pg_sleep(1.5)')
        await tx.query(ADD, [5])
      }),
    ])
    pool.cluster.hurry = hurry
    expect(asked).to.be.above(3)
    expect(runs).to.equal(1)
    expect(await balanceOn(c.servers[await leader()]!, 5)).to.equal(1001)
  })

  it('control: when all stand still for a moment, nobody is suspected, and nothing is begun again', async () => {
    const lead = await leader()
    const inOrder = [lead, (lead + 1) % 3, (lead + 2) % 3].map((i) => c.servers[i]!)
    let runs = 0
    const working = pool.transaction(async (tx) => {
      runs++
      await tx.query(ADD, [6])
      await Promise.all(inOrder.map((s) => s.freeze()))
      setTimeout(() => {
        for (const [i, s] of inOrder.entries()) setTimeout(() => void s.thaw(), 100 * i)
      }, 500)
      await tx.query(ADD, [6])
    })
    await working
    expect(runs).to.equal(1)
  })
})

describe('a slow lead', function () {
  this.timeout(40_000)
  let c: TestCluster
  let proxies: Proxy[]
  const pools: Pool[] = []
  const pool = (more: object = {}): Pool => {
    const made = new Pool({ replicas: proxies.map((p) => p.url), ...more })
    pools.push(made)
    return made
  }
  before(async () => {
    c = await cluster()
    await bank(c.pool())
    proxies = await Promise.all(c.urls.map(startProxy))
  })
  afterEach(async () => {
    proxies.forEach((p) => p.heal())
    await Promise.all(pools.splice(0).map((p) => p.end()))
  })
  after(async () => {
    await Promise.all(proxies.map((p) => p.close()))
    await c.destroy()
  })
  const leads = async (p: Pool): Promise<number> => {
    const client = (await p.connect()) as unknown as QuorumPoolClient
    client.release()
    return client.leadReplica.index
  }

  it('another leads within seconds, until it is as quick again; not where somebody wants it to lead', async () => {
    const [free, bound] = [pool(), pool({ write: { prefer: `127.0.0.1:${proxies[0]!.port}` } })]
    expect([await leads(free), await leads(bound)]).to.deep.equal([0, 0])
    proxies[0]!.latency(50)
    await until('another leads', 15_000, async () => (await leads(free)) !== 0)
    await free.query('UPDATE accounts SET balance = balance + 1 WHERE id = 1')
    await until('it is known there too', 15_000, () => Promise.resolve(bound.cluster.slow.size === 1))
    expect(await leads(bound)).to.equal(0)
    proxies[0]!.latency(0)
    await until('it leads again', 20_000, async () => (await leads(free)) === 0)
  })

  it('control: where all are as slow, nobody is', async () => {
    const free = pool()
    proxies.forEach((p) => p.latency(50))
    expect(await leads(free)).to.equal(0)
    await wait(5000)
    expect(free.cluster.slow.size).to.equal(0)
    expect(await leads(free)).to.equal(0)
  })
})

describe('hearing', () => {
  it('a member that is far away is taken for silent once, and then known', async () => {
    const [near, far] = [{}, {}] as [Replica, Replica]
    const hearing = new Hearing()
    const doubts: number[] = []
    for (const i of [1, 2, 3]) {
      await hearing.ask(
        far,
        () => wait(600),
        () =>
          void hearing.ask(
            near,
            () => wait(1),
            () => undefined,
            () => undefined,
          ),
        () => doubts.push(i),
      )
    }
    expect(doubts).to.deep.equal([1])
  })
})
