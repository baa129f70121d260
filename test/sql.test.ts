// What driver/sql reads out of a statement, table-driven: one line per input, the whole answer
// compared. Fields not given are the defaults: no tables, no functions, not opaque.

import { expect } from 'chai'
import { analyse, loadParser } from '../driver/sql/analyse.ts'
import type { KeyPart, Kind, Statement, TableUse } from '../driver/sql/analyse.ts'

const read = (table: string, ...key: KeyPart[]): TableUse => ({ table, mode: 'read', ...(key.length ? { key } : {}) })
const write = (table: string, ...key: KeyPart[]): TableUse => ({ table, mode: 'write', ...(key.length ? { key } : {}) })
const insert = (table: string): TableUse => ({ table, mode: 'write', insertOnly: true })
const param = (column: string, number: number): KeyPart => ({ column, param: number })
const value = (column: string, literal: string): KeyPart => ({ column, value: literal })
const calls = (...functions: string[]): Partial<Statement> => ({ functions })
const opaque: Partial<Statement> = { opaque: true }

type Row = [text: string, kind: Kind, tables?: TableUse[], more?: Partial<Statement>]

const groups: Record<string, Row[]> = {
  reads: [
    ['SELECT 1', 'read'],
    ['VALUES (1), (2)', 'read'],
    ['SELECT * FROM accounts', 'read', [read('accounts')]],
    ['TABLE accounts', 'read', [read('accounts')]],
    ['SELECT * FROM Bank.Accounts', 'read', [read('bank.accounts')]],
    ['SELECT * FROM "Bank"."My Accounts"', 'read', [read('Bank.My Accounts')]],
    ['SELECT * FROM pg_catalog.pg_class, information_schema.tables', 'read'],
    ['SELECT * FROM a JOIN b USING (id)', 'read', [read('a'), read('b')]],
    ['SELECT * FROM a UNION SELECT * FROM b WHERE id = 1', 'read', [read('a'), read('b')]],
    ['SELECT (SELECT max(x) FROM b) FROM a', 'read', [read('a'), read('b')], calls('max')],
    ['SELECT * FROM a TABLESAMPLE system (1) WHERE id = 1', 'read', [read('a')]],
    ['SELECT * FROM a, LATERAL (SELECT * FROM b WHERE b.x = a.x) s', 'read', [read('a'), read('b')]],
    ['DECLARE c CURSOR FOR SELECT * FROM a', 'read', [read('a')], { inBlock: true }],
    ['DECLARE c CURSOR WITH HOLD FOR SELECT * FROM a', 'read', [read('a')]],
    ['COPY a TO STDOUT', 'read', [read('a')]],
    ['COPY (SELECT * FROM a WHERE id = 1) TO STDOUT', 'read', [read('a', value('id', '1'))]],
  ],
  functions: [
    ['SELECT f(1), S.G(f(2)), count(*) OVER ()', 'read', [], calls('f', 's.g', 'count')],
    ['SELECT "F"()', 'read', [], calls('f')],
    [
      'SELECT extract(year FROM now()), current_timestamp, localtime(3), current_user',
      'read',
      [],
      calls('extract', 'now', 'current_timestamp', 'localtime', 'current_user'),
    ],
    ['SELECT pg_catalog.now()', 'read', [], calls('pg_catalog.now')],
    ["SELECT * FROM generate_series(1, nextval('s')) g", 'read', [], calls('generate_series', 'nextval')],
    ['INSERT INTO t VALUES (gen_random_uuid())', 'write', [insert('t')], calls('gen_random_uuid')],
    ['ALTER TABLE t ADD u float DEFAULT random()', 'ddl', [], calls('random')],
  ],
  keys: [
    ['SELECT * FROM t WHERE id = $1', 'read', [read('t', param('id', 1))]],
    ['SELECT * FROM t WHERE $2 = id', 'read', [read('t', param('id', 2))]],
    ['SELECT * FROM t AS x WHERE x.id = 7 AND x.b > 3', 'read', [read('t', value('id', '7'))]],
    [
      "SELECT * FROM s.t WHERE a = 'it''s' AND (t.b = -5 AND c = 0)",
      'read',
      [read('s.t', value('a', "it's"), value('b', '-5'), value('c', '0'))],
    ],
    [
      "SELECT 1 FROM t WHERE a = $1::int AND b = '7'::text AND c = ''",
      'read',
      [read('t', param('a', 1), value('b', '7'), value('c', ''))],
    ],
    [
      'SELECT 1 FROM t WHERE a = 10000000000 AND b = -10000000000',
      'read',
      [read('t', value('a', '10000000000'), value('b', '-10000000000'))],
    ],
    [
      "SELECT 1 FROM t WHERE a = 7.9::int AND b = 'abc'::char(2) AND c = 1.5 AND d = NULL AND e = true",
      'read',
      [read('t')],
    ],
    ['SELECT 1 FROM t WHERE id IN (1, 2)', 'read', [read('t')]],
    ['SELECT 1 FROM t WHERE id = ANY($1)', 'read', [read('t')]],
    ['SELECT 1 FROM t WHERE id = 1 OR id = 2', 'read', [read('t')]],
    ['SELECT 1 FROM t WHERE NOT id = 1 AND id <> 2 AND (id, b) = (1, 2)', 'read', [read('t')]],
    ['SELECT 1 FROM t WHERE id = 1 + 1 AND b = f($1)', 'read', [read('t')], calls('f')],
    ['SELECT 1 FROM t AS x (b, id) WHERE id = 1', 'read', [read('t')]],
    ['SELECT 1 FROM t WHERE id = 1 AND b IN (SELECT b FROM t)', 'read', [read('t')]],
    ['SELECT 1 FROM t WHERE id = 1 AND EXISTS (SELECT 1 FROM public.t)', 'read', [read('t'), read('public.t')]],
    [
      'SELECT 1 FROM t WHERE id = 1 AND b IN (SELECT b FROM u WHERE id = 2)',
      'read',
      [read('t', value('id', '1')), read('u')],
    ],
    ['SELECT 1 FROM a JOIN b ON a.x = b.x WHERE a.id = $1 AND y = 3', 'read', [read('a', param('id', 1)), read('b')]],
    ['SELECT 1 FROM t x, t y WHERE x.id = 1 AND y.id = 2', 'read', [read('t')]],
    ['SELECT 1 FROM (SELECT * FROM t WHERE id = 1) s', 'read', [read('t')]],
    ['SELECT 1 FROM a, (SELECT 1) s WHERE a.id = 1', 'read', [read('a')]],
  ],
  writes: [
    ['UPDATE t SET b = 1 WHERE id = $1', 'write', [write('t', param('id', 1))]],
    ['UPDATE t SET b = 1', 'write', [write('t')]],
    ['UPDATE t SET id = 5 WHERE id = 1', 'write', [write('t')]],
    ['UPDATE t SET b = 5 WHERE id = 1 AND b = 4', 'write', [write('t', value('id', '1'))]],
    ['UPDATE t SET b = u.b FROM u WHERE t.id = u.id', 'write', [write('t'), read('u')]],
    ['UPDATE t SET b = (SELECT max(b) FROM t) WHERE id = 1', 'write', [write('t'), read('t')], calls('max')],
    ['DELETE FROM t WHERE id = $1 RETURNING *', 'write', [write('t', param('id', 1))]],
    ['DELETE FROM t USING u WHERE t.id = $1 AND u.id = t.u', 'write', [write('t', param('id', 1)), read('u')]],
    ['DELETE FROM t WHERE CURRENT OF c', 'write', [write('t')]],
    ['DELETE FROM pg_catalog.pg_class', 'write'],
    ['INSERT INTO t (id) VALUES ($1) RETURNING id', 'write', [insert('t')]],
    ['INSERT INTO t SELECT * FROM u WHERE id = 1', 'write', [insert('t'), read('u')]],
    ['INSERT INTO t SELECT * FROM t', 'write', [write('t'), read('t')]],
    ['INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING', 'write', [read('t'), write('t')]],
    ['INSERT INTO t (b, id) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING', 'write', [write('t', param('id', 2))]],
    [
      'INSERT INTO t (id, k) VALUES (1, $1) ON CONFLICT (k, id) DO UPDATE SET b = excluded.b',
      'write',
      [write('t', param('k', 1), value('id', '1'))],
    ],
    ['INSERT INTO t (id) VALUES (1), (2) ON CONFLICT (id) DO NOTHING', 'write', [read('t'), write('t')]],
    ['INSERT INTO t (id) VALUES (1) ON CONFLICT (id) WHERE b DO NOTHING', 'write', [read('t'), write('t')]],
    ['INSERT INTO t (id) VALUES (1) ON CONFLICT ON CONSTRAINT t_pkey DO NOTHING', 'write', [read('t'), write('t')]],
    [
      'INSERT INTO t (id) VALUES (lower($1)) ON CONFLICT (id) DO NOTHING',
      'write',
      [read('t'), write('t')],
      calls('lower'),
    ],
    [
      'INSERT INTO t (id) VALUES (1) ON CONFLICT (lower(id)) DO NOTHING',
      'write',
      [read('t'), write('t')],
      calls('lower'),
    ],
    [
      'INSERT INTO t (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET b = (SELECT max(b) FROM t)',
      'write',
      [write('t'), read('t')],
      calls('max'),
    ],
    [
      'INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET b = (SELECT b FROM u)',
      'write',
      [read('t'), write('t'), read('u')],
    ],
    ['MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN DELETE', 'write', [write('t'), read('u')]],
    ['TRUNCATE a, s.b', 'write', [write('a'), write('s.b')]],
    ['COPY a FROM STDIN', 'write', [write('a')], { copyFrom: true }],
    ['COPY (DELETE FROM a RETURNING *) TO STDOUT', 'write', [write('a')]],
    ["NOTIFY x, 'y'", 'write'],
    ["DO 'BEGIN END'", 'write', [], opaque],
    ['CALL s.p(f(1))', 'write', [], { ...opaque, functions: ['s.p', 'f'] }],
    ['EXECUTE p(1)', 'write', [], opaque],
  ],
  'row locks': [
    ['SELECT * FROM t WHERE id = 1 FOR UPDATE', 'write', [write('t', value('id', '1'))]],
    ['SELECT * FROM t FOR NO KEY UPDATE SKIP LOCKED', 'write', [write('t')]],
    ['SELECT * FROM t FOR SHARE', 'read', [read('t')]],
    ['SELECT * FROM t FOR KEY SHARE', 'read', [read('t')]],
    ['SELECT * FROM t x, u FOR UPDATE OF x', 'write', [write('t'), read('u')]],
    ['SELECT * FROM (SELECT * FROM t) s WHERE EXISTS (SELECT 1 FROM u) FOR UPDATE', 'write', [write('t'), read('u')]],
    ['DECLARE c CURSOR FOR SELECT * FROM t FOR UPDATE', 'write', [write('t')], { inBlock: true }],
  ],
  WITH: [
    ['WITH a AS (SELECT 1) SELECT * FROM a', 'read'],
    ['WITH a AS (SELECT * FROM a) SELECT * FROM a', 'read', [read('a')]],
    ['WITH a AS (SELECT 1) SELECT * FROM public.a', 'read', [read('public.a')]],
    ['WITH a AS (SELECT 1), b AS (SELECT * FROM a) SELECT * FROM b', 'read'],
    ['WITH b AS (SELECT * FROM a), a AS (SELECT 1) SELECT * FROM b', 'read', [read('a')]],
    ['WITH RECURSIVE a AS (SELECT 1 UNION ALL SELECT * FROM a) SELECT * FROM a', 'read'],
    ['SELECT * FROM (WITH a AS (SELECT 1) SELECT * FROM a) s, a', 'read', [read('a')]],
    ['WITH d AS (DELETE FROM t WHERE id = 1 RETURNING *) SELECT * FROM d', 'write', [write('t')]],
    ['WITH d AS (DELETE FROM t RETURNING *) INSERT INTO u SELECT * FROM d', 'write', [write('t'), insert('u')]],
    ['WITH i AS (INSERT INTO t VALUES (1)) UPDATE t SET b = 1', 'write', [write('t')]],
    ['WITH t AS (SELECT 1) INSERT INTO t SELECT * FROM t', 'write', [insert('t')]],
  ],
  EXPLAIN: [
    ['EXPLAIN SELECT * FROM a', 'read', [read('a')]],
    ['EXPLAIN DELETE FROM a USING b', 'read', [read('b')]],
    ['EXPLAIN (ANALYZE false) DELETE FROM a', 'read'],
    ['EXPLAIN (ANALYZE 0) DELETE FROM a', 'read'],
    ['EXPLAIN ANALYZE DELETE FROM a WHERE id = 1', 'write', [write('a', value('id', '1'))]],
    ['EXPLAIN (BUFFERS, ANALYZE on) SELECT * FROM a', 'read', [read('a')]],
    ['EXPLAIN ANALYZE EXECUTE p', 'write', [], opaque],
  ],
  DDL: [
    ['CREATE TABLE t (id int PRIMARY KEY)', 'ddl'],
    ['DROP TABLE t', 'ddl'],
    ['CREATE INDEX i ON t (a)', 'ddl'],
    ['GRANT SELECT ON t TO public', 'ddl'],
    ['SELECT * INTO x FROM t', 'ddl', [write('x'), read('t')]],
    ['CREATE TABLE x AS SELECT * FROM t', 'ddl', [write('x'), read('t')]],
    ['CREATE TABLE x AS EXECUTE p', 'ddl', [write('x')], opaque],
    ['REFRESH MATERIALIZED VIEW v', 'ddl', [write('v')]],
    ['REINDEX (CONCURRENTLY false) TABLE t', 'ddl'],
  ],
  'outside a transaction': [
    'VACUUM t',
    'CREATE INDEX CONCURRENTLY ON t (a)',
    'DROP INDEX CONCURRENTLY i',
    'REINDEX TABLE CONCURRENTLY t',
    'REINDEX DATABASE d',
    'CREATE DATABASE d',
    'DROP DATABASE d',
    'ALTER SYSTEM SET a = 1',
    "CREATE TABLESPACE s LOCATION '/x'",
    'DROP TABLESPACE s',
    'CLUSTER',
    'ALTER DATABASE d SET TABLESPACE s',
    'ALTER TABLE t DETACH PARTITION p CONCURRENTLY',
    "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p",
  ].map((text): Row => [text, 'outside']),
  session: [
    'SET a = 1',
    'SET LOCAL a = 1',
    'SET TRANSACTION READ ONLY',
    'SET CONSTRAINTS ALL DEFERRED',
    'SHOW a',
    'RESET a',
    'RESET ALL',
    'DISCARD ALL',
    'LISTEN x',
    'UNLISTEN *',
    'DEALLOCATE p',
    'FETCH 1 FROM c',
    'MOVE 1 IN c',
    'CLOSE c',
    'CHECKPOINT',
    'ANALYZE t',
    'PREPARE p AS DELETE FROM t WHERE id = $1',
  ].map((text): Row => [text, 'session']),
  transactions: [
    ['BEGIN', 'begin', [], { begin: { readOnly: false } }],
    [
      'START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY',
      'begin',
      [],
      { begin: { readOnly: true, isolation: 'repeatable read' } },
    ],
    [
      'BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE',
      'begin',
      [],
      { begin: { readOnly: false, isolation: 'serializable' } },
    ],
    ['COMMIT', 'commit'],
    ['END', 'commit'],
    ['COMMIT AND CHAIN', 'commit', [], { chain: true }],
    ['ABORT', 'rollback'],
    ['ROLLBACK AND CHAIN', 'rollback', [], { chain: true }],
    ['SAVEPOINT a', 'savepoint'],
    ['RELEASE a', 'savepoint'],
    ['ROLLBACK TO a', 'savepoint'],
    ["PREPARE TRANSACTION 'x'", 'two-phase'],
    ["COMMIT PREPARED 'x'", 'two-phase'],
    ["ROLLBACK PREPARED 'x'", 'two-phase'],
    ['LOCK TABLE a, s.b', 'lock', [], { lock: { tables: ['a', 's.b'], mode: 'exclusive' } }],
    ['LOCK a IN SHARE MODE NOWAIT', 'lock', [], { lock: { tables: ['a'], mode: 'shared' } }],
    ['LOCK a IN ROW EXCLUSIVE MODE', 'lock', [], { lock: { tables: ['a'], mode: 'exclusive' } }],
  ],
  'temporary tables': [
    ['CREATE TEMP TABLE t (a int)', 'write', [], { temporary: true }],
    ['CREATE TEMP TABLE t AS SELECT * FROM a', 'write', [read('a')], { temporary: true }],
    ['SELECT * INTO TEMP t FROM a', 'write', [read('a')], { temporary: true }],
    ['CREATE TABLE pg_temp.t (a int)', 'write', [], { temporary: true }],
    ['CREATE TEMP VIEW v AS SELECT * FROM a', 'write', [read('a')], { temporary: true }],
  ],
  'not parsed': [
    ['SELEC 1', 'unknown', [], opaque],
    ['SELECT 1; SELEC 2', 'unknown', [], opaque],
    ['SELECT 1;\0DELETE FROM t', 'unknown', [], opaque],
    [`SELECT '${'x'.repeat(65536)}'`, 'unknown', [], opaque],
    [`SELECT '${'é'.repeat(40000)}'`, 'unknown', [], opaque],
  ],
}

