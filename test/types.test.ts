/**
 * Every type with its extreme values, through capture and apply, live and by catch-up, while the lead's session has
 * the most hostile settings.
 */
import { expect } from 'chai'
import type pg from 'pg'
import type { Pool } from '../driver/index.ts'
import { PLAIN, cluster, failure, settled, type TestCluster } from './cluster.ts'
import { ask } from './servers.ts'

/** Type → values, as SQL. A row for each value, two columns for each type: the value, and an array of it. */
const VALUES: Record<string, string[]> = {
  bool: ['true', 'false'],
  int2: ['-32768', '32767'],
  int4: ['-2147483648', '2147483647'],
  int8: ['-9223372036854775808', '9223372036854775807'],
  numeric: ["'NaN'", "'Infinity'", "'-Infinity'", "'1.100'", "'1e-16383'", "repeat('9', 2000)::numeric", "'-0.0'"],
  'numeric(10,3)': ['1.0005', '-1234567.891'],
  float4: ["'-0'", "'NaN'", "'Infinity'", "'1e-45'", "'3.4028235e38'", '0.1'],
  float8: ["'-0'", "'NaN'", "'-Infinity'", "'5e-324'", "'1.7976931348623157e308'", '1.0/3', '0.1::float8 + 0.2'],
  money: ["'-92233720368547758.08'", "'92233720368547758.07'", '0.01'],
  text: [
    "''",
    "E'tab\\tnl\\ncr\\r quote\\' dq\" bs\\\\ bell\\x07'",
    "'\\x00'",
    "'é😀 ñ'",
    "repeat('long ', 2000)",
    "'NULL'",
    "'{,}()'",
  ],
  varchar: ["'a  '", "''"],
  'varchar(3)': ["'ab '"],
  bpchar: ["'a  '"],
  'char(5)': ["'ab'", "''", "'é'"],
  '"char"': ["'a'", "''", "'\\300'"],
  name: ["'x y'"],
  bytea: ["'\\x00ff5c'", "''", "decode(repeat('00ff', 3000), 'hex')"],
  date: ["'infinity'", "'-infinity'", "'4713-01-01 BC'", "'5874897-12-31'", "'2024-02-29'"],
  time: ["'24:00:00'", "'00:00:00.000001'"],
  timetz: ["'24:00:00-15:59'", "'00:00:00+15:59:59'"],
  timestamp: ["'infinity'", "'-infinity'", "'4713-01-01 00:00:00 BC'", "'294276-12-31 23:59:59.999999'"],
  timestamptz: [
    "'infinity'",
    "'-infinity'",
    "'1883-11-18 12:03:58 America/New_York'",
    "'2024-03-31 02:30:00 Europe/Berlin'",
    "'0044-03-15 12:00:00+00 BC'",
  ],
  interval: [
    "'-1 mon +2 days -3:00:00.000001'",
    "'178000000 years'",
    "'1 year -1 mon'",
    "'0'",
    "'P1Y2M3DT4H5M6.789S'",
    "'24:00:00'",
  ],
  json: [`'{"a":1, "a":2}'`, "'[1e400,-0.0 ]'", `'"\\u0041\\n"'`, "' null '"],
  jsonb: [`'{"b":-0.0,"a":1.50,"":[]}'`, "('[' || repeat('9', 400) || ']')::jsonb", `'"é\\"\\\\"'`],
  jsonpath: [`'$.a[*] ? (@ > 1)'`],
  xml: ['\'<a b="&lt;">é</a>\'', "xmlparse(content 'two <b/> pieces')"],
  uuid: ["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"],
  inet: ["'::ffff:1.2.3.4/128'", "'10.0.0.1/8'"],
  cidr: ["'10.0.0.0/8'", "'::/0'"],
  macaddr: ["'08:00:2b:01:02:03'"],
  macaddr8: ["'08:00:2b:01:02:03:04:05'"],
  'bit(3)': ["B'101'"],
  varbit: ["B''", "B'0101010101010101010101'"],
  tsvector: ["'a:1A,2 ''quo te'':3 ''b\\\\'':4'", "''"],
  tsquery: ["'a & !(b | c:*A) <2> d'", "''"],
  int4range: ["'[1,5]'", "'empty'", "'(,)'"],
  numrange: ["'(1.10,NaN]'", "'[-Infinity,)'"],
  tstzrange: ["'[-infinity,infinity)'", "'(2020-01-01 00:00+00,)'"],
  daterange: ["'[2020-01-01,2020-02-01]'"],
  int8multirange: ["'{[1,2],[5,)}'", "'{}'"],
  tsmultirange: ["'{[2020-01-01,2020-01-02)}'"],
  point: ["'(-0,1e308)'", "'(NaN,Infinity)'"],
  line: ["'{1,-1,0.1}'"],
  lseg: ["'((0,0),(1,1))'"],
  box: ["'((0,0),(1,0.1))'"],
  path: ["'((0,0),(1,1))'", "'[(0,0),(1,1)]'"],
  polygon: ["'((0,0),(1,1),(1,0))'"],
  circle: ["'<(0.1,0.2),0.3>'"],
  pg_lsn: ["'FFFFFFFF/FFFFFFFF'"],
  xid8: ["'18446744073709551615'"],
  xid: ["'4294967295'"],
  cid: ["'1'"],
  tid: ["'(4294967295,65535)'"],
  pg_snapshot: ["'10:20:10,14,15'"],
  txid_snapshot: ["'10:20:10'"],
  regclass: ["'pg_class'", "'public.base'", '0'],
  regtype: ["'int'", "'mood'", "'public.mood[]'"],
  regproc: ["'now'"],
  regprocedure: ["'sum(int)'"],
  regrole: ["'postgres'"],
  regnamespace: ["'public'"],
  regoper: ["'pg_catalog.||/'"],
  regoperator: ["'+(int,int)'"],
  regconfig: ["'english'"],
  regdictionary: ["'simple'"],
  regcollation: ['\'"C"\''],
  oidvector: ["'1 2'"],
  int2vector: ["'1 -2'"],
  refcursor: ["'c'"],
  aclitem: ["'postgres=r/postgres'"],
  mood: ["'sad'", "'very happy'"],
  positive: ['7'],
  shout: ["'A\"b'"],
  pair: ["ROW(1, 'a,\"b\\')", 'ROW(NULL, NULL)', "ROW(NULL, '')", "ROW(2, 'NULL')"],
  nested: ["ROW(ROW(1, ')('), ARRAY[ROW(2, '{}')::pair, NULL], '-0', 'sad')"],
  couple: ["ROW(3, 'x')"],
  floatrange: ["'[1.5,NaN)'"],
  citext: ["'MiXed'"],
  hstore: [`'"a b"=>"c\\"d", n=>NULL, ""=>""'`],
  ltree: ["'Top.Science'"],
  cube: ["'(0.1,2),(3,4)'"],
  seg: ["'0.1(+-)0.01'"],
  isbn13: ["'978-0-393-04002-9'"],
}
const OWN = /^(mood|positive|shout|pair|nested|couple|floatrange|citext|hstore|ltree|cube|seg|isbn13)$/
/**
 * Those whose texts depend on settings, or are equal although they are written differently; each DDL costs a look
 * at every table.
 */
