// Which rows a statement's WHERE pins down: the `column = constant` conjuncts, per table.
// A key is a promise that no other row of the table matters to the statement, so everything
// doubtful yields none: OR, IN, = ANY, rows, other operators, renamed columns, casts that could
// change the value (7.9::int, 'abc'::char(2)), and a column the UPDATE itself assigns, since the
// row then moves to another key. With several tables in FROM only alias-qualified columns count.

import type {
  A_Const,
  A_Expr,
  BoolExpr,
  ColumnRef,
  IndexElem,
  InsertStmt,
  JoinExpr,
  Node,
  ParamRef,
  RangeVar,
  ResTarget,
  SelectStmt,
  TypeCast,
} from 'libpg-query'
import type { KeyPart } from './statement.ts'

/** The content of a node if it is of this kind. The caller names the type that goes with the kind. */
export function pick<T>(node: Node | undefined, kind: string): T | undefined {
  return (node as Record<string, T> | undefined)?.[kind]
}

/** The strings of a name list, such as a function's or a column's. A star has no string. */
export function names(nodes: Node[] | undefined): (string | undefined)[] {
  return (nodes ?? []).map((node) => {
    const string = pick<{ sval?: string }>(node, 'String')
    return string && (string.sval ?? '')
  })
}

// Types whose input leaves the value what the text says, and whose = is plain equality.
const PLAIN_TYPES = new Set([
  'int2',
  'int4',
  'int8',
  'numeric',
  'text',
  'varchar',
  'uuid',
  'date',
  'timestamp',
  'timestamptz',
])

type Constant = { param: number } | { value: string }

export function keysOf(
  items: Node[],
  where: Node | undefined,
  assigned: ReadonlySet<string>,
): Map<RangeVar, KeyPart[]> {
  const keys = new Map<RangeVar, KeyPart[]>()
  const ranges = plainRanges(items)
  if (!ranges) return keys
  const only = ranges.length === 1 ? ranges[0] : undefined
  for (const conjunct of conjuncts(where)) {
    const equality = equalityOf(conjunct)
    if (!equality) continue
    const { qualifier, column, constant } = equality
    const range = qualifier === undefined ? only : rangeNamed(ranges, qualifier)
    if (!range || range.alias?.colnames) continue
    if (range === ranges[0] && assigned.has(column)) continue
    keys.set(range, [...(keys.get(range) ?? []), { column, ...constant }])
  }
  return keys
}

/** INSERT … VALUES (one row) ON CONFLICT (columns): the one row that it may meet there. */
export function arbiterOf({ cols, selectStmt, onConflictClause: clause }: InsertStmt): KeyPart[] | undefined {
  const rows = pick<SelectStmt>(selectStmt, 'SelectStmt')?.valuesLists ?? []
  const elements = (clause?.infer?.indexElems ?? []).map((node) => pick<IndexElem>(node, 'IndexElem'))
  if (rows.length !== 1 || elements.length === 0 || clause?.infer?.whereClause) return undefined
  const values = pick<{ items?: Node[] }>(rows[0], 'List')?.items ?? []
  const parts = elements.map((element): KeyPart | undefined => {
    const at = (cols ?? []).findIndex((node) => pick<ResTarget>(node, 'ResTarget')?.name === element?.name)
    const constant = element?.name !== undefined && at >= 0 ? constantOf(values[at]) : undefined
    return constant && element?.name !== undefined ? { column: element.name, ...constant } : undefined
  })
  return parts.every((part) => part !== undefined) ? parts : undefined
}

/** The tables of a FROM made of nothing but tables and unnamed joins of tables. */
function plainRanges(items: Node[]): RangeVar[] | undefined {
  const ranges: RangeVar[] = []
  for (const item of items) {
    const range = pick<RangeVar>(item, 'RangeVar')
    const join = pick<JoinExpr>(item, 'JoinExpr')
    if (range) {
      ranges.push(range)
    } else if (join?.larg && join.rarg && !join.alias) {
      const inner = plainRanges([join.larg, join.rarg])
      if (!inner) return undefined
      ranges.push(...inner)
    } else {
      return undefined
    }
  }
  return ranges
}

function rangeNamed(ranges: RangeVar[], qualifier: string): RangeVar | undefined {
  const matches = ranges.filter((range) => (range.alias?.aliasname ?? range.relname) === qualifier)
  return matches.length === 1 ? matches[0] : undefined
}

function conjuncts(where: Node | undefined): Node[] {
  if (!where) return []
  const bool = pick<BoolExpr>(where, 'BoolExpr')
  return bool?.boolop === 'AND_EXPR' ? (bool.args ?? []).flatMap(conjuncts) : [where]
}

function equalityOf(node: Node): { qualifier: string | undefined; column: string; constant: Constant } | undefined {
  const expr = pick<A_Expr>(node, 'A_Expr')
  if (expr?.kind !== 'AEXPR_OP') return undefined
  const operator = names(expr.name)
  if (operator.length !== 1 || operator[0] !== '=') return undefined
  const [left, right] = pick(expr.lexpr, 'ColumnRef') ? [expr.lexpr, expr.rexpr] : [expr.rexpr, expr.lexpr]
  const fields = names(pick<ColumnRef>(left, 'ColumnRef')?.fields)
  const constant = constantOf(right)
  const column = fields.at(-1)
  if (!constant || column === undefined || fields.length > 2) return undefined
  return { qualifier: fields.length === 2 ? fields[0] : undefined, column, constant }
}

function constantOf(node: Node | undefined): Constant | undefined {
  const cast = pick<TypeCast>(node, 'TypeCast')
  if (!cast) return bareConstantOf(node)
  const type = cast.typeName
  const typeName = names(type?.names).at(-1)
  if (type?.typmods || type?.arrayBounds || typeName === undefined || !PLAIN_TYPES.has(typeName)) return undefined
  return bareConstantOf(cast.arg)
}

function bareConstantOf(node: Node | undefined): Constant | undefined {
  const param = pick<ParamRef>(node, 'ParamRef')
  if (param?.number) return { param: param.number }
  const literal = pick<A_Const>(node, 'A_Const')
  if (!literal) return undefined
  if (literal.ival) return { value: String(literal.ival.ival ?? 0) } // the parser leaves a zero out
  if (literal.sval) return { value: literal.sval.sval ?? '' }
  const wide = literal.fval?.fval // an integer of more than 32 bits
  return wide !== undefined && /^-?\d+$/.test(wide) ? { value: String(BigInt(wide)) } : undefined
}