describe('what a statement reads and writes', () => {
  before(loadParser)

  it('what refuses a transaction block: whether it may run member by member, and on which index', () => {
    const told = (text: string): unknown => analyse(text)[0]?.outside
    for (const text of ['VACUUM t', 'REINDEX TABLE CONCURRENTLY t', 'CLUSTER'])
      expect(told(text)).to.deep.equal({ does: 'each' })
    expect(told('CREATE UNIQUE INDEX CONCURRENTLY "I" ON s.t (a)')).to.deep.equal({
      does: 'create',
      index: '"s"."I"',
      unique: true,
    })
    expect(told('CREATE INDEX CONCURRENTLY ON t (a)')).to.deep.equal({ does: 'create' })
    expect(told('DROP INDEX CONCURRENTLY s.i')).to.deep.equal({ does: 'drop', index: '"s"."i"' })
    for (const text of ['CREATE DATABASE d', 'ALTER TABLE t DETACH PARTITION p CONCURRENTLY', 'DROP INDEX i'])
      expect(told(text)).to.equal(undefined)
    expect([
      analyse("SELECT setval('s', 1)")[0]?.sets,
      analyse("DO $$ BEGIN PERFORM setval('s', 1); END $$")[0]?.sets,
      analyse("SELECT nextval('s')")[0]?.sets,
      analyse('TRUNCATE t RESTART IDENTITY')[0]?.kind,
    ]).to.deep.equal([true, true, undefined, 'ddl'])
  })

  for (const [group, rows] of Object.entries(groups)) {
    describe(group, () => {
      for (const [text, kind, tables = [], more = {}] of rows) {
        it(text.slice(0, 100).replaceAll('\0', '\\0'), () => {
          const told = analyse(text).map(({ names: _names, outside: _outside, ...rest }) => rest)
          expect(told).to.deep.equal([{ kind, text, tables, functions: [], opaque: false, ...more }])
        })
      }
    })
  }

  it('finds no statement in an empty text or a comment', () => {
    for (const text of ['', ' \n', ';', ' ; ; ', '-- only this', '/* é */;'])
      expect(analyse(text), text).to.deep.equal([])
  })

  it('gives each statement its own slice, counted in bytes', () => {
    const text = "BEGIN; /* é */ SELECT '😀;' ;; -- ü;\n INSERT INTO t VALUES ('ß') ; COMMIT"
    expect(analyse(text).map((statement) => [statement.kind, statement.text])).to.deep.equal([
      ['begin', 'BEGIN'],
      ['read', "SELECT '😀;'"],
      ['write', "INSERT INTO t VALUES ('ß')"],
      ['commit', 'COMMIT'],
    ])
  })

  it('remembers a text', () => {
    expect(analyse('SELECT 4711')).to.equal(analyse('SELECT 4711'))
  })

  it('reads a text just under the limit', () => {
    expect(analyse(`SELECT '${'x'.repeat(65000)}'`)[0]?.kind).to.equal('read')
  })
})
