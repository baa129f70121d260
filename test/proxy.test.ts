/**
 * The bad network of the fault tests, before a real server. Each action has its control: without the rule the same
 * query goes through the same proxy.
 */
import { expect } from 'chai'
import pg from 'pg'
import { startProxy, type Proxy, type Rule } from './faults/proxy.ts'
import { ask, destroyAll, threeServers, type TestServer } from './servers.ts'
import { until } from './cluster.ts'

describe('proxy', () => {
  let server: TestServer
  let proxy: Proxy
  const clients: pg.Client[] = []
  before(async () => {
    server = (await threeServers({}, 1))[0]!
    await ask(server, 'CREATE TABLE t (n int)')
    proxy = await startProxy(server.url)
  })
  afterEach(async () => {
    proxy.heal()
    proxy.resetAll()
    await Promise.allSettled(clients.splice(0).map((c) => c.end()))
    await until('all connections are gone', 2000, async () => proxy.connections === 0)
    await ask(server, 'TRUNCATE t')
  })
  after(async () => {
    await proxy.close()
    await destroyAll([server])
  })

  async function client(): Promise<pg.Client> {
    const c = new pg.Client({ connectionString: proxy.url, connectionTimeoutMillis: 2000 })
    c.on('error', () => undefined)
    clients.push(c)
    await c.connect()
    return c
  }
  /** 'silence' is no answer within 400 ms; an answer of this server takes about one. */
  const outcome = async (work: Promise<unknown>): Promise<string> => {
    const silence = new Promise<string>((r) => setTimeout(() => r('silence'), 400))
    return Promise.race([
      silence,
      work.then(
        () => 'answer',
        (e: Error & { code?: string }) =>
          /ECONNRESET|terminated/.test(`${e.code} ${e.message}`) ? 'reset' : String(e),
      ),
    ])
  }
  const rows = async (): Promise<number> => Number((await ask(server, 'SELECT count(*) FROM t'))[0]!['count'])
  const INSERT = 'INSERT INTO t VALUES (1)'

  // [what, rule, what the client meets, rows on the server afterwards, sessions on the server afterwards]
  const cases: [what: string, rule: Rule, meets: string, rows: number, sessions: number][] = [
    ['drop of a query', { direction: 'to-server', match: /INSERT/, action: 'drop' }, 'silence', 0, 1],
    [
      'drop of a reply',
      { direction: 'to-client', message: 'C', match: /^INSERT 0 1$/, action: 'drop' },
      'silence',
      1,
      1,
    ],
    [
      'lose-reply, named by its statement',
      { direction: 'to-client', match: /INSERT INTO t/, action: 'lose-reply' },
      'silence',
      1,
      1,
    ],
    [
      'lose-reply, named where it is sent',
      { direction: 'to-server', match: /INSERT/, action: 'lose-reply' },
      'silence',
      1,
      1,
    ],
    ['blackhole', { direction: 'to-server', message: 'Q', match: /INSERT/, action: 'blackhole' }, 'silence', 0, 1],
    ['reset of a query', { direction: 'to-server', message: 'Q', match: /INSERT/, action: 'reset' }, 'reset', 0, 0],
    ['reset of a reply', { direction: 'to-client', message: 'Z', match: /INSERT/, action: 'reset' }, 'reset', 1, 0],
    ['a torn query', { direction: 'to-server', match: /INSERT/, action: 'tear' }, 'reset', 0, 0],
    ['a torn reply', { direction: 'to-client', match: /INSERT/, action: 'tear' }, 'reset', 1, 0],
    ['delay', { direction: 'to-server', match: /INSERT/, action: 'delay', delay_ms: 300 }, 'answer', 1, 1],
  ]
  for (const [what, rule, meets, count, sessions] of cases) {
    for (const protocol of ['simple', 'extended'] as const) {
      it(`${what} (${protocol})`, async () => {
        const query = (c: pg.Client): Promise<unknown> =>
          c.query(protocol === 'simple' ? INSERT : { text: 'INSERT INTO t VALUES ($1)', values: [1] })
        const c = await client()
        const control = performance.now()
        expect(await outcome(query(c)), 'control: without the rule').to.equal('answer')
        const quick = performance.now() - control
        const { message, ...any } = rule
        const added = proxy.add(protocol === 'extended' && message === 'Q' ? { ...any, message: 'E' } : rule)
        const from = performance.now()
        expect(await outcome(query(c))).to.equal(meets)
        if (rule.action === 'delay')
          expect(performance.now() - from)
            .to.be.above(290)
            .and.above(quick)
        expect(added.hits).to.equal(1)
        await until(
          'the server did what it should, and its session is there or gone',
          1000,
          async () => (await rows()) === 1 + count && (await sessionsOf()) === sessions,
        )
        added.remove()
        expect(await outcome((await client()).query(INSERT)), 'a new connection').to.equal('answer')
        proxy.heal()
        if (meets !== 'silence') return
        await until(
          'what lost bytes is reset on both sides',
          1000,
          async () => (await outcome(c.query('SELECT 1'))) !== 'answer' && (await sessionsOf()) === 1,
        )
      })
    }
  }
  /** Sessions of ours on the server, but for the asking one. */
  const sessionsOf = async (): Promise<number> =>
    Number(
      (
        await ask(
          server,
          "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
        )
      )[0]!['count'],
    )

  it('nth: the third statement only, in text and tag', async () => {
    const c = await client()
    const third = proxy.add({ direction: 'to-client', message: 'C', match: /^INSERT/, nth: 3, action: 'reset' })
    expect([await outcome(c.query(INSERT)), await outcome(c.query(INSERT)), third.hits]).to.deep.equal([
      'answer',
      'answer',
      0,
    ])
    expect([await outcome(c.query(INSERT)), third.hits]).to.deep.equal(['reset', 1])
    expect([await outcome((await client()).query(INSERT)), third.hits]).to.deep.equal(['answer', 1])
  })

  it('a rule of one tag in a text of many', async () => {
    const c = await client()
    const rule = proxy.add({ direction: 'to-client', message: 'C', match: /^COMMIT$/, action: 'lose-reply' })
    expect(await outcome(c.query('SELECT 1; SELECT 2'))).to.equal('answer')
    expect(rule.hits).to.equal(0)
    expect(await outcome(c.query(`BEGIN; ${INSERT}; COMMIT; SELECT 1`))).to.equal('silence')
    expect([rule.hits, await rows()]).to.deep.equal([1, 1])
  })

  for (const [direction, arrived] of [
    ['to-server', 0],
    ['to-client', 1],
    ['both', 0],
  ] as const) {
    it(`cut ${direction}: silence on old and new connections, until healed`, async () => {
      const idle = await client()
      const c = await client()
      expect(await outcome(c.query('SELECT 1')), 'control').to.equal('answer')
      proxy.cut(direction)
      expect(await outcome(c.query(INSERT))).to.equal('silence')
      expect(await outcome(client())).to.equal('silence')
      expect(await rows()).to.equal(arrived)
      proxy.heal()
      expect(await outcome(c.query('SELECT 1')), 'what lost bytes').to.not.equal('answer')
      expect(await outcome(idle.query('SELECT 1')), 'what lost none').to.equal('answer')
      expect(await outcome((await client()).query('SELECT 1')), 'what is new').to.equal('answer')
    })
  }

  it('latency: each way, and healed', async () => {
    const c = await client()
    const time = async (): Promise<number> => {
      const from = performance.now()
      await c.query('SELECT 1')
      return performance.now() - from
    }
    expect(await time()).to.be.below(60)
    proxy.latency(60)
    expect(await time()).to.be.within(118, 300)
    proxy.heal()
    expect(await time()).to.be.below(60)
  })

  it('order and bytes hold: a result and a parameter of 20 MB, many small ones, a server that is down', async () => {
    const c = await client()
    const from = performance.now()
    const big = 'x'.repeat(20_000_000)
    expect((await c.query('SELECT $1::text AS t', [big])).rows[0].t === big).to.equal(true)
    const many = await c.query('SELECT g FROM generate_series(1, 50000) g')
    expect(many.rows.every((r: { g: number }, i: number) => r.g === i + 1)).to.equal(true)
    expect(performance.now() - from).to.be.below(10_000)
    await server.kill()
    expect(await outcome(c.query('SELECT 1'))).to.not.equal('answer')
    expect(await outcome(client())).to.equal('reset')
    await server.start()
    expect(await outcome((await client()).query('SELECT 1'))).to.equal('answer')
  })

  it('a wish for TLS is passed on, and refused by the server itself', async () => {
    const c = new pg.Client({ connectionString: proxy.url, ssl: true })
    c.on('error', () => undefined)
    expect(await outcome(c.connect())).to.match(/does not support SSL/)
  })
})
