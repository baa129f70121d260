/** Random statements: generated without a schema, so that fast-check can make them smaller, and written out for one. */
import fc from 'fast-check'
import { parentOf, valueOf, type Table } from './schema.ts'

const n = fc.nat(50)
const place = { table: n, column: n, value: n, other: n }
export const KINDS = [
  'insert',
  'insert',
  'insert',
  'many',
  'select-insert',
  'nothing',
  'upsert',
  'update',
  'update',
  'update all',
  'update key',
  'swap',
  'delete',
  'delete',
  'delete all',
  'truncate',
  'cascade',
  'merge',
  'partition',
  'cte',
  'returning',
  'add column',
  'drop column',
  'retype',
  'index',
  'rename',
  'as',
  'view',
  'setval',
  'restart',
  'set',
  'disable',
  'begin',
  'begin',
  'savepoint',
  'rollback to',
  'commit',
  'rollback',
  'error',
] as const
export type Step = { readonly kind: (typeof KINDS)[number] } & Readonly<Record<keyof typeof place, number>>
export const steps: fc.Arbitrary<Step[]> = fc.array(fc.record({ kind: fc.constantFrom(...KINDS), ...place }), {
  minLength: 5,
  maxLength: 25,
})

const SETTINGS = [
  "datestyle = 'German'",
  "intervalstyle = 'sql_standard'",
  "timezone = 'Asia/Kathmandu'",
  "bytea_output = 'escape'",
  'extra_float_digits = -15',
  "lc_monetary = 'C'",
  "search_path = 'prop'",
  "xmloption = 'document'",
  'standard_conforming_strings = off',
  'array_nulls = off',
  'transform_null_equals = on',
  "backslash_quote = 'safe_encoding'",
  "client_encoding = 'LATIN1'",
  "default_transaction_isolation = 'repeatable read'",
  'row_security = off',
  "default_toast_compression = 'pglz'",
  'jit = off',
  'quote_all_identifiers = on',
  'enable_seqscan = off',
  'DEFAULT',
]

export function textOf(step: Step, tables: readonly Table[], ns: string): string {
  const i = step.table % tables.length
  const t = tables[i]!
  const name = `${ns}.t${i}`
  const at = step.column % t.columns.length
  const [column, c] = [`c${at}`, t.columns[at]!]
  const value = valueOf(c, step.value)
  const some = t.columns[0]!.type.key ? `c0 = ${valueOf(t.columns[0]!, step.other)}` : `${column}::text > 'a'`
  const parent = parentOf(tables, i)
  const row = (k: number): string =>
    `(${[...t.columns.map((x, j) => valueOf(x, k * 3 + j + step.value)), ...(parent === undefined ? [] : [step.other % 4 === 0 ? 'NULL' : valueOf(tables[parent]!.columns[0]!, step.other + k)])].join(', ')})`
  const names = `(${[...t.columns.map((_, j) => `c${j}`), ...(parent === undefined ? [] : ['ref'])].join(', ')})`
  const key = Array.from({ length: t.key }, (_, j) => `c${j}`).join(', ')
  switch (step.kind) {
    case 'insert':
      return `INSERT INTO ${name} ${names} VALUES ${row(step.other)}`
    case 'many':
      return `INSERT INTO ${name} ${names} VALUES ${row(0)}, ${row(1)}, ${row(step.other)}`
    case 'select-insert':
      return `INSERT INTO ${name} ${names} SELECT ${names.slice(1, -1)} FROM ${name} LIMIT ${step.value % 3}`
    case 'nothing':
      return `INSERT INTO ${name} ${names} VALUES ${row(0)}, ${row(step.other)} ON CONFLICT DO NOTHING`
    case 'upsert':
      return key === ''
        ? `INSERT INTO ${name} DEFAULT VALUES`
        : `INSERT INTO ${name} ${names} VALUES ${row(step.other)} ON CONFLICT (${key}) DO UPDATE SET ${column} = excluded.${column}`
    case 'update':
      return `UPDATE ${name} SET ${column} = ${value} WHERE ${some}`
    case 'update all':
      return `UPDATE ${name} SET ${column} = ${step.other % 3 === 0 ? 'DEFAULT' : value}`
    case 'update key':
      return `UPDATE ${name} SET c0 = ${valueOf(t.columns[0]!, step.value)} WHERE ${some}`
    case 'swap':
      return `UPDATE ${name} x SET ${column} = y.${column} FROM ${name} y WHERE x.ctid <> y.ctid AND x.tableoid = y.tableoid`
    case 'delete':
      return `DELETE FROM ${name} WHERE ${some}`
    case 'delete all':
      return `DELETE FROM ${name}`
    case 'truncate':
      return `TRUNCATE ${name}${step.other % 2 ? ' RESTART IDENTITY' : ''}`
    case 'cascade':
      return `TRUNCATE ${name} CASCADE`
    case 'merge':
      return `MERGE INTO ${name} x USING (SELECT ${valueOf(t.columns[0]!, step.value)}::${t.columns[0]!.type.name} v) s ON x.c0${t.columns[0]!.type.key ? '' : '::text'} = s.v${t.columns[0]!.type.key ? '' : '::text'} WHEN MATCHED AND ${step.other % 2} = 0 THEN UPDATE SET ${column} = ${value} WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT ${names} VALUES ${row(step.other)}`
    case 'partition':
      return `UPDATE ${name}_${step.other % 2} SET ${column} = ${value}`
    case 'cte':
      return `WITH gone AS (DELETE FROM ${name} WHERE ${some} RETURNING *) INSERT INTO ${name} ${names} SELECT ${names.slice(1, -1)} FROM gone`
    case 'returning':
      return `UPDATE ${name} SET ${column} = ${column} RETURNING *`
    case 'add column':
      return `ALTER TABLE ${name} ADD COLUMN a${step.value} int DEFAULT ${step.other}`
    case 'drop column':
      return `ALTER TABLE ${name} DROP COLUMN IF EXISTS a${step.value % 5}`
    case 'retype':
      return `ALTER TABLE ${name} ALTER ${column} TYPE text`
    case 'index':
      return `CREATE INDEX ON ${name} (${column})`
    case 'rename':
      return `ALTER TABLE ${name} RENAME TO x; ALTER TABLE ${ns}.x RENAME TO t${i}`
    case 'as':
      return `CREATE TABLE ${ns}.copy${step.value} AS SELECT * FROM ${name}`
    case 'view':
      return `CREATE OR REPLACE VIEW ${ns}.v AS SELECT count(*) FROM ${name}`
    case 'setval':
      return `SELECT setval(pg_get_serial_sequence('${name}', 's'), ${step.value + 1})`
    case 'restart':
      return `ALTER SEQUENCE IF EXISTS ${name}_s_seq RESTART WITH ${step.value + 1}`
    case 'set':
      return SETTINGS[step.value % SETTINGS.length] === 'DEFAULT'
        ? 'RESET ALL'
        : `SET ${SETTINGS[step.value % SETTINGS.length]}`
    case 'disable':
      return `ALTER TABLE ${name} ${step.other % 2 ? 'DISABLE' : 'ENABLE'} TRIGGER ALL`
    case 'begin':
      return 'BEGIN'
    case 'savepoint':
      return 'SAVEPOINT s'
    case 'rollback to':
      return 'ROLLBACK TO s'
    case 'commit':
      return 'COMMIT'
    case 'rollback':
      return 'ROLLBACK'
    case 'error':
      return 'SELECT 1 / 0'
    default:
      return step.kind satisfies never
  }
}
