// One walk over a parse tree: every table read or written, and every function called.
// It follows PostgreSQL's own name rules. A WITH name hides a table only where it is in scope
// (its later siblings and the body; under RECURSIVE itself too), never behind a schema, and never
// as the target of INSERT, UPDATE, DELETE or MERGE. FOR UPDATE reaches into sub-selects of FROM.
// Keys come from the statement's top level only, and survive only if the table occurs once.

import type {
  CommonTableExpr,
  DeleteStmt,
  FuncCall,
  InsertStmt,
  JoinExpr,
  MergeStmt,
  Node,
  RangeSubselect,
} from 'libpg-query'
import type {
  RangeTableSample,
  RangeVar,
  ResTarget,
  SelectStmt,
  SQLValueFunction,
  UpdateStmt,
  WithClause,
} from 'libpg-query'
import { arbiterOf, keysOf, names, pick } from './keys.ts'
import type { KeyPart, TableUse } from './statement.ts'

type Scope = ReadonlySet<string>
type IsLocked = (alias: string | undefined) => boolean
type Occurrence = TableUse & { relation: string }

const NO_NAMES: Scope = new Set()
const SYSTEM_SCHEMAS = new Set(['pg_catalog', 'information_schema'])
const SYSTEM_PREFIX = 'pg_catalog.'

export class Uses {
  /** A table was written, a system table included. */
  wrote = false
  /** SELECT INTO: a table is created. */
  created = false
  readonly #occurrences: Occurrence[] = []
  readonly #functions = new Set<string>()
  #keys: ReadonlyMap<RangeVar, KeyPart[]> = new Map()

  get functions(): string[] {
    return [...this.#functions]
  }

  /** One entry per table and mode, in order of appearance. */
  get tables(): TableUse[] {
    const uses = new Map<string, TableUse>()
    for (const { table, mode, key, insertOnly, relation } of this.#occurrences) {
      const id = `${mode} ${table}`
      if (uses.has(id)) continue
      const all = this.#occurrences.filter((other) => other.relation === relation)
      uses.set(id, {
        table,
        mode,
        ...(key && all.length === 1 ? { key } : {}),
        ...(insertOnly && all.every((other) => other.insertOnly) ? { insertOnly } : {}),
      })
    }
    return [...uses.values()]
  }

  /** Walks a statement whose WHERE may give keys. */
  visitTop(node: Node | undefined): void {
    const select = pick<SelectStmt>(node, 'SelectStmt')
    const update = pick<UpdateStmt>(node, 'UpdateStmt')
    const remove = pick<DeleteStmt>(node, 'DeleteStmt')
    if (select) this.#keys = keysOf(select.fromClause ?? [], select.whereClause, NO_NAMES)
    if (update?.relation) {
      const items: Node[] = [{ RangeVar: update.relation }, ...(update.fromClause ?? [])]
      this.#keys = keysOf(items, update.whereClause, assignedBy(update))
    }
    if (remove?.relation) {
      this.#keys = keysOf([{ RangeVar: remove.relation }, ...(remove.usingClause ?? [])], remove.whereClause, NO_NAMES)
    }
    const insert = pick<InsertStmt>(node, 'InsertStmt')
    if (insert?.relation) {
      const key = arbiterOf(insert)
      if (key) this.#keys = new Map([[insert.relation, key]])
    }
    this.visit(node)
  }

  visit(value: unknown, scope: Scope = NO_NAMES): void {
    if (Array.isArray(value)) {
      for (const item of value) this.visit(item, scope)
    } else if (typeof value === 'object' && value !== null) {
      for (const [kind, content] of Object.entries(value)) this.#visitNode(kind, content, scope)
    }
  }

  write(range: RangeVar | undefined, how: { insertOnly?: true } = {}): void {
    this.wrote = true
    if (range) this.#add(range, 'write', how)
  }

  read(range: RangeVar | undefined): void {
    if (range) this.#add(range, 'read', {})
  }

  #visitNode(kind: string, content: unknown, scope: Scope): void {
    switch (kind) {
      case 'SelectStmt':
        return this.#visitSelect(content as SelectStmt, scope, false)
      case 'InsertStmt':
        return this.#visitInsert(content as InsertStmt, scope)
      case 'UpdateStmt':
      case 'DeleteStmt':
      case 'MergeStmt':
        return this.#visitChange(content as UpdateStmt | DeleteStmt | MergeStmt, scope)
      case 'RangeVar':
        return this.#visitRange(content as RangeVar, scope, false)
      case 'funccall': // CALL's own
      case 'FuncCall':
        return this.#visitCall(content as FuncCall, scope)
      case 'SQLValueFunction':
        return this.#visitValueFunction(content as SQLValueFunction)
      default:
        return this.visit(content, scope)
    }
  }

