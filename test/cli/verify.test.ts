/**
 * `pg-quorum verify` on real servers: no false alarm while writers write as fast as they can, and forty kinds of
 * damage, each planted on one server behind the driver, each named with its table, key or object and its replica,
 * and nothing else said. Controls: comparing the same checksums without an agreed point does raise false alarms
 * here, and each damage is clean again when it is taken back.
 */
import { expect } from 'chai'
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Pool } from '../../driver/index.ts'
import { mend } from '../../driver/repair/mend.ts'
import { verify, type Options, type Report } from '../../driver/repair/verify.ts'
import { Witness } from '../../driver/replica/witness.ts'
import { cluster, settled, until, type TestCluster } from '../cluster.ts'
import { ask, type TestServer } from '../servers.ts'
import { DAMAGE, fits, TABLES, type Damage } from './damage.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const ROUNDS = Number(process.env['VERIFY_ROUNDS'] ?? 10)

describe('verify', function () {
  let c: TestCluster
  let writers: { stop(): Promise<number> } | undefined
  const at = (i: number): TestServer => c.servers[i] ?? expect.fail(`no server ${i}`)
  const nameOf = (i: number): string => `127.0.0.1:${at(i).port}`
  const looking = async <T>(work: (w: Witness[]) => Promise<T>): Promise<T> => {
    const witnesses = c.urls.map((connectionString, i) => new Witness({ connectionString }, i))
    try {
      return await work(witnesses)
    } finally {
      await Promise.all(witnesses.map((w) => w.close()))
    }
  }
  const look = (options: Options = {}): Promise<Report> => looking((w) => verify(w, options))
  const cli = (...args: string[]): { status: number | null; stdout: string; stderr: string } =>
    spawnSync(process.execPath, ['--import', 'tsx', 'driver/cli/main.ts', 'verify', ...args], {
      cwd: ROOT,
      env: { ...process.env, PG_QUORUM_REPLICAS: c.urls.join(',') },
      encoding: 'utf8',
    })

  before(async () => {
    c = await cluster()
    const pool = c.pool()
    for (const text of TABLES) await pool.query(text)
    await pool.transaction({ locks: [{ row: 'accounts/70', mode: 'shared' }, 'accounts/71'] }, async (tx) => {
      await tx.query('SELECT * FROM accounts WHERE id = 70')
      await tx.query('UPDATE accounts SET balance = 1 WHERE id = 71')
    })
    await settled(c.servers)
    await pool.end()
  })
  after(async () => {
    await writers?.stop()
    await c.destroy()
  })

  it(`no false alarm in ${ROUNDS} runs under full write load; the same checksums without an agreed point differ`, async function () {
    this.timeout(60_000 + ROUNDS * 20_000)
    writers = write(c.pool({ max: 8 }), 8)
    let naive = 0
    for (let i = 0; i < ROUNDS; i++) {
      const report = await look()
      expect(report.findings, `run ${i}`).deep.equal([])
      const sums = await Promise.all(
        c.servers.map(async (s) =>
          JSON.stringify(await ask(s, "SELECT quorum.table_hash('accounts') a, quorum.table_hash('plain') p")),
        ),
      )
      naive += new Set(sums).size > 1 ? 1 : 0
    }
    const commits = await writers.stop()
    writers = undefined
    expect(commits).above(ROUNDS * 5)
    expect(naive, 'control').above(0)
    console.log(`      ${commits} commits meanwhile; without an agreed point ${naive} of ${ROUNDS} differ`)
  })

  it('no false alarm while tables are made, filled, changed, emptied and dropped (5 runs)', async () => {
    const pool = c.pool()
    let [on, statements] = [true, 0]
    const ddl = (async () => {
      for (let k = 0; on; k++) {
        for (const text of [
          `CREATE TABLE passing${k % 3} (id serial PRIMARY KEY, a int)`,
          `INSERT INTO passing${k % 3} (a) SELECT g FROM generate_series(1, 50) g`,
          `ALTER TABLE passing${k % 3} ADD b text DEFAULT 'b'`,
          `TRUNCATE passing${k % 3}`,
          `DROP TABLE passing${k % 3}`,
        ])
          await pool.query(text).then(
            () => statements++,
            () => undefined,
          )
      }
    })()
    try {
      for (let i = 0; i < 5; i++) expect((await look()).findings, `run ${i}`).deep.equal([])
    } finally {
      on = false
      await ddl
      for (const k of [0, 1, 2]) await pool.query(`DROP TABLE IF EXISTS passing${k}`)
      await pool.end()
    }
    expect(statements).above(5)
  })

  const busy = DAMAGE.filter((d) => !d.quiet)
  describe('while writers write', () => {
    before(() => {
      writers = write(c.pool({ max: 3 }), 2)
    })
    for (const d of busy) it(d.what, () => finds(d))
    it('a changed row in a stripe that is written all the time', async () => {
      const id = await twin(1)
      await writers?.stop()
      const pool = c.pool()
      await pool.query('INSERT INTO accounts VALUES ($1, 5)', [id])
      await until('there on all', 5000, async () =>
        (await Promise.all(c.servers.map((s) => ask(s, 'SELECT FROM accounts WHERE id = $1', [id])))).every(
          (r) => r.length === 1,
        ),
      )
      writers = write(pool, 3, [1])
      await finds({
        what: '',
        on: 2,
        says: [{ kind: 'row', key: `id=${id}` }],
        plant: (s) =>
          ask(s, `BEGIN; SET LOCAL quorum.bypass = 'on'; UPDATE accounts SET balance = 6 WHERE id = ${id}; COMMIT`),
        undo: async () => {
          const mended = await looking(async (w) =>
            mend(w, (await verify(w)).findings[0] ?? expect.fail('no finding'), 'test'),
          ) // under load, in a hot stripe
          expect(mended).containSubset([{ error: null, after: `(${id},5)` }])
        },
      })
    })
    it('ends although some stripes never stand still: their locks are held while the snapshots are opened', async () => {
      for (let i = 0; i < 3; i++) {
        const report = await look({ free_looks: 0 })
        expect(report.findings).deep.equal([])
      }
    })
    after(async () => {
      await writers?.stop()
      writers = undefined
    })
  })

  describe('while nobody writes', () => {
    before(() => settled(c.servers, 20_000))
    for (const d of DAMAGE.filter((x) => x.quiet)) it(d.what, () => finds(d))

    it('no majority: three replicas, three values', async () => {
      const change = (s: TestServer, v: number): Promise<unknown> =>
        ask(s, `BEGIN; SET LOCAL quorum.bypass = 'on'; UPDATE accounts SET balance = ${v} WHERE id = 66; COMMIT`)
      await Promise.all([change(at(1), 1), change(at(2), 2)])
      const report = await look()
      expect(report.findings).containSubset([
        { kind: 'row', key: 'id=66', replicas: [], says: 'differs, and no majority agrees on it' },
      ])
      expect(cli('--repair', '--yes').stdout)
        .contain('There is no row that a majority could put right')
        .and.contain('no majority')
      await Promise.all([change(at(1), 1000), change(at(2), 1000)])
    })

    it('the command: names it in words and in JSON, repairs with consent, writes down what was there', async () => {
      await ask(
        at(2),
        "BEGIN; SET LOCAL quorum.bypass = 'on'; UPDATE accounts SET balance = 7 WHERE id = 90; DELETE FROM accounts WHERE id = 91; INSERT INTO accounts VALUES (-1, 3); COMMIT",
      )
      const [chains, plain, refused, json] = [cli('--chains'), cli(), cli('--repair'), cli('--json')]
      expect([chains.status, chains.stdout], chains.stderr).deep.equal([
        0,
        chains.stdout.match(/^Same histories: \d+ stripes, 3 replicas, [\d.]+ s\. Rows were not looked at\.\n$/)?.[0],
      ])
      expect(plain.stdout, plain.stderr)
        .contain(
          `public.accounts id=90: is another one on ${nameOf(2)}\n    balance: 1000 on ${nameOf(0)}, ${nameOf(1)}\n             7 on ${nameOf(2)}\n`,
        )
        .and.contain('id=91: is missing on')
        .and.contain('id=-1: is there only on')
        .and.contain(`Different: 3 rows, on ${nameOf(2)}.`)
        .and.contain('To put it right: pg-quorum verify --repair')
      expect([plain.status, refused.status, json.status]).deep.equal([1, 2, 1])
      expect(JSON.parse(json.stdout)).containSubset({
        same: false,
        findings: [{ kind: 'row', object: 'public.accounts', replicas: [nameOf(2)] }],
      })
      expect(cli('--rows', '1').stdout).contain('more rows public.accounts: differ too: 2; --rows names more')
      expect(await ask(at(2), 'SELECT balance FROM accounts WHERE id = 90')).deep.equal([{ balance: '7' }])
      const repaired = cli('--repair', '--yes')
      expect(
        [repaired.status, repaired.stdout.match(/put right, and read again/g)?.length],
        repaired.stdout + repaired.stderr,
      ).deep.equal([0, 3])
      const [clean] = [cli()]
      expect([clean.status, /^Same: \d+ rows in 4 tables, 3 replicas/.test(clean.stdout)], clean.stdout).deep.equal([
        0,
        true,
      ])
      expect(
        await ask(
          at(2),
          "SELECT t, key, before, after, by LIKE '%--repair' AS by FROM quorum.repair WHERE key[1] <> (SELECT id::text FROM accounts WHERE balance = 5) ORDER BY key",
        ),
      ).deep.equal([
        { t: 'public.accounts', key: ['-1'], before: '(-1,3)', after: null, by: true },
        { t: 'public.accounts', key: ['90'], before: '(90,7)', after: '(90,1000)', by: true },
        { t: 'public.accounts', key: ['91'], before: null, after: '(91,1000)', by: true },
      ])
    })

    it('a replica that is down is told, the others are compared; one that is behind is told', async () => {
      await at(2).kill()
      const pool = c.pool()
      await pool.query('UPDATE accounts SET balance = 999 WHERE id = 92')
      await pool.end()
      const down = await look()
      expect([down.same, down.findings.map((f) => [f.kind, f.object])]).deep.equal([false, [['replica', nameOf(2)]]])
      await at(2).start()
      const back = await look()
      expect(back.findings.map((f) => [f.kind, f.object, f.replicas])).deep.equal([
        ['behind', 'public.accounts', [nameOf(2)]],
      ])
    })
  })

  async function finds(d: Damage): Promise<void> {
    await d.plant(at(d.on))
    try {
      const { findings } = await look()
      for (const says of d.says)
        expect(
          findings.some((f) => fits(f, says, nameOf(d.on))),
          `${d.what}: ${JSON.stringify(findings, null, 1)}`,
        ).equal(true)
      expect(
        findings.filter((f) => !d.says.some((says) => fits(f, says, nameOf(d.on))) && !d.also?.includes(f.kind)),
        'nothing else',
      ).deep.equal([])
    } finally {
      await d.undo(at(d.on))
    }
    expect((await look()).findings, 'control: clean again').deep.equal([])
  }

  /** An id whose row shares the stripe of this one. */
  async function twin(id: number): Promise<number> {
    return Number(
      (
        await ask(
          at(0),
          'SELECT min(g) AS g FROM generate_series(1000, 99999) g WHERE quorum.stripe_of(ARRAY[g::text]::text) = quorum.stripe_of(ARRAY[$1::int::text]::text)',
          [id],
        )
      )[0]?.['g'],
    )
  }
})

