/**
 * Random schemas: types with a few values each (few, so that keys collide and rows are met again), and the DDL of a
 * schema.
 */
import fc from 'fast-check'

interface Type {
  readonly name: string
  readonly values: readonly string[]
  readonly key?: true
}
/** Made once in the schema `prop`. */
export const SHARED = `CREATE SCHEMA prop; CREATE TYPE prop.mood AS ENUM ('sad', 'ok', 'happy'); CREATE DOMAIN prop.positive AS int CHECK (VALUE > 0); CREATE TYPE prop.pair AS (a int, b text); CREATE DOMAIN prop.couple AS prop.pair;
  CREATE TABLE prop.audit (n bigserial PRIMARY KEY, what text, row_text text, at timestamptz DEFAULT clock_timestamp(), dice float8 DEFAULT random());
  CREATE FUNCTION prop.audited() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO prop.audit (what, row_text) VALUES (TG_OP || ' ' || TG_TABLE_NAME, CASE WHEN TG_LEVEL = 'STATEMENT' THEN NULL WHEN TG_OP = 'DELETE' THEN old::text ELSE new::text END); RETURN NULL; END $$;
  CREATE FUNCTION prop.bent() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF random() < 0.2 THEN RETURN NULL; END IF; RETURN new; END $$`

export const TYPES: readonly Type[] = [
  { name: 'int', values: ['1', '2', '3', '-2147483648', '2147483647'], key: true },
  { name: 'bigint', values: ['7', '8', '9223372036854775807'], key: true },
  { name: 'numeric', values: ["'1.10'", "'1.1'", "'NaN'", "'-Infinity'", "'1e-30'"], key: true },
  { name: 'numeric(6,2)', values: ['1.005', '2', '-9999.99'], key: true },
  { name: 'text', values: ["''", "'a'", "E'tab\\t\\\\ \"q\" \\'\\n'", "'é😀'", "'NULL'", "'(,)'"], key: true },
  { name: 'varchar(5)', values: ["'ab'", "'ab  '", "'too long'"], key: true },
  { name: 'char(4)', values: ["'ab'", "'ab '", "''"], key: true },
  { name: 'bool', values: ['true', 'false'] },
  { name: 'date', values: ["'2024-02-29'", "'infinity'", "'0044-03-15 BC'"], key: true },
  {
    name: 'timestamptz',
    values: ["'2024-03-31 02:30:00+01'", "'-infinity'", "'1883-11-18 12:03:58 America/New_York'", 'now()'],
    key: true,
  },
  { name: 'timetz', values: ["'24:00:00-15:59'", "'12:00:00.000001+00'"] },
  { name: 'interval', values: ["'-1 mon +2 days -3:00:00.000001'", "'1 day'", "'24 hours'", "'00:00'"], key: true },
  { name: 'bytea', values: ["'\\x00ff'", "''", "'\\x5c78'"], key: true },
  { name: 'json', values: [`'{"a":1,"a":2}'`, "'[1e400 ]'", `'"\\u0001"'`] },
  { name: 'jsonb', values: [`'{"b":1,"a":2.50}'`, "'null'", "'[]'"] },
  { name: 'float8', values: ["'-0'", "'0'", "'NaN'", "'5e-324'", '1.0/3', "'Infinity'"], key: true },
  { name: 'float4', values: ["'1e-45'", '0.1', "'-0'"] },
  { name: 'uuid', values: ["'00000000-0000-0000-0000-000000000001'", 'gen_random_uuid()'], key: true },
  { name: 'int[]', values: ["'[2:3]={1,2}'", "'{}'", "'{{1,NULL},{3,4}}'", 'NULL'] },
  { name: 'text[]', values: [`'{"NULL",NULL,"","a b","\\"\\\\"}'`, "'{}'"] },
  { name: 'int4range', values: ["'[1,5)'", "'empty'", "'(,)'"] },
  { name: 'nummultirange', values: ["'{[1,2),[3,4]}'", "'{}'"] },
  { name: 'prop.mood', values: ["'sad'", "'happy'"], key: true },
  { name: 'prop.positive', values: ['1', '2', '-1'], key: true },
  { name: 'prop.pair', values: [`ROW(1, 'a"b\\,')`, 'ROW(NULL, NULL)', "ROW(2, '')"] },
  { name: 'prop.couple[]', values: [`ARRAY[ROW(1, 'x')::prop.pair]::prop.couple[]`, "'{}'"] },
  { name: 'inet', values: ["'::1/64'", "'10.0.0.1'"], key: true },
  { name: 'bit(3)', values: ["B'101'", "B'000'"] },
  { name: 'money', values: ["'-1234.56'", '0'] },
  { name: 'xml', values: ["'<a>1</a>'", "'text'"] },
  { name: 'tsvector', values: ["'b:2A a:1'", "''"] },
  { name: 'point', values: ["'(-0,1e300)'", "'(1,2)'"] },
  { name: '"char"', values: ["'a'", "''"] },
  { name: 'regclass', values: ["'prop.audit'", "'pg_class'"] },
]
const KEYS = TYPES.filter((t) => t.key)

