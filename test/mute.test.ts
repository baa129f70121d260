/**
 * A server that takes new connections and never says a word on them, while the old ones live. Found by `npm run
 * acme`: its client waited for ever.
 */
import { connect, createServer, type AddressInfo, type Server } from 'node:net'
import { expect } from 'chai'
import type { QuorumPoolClient } from '../driver/index.ts'
import { asApp, bank, cluster, failure, type TestCluster } from './cluster.ts'
import { startProxy, type Proxy } from './faults/proxy.ts'

describe('a lead of choice that takes no new connection', () => {
  let it3: TestCluster
  let relays: Server[]
  let mute = -1
  before(async () => {
    it3 = await cluster()
    relays = await Promise.all(
      it3.servers.map(
        (server, i) =>
          new Promise<Server>((resolve) => {
            const relay = createServer((from) => {
              from.on('error', () => undefined)
              if (mute === i) return
              const to = connect(server.port, '127.0.0.1')
              to.on('error', () => from.destroy()).on('close', () => from.destroy())
              from.on('close', () => to.destroy())
              from.pipe(to).pipe(from)
            }).listen(0, '127.0.0.1', () => resolve(relay))
          }),
      ),
    )
  })
  after(async () => {
    for (const relay of relays) relay.close()
    await it3.destroy()
  })

  it('costs its deadline; then another leads', async () => {
    const ports = relays.map((r) => (r.address() as AddressInfo).port)
    const pool = it3.pool({ replicas: ports.map((port) => `postgres://postgres@127.0.0.1:${port}/postgres`) })
    await bank(pool)
    await new Promise((r) => setTimeout(r, 1000))
    const busy = (await pool.connect()) as QuorumPoolClient // so that the next one needs a new connection
    mute = ports.findIndex((port) => busy.replicaName.includes(`:${port}/`))
    const start = performance.now()
    await pool.query('UPDATE accounts SET balance = balance + 1 WHERE id = 1')
    expect(performance.now() - start).to.be.lessThan(10_000)
    mute = -1
    busy.release()
  })
})

describe('a connection that dies while it is being made', () => {
  let c: TestCluster
  let proxies: Proxy[]
  before(async () => {
    c = await cluster()
    proxies = await Promise.all(c.servers.map((s) => startProxy(s.url)))
  })
  after(async () => {
    await Promise.all(proxies.map((p) => p.close()))
    await c.destroy()
  })

  // Found by `npm run acme`: nobody listened yet, and the process ended with "Connection terminated unexpectedly".
  it('is an error for who waits for it, never the end of the process', async () => {
    const rules = proxies.map((p) => p.add({ direction: 'to-server', match: /proname/, action: 'reset' }))
    const pool = c.pool({ replicas: proxies.map((p) => asApp(p.url)) })
    const error = await failure(pool.connect())
    expect(error.message).to.match(/ECONNRESET|terminated|lost/)
    expect(
      rules.some((r) => r.hits > 0),
      'it was struck there',
    ).to.equal(true)
    for (const p of proxies) p.heal()
    expect((await pool.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
})