const KEYS =
  /^(numeric|float8|money|text|char\(5\)|bytea|date|timestamptz|timetz|interval|inet|regclass|mood|pair|couple|citext|int4range|uuid|bool)$/
const EXTENSIONS = ['citext', 'hstore', 'ltree', 'cube', 'seg', 'isn', 'pgcrypto', 'btree_gist']
const HOSTILE = [
  "datestyle = 'SQL, DMY'",
  "intervalstyle = 'iso_8601'",
  "timezone = 'America/New_York'",
  "bytea_output = 'escape'",
  'extra_float_digits = -15',
  "xmloption = 'document'",
  'search_path = hidden, pg_catalog',
  'array_nulls = off',
  'transform_null_equals = on',
  "backslash_quote = 'off'",
  'standard_conforming_strings = off',
  "lc_monetary = 'C'",
  'escape_string_warning = off',
  "client_encoding = 'LATIN1'",
  'quote_all_identifiers = on',
  'enable_indexscan = off',
  "default_text_search_config = 'pg_catalog.german'",
  'row_security = off',
  "xmlbinary = 'hex'",
  ...(PLAIN ? [] : ['lo_compat_privileges = on']),
  "default_transaction_isolation = 'serializable'",
  "plpgsql.variable_conflict = 'use_column'",
]

