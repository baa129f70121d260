/**
 * From what a statement says about itself to the locks it needs (docs/protocol.md, section 4, one-shot statements).
 * Advice only: the server's own word at seal (pg_locks, the captured rows) decides, so a wrong guess costs a retry,
 * never a wrong answer.
 */
import type { LockRequest } from '../protocol/locks.ts'
import type { KeyPart, Statement } from './statement.ts'

/** Built-in functions with an effect that is not a row of a table: their statement cannot run as a read. */
const EFFECTS =
  /^(pg_catalog\.)?(nextval|setval|pg_notify|set_config|lo_|pg_(try_)?advisory|dblink|txid_current$|pg_current_xact_id$)/

export interface Inferred {
  readonly requests: readonly LockRequest[]
  /** May run in a read-only snapshot. */
  readonly readOnly: boolean
}

export function inferAll(
  statements: readonly Statement[],
  values: readonly unknown[] | undefined,
  builtIn: ReadonlySet<string> = new Set(),
): Inferred {
  const all = statements.map((s) => infer(s, values, builtIn))
  return { requests: all.flatMap((i) => i.requests), readOnly: all.every((i) => i.readOnly) }
}

type ReadsOf = (values: readonly unknown[] | undefined) => readonly LockRequest[]
const plain = new WeakMap<ReadonlySet<string>, WeakMap<Statement, ReadsOf | null>>()

/** What a statement that does nothing but read tables reads; null: it is none. Remembered for each statement. */
export function readsOf(statement: Statement, builtIn: ReadonlySet<string>): ReadsOf | null {
  let known = plain.get(builtIn)
  if (!known) plain.set(builtIn, (known = new WeakMap<Statement, ReadsOf | null>()))
  let reads = known.get(statement)
  if (reads === undefined) {
    const { requests, readOnly } = infer(statement, undefined, builtIn)
    const fixed = statement.tables.every((use) => !use.key)
    reads =
      statement.kind !== 'read' || !readOnly || requests.length === 0 || statement.inBlock
        ? null
        : fixed
          ? () => requests
          : (values) => requestsOf(statement, values)
    known.set(statement, reads)
  }
  return reads
}

function infer(statement: Statement, values: readonly unknown[] | undefined, builtIn: ReadonlySet<string>): Inferred {
  const foreign = statement.functions.some((f) => !builtIn.has(f.replace(/^pg_catalog\./, '')))
  const effects = statement.functions.some((f) => EFFECTS.test(f))
  const readOnly = statement.kind === 'read' && !statement.opaque && !foreign && !effects
  if (statement.opaque || foreign || statement.sets || statement.kind === 'ddl')
    return { requests: [{ t: '*', w: true }], readOnly: false }
  return { requests: requestsOf(statement, values), readOnly }
}

function requestsOf(statement: Statement, values: readonly unknown[] | undefined): LockRequest[] {
  const requests: LockRequest[] = []
  for (const { table: t, mode, key, insertOnly } of statement.tables) {
    if (insertOnly) continue
    const kv = key && keyValues(key, values)
    requests.push(kv ? { t, w: mode === 'write', soft: true, kv } : { t, w: mode === 'write', soft: true })
  }
  return requests
}

/**
 * It changes rows of the tables in its text, and does nothing else there: on plain tables (schema/group.sql)
 * nothing else at all.
 */
export function changesRows(statement: Statement): boolean {
  return (
    statement.kind === 'write' &&
    /^\s*(insert|update|delete)\b/i.test(statement.text) &&
    !statement.opaque &&
    !statement.sets &&
    !statement.temporary &&
    !statement.functions.some((f) => EFFECTS.test(f))
  )
}

/** On tables where nothing is called behind it (quorum.closed), all that it reads is in its text. */
export const saysAll = (statement: Statement, builtIn: ReadonlySet<string> = new Set()): boolean =>
  statement.tables.length > 0 &&
  (readsOf(statement, builtIn) !== null ||
    (changesRows(statement) && statement.functions.every((f) => builtIn.has(f.replace(/^pg_catalog\./, '')))))

/** It changes one row, which it names by its key, or none. */
export function namesRow(statement: Statement): boolean {
  const [use, another] = statement.tables
  return use?.mode === 'write' && use.key !== undefined && another === undefined && changesRows(statement)
}

/**
 * Whenever it is parsed and planned, it is the same: 'now' is a moment then, and what is called IMMUTABLE is
 * called.
 */
export const isSteady = ({ text, functions, opaque }: Statement): boolean =>
  !opaque && functions.length === 0 && /^(?:[^'$]|\$\d)*$/.test(text)

function keyValues(
  key: readonly KeyPart[],
  values: readonly unknown[] | undefined,
): Record<string, string> | undefined {
  const kv: Record<string, string> = {}
  let some = false
  for (const part of key) {
    const value = 'value' in part ? part.value : values?.[part.param - 1]
    if (
      typeof value === 'string' ||
      typeof value === 'bigint' ||
      (typeof value === 'number' && Number.isSafeInteger(value))
    ) {
      kv[part.column] = String(value)
      some = true
    }
  }
  return some ? kv : undefined
}
