/**
 * How a driver proves who it is, and asks servers to do so: TLS with verification, passwords of every kind, a
 * setting of its own for each replica. On every kind of connection: links, leads, readers, listeners, statements
 * outside transactions, the command line.
 */
import { chownSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ConnectionOptions } from 'node:tls'
import { expect } from 'chai'
import pg from 'pg'
import { startServers, type EmbeddedServer } from '../driver/embedded/embedded.ts'
import { Client, Pool, type PoolOptions } from '../driver/index.ts'
import { init } from '../driver/schema/install.ts'
import { asLibpq } from '../driver/schema/libpq.ts'
import { authorities, type Authority } from './certificates.ts'
import { failure, settled, until } from './cluster.ts'
import { cli } from './command.ts'
import { ask, destroyAll } from './servers.ts'

describe('credentials', () => {
  let servers: EmbeddedServer[]
  let certificates: ReturnType<typeof authorities>
  let ours: Authority
  let theirs: Authority
  const pools: Pool[] = []
  const at = (i: number): EmbeddedServer => servers[i]!
  const PASSWORDS = ['first: p@ss/w?rd#&', 'second', 'third ü']
  /**
   * As its pg_hba.conf asks: SCRAM, md5, and the password in clear text. The superuser is trusted, for the tests
   * themselves.
   */
  const METHODS = ['scram-sha-256', 'md5', 'password']
  const url = (i: number, more = '', password: string | null = PASSWORDS[i]!, host = '127.0.0.1'): string =>
    `postgres://app${password === null ? '' : `:${encodeURIComponent(password)}`}@${host}:${at(i).port}/postgres${more}`
  const urls = (more = ''): string[] => [0, 1, 2].map((i) => url(i, more))
  const open = (options: PoolOptions): Pool => {
    const pool = new Pool({ connectionTimeoutMillis: 2000, max: 3, ...options })
    pools.push(pool)
    return pool
  }
  const put = (server: EmbeddedServer, name: string, text: string): void => {
    const file = join(server.dir, name)
    writeFileSync(file, text, { mode: 0o600 })
    const { uid, gid } = statSync(server.dir)
    chownSync(file, uid, gid)
  }
  const probe = async (connectionString: string, ca: string): Promise<void> => {
    const client = new pg.Client({ connectionString, ssl: { ca } })
    client.on('error', () => undefined)
    await client.connect().finally(() => void client.end().catch(() => undefined))
  }
  /** app's rule in pg_hba.conf, and whether the server speaks TLS. */
  const rules = async (type: 'host' | 'hostssl', tls: (i: number) => boolean): Promise<void> => {
    await Promise.all(
      servers.map(async (s, i) => {
        put(s, 'pg_hba.conf', `host all postgres 127.0.0.1/32 trust\n${type} all app 127.0.0.1/32 ${METHODS[i]}\n`)
        await ask(s, `ALTER SYSTEM SET ssl = ${tls(i) ? 'on' : 'off'}`)
        await ask(s, 'SELECT pg_reload_conf()')
        await until(
          'reloaded',
          3000,
          async () =>
            (await ask(s, 'SHOW ssl'))[0]?.['ssl'] === (tls(i) ? 'on' : 'off') &&
            (await ask(s, 'SELECT count(*)::int AS n FROM pg_hba_file_rules WHERE type = $1', [type]))[0]?.['n'] ===
              (type === 'host' ? 2 : 1),
        )
      }),
    )
  }
  const kinds = async (): Promise<Record<string, unknown>[]> =>
    (
      await Promise.all(
        servers.map((s) =>
          ask(
            s,
            "SELECT application_name AS name, ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE usename = 'app'",
          ),
        ),
      )
    ).flat()

  /** A little of everything, on each kind of connection. */
  const use = async (pool: Pool, table: string): Promise<void> => {
    await pool.query(`CREATE TABLE ${table} (id int PRIMARY KEY)`)
    for (let i = 0; i < 3; i++) await pool.query(`INSERT INTO ${table} VALUES ($1)`, [i])
    await pool.query(`VACUUM ${table}`)
    expect((await pool.query(`SELECT count(*)::int AS n FROM ${table}`)).rows).deep.equal([{ n: 3 }])
    expect((await pool.reads('eventual').query(`SELECT count(*)::int AS n FROM ${table}`)).rows[0]).property('n')
    const heard: string[] = []
    const client = await pool.connect()
    client.on('notification', (m) => heard.push(m.payload ?? ''))
    await client.query('LISTEN here')
    await Promise.all([0, 1, 2].map((i) => ask(at(i), `NOTIFY here, '${i}'`)))
    await until('heard from each', 5000, async () => heard.length === 3)
    client.release(true)
    await settled(servers)
  }

  before(async function () {
    this.timeout(60_000)
    try {
      certificates = authorities('ours', 'theirs')
    } catch {
      return this.skip()
    } // no openssl here
    ;[ours, theirs] = certificates.made as [Authority, Authority]
    servers = await startServers(3)
    await Promise.all(
      servers.map(async (s, i) => {
        const { cert, key } = ours.issue('IP:127.0.0.1,DNS:localhost')
        put(s, 'server.crt', cert)
        put(s, 'server.key', key)
        await ask(
          s,
          `SET password_encryption = '${i === 1 ? 'md5' : 'scram-sha-256'}'; CREATE ROLE app LOGIN PASSWORD ${pg.escapeLiteral(PASSWORDS[i]!)}; ALTER DATABASE postgres OWNER TO app`,
        )
      }),
    )
    await init(
      servers.map((s) => ({ connectionString: s.url })),
      servers.map((s) => s.url),
      ['app'],
    )
  })
  afterEach(async () => {
    await Promise.all(pools.splice(0).map((p) => p.end()))
  })
  after(async () => {
    await destroyAll(servers)
    certificates?.remove()
  })

  describe('passwords', () => {
    before(() => rules('host', () => false))

    it('SCRAM, md5 and clear text, another password on each replica', async () => {
      await use(open({ replicas: urls() }), 'by_urls')
      await use(
        open({
          replicas: [0, 1, 2].map((i) => ({
            host: '127.0.0.1',
            port: at(i).port,
            user: 'app',
            database: 'postgres',
            password: PASSWORDS[i]!,
          })),
        }),
        'by_objects',
      )
      const client = new Client({ replicas: urls() })
      await client.connect()
      expect((await client.query('SELECT count(*)::int AS n FROM by_urls')).rows).deep.equal([{ n: 3 }])
      await client.end()
    })

    it('a function is called for each connection of any kind, and may change its mind', async () => {
      const calls = [0, 0, 0]
      let broken = false
      const password = (i: number) => async (): Promise<string> => {
        calls[i]!++
        await new Promise((r) => setTimeout(r, 1))
        if (broken) throw new Error('the vault is closed')
        return PASSWORDS[i]!
      }
      const pool = open({
        replicas: [0, 1, 2].map((i) => ({
          host: '127.0.0.1',
          port: at(i).port,
          user: 'app',
          database: 'postgres',
          password: password(i),
        })),
      })
      await use(pool, 'by_function')
      const connections = (await kinds()).length
      expect(
        calls.every((n) => n > 0),
        String(calls),
      ).equal(true)
      expect(calls.reduce((a, b) => a + b)).least(connections)
      const sum = calls.reduce((a, b) => a + b)
      await pool.query('SELECT 1')
      await Promise.all(
        [1, 2, 3].map(() => pool.transaction({ locks: ['@a'] }, (tx) => tx.query('SELECT pg_sleep(0.05)'))),
      )
      expect(calls.reduce((a, b) => a + b)).least(sum)
      broken = true
      const closed = await failure(
        open({
          replicas: [0, 1, 2].map((i) => ({
            host: '127.0.0.1',
            port: at(i).port,
            user: 'app',
            database: 'postgres',
            password: password(i),
          })),
        }).query('SELECT 1'),
      )
      expect(closed.message).match(/0 of 3 replicas answered.*the vault is closed/)
    })

    it('PGPASSWORD and a password file, as pg does', async () => {
      await Promise.all(
        servers.map((s) =>
          ask(s, "CREATE ROLE plain_user LOGIN PASSWORD 'from the environment'; GRANT quorum_app TO plain_user"),
        ),
      )
      await Promise.all(
        servers.map((s) =>
          put(s, 'pg_hba.conf', 'host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n'),
        ),
      )
      await Promise.all(servers.map((s) => ask(s, 'SELECT pg_reload_conf()')))
      const bare = [0, 1, 2].map((i) => url(i, '', null).replace('//app', '//plain_user'))
      const dir = mkdtempSync(join(tmpdir(), 'pg-quorum-pgpass-'))
      const before = { ...process.env }
      try {
        await until('asked for a password', 3000, async () =>
          /password/.test((await failure(ask({ url: bare[0]! }, 'SELECT 1'))).message),
        )
        process.env['PGPASSWORD'] = 'from the environment'
        expect((await open({ replicas: bare }).query('SELECT current_user AS u')).rows).deep.equal([
          { u: 'plain_user' },
        ])
        const status = await cli(['status'], bare)
        expect(status.code, status.out + status.err).equal(0)
        delete process.env['PGPASSWORD']
        writeFileSync(
          join(dir, 'pass'),
          bare.map((_, i) => `127.0.0.1:${at(i).port}:*:plain_user:from the environment\n`).join(''),
          { mode: 0o600 },
        )
        process.env['PGPASSFILE'] = join(dir, 'pass')
        expect((await open({ replicas: bare }).query('SELECT current_user AS u')).rows).deep.equal([
          { u: 'plain_user' },
        ])
      } finally {
        delete process.env['PGPASSWORD']
        delete process.env['PGPASSFILE']
        Object.assign(process.env, before)
        rmSync(dir, { recursive: true })
        await rules('host', () => false)
      }
    })

    it('a wrong password: on one, the others serve; on all it is said, with the server’s word as the cause', async () => {
      const wrong = [0, 1, 2].map((i) => url(i, '', 'wr0ng'))
      const two = open({ replicas: [wrong[0]!, url(1), url(2)] })
      expect((await two.query('SELECT 1 AS one')).rows).deep.equal([{ one: 1 }])
      const error = await failure(open({ replicas: wrong }).query('SELECT 1'))
      expect(error.code).equal('08001')
      expect(error.message).match(/0 of 3 replicas answered.*password authentication failed for user "app"/)
      expect((error.cause as { code?: string }).code).equal('28P01')
      for (const command of ['status', 'doctor']) {
        const said = await cli([command], wrong)
        expect(
          [said.code, /password\s+authentication\s+failed/.test(said.out), (said.out + said.err).includes('wr0ng')],
          said.out + said.err,
        ).deep.equal([1, true, false])
      }
    })
  })

  describe('TLS', () => {
    before(() => rules('hostssl', () => true))

    it('verified against the authority that is given, on every kind of connection', async () => {
      const pool = open({ replicas: urls(), ssl: { ca: ours.ca, rejectUnauthorized: true } })
      await use(pool, 'by_tls')
      const held = await pool.connect()
      const seen = await kinds()
      held.release()
      expect(seen.map((c) => c['name'])).include.members(['pg-quorum'])
      expect(
        seen.every((c) => c['ssl'] === true),
        JSON.stringify(seen),
      ).equal(true)
    })

    it('urls with sslmode and sslrootcert, for pools and commands', async () => {
      for (const mode of ['verify-full', 'require'])
        await open({ replicas: urls(`?sslmode=${mode}&sslrootcert=${ours.file}`) }).query('SELECT 1')
      for (const command of [['status'], ['doctor'], ['verify', '--chains'], ['catch-up'], ['resolve', '--dry-run']]) {
        const said = await cli(command, urls(`?sslmode=verify-full&sslrootcert=${ours.file}`))
        expect(said.code, `${command.join(' ')}: ${said.out}${said.err}`).equal(0)
      }
    })

    it('another setting for each replica', async () => {
      const { cert, key } = theirs.issue('DNS:localhost')
      put(at(1), 'server.crt', cert)
      put(at(1), 'server.key', key)
      await ask(at(1), 'SELECT pg_reload_conf()')
      const replicas = [
        { connectionString: url(0), ssl: { ca: ours.ca } },
        { connectionString: url(1, '', PASSWORDS[1]!, 'localhost'), ssl: { ca: theirs.ca } },
        url(2, `?sslmode=verify-full&sslrootcert=${ours.file}`),
      ]
      await until('the other certificate is in use', 3000, async () =>
        /certificate/.test((await failure(probe(url(1), ours.ca))).message),
      )
      await use(open({ replicas }), 'by_each')
      await Promise.all(
        [0, 1, 2].map(async (i) => {
          const client = new Client({
            replicas,
            write: { prefer: `${i === 1 ? 'localhost' : '127.0.0.1'}:${at(i).port}` },
          })
          await client.connect()
          expect([
            client.replicaName.includes(String(at(i).port)),
            (await client.query('SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()')).rows,
          ]).deep.equal([true, [{ ssl: true }]])
          await client.end()
        }),
      )
    })

    it('another authority, another host name: refused, and the sentence says which replica and why', async () => {
      const one = open({ replicas: urls(), ssl: { ca: ours.ca } })
      expect((await one.query('SELECT 1 AS one')).rows).deep.equal([{ one: 1 }])
      await until('noticed', 3000, () =>
        Promise.resolve(/certificate/.test(String(one.cluster.problems.get(one.cluster.replicas[1]!)))),
      )
      const all = await failure(open({ replicas: urls(), ssl: { ca: theirs.ca } }).query('SELECT 1'))
      expect([all.code, all.message.match(/certificate|altnames/g)?.length ?? 0], all.message).satisfies(
        ([code, n]: [string, number]) => code === '08001' && n >= 3,
      )
      expect(all.message).contain(`127.0.0.1:${at(0).port}/postgres: `)
      const status = await cli(['status'], urls(`?sslmode=verify-full&sslrootcert=${theirs.file}`))
      expect([status.code, /certificate/.test(status.out)], status.out + status.err).deep.equal([1, true])
      // its name is not in the second server's certificate, which `theirs` has signed
      const name = open({ replicas: [url(1)], ssl: { ca: theirs.ca } })
      expect((await failure(name.query('SELECT 1'))).message).match(/does not match certificate's altnames/)
    })

    it('SCRAM bound to the channel, asked of one replica only', async () => {
      const pool = open({
        replicas: [
          { connectionString: url(2), ssl: { ca: ours.ca } },
          { connectionString: url(0), ssl: { ca: ours.ca }, enableChannelBinding: true },
          { connectionString: url(1, '', PASSWORDS[1]!, 'localhost'), ssl: { ca: theirs.ca } },
        ],
      })
      await at(2).stop() // the lead of choice: the client turns to the next, and takes all of its settings
      try {
        const client = (await pool.connect()) as unknown as Client & { enableChannelBinding: boolean; release(): void }
        const seen = [client.replicaName.includes(String(at(0).port)), client.enableChannelBinding]
        client.release()
        expect(seen).deep.equal([true, true])
      } finally {
        await at(2).start()
      }
    })

    it('a server that answers N is refused, and hears nothing but the question', async () => {
      const heard: Buffer[] = []
      const silent = createServer((socket) =>
        socket
          .on('data', (d: Buffer) => {
            heard.push(d)
            socket.write('N')
          })
          .on('error', () => undefined),
      )
      await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
      try {
        const { port } = silent.address() as AddressInfo
        const plain = { connectionString: `postgres://app:${encodeURIComponent('canary')}@127.0.0.1:${port}/postgres` }
        const others = [
          { connectionString: url(1, '', PASSWORDS[1]!, 'localhost'), ssl: { ca: theirs.ca } },
          { connectionString: url(2), ssl: { ca: ours.ca } },
        ]
        const pool = open({
          replicas: [{ ...plain, ssl: { ca: ours.ca } }, ...others],
          write: { prefer: `127.0.0.1:${port}` },
        })
        expect((await pool.query('SELECT 1 AS one')).rows).deep.equal([{ one: 1 }])
        expect(String(pool.cluster.problems.get(pool.cluster.replicas[0]!))).match(/does not support SSL/)
        const all = await failure(open({ replicas: [`${plain.connectionString}?sslmode=require`] }).query('SELECT 1'))
        expect(all.code).equal('08001')
        expect(all.message).match(/does not support SSL/)
        expect(heard.length).least(2)
        expect(
          heard.every((d) => d.length === 8 && d.readInt32BE(4) === 80877103),
          'only SSLRequests',
        ).equal(true)
        // the control: who asks for no TLS tells it a name at once
        await failure(open({ replicas: [plain], connectionTimeoutMillis: 300 }).query('SELECT 1'))
        expect(Buffer.concat(heard).includes('app')).equal(true)
      } finally {
        silent.close()
      }
    })

    it('pg_dump verifies as the driver does', async () => {
      const client = (ssl: unknown): pg.Client =>
        new pg.Client({ connectionString: url(0), ssl: ssl as ConnectionOptions })
      const seen = (ssl: unknown): Promise<Record<string, string | undefined>> =>
        asLibpq(client(ssl), (env) =>
          Promise.resolve({
            mode: env['PGSSLMODE'],
            ca:
              env['PGSSLROOTCERT'] === 'system'
                ? 'system'
                : env['PGSSLROOTCERT'] && readFileSync(env['PGSSLROOTCERT'], 'utf8'),
            key: env['PGSSLKEY'] && readFileSync(env['PGSSLKEY'], 'utf8'),
            password: env['PGPASSWORD'],
          }),
        )
      const password = PASSWORDS[0]!
      expect(await seen(false)).deep.equal({ mode: 'disable', ca: undefined, key: undefined, password })
      expect(await seen(true)).deep.equal({ mode: 'verify-full', ca: 'system', key: undefined, password })
      expect(await seen({ ca: [ours.ca, Buffer.from(theirs.ca)], cert: 'C', key: 'K' })).deep.equal({
        mode: 'verify-full',
        ca: `${ours.ca}\n${theirs.ca}`,
        key: 'K',
        password,
      })
      expect(await seen({ ca: ours.ca, checkServerIdentity: () => undefined })).property('mode', 'verify-ca')
      expect(await seen({ rejectUnauthorized: false })).property('mode', 'require')
      const left = await asLibpq(client({ ca: ours.ca }), (env) => Promise.resolve(env['PGSSLROOTCERT']!))
      expect(existsSync(left)).equal(false)
    })
  })
})
