/** Results, types, named statements and errors. */
import { expect } from 'chai'
import pg from 'pg'
import { failure } from '../cluster.ts'
import { both } from './both.ts'

both('results', (kind) => {
  let pool: pg.Pool
  let client: pg.PoolClient
  before(async () => {
    pool = kind.pool()
    await pool.query(
      'CREATE TABLE res (id int PRIMARY KEY, t text, n numeric(10,2), d date, j jsonb, CONSTRAINT res_t CHECK (t <> $$bad$$))',
    )
    client = await pool.connect()
  })
  after(() => client.release())

  it('command, rowCount, oid, fields', async () => {
    const inserted = await pool.query(
      "INSERT INTO res VALUES (1, 'a', 1.5, '2026-02-03', '{\"a\": [1, null]}'), (2, 'b', NULL, NULL, NULL)",
    )
    expect(inserted).to.include({ command: 'INSERT', rowCount: 2, oid: 0 })
    expect(inserted.rows).to.deep.equal([])
    const { fields, rows, rowCount, command } = await pool.query('SELECT id, t, n FROM res ORDER BY id')
    expect({ rowCount, command }).to.deep.equal({ rowCount: 2, command: 'SELECT' })
    expect(rows).to.deep.equal([
      { id: 1, t: 'a', n: '1.50' },
      { id: 2, t: 'b', n: null },
    ])
    expect(
      fields.map(({ name, columnID, dataTypeID, dataTypeSize, dataTypeModifier, format }) => [
        name,
        columnID,
        dataTypeID,
        dataTypeSize,
        dataTypeModifier,
        format,
      ]),
    ).to.deep.equal([
      ['id', 1, 23, 4, -1, 'text'],
      ['t', 2, 25, -1, -1, 'text'],
      ['n', 3, 1700, -1, (10 << 16) + 2 + 4, 'text'],
    ])
    expect(fields[0]!.tableID).to.be.above(0)
    for (const [text, count, cmd] of [
      ['UPDATE res SET t = t', 2, 'UPDATE'],
      ['DELETE FROM res WHERE id = 99', 0, 'DELETE'],
      ['CREATE TABLE res_2 (i int)', null, 'CREATE'],
      ['DROP TABLE res_2', null, 'DROP'],
      ["SET a.b = '1'", null, 'SET'],
      ['SHOW a.b', null, 'SHOW'],
      ['MERGE INTO res USING (VALUES (1)) v(i) ON id = i WHEN MATCHED THEN UPDATE SET t = t', 1, 'MERGE'],
      ['EXPLAIN SELECT 1', null, 'EXPLAIN'],
      ['VALUES (1), (2)', 2, 'SELECT'],
      ['TABLE res', 2, 'SELECT'],
    ] as const) {
      const result = await client.query(text)
      expect([result.rowCount, result.command], text).to.deep.equal([count, cmd])
    }
  })
  it('types: date, json, arrays, bytea, bool, int8, float, interval', async () => {
    const {
      rows: [row],
    } = await pool.query(
      "SELECT d, j, ARRAY[1,2] AS a, '\\x0102'::bytea AS b, true AS yes, 5::int8 AS big, 1.5::float8 AS f, 'NaN'::float8 AS nan FROM res WHERE id = 1",
    )
    expect(row.d).to.deep.equal(new Date(2026, 1, 3))
    expect(row.j).to.deep.equal({ a: [1, null] })
    expect(row).to.deep.include({ a: [1, 2], yes: true, big: '5', f: 1.5 })
    expect(row.nan).to.be.NaN
    expect([...row.b]).to.deep.equal([1, 2])
  })
  it('values: dates, objects, arrays, buffers, null, undefined, toPostgres', async () => {
    const when = new Date('2026-01-02T03:04:05.678Z')
    const {
      rows: [row],
    } = await client.query(
      'SELECT $1::timestamptz AS w, $2::jsonb AS o, $3::int[] AS a, $4::bytea AS b, $5::text AS n, $6::text AS u, $7::text AS p',
      [when, { x: 1 }, [1, 2, null], Buffer.from([0, 255]), null, undefined, { toPostgres: () => 'mine' }],
    )
    expect(row.w).to.deep.equal(when)
    expect(row).to.deep.include({ o: { x: 1 }, a: [1, 2, null], n: null, u: null, p: 'mine' })
    expect([...row.b]).to.deep.equal([0, 255])
  })
  it('rowMode array, on reads and writes', async () => {
    expect(
      (await pool.query({ text: 'SELECT id, t FROM res WHERE id = $1', values: [1], rowMode: 'array' })).rows,
    ).to.deep.equal([[1, 'a']])
    expect(
      (await pool.query({ text: 'UPDATE res SET t = t WHERE id = 1 RETURNING id, t', rowMode: 'array' })).rows,
    ).to.deep.equal([[1, 'a']])
  })
  it('types of a query, of a client, of a pool; setTypeParser; binary', async () => {
    const shout = { getTypeParser: () => (v: string) => `<${v}>` } as unknown as pg.CustomTypesConfig
    expect((await pool.query({ text: 'SELECT id, j FROM res WHERE id = 1', types: shout })).rows).to.deep.equal([
      { id: '<1>', j: '<{"a": [1, null]}>' },
    ])
    const own = kind.pool({ types: shout })
    expect((await own.query('SELECT id FROM res WHERE id = 1')).rows).to.deep.equal([{ id: '<1>' }])
    expect((await own.query("UPDATE res SET t = 'a' WHERE id = 1 RETURNING id")).rows).to.deep.equal([{ id: '<1>' }])
    const lone = kind.client()
    await lone.connect()
    for (const oid of [3802, 16, 23]) lone.setTypeParser(oid as never, (v: string) => `${oid}:${v}`)
    expect((await lone.query('SELECT id, j FROM res WHERE id = 1')).rows).to.deep.equal([
      { id: '23:1', j: '3802:{"a": [1, null]}' },
    ])
    expect((await lone.query("UPDATE res SET t = 'a' WHERE id = 1")).rowCount).to.equal(1)
    expect(lone.getTypeParser(23 as never)('4')).to.equal('23:4')
    const overrides = new pg.TypeOverrides()
    overrides.setTypeParser(25 as never, (v: string) => v.toUpperCase())
    expect(
      (
        await pool.query({
          text: 'SELECT t FROM res WHERE id = 1',
          types: overrides as unknown as pg.CustomTypesConfig,
        })
      ).rows,
    ).to.deep.equal([{ t: 'A' }])
    const binary = kind.pool({ binary: true })
    expect((await binary.query('SELECT id FROM res WHERE id = $1', [1])).rows).to.deep.equal([{ id: 1 }])
    expect((await binary.query('UPDATE res SET t = $2 WHERE id = $1 RETURNING id', [1, 'a'])).rows).to.deep.equal([
      { id: 1 },
    ])
    expect((await binary.query('SELECT id FROM res WHERE id = $1', [1])).fields[0]!.format).to.equal('binary')
  })
  it('global type parsers', async () => {
    const before = pg.types.getTypeParser(3802)
    pg.types.setTypeParser(3802, (v: string) => `raw ${v}`)
    try {
      expect((await pool.query('SELECT j FROM res WHERE id = 1')).rows).to.deep.equal([{ j: 'raw {"a": [1, null]}' }])
      expect((await pool.query("UPDATE res SET t = 'a' WHERE id = 1")).rowCount).to.equal(1)
    } finally {
      pg.types.setTypeParser(3802, before as never)
    }
  })
  it('several statements give several Results; a comment none', async () => {
    const results = (await pool.query(
      'SELECT 1 AS a; SELECT 2 AS b WHERE false; SELECT id FROM res ORDER BY id',
    )) as unknown as pg.QueryResult[]
    expect(results.map((r) => r.rows)).to.deep.equal([[{ a: 1 }], [], [{ id: 1 }, { id: 2 }]])
    expect((await failure(pool.query('SELECT $1::int; SELECT 2', [1]))).code).to.equal('42601')
    for (const text of ['', ';', '-- nothing', '/* */ ;'])
      expect(await pool.query(text), text).to.include({ command: null, rowCount: null })
  })
  it('columns of one name, columns without one, no columns', async () => {
    expect((await pool.query('SELECT 1 AS a, 2 AS a')).rows).to.deep.equal([{ a: 2 }])
    expect((await pool.query('SELECT 1')).rows).to.deep.equal([{ '?column?': 1 }])
    expect((await pool.query('SELECT FROM res')).rows).to.deep.equal([{}, {}])
  })
  it('a NUL in a value, in a text; long texts; emoji', async () => {
    expect((await failure(pool.query('SELECT $1::text', ['a\0b']))).code).to.equal('22021')
    const nul = await Promise.race([
      failure(kind.pool().query('SELECT 1 \0 AS n')).then(() => 'error'),
      new Promise((r) => setTimeout(r, 500, 'error')),
    ])
    expect(nul).to.equal('error')
    const long = 'é🙂'.repeat(50_000)
    expect((await client.query('UPDATE res SET t = $1 WHERE id = 2 RETURNING t', [long])).rows).to.deep.equal([
      { t: long },
    ])
    await client.query("UPDATE res SET t = 'b' WHERE id = 2")
    expect((await client.query(`SELECT '${'x'.repeat(100_000)}' AS x`)).rows[0].x).to.have.length(100_000)
  })
  describe('named statements', () => {
    it('are prepared once and used again, by their name alone too', async () => {
      const named = { name: 'res_by_id', text: 'SELECT t FROM res WHERE id = $1' }
      for (const id of [1, 2])
        expect((await client.query({ ...named, values: [id] })).rows).to.deep.equal([{ t: id === 1 ? 'a' : 'b' }])
      expect((await client.query({ name: 'res_by_id', values: [1] } as pg.QueryConfig)).rows).to.deep.equal([
        { t: 'a' },
      ])
      expect(
        (await client.query("SELECT name FROM pg_prepared_statements WHERE name = 'res_by_id'")).rows,
      ).to.have.length(1)
      const write = { name: 'res_set', text: 'UPDATE res SET t = $2 WHERE id = $1' }
      await client.query({ ...write, values: [1, 'c'] })
      expect((await client.query({ name: 'res_set', values: [1, 'a'] } as pg.QueryConfig)).rowCount).to.equal(1)
      expect((await pool.query('SELECT t FROM res WHERE id = 1')).rows).to.deep.equal([{ t: 'a' }])
    })
    it('one name for two texts', async () => {
      await client.query({ name: 'res_one', text: 'SELECT 1 AS n' })
      expect((await failure(client.query({ name: 'res_one', text: 'SELECT id FROM res' }))).message).to.match(
        /Prepared statements must be unique - 'res_one'/,
      )
      expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
    })
    it('a name whose text was wrong is free again', async () => {
      expect((await failure(client.query({ name: 'res_wrong', text: 'SELECT nothing' }))).code).to.equal('42703')
      expect((await client.query({ name: 'res_wrong', text: 'SELECT 1 AS n' })).rows).to.deep.equal([{ n: 1 }])
    })
    it('a name that nothing was prepared under', async () => {
      expect((await failure(client.query({ name: 'res_never', values: [1] } as pg.QueryConfig))).code).to.equal('08P01')
    })
    it('queryMode extended', async () => {
      expect(
        (await client.query({ text: 'SELECT 1 AS n', queryMode: 'extended' } as pg.QueryConfig)).rows,
      ).to.deep.equal([{ n: 1 }])
    })
  })
  describe('errors', () => {
    const fields = async (work: Promise<unknown>): Promise<Record<string, unknown>> =>
      (await failure(work)) as unknown as Record<string, unknown>
    it('are DatabaseErrors with all their fields', async () => {
      const unique = await fields(pool.query("INSERT INTO res VALUES (1, 'x')"))
      expect(unique).to.be.instanceOf(pg.DatabaseError)
      expect(unique).to.include({
        code: '23505',
        severity: 'ERROR',
        schema: 'public',
        table: 'res',
        constraint: 'res_pkey',
        detail: 'Key (id)=(1) already exists.',
        name: 'error',
      })
      for (const field of ['file', 'line', 'routine']) expect(unique[field], field).to.be.a('string')
      expect(await fields(pool.query("INSERT INTO res VALUES (3, 'bad')"))).to.include({
        code: '23514',
        constraint: 'res_t',
      })
      expect(await fields(pool.query('INSERT INTO res VALUES (NULL)'))).to.include({ code: '23502', column: 'id' })
      const position = await fields(pool.query('SELECT nothing FROM res'))
      expect(position).to.include({ code: '42703', position: '8' })
      const where = await fields(pool.query('DO $$ BEGIN PERFORM 1/0; END $$'))
      expect(where['where']).to.match(/PL\/pgSQL function/)
      expect(
        await fields(
          pool.query(
            "DO $$ BEGIN RAISE EXCEPTION 'mine' USING ERRCODE = 'P0042', HINT = 'h', DETAIL = 'd', COLUMN = 'c', DATATYPE = 't'; END $$",
          ),
        ),
      ).to.include({ code: 'P0042', message: 'mine', hint: 'h', detail: 'd', column: 'c', dataType: 't' })
    })
    it('at every place of a transaction', async () => {
      await client.query('BEGIN')
      expect(await fields(client.query("INSERT INTO res VALUES (1, 'x')"))).to.include({ code: '23505', table: 'res' })
      expect(await fields(client.query('SELECT 1'))).to.include({ code: '25P02' })
      await client.query('ROLLBACK')
      expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
    })
    it('a type error in the client’s own hands', async () => {
      const cyclic: Record<string, unknown> = {}
      cyclic['self'] = cyclic
      expect((await failure(client.query('SELECT $1::json', [cyclic]))).message).to.match(/circular/i)
      expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
    })
  })
})
