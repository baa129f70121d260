/**
 * One flow that dies without a word, as a NAT entry that expires, while everything else goes on. Found by `npm run
 * faults` (locked,commit-reply): the lead's COMMIT was executed and its answer lost; pulses went on over other
 * connections, and the owner waited for ever, with its guards held.
 */
import { expect } from 'chai'
import { Pool, type Client } from '../driver/index.ts'
import { startProxy, type Proxy } from './faults/proxy.ts'
import { asApp, balanceOn, bank, cluster, settled, type TestCluster } from './cluster.ts'

describe('a flow that dies without a word', () => {
  let c: TestCluster
  let proxies: Proxy[]
  let pool: Pool
  before(async () => {
    c = await cluster()
    await bank(c.pool())
    proxies = await Promise.all(c.urls.map(startProxy))
    pool = new Pool({ replicas: proxies.map((p) => asApp(p.url)), max: 2 })
  })
  after(async () => {
    await Promise.all(proxies.map((p) => p.close())) // first: a pool that waits for an answer would not end
    await pool.end()
    await c.destroy()
  })
  const write = async (): Promise<number> => {
    const from = performance.now()
    await pool.transaction({ locks: ['accounts/1'], retries: 0 }, (tx) =>
      tx.query('UPDATE accounts SET balance = balance + 1 WHERE id = 1'),
    )
    return performance.now() - from
  }

  const lead = async (): Promise<Proxy> => {
    const client = (await pool.connect()) as unknown as Client & { release(): void }
    client.release()
    return proxies.find((p) => client.replicaName.includes(`:${p.port}/`))!
  }

  it('control: through the proxies, nothing lost', async () => expect(await write()).to.be.below(1000))

  it("the reply of the lead's COMMIT: the owner learns the outcome, and nobody waits for its locks", async () => {
    const rule = (await lead()).add({
      direction: 'to-client',
      message: 'C',
      match: /^COMMIT$/,
      nth: 1,
      action: 'lose-reply',
    })
    const writing = write()
    await new Promise((r) => setTimeout(r, 200))
    const from = performance.now()
    await c
      .pool({ lockTimeoutMillis: 8000 })
      .transaction({ locks: ['accounts/1'], retries: 0 }, (tx) =>
        tx.query('UPDATE accounts SET balance = balance + 10 WHERE id = 1'),
      )
    expect(performance.now() - from).to.be.below(8000)
    const never = new Promise<number>((r) => setTimeout(() => r(Infinity), 8000).unref())
    expect(await Promise.race([writing, never])).to.be.within(200, 8000)
    expect(rule.hits, 'control: it was lost').to.equal(1)
    for (const p of proxies) p.heal()
    await settled(c.servers)
    expect(await balanceOn(c.servers[0]!, 1)).to.equal(1012)
  })

  it("the lead's COMMIT itself: decided without the lead, whose session goes on holding everything until it is ended there", async () => {
    const rule = (await lead()).add({ direction: 'to-server', match: /^COMMIT$/, nth: 1, action: 'drop' })
    expect(await write()).to.be.within(200, 8000)
    expect(rule.hits, 'control: it was lost').to.equal(1)
    const from = performance.now()
    await c
      .pool()
      .transaction({ locks: ['accounts/1'] }, (tx) =>
        tx.query('UPDATE accounts SET balance = balance + 10 WHERE id = 1'),
      )
    expect(performance.now() - from).to.be.below(5000)
    await settled(c.servers) // before anything is healed
    expect(await balanceOn(c.servers[0]!, 1)).to.equal(1023)
  })
})
