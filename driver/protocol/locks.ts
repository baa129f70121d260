/**
 * Locks as users declare them, and the granules and bases that replicas make of them (docs/protocol.md, sections 1
 * and 3). Pure: no replica is asked here; whether a table exists is the servers' word.
 */
import { badInput } from '../errors.ts'

export type LockMode = 'shared' | 'exclusive'
/** `'accounts'`, `'accounts/42'`, `'@name'`, `'*'`, or an object; exclusive unless said otherwise. */
export type Lock =
  string | { table: string; mode?: LockMode } | { row: string; mode?: LockMode } | { name: string; mode?: LockMode }

/**
 * What is sent to a replica: table, key in declared order (k) or by column (kv), written. soft: skipped when no
 * such table is tracked.
 */
export interface LockRequest {
  readonly t: string
  readonly w: boolean
  readonly k?: readonly string[]
  readonly kv?: Readonly<Record<string, string>>
  readonly soft?: true
}
export interface Granule {
  readonly t: string
  readonly n: number
  readonly w: boolean
}
/**
 * A granule's base; i: an intent, the whole's own stripe under a row. v version, c chains summed, mk and ms read
 * marks (count, sum); sums as text, they exceed a double.
 */
export interface BaseEntry extends Granule {
  readonly i: boolean
  readonly v: number
  readonly c: string
  readonly mk: number
  readonly ms: string
}

/** A whole's own stripe, on which its rows rest. */
export const intent = (t: string, v: number): BaseEntry => ({ t, n: -1, w: false, i: true, v, c: '0', mk: 0, ms: '0' })

export function parseLocks(locks: readonly Lock[]): LockRequest[] {
  return locks.map((lock) => {
    if (typeof lock === 'string') return fromText(lock, true)
    if (typeof lock !== 'object' || lock === null)
      throw badInput(`a lock is a string or an object, not ${String(lock)}`)
    const w = lock.mode !== 'shared'
    if (lock.mode !== undefined && lock.mode !== 'shared' && lock.mode !== 'exclusive')
      throw badInput(`a lock's mode is 'shared' or 'exclusive', not '${String(lock.mode)}'`)
    if ('table' in lock) return { t: lock.table, w }
    if ('row' in lock) {
      if (!lock.row.includes('/')) throw badInput(`the row lock '${lock.row}' lacks a key: write 'table/key'`)
      return fromText(lock.row, w)
    }
    if ('name' in lock) return { t: lock.name.startsWith('@') ? lock.name : `@${lock.name}`, w }
    throw badInput('a lock object has one of: table, row, name')
  })
}

function fromText(text: string, w: boolean): LockRequest {
  if (text === '' || text === '@') throw badInput(`'${text}' is not a lock: write 'table', 'table/key', '@name' or '*'`)
  if (text === '*' || text.startsWith('@')) return { t: text, w }
  const slash = text.indexOf('/')
  if (slash === -1) return { t: text, w }
  return { t: text.slice(0, slash), k: text.slice(slash + 1).split(','), w }
}

/** Names for the mutexes inside one process, in the one global order: the whole shared, the part as asked. */
export function localNames(requests: readonly LockRequest[]): { name: string; exclusive: boolean }[] {
  const names = new Map<string, boolean>([['*', false]])
  for (const r of requests) {
    const name = r.k ? `${r.t}/${r.k.join(',')}` : r.kv ? `${r.t}/${JSON.stringify(r.kv)}` : r.t
    if (name !== r.t && !names.has(r.t)) names.set(r.t, false)
    names.set(name, (names.get(name) ?? false) || r.w)
  }
  return [...names].map(([name, exclusive]) => ({ name, exclusive })).sort((a, b) => (a.name < b.name ? -1 : 1))
}

/**
 * How these values of a key are written where that can only be done in one way. Other types have a text of their
 * own, which only a server knows.
 */
const WRITTEN: Readonly<Record<string, RegExp>> = {
  smallint: /^(0|-?[1-9]\d{0,4})$/,
  integer: /^(0|-?[1-9]\d{0,9})$/,
  bigint: /^(0|-?[1-9]\d{0,18})$/,
  uuid: /^[\da-f]{8}-[\da-f]{4}-[\da-f]{4}-[\da-f]{4}-[\da-f]{12}$/,
  text: /^[^\0]*$/,
}

/**
 * The text of a text array of a key's values, as PostgreSQL writes it: what stripes are made of (quorum.stripe_of).
 * undefined: ask the server.
 */
export function keyText(types: readonly string[], values: readonly string[]): string | undefined {
  if (!values.every((v, i) => WRITTEN[types[i] ?? '']?.test(v))) return undefined
  return `{${values
    .map((v) => (v === '' || /[{}", \t\n\r\v\f\\]|^null$/i.test(v) ? `"${v.replace(/["\\]/g, '\\$&')}"` : v))
    .join(',')}}`
}

const place = (e: { t: string; n: number }): string => `${e.t}/${e.n}`

/** Adds what a later statement rests on; what was seen first stays, because it is what the earlier statements saw. */
export function mergeBase(first: readonly BaseEntry[], later: readonly BaseEntry[]): BaseEntry[] {
  const merged = new Map(first.map((e) => [place(e), e]))
  for (const e of later) {
    const known = merged.get(place(e))
    if (!known || (known.i && !e.i)) merged.set(place(e), e)
    else if (e.w && !known.w && !e.i) merged.set(place(e), { ...known, w: true })
  }
  return [...merged.values()]
}

/** (table, n, version, chain) of every stripe that was ever written. */
export type Versions = readonly (readonly [string, number, number, string])[]

/**
 * Has `mine` everything that `other` has? A row's version says so; of a whole only equality does: sums hide which
 * stripe is ahead.
 */
export function standing(mine: readonly BaseEntry[], other: readonly BaseEntry[]): 'covers' | 'lacks' | 'unclear' {
  const here = new Map(mine.map((e) => [place(e), e]))
  let unclear = false
  for (const e of other) {
    const m = here.get(place(e))
    if (!m) continue
    if (e.v > m.v) return 'lacks'
    if (e.n === -1 && !e.i && (e.v !== m.v || e.c !== m.c)) unclear = true
  }
  return unclear ? 'unclear' : 'covers'
}

/** The same, stripe by stripe, for the tables that the base takes whole. */
export function covers(mine: Versions, other: Versions, base: readonly BaseEntry[]): boolean {
  const whole = new Set(base.filter((e) => e.n === -1 && !e.i).map((e) => e.t))
  const here = new Map(mine.map(([t, n, v]) => [place({ t, n }), v]))
  return other.every(([t, n, v]) => !(whole.has(t) || whole.has('*')) || (here.get(place({ t, n })) ?? 0) >= v)
}
