/** The pool's options, counters, events and end. */
import { expect } from 'chai'
import type pg from 'pg'
import { failure } from '../cluster.ts'
import { both, called, heard, pause } from './both.ts'

both('the pool', (kind) => {
  it('events of one query on an empty pool', async () => {
    const pool = kind.pool()
    const said = heard(pool as never, 'connect', 'acquire', 'release', 'remove', 'error')
    await pool.query('SELECT 1')
    expect(said).to.deep.equal(['connect', 'acquire', 'release'])
    await pool.query('SELECT 1')
    expect(said.slice(3)).to.deep.equal(['acquire', 'release'])
    await pool.end()
    await pause(20)
    expect(said.slice(5)).to.deep.equal(['remove'])
  })
  it('release says its error, and the client is removed', async () => {
    const pool = kind.pool()
    const released: unknown[] = []
    pool.on('release', (error) => released.push(error))
    const client = await pool.connect()
    const why = new Error('mine')
    client.release(why)
    const next = await pool.connect()
    expect(next).not.to.equal(client)
    next.release(true)
    expect(released).to.deep.equal([why, true])
    await pause(30)
    expect(pool.totalCount).to.equal(0)
  })
  it('counters, max and the queue', async () => {
    const pool = kind.pool({ max: 2 })
    const [a, b] = [await pool.connect(), await pool.connect()]
    const third = pool.connect()
    const fourth = pool.query('SELECT 4 AS n')
    await pause(5)
    expect([pool.totalCount, pool.idleCount, pool.waitingCount]).to.deep.equal([2, 0, 2])
    a.release()
    const c = await third
    expect(c).to.equal(a)
    b.release()
    expect((await fourth).rows).to.deep.equal([{ n: 4 }])
    c.release()
    await pause(10)
    expect([pool.totalCount, pool.idleCount, pool.waitingCount, pool.expiredCount]).to.deep.equal([2, 2, 0, 0])
    expect(pool.options.max).to.equal(2)
  })
  it('connectionTimeoutMillis: a client that nobody gives back', async () => {
    const pool = kind.pool({ max: 1, connectionTimeoutMillis: 1500 })
    const client = await pool.connect()
    expect((await failure(pool.connect())).message).to.match(/timeout exceeded when trying to connect/)
    client.release()
    await pool.query('SELECT 1')
  })
  it('idleTimeoutMillis and min', async () => {
    const pool = kind.pool({ max: 3, min: 1, idleTimeoutMillis: 60 })
    const clients = await Promise.all([pool.connect(), pool.connect(), pool.connect()])
    for (const c of clients) c.release()
    await pause(250)
    expect(pool.totalCount).to.equal(1)
  })
  it('maxUses', async () => {
    const pool = kind.pool({ max: 1, maxUses: 2 })
    const pids = new Set<unknown>()
    for (let i = 0; i < 4; i++) pids.add((await pool.query('SELECT pg_backend_pid() AS pid')).rows[0].pid)
    expect(pids.size).to.equal(2)
  })
  it('maxLifetimeSeconds', async () => {
    const pool = kind.pool({ max: 1, maxLifetimeSeconds: 1 })
    const a = await pool.connect()
    a.release()
    await pause(1300)
    expect(pool.totalCount).to.equal(0)
  })
  it('onConnect is awaited; what it sets is set', async () => {
    const pool = kind.pool({
      onConnect: (async (client: pg.ClientBase) => {
        await pause(30)
        await client.query("SET application_name = 'prepared by onConnect'")
      }) as never,
    })
    expect((await pool.query('SHOW application_name')).rows).to.deep.equal([
      { application_name: 'prepared by onConnect' },
    ])
    const failing = kind.pool({ onConnect: (() => Promise.reject(new Error('no'))) as never })
    expect((await failure(failing.query('SELECT 1'))).message).to.match(/no/)
  })
  it('verify', async () => {
    const pool = kind.pool({ verify: (client, done) => void client.query('SELECT 1').then(() => done(), done) })
    await pool.query('SELECT 1')
    const failing = kind.pool({ verify: (_client, done) => done(new Error('not this one')) })
    expect((await failure(failing.connect())).message).to.match(/not this one/)
  })
  it('connect by callback, with done', async () => {
    const pool = kind.pool()
    const { callback, once } = called<[Error | undefined, pg.PoolClient, (release?: unknown) => void]>()
    expect(pool.connect(callback as never)).to.equal(undefined)
    const [error, client, done] = await once
    expect(error).to.equal(undefined)
    expect(done).to.equal(client.release)
    expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
    done()
    expect(pool.idleCount).to.equal(1)
  })
  it('release twice throws', async () => {
    const client = await kind.pool().connect()
    client.release()
    expect(() => client.release()).to.throw(/already been released/)
  })
  it('end: once, twice, and what comes after it', async () => {
    const pool = kind.pool()
    await pool.query('SELECT 1')
    const ending = pool.end()
    expect(pool.ending).to.equal(true)
    expect((await failure(pool.end())).message).to.match(/end on pool more than once/)
    await ending
    expect(pool.ended).to.equal(true)
    expect((await failure(pool.query('SELECT 1'))).message).to.match(/Cannot use a pool after calling end/)
    expect((await failure(pool.connect())).message).to.match(/Cannot use a pool after calling end/)
    const { callback, once } = called<[Error]>()
    pool.connect(callback as never)
    expect((await once)[0].message).to.match(/Cannot use a pool after calling end/)
  })
  it('end by callback, of a pool that was never used', async () => {
    const { callback, once } = called()
    kind.pool().end(callback)
    await once
  })
  it('end waits for clients that are out', async () => {
    const pool = kind.pool()
    const client = await pool.connect()
    let ended = false
    const ending = pool.end().then(() => (ended = true))
    await pause(50)
    expect(ended).to.equal(false)
    expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
    client.release()
    await ending
  })
  it('a client that loses its connection while idle is replaced; the pool says error and remove, with the client', async () => {
    const pool = kind.pool({ application_name: 'idle and lost' })
    const errors: [Error, unknown][] = []
    pool.on('error', (error, client) => errors.push([error, client]))
    const said = heard(pool as never, 'remove')
    const client = await pool.connect()
    client.release()
    await kind.terminate("application_name = 'idle and lost'")
    for (let i = 0; i < 50 && said.length === 0; i++) await pause(20)
    expect(errors[0]![0]).to.be.instanceOf(Error)
    expect(errors[0]![1]).to.equal(client)
    expect(said).to.deep.equal(['remove'])
    expect((await pool.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
  it('a client that loses its connection while it is out: its query fails, the client says error, the pool lives', async () => {
    const pool = kind.pool({ max: 1, application_name: 'out and lost' })
    const client = await pool.connect()
    const error = new Promise((resolve) => client.once('error', resolve))
    const running = failure(client.query('SELECT pg_sleep(5)'))
    await pause(100)
    await kind.terminate("application_name = 'out and lost'")
    expect(await running).to.be.instanceOf(Error)
    expect(await error).to.be.instanceOf(Error)
    expect(await failure(client.query('SELECT 1'))).to.be.instanceOf(Error)
    client.release()
    expect((await pool.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
  it('an error in a callback is the process’s, and the pool goes on', async () => {
    const pool = kind.pool({ max: 1 })
    const listeners = process.listeners('uncaughtException')
    process.removeAllListeners('uncaughtException')
    const uncaught = new Promise<Error>((resolve) => process.once('uncaughtException', resolve))
    try {
      pool.query('SELECT 1', () => {
        throw new Error('in the callback')
      })
      expect((await uncaught).message).to.equal('in the callback')
    } finally {
      for (const l of listeners) process.on('uncaughtException', l)
    }
    expect((await pool.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
  it('log hears', async () => {
    const lines: unknown[] = []
    await kind.pool({ log: (line: unknown) => lines.push(line) }).query('SELECT 1')
    expect(lines).to.include('connecting new client')
  })
  it('Client and options are where others look for them', () => {
    const pool = kind.pool({ max: 7 })
    expect((pool as unknown as { Client: unknown }).Client).to.be.a('function')
    expect(pool.options).to.include({ max: 7, idleTimeoutMillis: 10_000 })
    expect(pool.constructor.name).to.match(/Pool$/)
  })
})
