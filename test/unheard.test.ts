// Drivers that stand still, or that a member does not hear any more, in the middle of a transaction (docs/protocol.md,
// (t)): what they hold there keeps nobody waiting for longer than a few seconds.
import { once } from 'node:events'
import type { ChildProcess } from 'node:child_process'
import { expect } from 'chai'
import { PostgresReplica } from '../driver/replica/postgres.ts'
import { bank, child, cluster, settled, type TestCluster } from './cluster.ts'
import { startProxy } from './faults/proxy.ts'
import { ask } from './servers.ts'

const PLUS_10 = 'UPDATE accounts SET balance = balance + 10 WHERE id = 1'
/** Three seconds until nothing was heard for long enough, and what follows. */
const BOUND_MS = 8000

describe('a driver that is not heard any more', function () {
  this.timeout(40_000)
  let c: TestCluster
  const children: ChildProcess[] = []
  beforeEach(async () => {
    c = await cluster()
    await bank(c.pool(), 3)
  })
  afterEach(async () => {
    for (const one of children.splice(0)) one.kill('SIGKILL')
    await c.destroy()
  })

  /** Another driver, in the middle of a transaction that has changed row 1. */
  async function inTheMiddle(locks: string[] | undefined, urls = c.urls): Promise<ChildProcess> {
    const statements = ['UPDATE accounts SET balance = balance + 1 WHERE id = 1']
    const owner = child('worked', { urls, statements, pause: true, ...(locks ? { locks } : {}) })
    children.push(owner)
    await once(owner, 'message')
    return owner
  }
  async function took(work: Promise<unknown>): Promise<number> {
    const from = performance.now()
    await work
    return performance.now() - from
  }
  const balance = async (): Promise<number> =>
    Number((await ask(c.servers[1]!, 'SELECT balance FROM accounts WHERE id = 1'))[0]!['balance'])

  for (const [what, locks] of [
    ['declared', ['accounts/1']],
    ['undeclared', undefined],
  ] as const) {
    it(`stands still (SIGSTOP) with ${what} locks: others write its row; its own transaction is not committed`, async () => {
      const owner = await inTheMiddle(locks && [...locks])
      owner.kill('SIGSTOP')
      const pool = c.pool()
      const work = locks ? pool.transaction({ locks: [...locks] }, (tx) => tx.query(PLUS_10)) : pool.query(PLUS_10)
      expect(await took(work), 'ms').below(BOUND_MS)
      owner.kill('SIGCONT')
      owner.send('go')
      expect((await once(owner, 'message'))[0]).containSubset({ outcome: 'not-committed' })
      await settled(c.servers)
      expect(await balance()).equal(1010)
    })
  }

  it('cannot reach its lead, which keeps the connection: others write its row there', async () => {
    const proxies = await Promise.all(c.urls.map(startProxy))
    await inTheMiddle(
      undefined,
      proxies.map((p) => p.url),
    )
    const [{ port } = { port: 0 }] = await ask(
      c.servers[0]!,
      "SELECT client_port AS port FROM pg_stat_activity WHERE state = 'idle in transaction'",
    )
    expect(port, 'the first server leads').not.equal(0)
    proxies[0]!.cut('both')
    expect(await took(c.pool().query(PLUS_10)), 'ms').below(BOUND_MS)
    await settled(c.servers)
    expect(await balance()).equal(1010)
    await Promise.all(proxies.map((p) => p.close()))
  })

  it('stands still while it reads strongly: others write what it holds', async () => {
    const pool = c.pool()
    await pool.query(PLUS_10)
    const held = c.urls.slice(0, 2).map((connectionString, index) => {
      const who = { name: `s${index}`, index, config: { connectionString }, owner: 'who' }
      return new PostgresReplica({ ...who, links: 1, connectMs: 3000, callMs: 4000, check: () => undefined })
    })
    const sessions = await Promise.all(held.map((replica) => replica.open()))
    for (const session of sessions) await session.hold([{ t: 'accounts', w: false }], 1000)
    expect(await took(pool.transaction({ retries: 50 }, (tx) => tx.query(PLUS_10))), 'ms').below(BOUND_MS)
    await settled(c.servers)
    expect(await balance()).equal(1020)
    for (const session of sessions) session.release(true)
    await Promise.all(held.map((replica) => replica.close()))
  })

  it('control: one that lives and only thinks keeps its transaction, however long others wait', async () => {
    const owner = await inTheMiddle(undefined)
    let written = false
    const work = c
      .pool()
      .query(PLUS_10)
      .then(() => (written = true))
    await new Promise((resolve) => setTimeout(resolve, BOUND_MS))
    expect(written).equal(false)
    owner.send('go')
    expect((await once(owner, 'message'))[0]).equal('acknowledged')
    await work
    await settled(c.servers)
    expect(await balance()).equal(1011)
  })
})
