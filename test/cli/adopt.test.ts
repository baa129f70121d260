/**
 * A database that is in use becomes a cluster (`init --from`) and plain databases again (`uninstall`): data of many
 * kinds, the command killed at random points, and what is refused before anything is changed. The schema travels by
 * pg_dump, so the servers are of its version. PG_QUORUM_ROUNDS: how many interruptions; default 6.
 */
import { execFileSync } from 'node:child_process'
import { expect } from 'chai'
import { adopt } from '../../driver/cli/adopting.ts'
import { Pool } from '../../driver/index.ts'
import type { ServerOptions } from '../../driver/embedded/embedded.ts'
import { failure, settled, until } from '../cluster.ts'
import { cli, ended, launch } from '../command.ts'
import { ask, destroyAll, threeServers, type TestServer } from '../servers.ts'

const ROUNDS = Number(process.env['PG_QUORUM_ROUNDS'] ?? 6)
const placeOf = (s: TestServer): string => new URL(s.url).host

/** What an application of some years may have. */
export const OLD = `
  CREATE ROLE app LOGIN; CREATE ROLE reader; ALTER DATABASE postgres OWNER TO app; SET ROLE app;
  CREATE SCHEMA shop;
  CREATE TYPE shop.state AS ENUM ('open', 'paid');
  CREATE DOMAIN shop.positive AS int CHECK (VALUE > 0);
  CREATE TABLE shop.customer (id serial PRIMARY KEY, name text NOT NULL UNIQUE, at timestamptz DEFAULT now());
  CREATE TABLE shop.orders (id bigint GENERATED ALWAYS AS IDENTITY (START 5 INCREMENT 2) PRIMARY KEY, customer int NOT NULL REFERENCES shop.customer ON DELETE CASCADE, state shop.state DEFAULT 'open', n shop.positive, twice int GENERATED ALWAYS AS (n * 2) STORED, items jsonb);
  CREATE INDEX ON shop.orders (customer);
  CREATE TABLE shop.log (at timestamptz, text text, bytes bytea);
  CREATE TABLE shop.event (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
  CREATE TABLE shop.event_1 PARTITION OF shop.event FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
  CREATE TABLE shop.event_rest PARTITION OF shop.event DEFAULT;
  CREATE SEQUENCE shop.ticket START 100 CACHE 5;
  CREATE FUNCTION shop.stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.name := upper(NEW.name); RETURN NEW; END $$;
  CREATE TRIGGER stamp BEFORE INSERT ON shop.customer FOR EACH ROW EXECUTE FUNCTION shop.stamp();
  CREATE VIEW shop.paid AS SELECT * FROM shop.orders WHERE state = 'paid';
  CREATE MATERIALIZED VIEW shop.counts AS SELECT customer, count(*) AS n FROM shop.orders GROUP BY 1;
  CREATE MATERIALIZED VIEW shop.most AS SELECT max(n) AS n FROM shop.counts;
  GRANT USAGE ON SCHEMA shop TO reader; GRANT SELECT ON shop.orders TO reader;
  INSERT INTO shop.customer (name) SELECT 'c' || g FROM generate_series(1, 50) g;
  INSERT INTO shop.orders (customer, n, items) SELECT 1 + g % 50, g, jsonb_build_object('g', g) FROM generate_series(1, 3000) g;
  INSERT INTO shop.log SELECT now(), E'a\\tb\\\\n', decode(md5(g::text), 'hex') FROM generate_series(1, 500) g;
  INSERT INTO shop.log VALUES (NULL, NULL, ''), ('infinity', '', '\\x00');
  INSERT INTO shop.event SELECT g, date '2020-06-01' + g FROM generate_series(1, 400) g;
  REFRESH MATERIALIZED VIEW shop.counts; REFRESH MATERIALIZED VIEW shop.most;
  SELECT nextval('shop.ticket') FROM generate_series(1, 7)`
const ROLES = 'CREATE ROLE app LOGIN; CREATE ROLE reader; ALTER DATABASE postgres OWNER TO app'
const asApp = (s: TestServer): string => s.url.replace('//postgres@', '//app@')

function dumpMajor(): NonNullable<ServerOptions['major']> | undefined {
  try {
    const major = Number(/(\d+)/.exec(execFileSync('pg_dump', ['--version'], { encoding: 'utf8' }))?.[1])
    return ([15, 16, 17, 18] as const).find((m) => m === major)
  } catch {
    return undefined
  }
}

