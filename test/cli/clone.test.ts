/**
 * `pg-quorum clone` as an operator meets it: what it refuses and what it says, a member wiped by name, and
 * interruptions at random points. PG_QUORUM_ROUNDS: how many of the last; default 12, each kind in each phase.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { cloneReplica } from '../../driver/cli/building.ts'
import { Pool } from '../../driver/index.ts'
import { init } from '../../driver/schema/install.ts'
import { bank, failure, settled, until, type TestCluster } from '../cluster.ts'
import { ask, destroyAll, threeServers, type TestServer } from '../servers.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const ROUNDS = Number(process.env['PG_QUORUM_ROUNDS'] ?? 12)
interface Ended {
  code: number | null
  out: string
  err: string
}

function launch(args: readonly string[], urls: readonly string[]): { child: ChildProcess; end: Promise<Ended> } {
  const child = spawn(process.execPath, ['--import', 'tsx', 'driver/cli/main.ts', ...args], {
    cwd: ROOT,
    env: { ...process.env, PG_QUORUM_REPLICAS: urls.join(',') },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let [out, err] = ['', '']
  child.stdout.on('data', (d: Buffer) => (out += d.toString()))
  child.stderr.on('data', (d: Buffer) => (err += d.toString()))
  return { child, end: new Promise((resolve) => child.once('close', (code) => resolve({ code, out, err }))) }
}
const placeOf = (s: TestServer): string => new URL(s.url).host

describe('pg-quorum clone', function () {
  this.timeout(300_000)
  let c: TestCluster
  let spare: TestServer[] = []
  let pool: Pool
  const at = (i: number): TestServer => c.servers[i] ?? expect.fail(`no server ${i}`)
  const empty = (i: number): TestServer => spare[i] ?? expect.fail(`no spare server ${i}`)
  before(async () => {
    // The last two of five templates: system identifiers that no member has.
    const all = await threeServers({}, 5)
    spare = all.slice(3)
    const servers = all.slice(0, 3)
    await init(
      servers.map((s) => ({ connectionString: s.url })),
      servers.map((s) => s.url),
    )
    c = {
      servers,
      urls: servers.map((s) => s.url),
      pool: (o = {}) => new Pool({ replicas: servers.map((s) => s.url), max: 5, ...o }),
      destroy: () => destroyAll(servers),
    }
    pool = c.pool()
    await bank(pool)
    await pool.query('CREATE SCHEMA sales')
    await pool.query(
      'CREATE TABLE sales.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account int REFERENCES accounts ON DELETE CASCADE, items jsonb)',
    )
    await pool.query('CREATE VIEW sales.big AS SELECT * FROM sales.orders WHERE account > 5')
    await pool.query('CREATE INDEX ON sales.orders (account)')
    await pool.query(
      "INSERT INTO sales.orders (account, items) SELECT 1 + g % 10, jsonb_build_object('n', g) FROM generate_series(1, 2000) g",
    )
    await settled(c.servers)
  })
  after(async () => {
    await pool.end()
    await Promise.all([c.destroy(), destroyAll(spare)])
  })

  it('refuses a member that takes part, a name that is not its own, and says before what would be dropped', async () => {
    const refused = await failure(cloneReplica({ urls: c.urls, which: '3' }))
    expect(refused.message).to.match(
      /is member 3 of this cluster and takes part: look with --dry-run .* then give --wipe 127\.0\.0\.1:\d+$/,
    )
    expect((await failure(cloneReplica({ urls: c.urls, which: '3', wipe: placeOf(at(1)) }))).message).to.include(
      'nothing was done',
    )
    const dry = await launch(['clone', '3', '--dry-run'], c.urls).end
    expect(dry.out, dry.err).to.match(
      /would be built from 127.*\n {2}schema public: 1 table \(public\.accounts\), .*\n {2}schema sales: 1 table \(sales\.orders\)/,
    )
    expect(await ask(at(2), 'SELECT building FROM quorum.self')).to.deep.equal([{ building: false }])
    await settled(c.servers)
  })

  it('refuses a server with tables of its own, another cluster’s member, the source itself, and too few others', async () => {
    const urls = [at(0).url, at(1).url, empty(0).url]
    await ask(empty(0), 'CREATE TABLE mine (x int)')
    await ask(empty(0), 'INSERT INTO mine VALUES (1)')
    expect((await failure(cloneReplica({ urls, which: placeOf(empty(0)) }))).message).to.include(
      'is not empty (schema public: 1 table)',
    )
    expect(await ask(empty(0), 'SELECT * FROM mine')).to.deep.equal([{ x: 1 }])
    await ask(empty(0), 'DROP TABLE mine')
    const alone = await failure(
      cloneReplica({ urls: [at(0).url, empty(0).url, empty(1).url], which: placeOf(empty(0)) }),
    )
    expect(alone.message).to.match(/1 other replica can be used, 2 are needed to build one/)
    const twice = await failure(
      cloneReplica({
        urls: [at(0).url, at(1).url, at(0).url.replace('127.0.0.1', 'localhost')],
        which: placeOf(at(0)).replace('127.0.0.1', 'localhost'),
        wipe: placeOf(at(0)).replace('127.0.0.1', 'localhost'),
      }),
    )
    expect(twice.message).to.match(/system identifier|takes part|answers already|can be used/)
    await init([{ connectionString: empty(1).url }], ['x'])
    const foreign = await failure(
      cloneReplica({ urls: [at(0).url, at(1).url, empty(1).url], which: placeOf(empty(1)), wipe: placeOf(empty(1)) }),
    )
    expect(foreign.message).to.include('belongs to another cluster')
    await settled(c.servers)
  })

  it('a member that holds what nobody else has is not wiped, and stays what it was', async () => {
    await ask(
      at(2),
      "INSERT INTO quorum.applied (gid) VALUES ('only here'); INSERT INTO quorum.stripe VALUES ('@x', 0, 1, 1); INSERT INTO quorum.history VALUES ('@x', 0, 1, 'only here')",
    )
    const refused = await failure(cloneReplica({ urls: c.urls, which: '3', wipe: placeOf(at(2)) }))
    expect(refused.message).to.include('holds 1 changeset that none of the others has')
    expect(await ask(at(2), 'SELECT building FROM quorum.self')).to.deep.equal([{ building: false }])
    await ask(
      at(2),
      "DELETE FROM quorum.applied WHERE gid = 'only here'; DELETE FROM quorum.stripe WHERE t = '@x'; DELETE FROM quorum.history WHERE t = '@x'",
    )
    await settled(c.servers)
  })

  it('wiped by name while clients write: they go on, and it becomes equal to the others', async () => {
    await ask(
      at(2),
      'SET session_replication_role = replica; DELETE FROM sales.orders WHERE id % 2 = 0; DROP VIEW sales.big',
    )
    const writers = writing(pool)
    const done = await launch(['clone', '3', '--wipe', placeOf(at(2))], c.urls).end
    expect(done.out, done.err).to.match(
      /emptied, installed as member 3, under construction\n.*schema: by .*\n(.*\n)*.*built from .*: \d+ rows in .*; it votes again\n$/,
    )
    expect(await writers.end()).to.be.greaterThan(0)
    await settled(c.servers)
    expect(await ask(at(2), 'SELECT count(*)::int AS n FROM sales.big')).to.deep.equal(
      await ask(at(0), 'SELECT count(*)::int AS n FROM sales.big'),
    )
  })

  it(`${ROUNDS} interruptions at random points, of the command, the source and the target: the same command ends well`, async function () {
    this.timeout(ROUNDS * 90_000)
    const happened: string[] = []
    for (let round = 0; round < ROUNDS; round++) {
      const writers = writing(pool)
      const args = ['clone', '3', '--wipe', placeOf(at(2)), '--from', placeOf(at(1))]
      const { child, end } = launch(args, c.urls)
      const kind = ['Ctrl-C', 'kill -9', 'source', 'target'][round % 4]!
      // In each phase, and there at any moment: how far it is says the target itself.
      const phase = PHASES[Math.floor(round / 4) % PHASES.length]!
      await Promise.race([
        end,
        until(
          phase,
          60_000,
          async () =>
            PHASES.indexOf(phaseOf((await ask(at(2), 'SELECT building, copy FROM quorum.self'))[0])) >=
            PHASES.indexOf(phase),
        ),
      ])
      await new Promise((r) => setTimeout(r, Math.random() * 600))
      if (kind === 'Ctrl-C') child.kill('SIGINT')
      if (kind === 'kill -9') child.kill('SIGKILL')
      const victim = kind === 'source' ? at(1) : kind === 'target' ? at(2) : undefined
      await victim?.kill()
      await Promise.race([end, new Promise((r) => setTimeout(r, 3000))]) // without W others it waits, up to two minutes
      await victim?.start()
      const first = await end
      const [self] = await ask(at(2), 'SELECT building, copy FROM quorum.self')
      const from = performance.now()
      let [last, tries] = [first, 0]
      await until('the same command ends well', 60_000, async () => {
        tries++
        last = await launch(args, c.urls).end
        if (process.env['PG_QUORUM_LOUD']) console.log(kind, phase, Math.round(performance.now() - from), last)
        return last.code === 0
      }).catch((error: unknown) =>
        expect.fail(`${String(error)} ${last.err} ${last.out} after ${kind} ${JSON.stringify(first)}`),
      )
      happened.push(
        `${kind} (${phase}), exit ${first.code}, then ${JSON.stringify(self)}: ${tries} more in ${((performance.now() - from) / 1000).toFixed(1)} s`,
      )
      await writers.end()
      await settled(c.servers, 20_000)
      expect(await ask(at(2), 'SELECT building, copy FROM quorum.self')).to.deep.equal([
        { building: false, copy: null },
      ])
    }
    console.log(`      ${happened.join('\n      ')}`)
  })
})

const PHASES = ['under construction', 'copying', 'catching up']
const phaseOf = (self: Record<string, unknown> | undefined): string =>
  self?.['copy'] === 'complete'
    ? 'catching up'
    : self?.['copy'] === 'begun'
      ? 'copying'
      : self?.['building'] === true
        ? 'under construction'
        : ''

/** Four clients that write until the end; conflicts and lost leads are theirs to repeat. */
function writing(pool: Pool): { end(): Promise<number> } {
  let on = true
  let written = 0
  const all = [1, 2, 3, 4].map(async (account) => {
    while (on) {
      await pool.query("INSERT INTO sales.orders (account, items) VALUES ($1, '{}')", [account]).then(
        () => written++,
        () => undefined,
      )
      await new Promise((r) => setTimeout(r, 20))
    }
  })
  return {
    end: async () => {
      on = false
      await Promise.all(all)
      return written
    },
  }
}