/** As fast as they can: a few hot rows, fresh rows, a table without a key. stop() says how many commits. */
function write(pool: Pool, clients: number, ids = [1, 2, 3, 4]): { stop(): Promise<number> } {
  let [on, commits] = [true, 0]
  const loops = Array.from({ length: clients }, async (_, i) => {
    for (let k = 0; on; k++) {
      const id = ids[(i + k) % ids.length] ?? 1
      const keyless = k % 5 === 0 // such a table is locked whole
      await pool
        .transaction(
          { locks: [`accounts/${id}`, `accounts/${1e6 + i}`, ...(keyless ? ['plain'] : [])] },
          async (tx) => {
            await tx.query('UPDATE accounts SET balance = balance + 1 WHERE id = $1', [id])
            await tx.query('INSERT INTO accounts VALUES ($1, 1) ON CONFLICT (id) DO UPDATE SET balance = 2', [1e6 + i])
            if (keyless) await tx.query("INSERT INTO plain VALUES (8, 'w')")
          },
        )
        .then(
          () => commits++,
          () => undefined,
        )
    }
  })
  return {
    async stop() {
      on = false
      await Promise.all(loops)
      await until('writers at rest', 5000, () => Promise.resolve(pool.waitingCount === 0))
      await pool.end()
      return commits
    },
  }
}
