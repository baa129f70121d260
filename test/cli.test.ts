/**
 * The command line as people and scripts meet it: real child processes, real servers, their output and their exit
 * codes. Held here: every command ends promptly whatever is down, an error is one sentence, --json is one document,
 * and no password is ever shown.
 */
import { expect } from 'chai'
import { existsSync } from 'node:fs'
import { Pool } from '../driver/index.ts'
import { ended, launch, type Ended } from './command.ts'
import { ask, destroyAll, listens, threeServers, type TestServer } from './servers.ts'

describe('the command line', function () {
  let servers: TestServer[] = []
  let urls = ''
  const cli = (args: string[], replicas = urls): Promise<Ended> => ended(launch(args, replicas))
  const at = (i: number): TestServer => servers[i] ?? expect.fail(`no server ${i}`)
  /** One sentence on stderr, nothing on stdout. */
  const plain = (r: Ended, code = 1): void => {
    expect([r.code, r.out], r.err).deep.equal([code, ''])
    expect(r.err).match(/^(pg-quorum|error): [^\n]+\n$/)
  }

  before(async function () {
    this.timeout(60_000)
    servers = await threeServers()
    urls = servers.map((s) => s.url).join(',')
  })
  after(() => destroyAll(servers))

  it('wrong usage is exit code 2 and one sentence: no urls, bad urls, unknown command, option or replica', async () => {
    const [none, bad, twice, unknown, option, nothing] = await Promise.all([
      cli(['status'], ''),
      cli(['init', 'localhost:s3cret@x'], ''),
      cli(['status', '-r', `${at(0).url},${at(0).url}`]),
      cli(['frobnicate']),
      cli(['dev', '-n', 'many']),
      cli([]),
    ])
    for (const r of [none, bad, twice, unknown, option]) plain(r, 2)
    expect(none.err).contain('PG_QUORUM_REPLICAS')
    expect(bad.err).contain('postgres://').and.not.contain('s3cret')
    expect(unknown.err).contain("unknown command 'frobnicate'")
    expect(nothing.err).contain('Usage: pg-quorum')
  })

  it('--help of every command has an example and the exit codes, within 80 columns', async () => {
    for (const r of await Promise.all(
      [
        [],
        ['init'],
        ['status'],
        ['catch-up'],
        ['verify'],
        ['clone'],
        ['resolve'],
        ['prune'],
        ['doctor'],
        ['dev'],
        ['uninstall'],
      ].map((c) => cli([...c, '--help'])),
    )) {
      expect(r.code).equal(0)
      expect(r.out).contain('Example:').and.contain('Exit codes: 0 fine').and.contain('130 interrupted')
      expect(Math.max(...r.out.split('\n').map((l) => l.length))).most(80)
    }
  })

  it('init makes a cluster; status before says what is missing; a second init changes nothing', async () => {
    const early = await cli(['status'])
    expect(
      [early.code, early.out.match(/empty: not initialised: run `pg-quorum init`/g)?.length],
      early.out,
    ).deep.equal([1, 3])
    const first = await cli(['init'])
    expect(first.out, first.err).match(
      /member 1 {2}initialised\n.*member 2 {2}initialised\n.*member 3 {2}initialised\nCluster \w+ of 3 replicas/,
    )
    const before = await ask(at(0), 'SELECT * FROM quorum.self')
    const second = await cli(['init', '--json', ...servers.map((s) => s.url)], '')
    expect(JSON.parse(second.out), second.err).containSubset({
      members: [{ created: false }, { created: false }, { created: false }],
    })
    expect(await ask(at(0), 'SELECT * FROM quorum.self')).deep.equal(before)
  })

  it('status: all up; a server that is none, and a refused login, are named without the password', async () => {
    const login = at(0).url.replace('postgres@', 'nobody:s3cret@')
    const [good, json, wrong] = await Promise.all([
      cli(['status']),
      cli(['status', '--json']),
      cli(['status', '-r', `${login},${at(1).url},postgres://u:s3cret@127.0.0.1:1/x`]),
    ])
    expect(good.out, good.err).match(
      /(.*member \d {2}current\n {2}PostgreSQL [\d.]+, log [\d.]+ kB \(0 changesets\), 0 of 64 prepared, clock [+-]\d+ ms\n){3}Can write: yes. Can read: yes. Can bear 1 more loss\.\n3 of 3 usable, 2 needed. Clocks differ by \d+ ms\.\n$/,
    )
    expect(Math.max(...[good, wrong].flatMap((r) => r.out.split('\n').map((l) => l.length)))).most(80)
    expect(JSON.parse(json.out)).containSubset({
      writable: true,
      readable: true,
      spare: 1,
      replicas: [{ state: 'current' }, { state: 'current' }, { state: 'current' }],
    })
    expect(wrong.out)
      .contain('role "nobody" does not exist')
      .and.contain('127.0.0.1:1/x')
      .and.contain('nothing listens there')
      .and.contain('Can write: NO. Can read: NO.')
    expect([wrong.code, /s3cret/.test(wrong.out + wrong.err)]).deep.equal([1, false])
  })

  it('resolve: says what the evidence decides, then finishes it', async () => {
    const [self] = await ask(at(0), 'SELECT cluster FROM quorum.self')
    const gid = `quorum_${String(self?.['cluster'])}_1_0123456789ab_1_${'0'.repeat(32)}`
    for (const s of [at(0), at(1)])
      await ask(
        s,
        `BEGIN; SET LOCAL ROLE quorum_txn; INSERT INTO quorum.applied (gid) VALUES ('${gid}'); PREPARE TRANSACTION '${gid}'`,
      )
    const dry = await cli(['resolve', '--dry-run'])
    expect(dry.out, dry.err)
      .contain('owner gone, prepared on 2 of 3')
      .and.contain('a ballot would')
      .and.contain('nothing was changed')
    expect(await ask(at(0), 'SELECT gid FROM pg_prepared_xacts')).deep.equal([{ gid }])
    expect((await cli(['status'])).out.match(/1 in doubt \(oldest \d+ s\)/g)?.length).equal(2)
    const real = await cli(['resolve', '--json'])
    expect(JSON.parse(real.out), real.err).containSubset({ transactions: [{ gid, resolution: 'commit' }] })
    for (const s of servers.slice(0, 2))
      expect(
        await ask(
          s,
          `SELECT a.gid, p.gid AS open FROM quorum.applied a LEFT JOIN pg_prepared_xacts p ON true WHERE a.gid = '${gid}'`,
        ),
      ).deep.equal([{ gid, open: null }])
    expect((await cli(['resolve'])).out).equal('No transaction is in doubt.\n')
  })

  it('one killed: status says so and exits 0; back again, catch-up brings it what it missed', async () => {
    const pool = new Pool({ replicas: servers.map((s) => s.url) })
    try {
      await pool.query('CREATE TABLE cli_rows (id int PRIMARY KEY)')
      await at(2).kill()
      for (let i = 0; i < 5; i++) await pool.query('INSERT INTO cli_rows VALUES ($1)', [i])
    } finally {
      await pool.end()
    }
    const [status, early] = await Promise.all([cli(['status']), cli(['catch-up', `127.0.0.1:${at(2).port}`])])
    expect(status.code, status.out).equal(0)
    expect(status.out)
      .contain('unreachable: nothing listens there')
      .and.contain('Can bear no further loss.\n2 of 3 usable, 2 needed.')
    plain(early)
    await at(2).start()
    expect((await cli(['status'])).out).match(/member 3 {2}behind by [1-9]\d* changesets?/)
    const caught = await cli(['catch-up'])
    expect(caught.out, caught.err).match(/current, [1-9]\d* changesets? brought over/)
    expect((await ask(at(2), 'SELECT count(*)::int AS n FROM cli_rows'))[0]).deep.equal({ n: 5 })
    const [again, elsewhere] = await Promise.all([cli(['catch-up', '3']), cli(['catch-up', 'elsewhere'])])
    expect([again.out.includes('current, 0 changesets brought over'), elsewhere.code], again.out).deep.equal([true, 2])
  })

  it('frozen or killed: every command still ends, with 1 when writes are impossible', async () => {
    await Promise.all([at(1).kill(), at(2).freeze()])
    const frozen = await cli(['status'])
    expect([frozen.code, frozen.ms < 6000, frozen.out.includes('no answer in time')], frozen.out).deep.equal([
      1,
      true,
      true,
    ])
    await Promise.all([at(0).kill(), at(2).kill()])
    const all = await Promise.all([
      cli(['status', '--json']),
      cli(['init']),
      cli(['resolve']),
      cli(['catch-up', '--json']),
    ])
    for (const r of all) expect([r.code, r.ms < 6000], r.err).deep.equal([1, true])
    expect([JSON.parse(all[0].out), JSON.parse(all[3].out)]).containSubset([{ writable: false }, { exit_code: 1 }])
    for (const r of [all[1], all[2]]) plain(r)
  })

  it('max_prepared_transactions = 0: init says what to change', async () => {
    const [without] = await threeServers({ settings: { max_prepared_transactions: 0 } }, 1)
    const r = await cli(['init', without?.url ?? '']).finally(() => without?.destroy())
    expect(r.err)
      .contain('max_prepared_transactions is 0')
      .and.contain('`max_prepared_transactions = 100`')
      .and.contain('postgresql.conf')
    plain(r)
  })

  it('dev: prints urls that work, and after Ctrl-C nothing is left', async () => {
    const child = launch(['dev', '-n', '2'], '')
    const end = ended(child)
    let text = ''
    await new Promise<void>((resolve) => {
      child
        .once('close', resolve)
        .stdout?.on('data', (d: Buffer) => (text += d.toString()).includes('Ctrl-C') && resolve())
    })
    const line = /^export PG_QUORUM_REPLICAS=(\S+)$/m.exec(text)?.[1] ?? ''
    const ports = line.split(',').map((u) => Number(new URL(u).port))
    expect(text).contain("import { Pool } from 'pg-quorum'")
    const [one] = await ask(
      { url: line.split(',')[0] ?? '' },
      "SELECT current_setting('data_directory') AS dir FROM quorum.self WHERE members = 2",
    )
    expect(one).property('dir')
    child.kill('SIGINT')
    expect((await end).code).equal(130)
    expect([...(await Promise.all(ports.map(listens))), existsSync(String(one?.['dir']))]).deep.equal([
      false,
      false,
      false,
    ])
  })
})