describe('every type', function () {
  this.timeout(60_000)
  let c: TestCluster
  let pool: Pool
  const types: string[] = []
  const rows = Math.max(...Object.values(VALUES).map((v) => v.length))
  before(async () => {
    c = await cluster()
    pool = c.pool()
    await pool.query(`CREATE SCHEMA hidden; CREATE TABLE base (i int PRIMARY KEY); CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TYPE pair AS (a int, b text); CREATE DOMAIN couple AS pair CHECK ((VALUE).a > 0); CREATE DOMAIN shout AS text CHECK (VALUE = VALUE);
      CREATE TYPE nested AS (p pair, ps pair[], f float8, m mood); CREATE TYPE floatrange AS RANGE (subtype = float8); CREATE TYPE hidden.mood AS ENUM ('other')`)
    await pool.query("ALTER TYPE mood ADD VALUE 'very happy' BEFORE 'ok'")
    for (const e of EXTENSIONS)
      await pool.query(`CREATE EXTENSION IF NOT EXISTS ${e} SCHEMA public`).catch(() => undefined)
    for (const t of Object.keys(VALUES))
      if ((await pool.query('SELECT to_regtype($1) AS t', [t])).rows[0].t !== null) types.push(t)
  })
  after(() => c.destroy())

  const value = (t: string, i: number): string => VALUES[t]![i % VALUES[t]!.length]!
  /** By plain text under PostgreSQL's own settings, and by checksum. */
  const same = async (): Promise<void> => {
    await settled(c.servers, 15_000)
    const texts = await Promise.all(c.servers.map((s) => ask(s, 'SELECT x::text FROM everything x ORDER BY x.id')))
    for (const t of texts) expect(t).to.deep.equal(texts[0])
    expect(texts[0]!.length).to.be.greaterThan(0)
  }
  /** A client whose session is as unlike the pinned settings as can be. */
  const hostile = async (): Promise<pg.PoolClient> => {
    const client = await pool.connect()
    for (const s of HOSTILE)
      await client.query(`SET ${s}`).catch((e: unknown) => {
        if (!/lc_monetary|plpgsql/.test(s)) throw e
      })
    return client
  }
  const inserting = (i: number): string =>
    `INSERT INTO public.everything (id, ${types.map((_, j) => `v${j}, a${j}`).join(', ')}) VALUES (${i}, ${types.map((t) => `(${value(t, i)})::${t}, ARRAY[${value(t, i)}, NULL]::${t}[]`).join(', ')})`

  it('inserted', async () => {
    expect(types.length).to.be.at.least(80)
    await pool.query(
      `CREATE TABLE everything (id int PRIMARY KEY, ${types.map((t, j) => `v${j} ${t}, a${j} ${t}[]`).join(', ')})`,
    )
    for (let i = 0; i < rows; i++) await pool.query(inserting(i))
    await pool.query(
      `INSERT INTO everything (id, a0) VALUES (1000, '[2:3]={true,NULL}'), (1001, '{{t,f},{f,t}}'), (1002, '{}')`,
    )
    await same()
  })

  it('updated, moved, copied and deleted in a hostile session', async () => {
    const client = await hostile()
    await client.query('UPDATE public.everything SET id = id + 100 WHERE id < 100')
    await client.query(
      `UPDATE public.everything x SET (${types.map((_, j) => `v${j}`).join(', ')}) = (SELECT ${types.map((_, j) => `v${j}`).join(', ')} FROM public.everything y WHERE y.id = 100 + (x.id + 1) % ${rows}) WHERE id BETWEEN 100 AND 104`,
    )
    await client
      .query(
        "INSERT INTO public.everything SELECT (y).* FROM (SELECT jsonb_populate_record(x, jsonb_build_object('id', x.id + 100)) y FROM public.everything x WHERE x.id = 101) z",
      )
      .catch((e: unknown) => expect((e as { code: string }).code, 'jsonb cannot carry everything').to.match(/^22|^42/))
    await client.query('DELETE FROM public.everything WHERE id IN (102, 1001)')
    client.release(true)
    await same()
  })

  it('as keys: rows are found by them, in a hostile session', async () => {
    const client = await hostile()
    for (const [j, t] of types.entries()) {
      if (!KEYS.test(t)) continue
      const typed = OWN.test(t) ? `public.${t}` : t
      const made = await client.query(`CREATE TABLE public.key_${j} (k ${typed} PRIMARY KEY, n int)`).then(
        () => true,
        (e: unknown) => {
          if (!/^(42704|0A000)$/.test((e as { code: string }).code)) throw e
          return false
        },
      )
      if (!made) continue
      await client.query(
        `INSERT INTO public.key_${j} SELECT DISTINCT ON (v${j}) v${j}, 1 FROM public.everything WHERE v${j} IS NOT NULL`,
      )
      await client.query(`UPDATE public.key_${j} SET n = n + 1`)
      await client.query(`DELETE FROM public.key_${j} WHERE k = (SELECT min(k::text) FROM public.key_${j})::${typed}`)
    }
    client.release(true)
    await settled(c.servers, 15_000)
  })

  it('without a key: found by the whole row', async () => {
    await pool.query('CREATE TABLE bag AS SELECT * FROM everything; INSERT INTO bag SELECT * FROM everything')
    const client = await hostile()
    await client.query('DELETE FROM public.bag WHERE ctid IN (SELECT min(ctid) FROM public.bag GROUP BY id)')
    await client.query('UPDATE public.bag SET id = -id')
    client.release(true)
    await settled(c.servers, 15_000)
  })

  it('caught up by a server that was away', async () => {
    const away = c.servers[2]!
    await away.kill()
    const client = await hostile()
    await client.query(
      `UPDATE public.everything x SET (${types.map((_, j) => `a${j}`).join(', ')}) = (SELECT ${types.map((_, j) => `a${j}`).join(', ')} FROM public.everything y WHERE y.id = 100) WHERE id > 100`,
    )
    await client.query('DELETE FROM public.everything WHERE id = 103')
    client.release(true)
    for (let i = 0; i < rows; i++) await pool.query(inserting(i))
    await away.start()
    await same()
  })

  it('columns of type oid, also in arrays and domains, are refused', async () => {
    await pool.query('CREATE DOMAIN lo2 AS oid')
    for (const t of ['oid', 'oid[]', 'lo2'])
      expect((await failure(pool.query(`CREATE TABLE o (x ${t})`))).code, t).to.equal('0A000')
  })
})