  #visitSelect(select: SelectStmt, outer: Scope, lockedByOuter: boolean): void {
    const { withClause, fromClause, lockingClause, intoClause, larg, rarg, ...rest } = select
    const scope = this.#visitWith(withClause, outer)
    const lockedNames = new Set<string | undefined>()
    let lockedAll = lockedByOuter
    for (const node of lockingClause ?? []) {
      const clause = pick<{ strength?: string; lockedRels?: Node[] }>(node, 'LockingClause')
      if (clause?.strength !== 'LCS_FORUPDATE' && clause?.strength !== 'LCS_FORNOKEYUPDATE') continue
      if (!clause.lockedRels) lockedAll = true
      for (const rel of clause.lockedRels ?? []) lockedNames.add(pick<RangeVar>(rel, 'RangeVar')?.relname)
    }
    if (intoClause?.rel) {
      this.created = true
      this.write(intoClause.rel)
    }
    for (const item of fromClause ?? []) this.#visitFrom(item, scope, (alias) => lockedAll || lockedNames.has(alias))
    if (larg) this.#visitSelect(larg, scope, lockedAll)
    if (rarg) this.#visitSelect(rarg, scope, lockedAll)
    this.visit(rest, scope)
  }

  #visitFrom(item: Node, scope: Scope, isLocked: IsLocked): void {
    const range = pick<RangeVar>(item, 'RangeVar')
    const join = pick<JoinExpr>(item, 'JoinExpr')
    const sub = pick<RangeSubselect>(item, 'RangeSubselect')
    const sample = pick<RangeTableSample>(item, 'RangeTableSample')
    const subselect = pick<SelectStmt>(sub?.subquery, 'SelectStmt')
    if (range) {
      this.#visitRange(range, scope, isLocked(range.alias?.aliasname ?? range.relname))
    } else if (join?.larg && join.rarg) {
      this.#visitFrom(join.larg, scope, isLocked)
      this.#visitFrom(join.rarg, scope, isLocked)
      this.visit(join.quals, scope)
    } else if (subselect) {
      this.#visitSelect(subselect, scope, isLocked(sub?.alias?.aliasname))
    } else if (sample?.relation) {
      this.#visitFrom(sample.relation, scope, isLocked)
      this.visit([sample.args, sample.repeatable], scope)
    } else {
      this.visit(item, scope)
    }
  }

  #visitInsert(insert: InsertStmt, outer: Scope): void {
    const { withClause, relation, ...rest } = insert
    const scope = this.#visitWith(withClause, outer)
    if (insert.onConflictClause) {
      if (!relation || !this.#keys.has(relation)) this.read(relation)
      this.write(relation)
    } else {
      this.write(relation, { insertOnly: true })
    }
    this.visit(rest, scope)
  }

  #visitChange(change: UpdateStmt | DeleteStmt | MergeStmt, outer: Scope): void {
    const { withClause, relation, ...rest } = change
    const scope = this.#visitWith(withClause, outer)
    this.write(relation)
    this.visit(rest, scope)
  }

  #visitWith(clause: WithClause | undefined, outer: Scope): Scope {
    if (!clause) return outer
    const ctes = (clause.ctes ?? []).map((node) => pick<CommonTableExpr>(node, 'CommonTableExpr'))
    const scope = new Set(outer)
    if (clause.recursive) for (const cte of ctes) scope.add(cte?.ctename ?? '')
    for (const cte of ctes) {
      this.visit(cte, scope)
      scope.add(cte?.ctename ?? '')
    }
    return scope
  }

  #visitRange(range: RangeVar, scope: Scope, locked: boolean): void {
    if (!range.schemaname && scope.has(range.relname ?? '')) return
    if (locked) this.write(range)
    else this.read(range)
  }

  #visitCall(call: FuncCall, scope: Scope): void {
    const name = names(call.funcname).join('.').toLowerCase()
    // EXTRACT(..), AT TIME ZONE and the like: the parser, not the writer, added the schema.
    const added = call.funcformat === 'COERCE_SQL_SYNTAX' && name.startsWith(SYSTEM_PREFIX)
    this.#functions.add(added ? name.slice(SYSTEM_PREFIX.length) : name)
    this.visit(call, scope)
  }

  #visitValueFunction(call: SQLValueFunction): void {
    this.#functions.add(
      (call.op ?? '')
        .replace(/^SVFOP_/, '')
        .replace(/_N$/, '')
        .toLowerCase(),
    )
  }

  #add(range: RangeVar, mode: 'read' | 'write', how: { insertOnly?: true }): void {
    if (SYSTEM_SCHEMAS.has(range.schemaname ?? '')) return
    const key = this.#keys.get(range)
    this.#occurrences.push({
      table: tableName(range),
      mode,
      relation: range.relname ?? '',
      ...(key ? { key } : {}),
      ...how,
    })
  }
}

export function tableName(range: RangeVar): string {
  return range.schemaname ? `${range.schemaname}.${range.relname ?? ''}` : (range.relname ?? '')
}

function assignedBy(update: UpdateStmt): Set<string> {
  return new Set((update.targetList ?? []).map((node) => pick<ResTarget>(node, 'ResTarget')?.name ?? ''))
}