export interface Column {
  readonly type: Type
  readonly notNull: boolean
  readonly fallback: number | null
}
export interface Table {
  readonly columns: readonly Column[]
  /** How many of the first columns are the key; 0: none. */
  readonly key: number
  readonly unique: boolean
  readonly check: boolean
  readonly reference: { readonly table: number; readonly action: string; readonly late: boolean } | null
  readonly serial: 'none' | 'serial' | 'always'
  readonly generated: 'none' | 'STORED' | 'VIRTUAL'
  readonly trigger: 'none' | 'row' | 'statement' | 'deferred' | 'bent'
  readonly partition: 'none' | 'hash' | 'list'
}
const column = fc.record({ type: fc.constantFrom(...TYPES), notNull: fc.boolean(), fallback: fc.option(fc.nat(9)) })
const keyColumn = fc.record({ type: fc.constantFrom(...KEYS), notNull: fc.constant(true), fallback: fc.constant(null) })
const table = fc
  .record({
    keys: fc.array(keyColumn, { maxLength: 2 }),
    rest: fc.array(column, { minLength: 1, maxLength: 4 }),
    unique: fc.boolean(),
    check: fc.boolean(),
    reference: fc.option(
      fc.record({
        table: fc.nat(5),
        action: fc.constantFrom('', 'ON DELETE CASCADE ON UPDATE CASCADE', 'ON DELETE SET NULL', 'ON UPDATE CASCADE'),
        late: fc.boolean(),
      }),
    ),
    serial: fc.constantFrom('none', 'serial', 'always'),
    generated: fc.constantFrom('none', 'none', 'STORED', 'VIRTUAL'),
    trigger: fc.constantFrom('none', 'none', 'row', 'statement', 'deferred', 'bent'),
    partition: fc.constantFrom('none', 'none', 'hash', 'list'),
  })
  .map(({ keys, rest, ...other }): Table => ({ ...other, columns: [...keys, ...rest], key: keys.length }) as Table)
export const schemas: fc.Arbitrary<Table[]> = fc.array(table, { minLength: 1, maxLength: 3 })

export const valueOf = (c: Column, n: number): string => `${c.type.values[n % c.type.values.length] ?? 'NULL'}`
/** Tables with a key of one column can be referred to. */
const parentsOf = (tables: readonly Table[], i: number): number[] =>
  tables.flatMap((t, j) => (j < i && t.key === 1 ? [j] : []))

/** The parent that this table refers to, by a column `ref` of that key's type. */
export function parentOf(tables: readonly Table[], i: number): number | undefined {
  const parents = parentsOf(tables, i)
  const { reference } = tables[i]!
  return reference && parents.length > 0 ? parents[reference.table % parents.length] : undefined
}

export function ddlOf(tables: readonly Table[], ns: string, major: number): string[] {
  return tables.flatMap((t, i) => {
    const name = `${ns}.t${i}`
    const parent = parentOf(tables, i)
    const columns = t.columns.map(
      (c, j) =>
        `c${j} ${c.type.name}${c.notNull ? ' NOT NULL' : ''}${c.fallback === null ? '' : ` DEFAULT ${valueOf(c, c.fallback)}`}`,
    )
    if (t.serial === 'serial') columns.push('s serial')
    if (t.serial === 'always' && (t.partition === 'none' || major >= 17))
      columns.push('s bigint GENERATED ALWAYS AS IDENTITY')
    if (t.generated !== 'none' && t.columns[0]!.type.name === 'int')
      columns.push(`g bigint GENERATED ALWAYS AS (c0::bigint * 2) ${major >= 18 ? t.generated : 'STORED'}`)
    if (parent !== undefined) columns.push(`ref ${tables[parent]!.columns[0]!.type.name}`)
    if (t.key > 0) columns.push(`PRIMARY KEY (${Array.from({ length: t.key }, (_, j) => `c${j}`).join(', ')})`)
    if (parent !== undefined)
      columns.push(
        `FOREIGN KEY (ref) REFERENCES ${ns}.t${parent} ${t.reference?.action}${t.reference?.late ? ' DEFERRABLE INITIALLY DEFERRED' : ''}`,
      )
    if (t.check) columns.push('CHECK (c0 IS NOT NULL)')
    const parted = t.partition !== 'none' && (t.columns[0]!.type.key ?? false)
    const texts = [
      `CREATE TABLE ${name} (${columns.join(', ')})${parted ? ` PARTITION BY ${t.partition.toUpperCase()} (c0)` : ''}`,
    ]
    if (parted && t.partition === 'hash')
      texts.push(
        ...[0, 1].map(
          (r) => `CREATE TABLE ${name}_${r} PARTITION OF ${name} FOR VALUES WITH (modulus 2, remainder ${r})`,
        ),
      )
    if (parted && t.partition === 'list')
      texts.push(
        `CREATE TABLE ${name}_0 PARTITION OF ${name} FOR VALUES IN (${valueOf(t.columns[0]!, 0)})`,
        `CREATE TABLE ${name}_1 PARTITION OF ${name} DEFAULT`,
      )
    const last = t.columns.length - 1
    if (t.unique && t.columns[last]!.type.key)
      texts.push(`CREATE UNIQUE INDEX ON ${name} (c${last}${parted && last > 0 ? ', c0' : ''})`)
    if (t.trigger === 'bent')
      texts.push(`CREATE TRIGGER bent BEFORE INSERT OR UPDATE ON ${name} FOR EACH ROW EXECUTE FUNCTION prop.bent()`)
    else if (t.trigger === 'deferred')
      texts.push(
        `CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE ON ${name} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION prop.audited()`,
      )
    else if (t.trigger !== 'none')
      texts.push(
        `CREATE TRIGGER seen AFTER INSERT OR UPDATE OR DELETE ON ${name} FOR EACH ${t.trigger} EXECUTE FUNCTION prop.audited()`,
      )
    return texts
  })
}