describe('pg-quorum init --from, and uninstall', function () {
  this.timeout(120_000)
  let servers: TestServer[] = []
  const at = (i: number): TestServer => servers[i] ?? expect.fail(`no server ${i}`)
  const urls = (): string[] => servers.map((s) => s.url)
  const schemas = async (s: TestServer): Promise<string> =>
    (await ask(s, "SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information)' ORDER BY 1"))
      .map((r) => r['nspname'])
      .join(' ')
  const start = async (roles = ROLES): Promise<void> => {
    servers = await threeServers({ major: dumpMajor()! })
    await ask(at(0), OLD)
    if (roles !== '') for (const s of servers.slice(1)) await ask(s, roles)
  }
  before(function () {
    if (dumpMajor() === undefined) this.skip() // no pg_dump of a version that the embedded servers have
  })
  afterEach(() => destroyAll(servers))

  it('a database with data of many kinds becomes three members; writes go on while one is killed', async () => {
    await start()
    const before = await ask(
      at(0),
      'SELECT (SELECT last_value FROM shop.ticket) AS ticket, (SELECT max(id) FROM shop.orders) AS orders',
    )
    const done = await cli(['init', '--from', placeOf(at(0)), '--role', 'app', '--yes'], urls())
    expect(done.code, done.err + done.out).to.equal(0)
    expect(Math.max(...done.out.split('\n').map((l) => l.length)), done.out).most(80)
    if (process.env['PG_QUORUM_LOUD']) console.log(done.out)
    await settled(servers)
    const pool = new Pool({ replicas: servers.map(asApp) })
    const ids: number[] = []
    const tickets: number[] = []
    for (let i = 0; i < 30; i++) {
      if (i === 10) await at(1).kill()
      const client = await pool.connect()
      try {
        await client.query('BEGIN')
        ids.push(
          Number(
            (
              await client.query<{ id: string }>(
                'INSERT INTO shop.orders (customer, n) SELECT id, 7 FROM shop.customer WHERE name = $1 RETURNING id',
                [`C${i + 1}`],
              )
            ).rows[0]?.id,
          ),
        )
        tickets.push(Number((await client.query<{ n: string }>("SELECT nextval('shop.ticket') AS n")).rows[0]?.n))
        await client.query('COMMIT')
        client.release()
      } catch (error) {
        client.release(true)
        if (!(error as { retryable?: boolean }).retryable) throw error
      }
    }
    expect(ids.length).to.be.at.least(25)
    expect([new Set(ids).size, new Set(tickets).size]).to.deep.equal([ids.length, tickets.length])
    expect(Math.min(...ids)).to.be.above(Number(before[0]?.['orders']))
    expect(Math.min(...tickets)).to.be.above(106)
    await pool.query('ALTER TABLE shop.log ADD COLUMN more int') // as its owner, on all
    await at(1).start()
    await pool.query('DELETE FROM shop.event WHERE id < 10')
    await settled(servers, 20_000)
    await pool.end()
    for (const s of servers) expect(await ask(s, 'SELECT n FROM shop.most')).to.deep.equal([{ n: '60' }])
    const again = await cli(['init', '--from', placeOf(at(0)), '--yes'], urls())
    expect(again.code, again.err).to.equal(0)
    const verified = await cli(['verify'], urls())
    expect(verified.out, verified.err).to.match(/^Same/)
  })

  it('refuses before anything is changed: targets that hold rows, roles that are missing, tables and sequences that cannot be shared; nothing without a yes', async () => {
    await start('')
    const command = (...more: string[]): ReturnType<typeof cli> =>
      cli(['init', '--from', placeOf(at(0)), ...more], urls())
    const roles = await command('--yes')
    expect([roles.code, roles.out]).to.deep.equal([1, ''])
    expect(roles.err).to.match(
      /nothing was changed.*:\d+\/postgres: the roles app, reader are missing on it.*:\d+\/postgres: the roles app, reader/,
    )
    for (const s of servers.slice(1)) await ask(s, ROLES)
    await ask(
      at(0),
      'CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child () INHERITS (parent); CREATE UNLOGGED TABLE fast (id int); CREATE SEQUENCE round MAXVALUE 10 CYCLE',
    )
    await ask(at(2), 'CREATE TABLE mine (x int)')
    await ask(at(2), 'INSERT INTO mine VALUES (1)')
    const { err } = await command('--yes')
    for (const why of [
      'table public.child: inheritance',
      'table public.parent: inheritance',
      'table public.fast: an unlogged',
      'sequence public.round: CYCLE',
      'it is not empty (schema public: public.mine)',
    ])
      expect(err).to.include(why)
    await ask(at(0), 'DROP TABLE child, parent, fast; DROP SEQUENCE round')
    await ask(at(2), 'DROP TABLE mine')
    const [unasked, dry] = [await command(), await command('--dry-run')]
    expect([unasked.code, unasked.err.includes('say --yes')], unasked.err).to.deep.equal([2, true])
    expect(dry.out, dry.err).to.include('Nothing stands against it.')
    expect(await Promise.all(servers.map(schemas))).to.deep.equal(['public shop', 'public', 'public'])
    expect(await ask(at(0), "SELECT rolname FROM pg_roles WHERE rolname LIKE 'quorum%'")).to.deep.equal([])
    await ask(at(0), 'INSERT INTO shop.log VALUES (now())')
  })

  it('refuses direct writes to the source from its installation on, and waits for those in flight', async () => {
    await start()
    const seen: string[] = []
    const plain = async (): Promise<string> =>
      ask(at(0), 'INSERT INTO shop.log VALUES (now())').then(
        () => 'written',
        (e: Error) => e.message,
      )
    await adopt({
      urls: urls(),
      from: placeOf(at(0)),
      consent: async () => {
        seen.push(await plain())
        return true
      },
      tell: (line) => {
        if (line.includes('installed')) void plain().then((s) => seen.push(s))
      },
    })
    await until('both tried', 5000, async () => Promise.resolve(seen.length === 2))
    expect(seen).to.deep.equal(['written', 'write to "shop.log" goes round pg-quorum'])
    await settled(servers)
  })

  it(`${ROUNDS} times killed at random points: nobody votes, and the same command completes it`, async function () {
    this.timeout(ROUNDS * 60_000)
    const happened: string[] = []
    for (let round = 0; round < ROUNDS; round++) {
      await start()
      const args = ['init', '--from', placeOf(at(0)), '--role', 'app', '--yes']
      const child = launch(args, urls().join(','))
      const end = ended(child)
      const phase = ['rehearsal', 'installed', 'copying', 'second'][round % 4]!
      await Promise.race([
        end,
        until(phase, 30_000, async () => {
          if (phase === 'rehearsal') return true
          const i = phase === 'second' ? 2 : 1
          const [self] = await ask(at(i), 'SELECT copy FROM quorum.self')
          return self !== undefined && (phase === 'installed' || self['copy'] !== null)
        }),
      ])
      await new Promise((r) => setTimeout(r, Math.random() * (phase === 'rehearsal' ? 3000 : 300)))
      child.kill('SIGKILL')
      await end
      const selves = await Promise.all(
        servers.map((s) =>
          ask(s, 'SELECT building, copy FROM quorum.self').then(
            (r) => r[0],
            () => 'none',
          ),
        ),
      )
      happened.push(`${phase}: ${selves.map((s) => JSON.stringify(s)).join(' ')}`)
      if (selves.some((s) => s === 'none' || (s as { copy: string | null }).copy !== null)) {
        const pool = new Pool({ replicas: servers.map(asApp) })
        await failure(pool.query('SELECT count(*) FROM shop.orders'))
        await pool.end()
      }
      const again = await cli(args, urls())
      expect(again.code, again.err + again.out).to.equal(0)
      expect(
        await Promise.all(servers.map(async (s) => (await ask(s, 'SELECT building, copy FROM quorum.self'))[0])),
      ).to.deep.equal(servers.map(() => ({ building: false, copy: null })))
      expect((await ask(at(2), 'SELECT count(*)::int AS n FROM shop.orders'))[0]).to.deep.equal({ n: 3000 })
      await settled(servers)
      await destroyAll(servers)
    }
    console.log(`      ${happened.join('\n      ')}`)
  })

  it('control: with votes before the copies, a driver reads what is not there yet', async () => {
    await start()
    let read: Promise<unknown> = Promise.resolve()
    await failure(
      adopt({
        urls: urls(),
        from: placeOf(at(0)),
        voteAtOnce: true,
        consent: () => Promise.resolve(true),
        tell: (line) => {
          if (!line.includes('schema:')) return
          const pool = new Pool({ replicas: [at(2).url, at(1).url, at(0).url] })
          read = pool
            .query('SELECT count(*)::int AS n FROM shop.orders')
            .then(
              (r) => r.rows,
              (e: Error) => e.message,
            )
            .finally(() => pool.end())
          throw new Error('stopped here')
        },
      }),
    )
    expect(await read).to.not.deep.equal([{ n: 3000 }])
    expect(await ask(at(1), 'SELECT building FROM quorum.self')).to.deep.equal([{ building: false }])
  })

  /** A cluster of old data that has been written by three leads. */
  const used = async (): Promise<Pool> => {
    await start()
    await adopt({ urls: urls(), from: placeOf(at(0)), roles: ['app'], consent: () => Promise.resolve(true) })
    const pool = new Pool({ replicas: servers.map(asApp) })
    for (let i = 0; i < 9; i++) {
      await pool.query('INSERT INTO shop.orders (customer, n) VALUES ($1, 3)', [1 + i])
      await pool.query("SELECT nextval('shop.ticket')")
    }
    await settled(servers)
    return pool
  }
  const rest = `SELECT (SELECT count(*)::int FROM pg_roles WHERE rolname LIKE 'quorum%') AS roles, (SELECT count(*)::int FROM pg_trigger WHERE tgname LIKE 'quorum%') AS triggers, (SELECT count(*)::int FROM pg_event_trigger) AS events,
    (SELECT count(*)::int FROM pg_namespace WHERE nspname LIKE 'quorum%') AS schemas, (SELECT count(*)::int FROM pg_description WHERE description LIKE 'pg-quorum%') AS comments, (SELECT count(*)::int FROM pg_default_acl) AS defaults, (SELECT count(*)::int FROM pg_parameter_acl) AS parameters`
  const nothing = { roles: 0, triggers: 0, events: 0, schemas: 0, comments: 0, defaults: 0, parameters: 0 }
  const sequences =
    "SELECT sequencename, start_value, increment_by FROM pg_sequences WHERE schemaname = 'shop' ORDER BY 1"

  it('uninstall leaves three plain databases: equal rows, plain writes by the same roles, no number twice; a dry run changes nothing', async () => {
    const pool = await used()
    await pool.end()
    const dry = await cli(['uninstall', '--dry-run'], urls())
    expect(dry.out, dry.err).to.include('Nothing stands against it')
    expect((await cli(['uninstall'], urls())).code, 'nobody said yes').to.equal(2)
    await settled(servers)
    const gone = await cli(['uninstall', '--yes'], urls())
    expect(gone.code, gone.err + gone.out).to.equal(0)
    if (process.env['PG_QUORUM_LOUD']) console.log(gone.out)
    expect(Math.max(...gone.out.split('\n').map((l) => l.length)), gone.out).most(80)
    const rows =
      "SELECT (SELECT md5(string_agg(o::text, ' ' ORDER BY id)) FROM shop.orders o) AS orders, (SELECT md5(string_agg(e::text, ' ' ORDER BY id)) FROM shop.event e) AS events"
    const [first] = await ask(at(0), rows)
    for (const s of servers) {
      expect(await ask(s, rest)).to.deep.equal([nothing])
      expect((await ask(s, rows))[0]).to.deep.equal(first)
      expect(await ask(s, sequences)).to.deep.equal([
        { sequencename: 'customer_id_seq', start_value: '1', increment_by: '1' },
        { sequencename: 'orders_id_seq', start_value: '5', increment_by: '2' },
        { sequencename: 'ticket', start_value: '100', increment_by: '1' },
      ])
      const app = { url: asApp(s) }
      await ask(app, 'INSERT INTO shop.orders (customer, n) SELECT 1, 1 FROM generate_series(1, 20)')
      await ask(app, "INSERT INTO shop.customer (name) VALUES ('new')")
      await ask(app, 'CREATE TABLE shop.later (id int)')
      expect(Number((await ask(app, "SELECT nextval('shop.ticket') AS n"))[0]?.['n'])).to.be.above(107)
    }
    const again = await cli(['uninstall', '--yes', '--json'], urls())
    expect(JSON.parse(again.out), again.err).to.containSubset({
      done: true,
      replicas: [{ state: 'plain already' }, { state: 'plain already' }, { state: 'plain already' }],
    })
  })

  it('uninstall refuses while a member is away, behind or in doubt; --force names who is left out', async () => {
    const pool = await used()
    await at(2).kill()
    await pool.query('DELETE FROM shop.log WHERE text IS NULL')
    await pool.end()
    const away = await cli(['uninstall', '--yes'], urls())
    expect([away.code, away.out]).to.deep.equal([1, ''])
    expect(away.err).to.include(`leave it out with --force ${placeOf(at(2))}`)
    await at(2).start()
    expect((await cli(['uninstall', '--yes'], urls())).err).to.match(
      /is behind by 1 changeset: run pg-quorum catch-up first/,
    )
    const [self] = await ask(at(0), 'SELECT cluster FROM quorum.self')
    const gid = `quorum_${String(self?.['cluster'])}_1_0123456789ab_1_${'0'.repeat(32)}`
    await ask(
      at(0),
      `BEGIN; SET LOCAL ROLE quorum_txn; INSERT INTO quorum.applied (gid) VALUES ('${gid}'); PREPARE TRANSACTION '${gid}'`,
    )
    expect((await cli(['uninstall', '--yes'], urls())).err).to.include(
      '1 transaction in doubt: run pg-quorum resolve first',
    )
    expect((await cli(['resolve'], urls())).code).to.equal(0)
    await at(2).kill()
    const forced = await cli(['uninstall', '--yes', '--force', placeOf(at(2))], urls())
    expect(forced.code, forced.err).to.equal(0)
    expect(forced.out.replace(/\s+/g, ' ')).to.include(`Left out: ${placeOf(at(2))}/postgres. Drop what is there`)
    for (const s of [at(0), at(1)]) expect(await ask(s, rest)).to.deep.equal([nothing])
  })

  it(`uninstall killed ${ROUNDS} times at random points: the same command completes it, or the cluster goes on`, async function () {
    this.timeout(ROUNDS * 60_000)
    const happened: string[] = []
    for (let round = 0; round < ROUNDS; round++) {
      await (await used()).end()
      const child = launch(['uninstall', '--yes'], urls().join(','))
      const end = ended(child)
      const phase = ['before', 'frozen', 'first gone'][round % 3]!
      await Promise.race([
        end,
        until(
          phase,
          20_000,
          async () =>
            phase === 'before' ||
            (
              await ask(
                at(phase === 'frozen' ? 1 : 0),
                phase === 'frozen'
                  ? "SELECT to_regclass('quorum.leaving') IS NOT NULL AS r"
                  : "SELECT to_regclass('quorum.self') IS NULL AS r",
              )
            )[0]?.['r'] === true,
        ),
      ])
      await new Promise((r) => setTimeout(r, Math.random() * (phase === 'before' ? 2500 : 60)))
      child.kill('SIGKILL')
      await end
      happened.push(
        `${phase}: ${(
          await Promise.all(
            servers.map((s) =>
              ask(s, 'SELECT building FROM quorum.self').then(
                (r) => (r[0]?.['building'] === true ? 'still' : 'member'),
                () => 'plain',
              ),
            ),
          )
        ).join(' ')}`,
      )
      const again = await cli(['uninstall', '--yes'], urls())
      expect(again.code, again.err + again.out).to.equal(0)
      const tickets = new Set(
        await Promise.all(
          servers.map(async (s) => (await ask({ url: asApp(s) }, "SELECT nextval('shop.ticket') AS n"))[0]?.['n']),
        ),
      )
      expect(
        [tickets.size, Number([...tickets][0]) > 107],
        'the same next number on all, above what was handed out',
      ).to.deep.equal([1, true])
      for (const s of servers) expect(await ask(s, rest)).to.deep.equal([nothing])
      await destroyAll(servers)
    }
    console.log(`      ${happened.join('\n      ')}`)
  })

  it('an adoption that is given up: the source is a plain database again', async () => {
    await start()
    await failure(
      adopt({
        urls: urls(),
        from: placeOf(at(0)),
        consent: () => Promise.resolve(true),
        tell: (line) => {
          if (line.includes('schema:')) throw new Error('stopped here')
        },
      }),
    )
    const up = await cli(['uninstall', '--yes'], urls())
    expect(up.code, up.err).to.equal(0)
    for (const s of servers) expect(await ask(s, rest)).to.deep.equal([nothing])
    await ask({ url: asApp(at(0)) }, 'INSERT INTO shop.orders (customer, n) VALUES (1, 1)')
  })
})
