/**
 * `doctor`: each finding planted on a real server, named with its cure; the control is the same cluster before and
 * after, without a word.
 */
import { expect } from 'chai'
import pg from 'pg'
import { ask, destroyAll, threeServers, type TestServer } from '../servers.ts'
import { cluster, PLAIN, settled, type TestCluster } from '../cluster.ts'
import { cli, type Ended } from '../command.ts'

const ROLE = PLAIN ? 'app' : 'postgres'
interface Finding {
  level: string
  replica: string | null
  says: string
  cure: string
}
interface Report {
  errors: number
  warnings: number
  checks: { check: string; level: string; findings: Finding[] }[]
}

describe('doctor', () => {
  let c: TestCluster
  const at = (i: number): TestServer => c.servers[i] ?? expect.fail(`no server ${i}`)
  const report = (r: Ended): Report => {
    try {
      return JSON.parse(r.out) as Report
    } catch {
      return expect.fail(r.out + r.err)
    }
  }
  const doctor = async (urls = c.urls, ...more: string[]): Promise<Report> =>
    report(await cli(['doctor', '--json', ...more], urls))
  const found = (r: Report): string[] =>
    r.checks.flatMap((k) =>
      k.findings
        .filter((f) => f.level !== 'note')
        .map((f) => `${f.level} ${k.check}: ${f.replica === null ? '' : `${f.replica}: `}${f.says} | ${f.cure}`),
    )
  /** On one connection, each by itself: some cannot run inside a transaction. */
  const many = async (s: TestServer, texts: string[]): Promise<void> => {
    const client = new pg.Client(s.url)
    await client.connect()
    try {
      for (const text of texts) await client.query(text)
    } finally {
      await client.end()
    }
  }

  before(async function () {
    this.timeout(60_000)
    c = await cluster()
    const pool = c.pool()
    await pool.query('CREATE TABLE things (id serial PRIMARY KEY, v text)')
    await pool.query("INSERT INTO things (v) VALUES ('a')")
    await settled(c.servers)
    await pool.end()
  })
  after(() => c.destroy())

  it('control: nothing to say about a sound cluster; in words within 80 columns', async () => {
    expect(found(await doctor())).deep.equal([])
    const r = await cli(['doctor'], c.urls)
    expect(
      [
        r.code,
        /^3 replicas, 17 checks: 0 errors, 0 warnings\.$/m.test(r.out),
        r.out.match(/^ok {7}/gm)?.length,
        Math.max(...r.out.split('\n').map((l) => l.length)) <= 80,
      ],
      r.out,
    ).deep.equal([0, true, 17, true])
  })

  const SYSTEM = (s: string): string[] => [`ALTER SYSTEM ${s}`, 'SELECT pg_reload_conf()', 'SELECT pg_sleep(0.3)']
  /**
   * What, the statements on the third server, those that undo it, and what must be said: [level, check, says,
   * cure].
   */
  type Undo = string | ((before: Record<string, string>) => string)
  const planted: [what: string, plant: string[], undo: Undo[], says: [string, string, RegExp, RegExp][]][] = [
    [
      'a trigger that is gone',
      ['DROP TRIGGER quorum_update ON things'],
      [(b) => b['trigger']!],
      [['error', 'triggers', /public.things has lost the trigger quorum_update/, /pg-quorum init/]],
    ],
    [
      'a trigger that is not enabled',
      ['ALTER TABLE things DISABLE TRIGGER quorum_before'],
      ['ALTER TABLE things ENABLE TRIGGER quorum_before'],
      [['error', 'triggers', /quorum_before is not enabled/, /ENABLE TRIGGER quorum_before/]],
    ],
    [
      'a table made behind the driver',
      ['CREATE TABLE behind (id int)'],
      ['DROP TABLE behind'],
      [
        ['error', 'tables', /public.behind is not replicated: it was made behind/, /Drop it there/],
        ['error', 'tables', /the tables, .* are not the same/, /undo/],
      ],
    ],
    [
      'an unlogged table',
      ['CREATE UNLOGGED TABLE behind (id int)'],
      ['DROP TABLE behind'],
      [['error', 'tables', /unlogged/, /pg-quorum init/]],
    ],
    [
      'inheritance',
      ['CREATE TABLE behind () INHERITS (things)'],
      ['DROP TABLE behind'],
      [['error', 'tables', /inheritance/, /pg-quorum init/]],
    ],
    [
      'a trigger that fires always',
      [
        'CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$',
        'CREATE TRIGGER loud AFTER INSERT ON things EXECUTE FUNCTION f()',
        'ALTER TABLE things ENABLE ALWAYS TRIGGER loud',
      ],
      ['DROP FUNCTION f CASCADE'],
      [
        [
          'error',
          'tables',
          /public.things should not be replicated: a trigger that is ENABLE ALWAYS/,
          /Change the table/,
        ],
      ],
    ],
    [
      'an index that only one has',
      ['CREATE INDEX alone ON things (v)'],
      ['DROP INDEX alone'],
      [['warning', 'indexes', /missing or not valid: CREATE INDEX alone/, /CREATE INDEX CONCURRENTLY again/]],
    ],
    [
      'a unique index that only one has',
      ['CREATE UNIQUE INDEX alone ON things (id)'],
      ['DROP INDEX alone'],
      [['error', 'tables', /indexes or triggers are not the same/, /undo/]],
    ],
    [
      'a sequence that was set by hand',
      [
        "SELECT setval('things_id_seq', (SELECT last_value + 1 FROM things_id_seq))",
        "SELECT setval('things_id_seq', (SELECT last_value FROM things_id_seq) + CASE WHEN (SELECT last_value % 3 FROM things_id_seq) = 2 THEN 2 ELSE 1 END)",
      ],
      [(b) => `SELECT setval('things_id_seq', ${b['last']}, false)`],
      [
        [
          'error',
          'sequences',
          /public.things_id_seq gives the same numbers as on/,
          /ALTER SEQUENCE public.things_id_seq INCREMENT BY 3 RESTART WITH \d+/,
        ],
      ],
    ],
    [
      'a sequence without a class',
      ['COMMENT ON SEQUENCE things_id_seq IS NULL'],
      ["COMMENT ON SEQUENCE things_id_seq IS 'pg-quorum: member 3 of 3'"],
      [['error', 'sequences', /has no numbers of its own/, /pg-quorum init/]],
    ],
    [
      'an older function',
      [
        'CREATE OR REPLACE FUNCTION quorum.stripe_of(key text) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT 0 $$',
      ],
      [(b) => b['f']!],
      [['error', 'functions', /functions of the schema quorum are not the same/, /pg-quorum init/]],
    ],
    [
      'captured rows that nobody owns',
      ["INSERT INTO quorum.capture (xid, segment) VALUES ('3', 0)"],
      ['DELETE FROM quorum.capture'],
      [['warning', 'leftovers', /1 captured row /, /DELETE FROM quorum.capture/]],
    ],
    [
      'a large object',
      ['SELECT lo_create(4711)'],
      ['SELECT lo_unlink(4711)'],
      [['warning', 'leftovers', /1 large object:/, /bytea/]],
    ],
    [
      'a foreign prepared transaction',
      ["BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'theirs'"],
      ["ROLLBACK PREPARED 'theirs'"],
      [['warning', 'prepared', /somebody else's prepared transaction 'theirs'/, /ROLLBACK PREPARED/]],
    ],
    [
      'an old transaction in doubt',
      [
        `BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'quorum_x_1_y_1_${'0'.repeat(32)}'`,
        'SELECT pg_sleep(10.5)',
      ],
      [`ROLLBACK PREPARED 'quorum_x_1_y_1_${'0'.repeat(32)}'`],
      [['warning', 'prepared', /1 transaction in doubt for 1\d s/, /pg-quorum resolve/]],
    ],
    [
      'prepared slots that run out',
      Array.from({ length: 52 }, (_, i) => `BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'f${i}'`),
      Array.from({ length: 52 }, (_, i) => `ROLLBACK PREPARED 'f${i}'`),
      [['warning', 'prepared', /52 of 64 prepared slots are taken/, /max_prepared_transactions = 128/]],
    ],
    [
      'a replication slot that nobody uses',
      ["SELECT pg_create_physical_replication_slot('gone', true)"],
      ["SELECT pg_drop_replication_slot('gone')"],
      [['warning', 'disk', /the replication slot gone is not in use/, /pg_drop_replication_slot\('gone'\)/]],
    ],
    ...['statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout'].map(
      (name): [string, string[], Undo[], [string, string, RegExp, RegExp][]] => [
        `a short ${name} of the database`,
        [`ALTER DATABASE postgres SET ${name} = '5s'`],
        [`ALTER DATABASE postgres RESET ${name}`],
        [
          [
            'warning',
            'timeouts',
            new RegExp(`${name} is 5.0 s`),
            new RegExp(`ALTER DATABASE "postgres" RESET ${name}`),
          ],
        ],
      ],
    ),
    [
      'a short timeout of the role',
      [`ALTER ROLE ${ROLE} SET statement_timeout = '5s'`],
      [`ALTER ROLE ${ROLE} RESET statement_timeout`],
      [
        [
          'warning',
          'timeouts',
          /statement_timeout is 5.0 s/,
          new RegExp(`ALTER ROLE "${ROLE}" RESET statement_timeout`),
        ],
      ],
    ],
    [
      'read-only by default',
      ['ALTER DATABASE postgres SET default_transaction_read_only = on'],
      ['SET default_transaction_read_only = off', 'ALTER DATABASE postgres RESET default_transaction_read_only'],
      [
        ['error', 'settings', /default_transaction_read_only is on/, /RESET/],
        ['error', 'replicas', /takes no writes/, /other findings/],
      ],
    ],
    [
      'autovacuum off',
      SYSTEM('SET autovacuum = off'),
      SYSTEM('RESET autovacuum'),
      [['warning', 'settings', /autovacuum is off/, /autovacuum = on/]],
    ],
    [
      'a synchronous standby',
      SYSTEM("SET synchronous_standby_names = 'x'"),
      ['SET synchronous_commit = local', ...SYSTEM('RESET synchronous_standby_names')],
      [['warning', 'settings', /synchronous_standby_names is set/, /synchronous_standby_names = ''/]],
    ],
    [
      'an extension of another version',
      ["UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'plpgsql'"],
      ["UPDATE pg_extension SET extversion = '1.0' WHERE extname = 'plpgsql'"],
      [
        [
          'warning',
          'versions',
          /the extension plpgsql is not the same \(.*1.0; .*0.9\)/,
          /ALTER EXTENSION plpgsql UPDATE/,
        ],
      ],
    ],
    [
      'a collation that changed below its indexes',
      ["UPDATE pg_database SET datcollversion = '0.1' WHERE datname = 'postgres'"],
      ["UPDATE pg_database SET datcollversion = pg_database_collation_actual_version(oid) WHERE datname = 'postgres'"],
      [['warning', 'collations', /the collation the database's default was version 0.1/, /REFRESH COLLATION VERSION/]],
    ],
    [
      'another locale',
      ["UPDATE pg_database SET datctype = CASE datctype WHEN 'C' THEN 'POSIX' ELSE 'C' END WHERE datname = 'postgres'"],
      [(b) => `UPDATE pg_database SET datctype = '${b['ctype']}' WHERE datname = 'postgres'`],
      [['warning', 'collations', /the locales differ/, /same locale/]],
    ],
    [
      'a clock that is ahead',
      [
        "SET allow_system_table_mods = on; ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO true_clock; CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$ SELECT pg_catalog.true_clock() + interval '5 seconds' $$",
      ],
      [
        'SET allow_system_table_mods = on; DROP FUNCTION pg_catalog.clock_timestamp(); ALTER FUNCTION pg_catalog.true_clock() RENAME TO clock_timestamp',
      ],
      [['warning', 'clocks', /the clocks differ by [45].\d s/, /chrony/]],
    ],
    [
      'a copy',
      ["UPDATE quorum.self SET system_identifier = '1'"],
      ['UPDATE quorum.self SET system_identifier = (SELECT system_identifier::text FROM pg_control_system())'],
      [['error', 'replicas', /copy: it is a copy/, /pg-quorum clone/]],
    ],
  ]
  for (const [what, plant, undo, says] of planted) {
    it(what, async () => {
      const [before = {}] = (await ask(
        at(2),
        "SELECT pg_get_functiondef('quorum.stripe_of(text)'::regprocedure) AS f, (SELECT last_value FROM things_id_seq) AS last, (SELECT datctype FROM pg_database WHERE datname = 'postgres') AS ctype, (SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'quorum_update' AND tgrelid = 'things'::regclass) AS trigger",
      )) as Record<string, string>[]
      await many(at(2), plant)
      const r = await cli(['doctor', '--json'], c.urls).finally(() =>
        many(
          at(2),
          undo.map((u) => (typeof u === 'string' ? u : u(before))),
        ),
      )
      const all = report(r)
      for (const [level, check, text, cure] of says) {
        const hit = all.checks
          .find((k) => k.check === check)
          ?.findings.find((f) => f.level === level && text.test(f.says) && cure.test(f.cure))
        expect(hit, found(all).join('\n')).an('object')
        // (an index that only this one has is missing on the others)
        if (hit?.replica && check !== 'indexes') expect(hit.replica).contain(String(at(2).port))
      }
      expect(r.code, found(all).join('\n')).equal(says.some(([level]) => level === 'error') ? 1 : 0)
      expect(found(await doctor()), 'after it was undone').deep.equal([])
    })
  }

  it('settings that init would have refused, and a role that is none, on a server beside the cluster', async () => {
    const [odd] = await threeServers(
      { settings: { fsync: 'off', full_page_writes: 'off', max_prepared_transactions: 0, max_connections: 20 } },
      1,
    )
    try {
      const says = found(await doctor([c.urls[0]!, c.urls[1]!, odd!.url])).join('\n')
      for (const text of [
        'fsync is off',
        'full_page_writes is off',
        'max_prepared_transactions is 0',
        'empty: nothing of pg-quorum is here',
        /only 1\d connections are free/,
      ])
        expect(says).match(new RegExp(text))
    } finally {
      await destroyAll([odd!])
    }
    await ask(at(2), 'CREATE ROLE plain LOGIN')
    const says = found(await doctor([c.urls[0]!, c.urls[1]!, c.urls[2]!.replace(/\/\/\w+@/, '//plain@')])).join('\n')
    await ask(at(2), 'DROP ROLE plain')
    expect(says)
      .contain('error role: ')
      .and.contain('the role plain is not allowed to use pg-quorum')
      .and.contain('GRANT quorum_app TO "plain"')
      .and.not.contain('clone')
  })

  it('one server twice; one that is down; a log that is too large', async () => {
    const twice = found(await doctor([c.urls[0]!, c.urls[1]!, c.urls[1]!.replace('127.0.0.1', 'localhost')])).join('\n')
    expect(twice).match(/error identity: .*has the system identifier of/)
    const pool = c.pool()
    for (let i = 0; i < 10; i++)
      await pool.query(
        "INSERT INTO things (v) SELECT string_agg(md5(h::text || g), '') FROM generate_series(1, 200) g, generate_series(1, 30) h GROUP BY g",
      )
    await settled(c.servers)
    await pool.end()
    const large = await doctor(c.urls, '--most-log', '1')
    expect(
      found(large).filter((f) => /^warning disk: .*the log of changesets has/.test(f)),
      found(large).join('\n'),
    ).length(3)
    expect(found(await doctor(c.urls, '--most-log', '1000'))).deep.equal([])
    await at(2).kill()
    const down = await cli(['doctor'], c.urls)
    await at(2).start()
    expect([down.code, /unreachable: nothing listens\s+there/.test(down.out)], down.out).deep.equal([1, true])
  })
})
