/**
 * `status` and where it gets its replicas from: each state planted on a real server, named, and counted rightly; a
 * live picture that ends at once.
 */
import { expect } from 'chai'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ask, type TestServer } from '../servers.ts'
import { cluster, settled, until, type TestCluster } from '../cluster.ts'
import { fitted } from '../../driver/cli/terminal.ts'
import { cli, ended, flat, launch } from '../command.ts'

describe('status', () => {
  let c: TestCluster
  const at = (i: number): TestServer => c.servers[i] ?? expect.fail(`no server ${i}`)
  const FINE = 'Can write: yes. Can read: yes. Can bear 1 more loss.\n3 of 3 usable, 2 needed.'
  const FEWER = 'Can write: yes. Can read: yes. Can bear no further loss.\n2 of 3 usable, 2 needed.'

  before(async function () {
    this.timeout(60_000)
    c = await cluster()
    const pool = c.pool()
    await pool.query('CREATE TABLE things (id int PRIMARY KEY)')
    await pool.query('INSERT INTO things VALUES (1)')
    await settled(c.servers)
    await pool.end()
  })
  after(() => c.destroy())

  it('control: all fine', async () => {
    const r = await cli(['status'], c.urls)
    expect(
      [
        r.code,
        r.out.match(
          /member \d {2}current\n {2}PostgreSQL \d+\.\d+, log \d+ kB \(2 changesets\), 0 of 64 prepared, clock [+-]\d+ ms\n/g,
        )?.length,
        r.out.includes(FINE),
      ],
      r.out,
    ).deep.equal([0, 3, true])
  })

  const planted: [what: string, plant: string, undo: string, says: RegExp][] = [
    [
      'a clone that is being made',
      'ALTER TABLE quorum.self ADD COLUMN IF NOT EXISTS building boolean DEFAULT false; UPDATE quorum.self SET building = true',
      'UPDATE quorum.self SET building = false',
      /member 3 {2}building: it takes no part before `pg-quorum clone` has built it/,
    ],
    [
      'a copy',
      "UPDATE quorum.self SET system_identifier = '1'",
      'UPDATE quorum.self SET system_identifier = (SELECT system_identifier::text FROM pg_control_system())',
      /member 3 {2}copy: it is a copy or a restored dump/,
    ],
    [
      'a stranger',
      "UPDATE quorum.self SET cluster = 'x' || cluster",
      'UPDATE quorum.self SET cluster = substr(cluster, 2)',
      /member 3 {2}foreign: it belongs to another cluster/,
    ],
    [
      'another history',
      'UPDATE quorum.stripe SET chain = chain + 1',
      'UPDATE quorum.stripe SET chain = chain - 1',
      /member 3 {2}diverged: its history differs/,
    ],
    [
      'an empty one',
      'ALTER SCHEMA quorum RENAME TO elsewhere',
      'ALTER SCHEMA elsewhere RENAME TO quorum',
      /- {9}empty: nothing of pg-quorum is here: run `pg-quorum clone` for it/,
    ],
  ]
  for (const [what, plant, undo, says] of planted) {
    it(`${what} is named, and not counted`, async () => {
      await ask(at(2), plant)
      try {
        const r = await cli(['status'], c.urls)
        expect(flat(r), r.err).match(says).and.contain(FEWER)
      } finally {
        await ask(at(2), undo)
      }
      expect((await cli(['status'], c.urls)).out).contain(FINE)
    })
  }

  it('a standby is named, and not counted', async () => {
    const [d] = await ask(at(2), "SELECT current_setting('data_directory') AS dir")
    await at(2).stop()
    writeFileSync(join(String(d?.['dir']), 'standby.signal'), '')
    await at(2).start()
    const r = await cli(['status'], c.urls)
    await at(2).stop()
    rmSync(join(String(d?.['dir']), 'standby.signal'), { force: true })
    await at(2).start()
    expect(flat(r))
      .match(/member 3 {2}recovering: it is a standby/)
      .and.contain(FEWER)
  })

  it('who has no prepared slot left reads, but does not write', async () => {
    for (let i = 0; i < 64; i++)
      for (const s of [at(1), at(2)])
        await ask(s, `BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'filler ${i}'`)
    const r = await cli(['status'], c.urls)
    for (let i = 0; i < 64; i++) for (const s of [at(1), at(2)]) await ask(s, `ROLLBACK PREPARED 'filler ${i}'`)
    expect(r.code).equal(1)
    expect(flat(r))
      .match(/member 3 {2}current; takes no writes: all 64 prepared slots are taken/)
      .and.contain("64 of 64 prepared (64 not pg-quorum's)")
      .and.contain('Can write: NO. Can read: yes. Too few of them take writes.')
  })

  it('a clock that is five seconds ahead is shown, by the answers less their way', async () => {
    const clock = (s: string): Promise<unknown> => ask(at(1), `SET allow_system_table_mods = on; ${s}`)
    await clock(
      "ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO true_clock; CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$ SELECT pg_catalog.true_clock() + interval '5 seconds' $$",
    )
    const r = await cli(['status', '--json'], c.urls)
    await clock(
      'DROP FUNCTION pg_catalog.clock_timestamp(); ALTER FUNCTION pg_catalog.true_clock() RENAME TO clock_timestamp',
    )
    const found = JSON.parse(r.out) as {
      clock_spread_ms: number
      replicas: { facts: { clock_offset_ms: number; clock_error_ms: number } }[]
    }
    const [a, b] = found.replicas.map((x) => x.facts)
    expect(b!.clock_offset_ms - a!.clock_offset_ms).closeTo(5000, a!.clock_error_ms + b!.clock_error_ms + 2)
    expect(found.clock_spread_ms).closeTo(5000, 500)
  })

  it('--watch appends in a pipe, follows what happens, and ends at once on Ctrl-C', async () => {
    const child = launch(['status', '--watch', '1'], c.urls.join(','))
    const end = ended(child)
    let text = ''
    child.stdout?.on('data', (d: Buffer) => (text += d.toString()))
    await until('a first picture', 15_000, async () => text.includes(FINE))
    await at(2).kill()
    await until('the loss is seen', 15_000, async () => text.includes(FEWER))
    await at(2).start()
    await until('it is back', 15_000, async () => text.lastIndexOf(FINE) > text.indexOf(FEWER))
    const from = performance.now()
    child.kill('SIGINT')
    expect((await end).code).equal(130)
    expect(performance.now() - from).below(1000)
    expect(text)
      .match(/^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}\n/)
      .and.not.contain('\x1b')
  })

  it('lines are broken to the width of the terminal, and no word is lost', () => {
    const line =
      '127.0.0.1:5432/postgres  member 3  too far behind: the log of 127.0.0.1:5433 no longer reaches back to it; it needs a clone'
    for (const width of [30, 40, 80]) {
      const lines = fitted(line, 4, width)
      expect(Math.max(...lines.map((l) => l.length)), lines.join('\n')).most(width)
      expect(lines.join(' ').split(/\s+/)).deep.equal(line.split(/\s+/))
    }
    expect(fitted('short', 4, 30)).deep.equal(['short'])
  })

  describe('replicas from a file', () => {
    const dir = mkdtempSync(join(tmpdir(), 'pg-quorum-config-'))
    after(() => rmSync(dir, { recursive: true }))
    const put = (document: unknown, name = 'pg-quorum.json'): void =>
      writeFileSync(join(dir, name), typeof document === 'string' ? document : JSON.stringify(document))
    const here = (args: string[], replicas = '') => ended(launch(args, replicas, dir))

    it("the working directory's is found; --replicas and PG_QUORUM_REPLICAS come before it, --config before the environment", async () => {
      put({ replicas: c.urls, keep: { days: 30 } })
      put({ replicas: ['postgres://127.0.0.1:1/one'] }, 'one.json')
      const [found, option, environment, file] = await Promise.all([
        here(['status']),
        here(['status', '-r', 'postgres://127.0.0.1:1/two']),
        here(['status'], 'postgres://127.0.0.1:1/three'),
        here(['status', '--config', 'one.json'], c.urls.join(',')),
      ])
      expect(found.out, found.err).contain(FINE)
      expect(
        [option.out.includes(':1/two'), environment.out.includes(':1/three'), file.out.includes(':1/one')],
        option.err + environment.err + file.err,
      ).deep.equal([true, true, true])
      expect(JSON.parse((await here(['prune', '--json', '--dry-run'])).out)).containSubset({ keep: { days: 30 } })
    })

    it('what is wrong with it is one sentence, and never shows what is in it', async () => {
      const wrong: [unknown, RegExp][] = [
        ['{ "replicas": "s3cret', /is not valid JSON/],
        [[1], /must hold one JSON object/],
        [{ urls: [] }, /unknown key "urls"; there are replicas and keep/],
        [{ replicas: 's3cret' }, /a list of urls/],
        [{ keep: 3 }, /must give keep as/],
      ]
      for (const [document, says] of wrong) {
        put(document, 'wrong.json')
        const r = await here(['status', '--config', 'wrong.json'])
        expect(
          [r.code, r.out, /^pg-quorum: wrong\.json [^\n]+\n$/.test(r.err), r.err.includes('s3cret')],
          r.err,
        ).deep.equal([2, '', true, false])
        expect(r.err).match(says)
      }
      expect((await here(['status', '--config', 'nowhere.json'])).err).contain(
        'nowhere.json cannot be read: there is no such file',
      )
    })
  })
})
