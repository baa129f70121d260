/**
 * Canaries: passwords, and values of rows, that are looked for in everything we say and leave behind: our errors,
 * what the servers log and show about our connections, gids, the commands' output, printed objects. What PostgreSQL
 * itself says about a user's row (its error's detail, also as the cause of ours) is not ours.
 */
import { inspect } from 'node:util'
import { expect } from 'chai'
import { startServers, type EmbeddedServer } from '../driver/embedded/embedded.ts'
import { Client, Pool, QuorumError, type PoolOptions } from '../driver/index.ts'
import { asApp, bank, failure, found, settled, until } from './cluster.ts'
import { cli } from './command.ts'
import { ask, destroyAll } from './servers.ts'

const WORD = 'canary-word'
const ROW = 'canary-row'

describe('secrets', () => {
  let servers: EmbeddedServer[]
  let urls: string[]
  const pools: Pool[] = []
  const heard: string[] = []
  const open = (options: PoolOptions = {}): Pool => {
    const pool = new Pool({ replicas: urls, max: 3, connectionTimeoutMillis: 1500, ...options })
    pools.push(pool)
    return pool
  }
  /** What is ours of an error: not what PostgreSQL says about the user's own row. */
  const ours = (error: unknown): string =>
    error instanceof QuorumError
      ? JSON.stringify([error.message, error.hint, error.gid, error.code, JSON.stringify(error)]) +
        (error.cause instanceof Error
          ? error.cause instanceof QuorumError
            ? ours(error.cause)
            : error.cause.message
          : '')
      : ''
  const fails = async (work: Promise<unknown>): Promise<Error & { code?: string }> => {
    const error = await failure(work)
    heard.push(ours(error))
    expect(inspect(error, { depth: 8, showHidden: false })).not.contain(WORD)
    return error
  }
  /** Lines of the servers' logs, without those in which PostgreSQL describes the row that it refused. */
  const logs = (): string =>
    servers
      .map((s) =>
        s.log
          .split('\n')
          .filter((l) => !/ DETAIL: {2}|ERROR: {2}invalid input syntax/.test(l))
          .join('\n'),
      )
      .join('\n')

  before(async function () {
    this.timeout(60_000)
    servers = await startServers(3)
    urls = (await found(servers)).map((u) => u.replace('app@', `app:${WORD}@`))
    await bank(open())
    await pools[0]!.query('CREATE TABLE people (id int PRIMARY KEY, email text UNIQUE, age int CHECK (age > 0))')
  })
  after(async () => {
    await Promise.all(pools.map((p) => p.end()))
    await destroyAll(servers)
  })

  it('printed objects', async () => {
    const pool = open({ password: WORD, connectionString: urls[0]! } as PoolOptions)
    const objects = open({ replicas: urls.map((connectionString) => ({ connectionString, password: WORD })) })
    const client = new Client({ replicas: urls, password: WORD })
    await Promise.all([client.connect(), pool.query('SELECT 1'), objects.query('SELECT * FROM people')])
    const held = await pool.connect()
    for (const it of [pool, objects, pool.cluster, client, held, pool.options]) {
      expect(inspect(it, { depth: 12 })).not.contain(WORD)
      let text = ''
      try {
        text = JSON.stringify(it)
      } catch {
        /* as pg's: it refers to itself */
      }
      expect(text).not.contain(WORD)
    }
    held.release()
    await client.end()
  })

  it('errors, logs, what the servers show of our connections', async function () {
    this.timeout(60_000)
    const pool = open()
    let looking = true
    const shown: string[] = []
    const look = (async () => {
      while (looking) {
        for (const s of servers) {
          // (one of them is killed meanwhile)
          shown.push(
            JSON.stringify(
              await ask(
                s,
                "SELECT application_name, query, (SELECT array_agg(gid) FROM pg_prepared_xacts) FROM pg_stat_activity WHERE application_name LIKE 'pg-quorum%'",
              ).catch(() => null),
            ),
          )
        }
        await new Promise((r) => setTimeout(r, 5))
      }
    })()
    for (let i = 1; i < 30; i++) await pool.query('INSERT INTO people VALUES ($1, $2, 1)', [i, `${ROW}-${i}`])
    await fails(pool.query('INSERT INTO people VALUES (1, $1, 1)', [ROW]))
    await fails(pool.query('INSERT INTO people VALUES (100, $1, 1)', [`${ROW}-1`]))
    await fails(pool.query('INSERT INTO people VALUES (100, $1, -1)', [ROW]))
    await fails(pool.query('INSERT INTO people VALUES (100, $1, $2)', [ROW, ROW]))
    await fails(
      pool.transaction({ locks: ['people/1'], retries: 0 }, (tx) =>
        tx.query('UPDATE people SET email = $1 WHERE id = 2', [ROW]),
      ),
    )
    await fails(pool.transaction({ locks: [`people/${ROW}`], retries: 0 }, (tx) => tx.query('SELECT 1')))
    // two followers refuse: one has a row that nobody else has, the other a constraint's
    for (const [i, id] of [
      [1, 500],
      [2, 501],
    ] as const)
      await ask(servers[i]!, `SET quorum.bypass = on; INSERT INTO people VALUES (${id}, 'taken', 1)`)
    const refused = await fails(
      open({ write: { prefer: `127.0.0.1:${servers[0]!.port}` } }).query(
        'INSERT INTO people VALUES ($1, $2, 1), (501, $3, 1)',
        [502, `${ROW}-here`, 'taken'],
      ),
    )
    expect(refused).instanceOf(QuorumError)
    await Promise.all(servers.slice(1).map((s) => ask(s, 'SET quorum.bypass = on; DELETE FROM people WHERE id >= 500')))
    // a conflict, a timeout, a lost lead, a follower that lags
    const [a, b] = await Promise.all([pool.connect(), pool.connect()])
    await Promise.all(
      [a, b].map(async (x) => {
        await x.query('BEGIN')
        await x.query('SELECT * FROM people WHERE id = 3')
      }),
    )
    await a.query('UPDATE people SET email = $1 WHERE id = 3', [`${ROW}-a`])
    await a.query('COMMIT')
    await fails(
      (async () => {
        await b.query('UPDATE people SET email = $1 WHERE id = 3', [`${ROW}-b`])
        await b.query('COMMIT')
      })(),
    )
    for (const x of [a, b]) x.release(true)
    const held = await open().connect()
    held.on('error', () => undefined)
    await held.query('BEGIN')
    await held.query('UPDATE people SET email = $1 WHERE id = 4', [`${ROW}-held`])
    const lead = servers.find((s) => (held as unknown as Client).replicaName.includes(String(s.port)))!
    await lead.kill()
    await fails(held.query('UPDATE people SET email = $1 WHERE id = 5', [`${ROW}-lost`]))
    held.release(true)
    await pool.query('INSERT INTO people VALUES (30, $1, 1)', [`${ROW}-30`])
    await lead.start()
    await until('caught up', 10_000, () => settled(servers, 500).then(() => true))
    looking = false
    await look
    expect(heard.join('\n'), 'errors').not.contain(ROW).and.not.contain(WORD)
    expect(shown.join('\n'), 'pg_stat_activity, gids').not.contain(ROW).and.not.contain(WORD)
    expect(
      logs()
        .split('\n')
        .filter((l) => l.includes(ROW) || l.includes(WORD)),
      'logs',
    ).deep.equal([])
  })

  it('commands', async function () {
    this.timeout(60_000)
    for (const command of [['status', '--json'], ['doctor'], ['resolve', '--dry-run', '--json']]) {
      for (const replicas of [
        urls.map((u) => u.replace('app:', 'nobody:')),
        urls.map((u) => u.replace(/:\d+\//, ':1/')),
      ]) {
        const said = await cli(command, replicas)
        expect(said.out + said.err, command.join(' '))
          .not.contain(WORD)
          .and.not.contain(ROW)
      }
    }
    const twice = await cli(['status'], [urls[0]!, urls[0]!, urls[1]!.replace('postgres://', 'postgres//')])
    expect(twice.out + twice.err).not.contain(WORD)
    expect(
      String(await failure(Promise.resolve().then(() => new Pool({ replicas: [urls[0]!, urls[0]!] })))),
    ).not.contain(WORD)
  })

  it('control: a planted leak is found', async () => {
    await failure(ask(servers[0]!, `INSERT INTO quorum.nothing VALUES ('${ROW}')`))
    expect(logs()).contain(ROW)
    expect(inspect(new Client({ replicas: urls.map(asApp), application_name: WORD }))).contain(WORD)
    expect(
      ours(new QuorumError(`it was ${ROW}`, { code: '40001', outcome: 'not-committed', retryable: true })),
    ).contain(ROW)
  })
})
