/** The lead's side of the port, over the pg connection that a client lends. */
import type { QueryResult } from 'pg'
import { intent, keyText, type BaseEntry, type LockRequest, type Versions } from '../protocol/locks.ts'
import { looksOf } from './looker.ts'
import { looksFrom, type LeadSession, type Replica, type Row, type Sealed } from './replica.ts'
import { coverText, endRead, SQL } from './statements.ts'

export interface Lent {
  replica(): Replica
  query(text: string, values?: unknown[]): Promise<QueryResult>
  status(): string | null
  destroy(): void
  /** Sends all of these at once, in this order. */
  flight?: (sends: readonly (() => Promise<unknown>)[]) => Promise<PromiseSettledResult<unknown>[]>
  /** How many statements have run here that may have changed what names mean. */
  changes(): number
}
/** A table as quorum.shape() describes it. */
interface Shape {
  readonly t: string
  readonly pk: readonly string[]
  readonly types: readonly string[]
  readonly everything: number
  readonly plain: boolean
  readonly closed: boolean
}

/**
 * After so many in succession a table's shape is asked for only every so many times: this session's names do not
 * keep still.
 */
const VAIN = 5
const AGAIN = 100

export function leadOver(lent: Lent): LeadSession {
  const one = async <T>(text: string, values: unknown[]): Promise<T> =>
    ((await lent.query(text, values)).rows[0] as { r: T }).r
  const run = async (text: string): Promise<void> => void (await lent.query(text))
  const flight: NonNullable<Lent['flight']> = (sends) => lent.flight!(sends)
  const shapes = new Map<string, Shape | null>()
  let changes = 0
  const rowOf = ({ t, pk, types, everything }: Shape, request: LockRequest): Row | null | Promise<Row | null> => {
    const values = request.k ?? pk.map((c) => request.kv?.[c])
    if (values.length !== pk.length || !values.every((v) => v !== undefined)) return null
    const key = keyText(types, values)
    if (key !== undefined) return { t, key, everything }
    // A type whose values can be written in several ways: the server knows which row it is.
    return one<BaseEntry[] | null>(SQL.base, [JSON.stringify([request])]).then(
      (base) => base?.filter((e) => !e.i && e.n >= 0).map((e) => ({ t, key: String(e.n), everything }))[0] ?? null,
    )
  }
  /** How many times in succession what was asked for was over before it was of use. */
  let vain = 0
  /** undefined where nothing is known yet. */
  const known = (table: string): Shape | null | undefined => {
    if (lent.changes() !== changes) shapes.clear()
    changes = lent.changes()
    return shapes.get(table)
  }
  const shapeOf = async (table: string): Promise<Shape | null> => {
    const found = await one<Shape | null>(SQL.shape, [table])
    shapes.set(table, found)
    return found
  }
  const byKey = (tables: readonly string[], rows: readonly LockRequest[]): number | undefined => {
    return rows.every((r) => known(r.t)?.pk.every((c) => r.kv?.[c] !== undefined))
      ? at(tables, (shape) => shape.plain)
      : undefined
  }
  /** Everything's version, if it is one at which all of these are known and are so. */
  const at = (tables: readonly string[], so: (shape: Shape) => boolean): number | undefined => {
    const shapes = tables.map(known)
    const everything = shapes[0]?.everything
    return shapes.every((shape) => shape && so(shape) && shape.everything === everything) ? everything : undefined
  }
  /**
   * The base of rows that are known by their keys: what their tables are called and how they are found has been
   * asked before. It rests on that too: everything's version is the one at which it was asked, and if it is another
   * by now, the seal will find it moved. (Sent at once, like all that is part of a flight.)
   */
  const standOf = (requests: readonly LockRequest[]): Promise<BaseEntry[]> | undefined => {
    const rows = requests.map((request) => {
      const shape = known(request.t)
      const key =
        shape &&
        !request.k &&
        keyText(
          shape.types,
          shape.pk.map((c) => request.kv?.[c] ?? '\0'),
        )
      return shape && key ? { t: shape.t, w: request.w, key } : undefined
    })
    const everything = at(
      requests.map((r) => r.t),
      () => true,
    )
    if (everything === undefined || !rows.every((row) => row !== undefined)) return undefined
    return one<string>(SQL.standOf, [rows.map((r) => r.t), rows.map((r) => r.key)]).then((answer) => {
      const numbers = answer.split(' ').map(Number)
      if (numbers[0] !== everything) shapes.clear()
      return [
        intent('*', everything),
        ...rows.flatMap(({ t, w }, i) => {
          const [n = 0, v = 0, own = 0] = numbers.slice(1 + 3 * i)
          return [intent(t, own), { ...intent(t, v), n, w, i: false }]
        }),
      ]
    })
  }
  return {
    replica: lent.replica,
    status: lent.status,
    destroy: lent.destroy,
    forget: () => shapes.clear(),
    ...(lent.flight && {
      lookAnd: async <T>(row: Row, work: () => Promise<T>) => {
        const [looked, worked] = await flight([() => one<string | null>(SQL.looks, looksOf([row], null)), work])
        if (worked?.status !== 'fulfilled') throw worked?.reason
        return {
          look: looked?.status === 'fulfilled' ? looksFrom((looked.value as string | null) ?? '')[0] : undefined,
          result: worked.value as T,
        }
      },
    }),
    row(request) {
      const shape = known(request.t)
      if (shape) return rowOf(shape, request)
      return shape === null
        ? null
        : shapeOf(request.t)
            .then((found) => found && rowOf(found, request))
            .catch(() => null) // what is wrong, the statement itself will say
    },
    byKey(tables, rows) {
      const unknown = tables.filter((t) => known(t) === undefined)
      if (unknown.length === 0) {
        vain = 0
        return byKey(tables, rows)
      }
      vain++
      return vain > VAIN && vain % AGAIN !== 0
        ? undefined
        : Promise.all(unknown.map(shapeOf)).then(() => byKey(tables, rows))
    },
    closed: (tables) => at(tables, (shape) => shape.plain && shape.closed),
    cover: (granules) => run(coverText(granules)),
    base: (requests, keep) =>
      (keep ? undefined : standOf(requests)) ??
      one<BaseEntry[] | null>(keep ? SQL.keepBase : SQL.base, [JSON.stringify(requests)]).then((base) => base ?? []),
    async seal(prefix, base, inferring, fresh, lock_ms, most_bytes, write) {
      const { fresh: seen, ...sealed } = await one<Sealed>(SQL.seal, [
        prefix,
        base ? JSON.stringify(base) : null,
        inferring,
        fresh,
        most_bytes,
        write,
        Math.ceil(lock_ms),
      ])
      return sealed.state === 'sealed' && seen !== undefined ? { ...sealed, fresh: seen } : sealed
    },
    rollback: () => run('ROLLBACK'),
    beginRead: () => run('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY'),
    versions: () => one<Versions>(SQL.versions, []),
    stripes: (requests) => one(SQL.stripes, [JSON.stringify(requests)]),
    async endRead(granules) {
      const [ended] = (await lent.query(endRead(granules))) as unknown as [QueryResult<{ r: string[] | null }>]
      return ended.rows[0]?.r ?? []
    },
  }
}
