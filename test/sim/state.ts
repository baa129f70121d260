/**
 * What one simulated replica knows: the tables of schema/tables.sql and the rows, and the functions of schema/*.sql
 * that only look at them, by the same names. test/conformance.test.ts holds the two against each other.
 */
import { createHash } from 'node:crypto'
import type { Decision } from '../../driver/protocol/decision.ts'
import type { BaseEntry, Granule, LockRequest } from '../../driver/protocol/locks.ts'
import { refuse } from './refusals.ts'

export interface Item {
  readonly t: string
  readonly o: readonly string[]
  readonly n: readonly string[]
}
export interface Body {
  readonly write: number
  readonly base: readonly BaseEntry[]
  readonly writes: readonly (readonly [string, number])[]
  readonly items: readonly Item[]
  readonly hashes: null
  readonly epoch: number
  readonly lead: number
}
export interface Row {
  readonly t: string
  readonly k: string
  readonly v: string | null
}
export interface Effects {
  readonly rows: readonly Row[]
  readonly gid?: string
  readonly raw?: string
  readonly seq?: number
  readonly locks?: readonly (readonly [string, 'RS' | 'RX' | 'S' | 'X'])[]
}
export interface Ballot {
  readonly promised: number
  readonly to: string
  readonly accepted: number
  readonly decision: Decision | null
}
/** What the write-ahead log can say. The state is what its records make of an empty one. */
export type Entry =
  | { readonly kind: 'changeset'; readonly gid: string; readonly raw: string }
  | { readonly kind: 'commit'; readonly effects: Effects }
  | { readonly kind: 'prepare'; readonly gid: string; readonly effects: Effects; readonly at: number }
  | { readonly kind: 'commit-prepared' | 'rollback-prepared'; readonly gid: string }
  | { readonly kind: 'ballot'; readonly gid: string; readonly ballot: Ballot }

/** Tables that exist on every simulated replica: (k text PRIMARY KEY, v text); `once` has a unique v. */
export const TABLES = ['public.lists', 'public.once'] as const
const UNIQUE = new Set<string>(['public.once'])
export const EPOCH = 1

const hashes = new Map<string, string>()
function md5(text: string): string {
  let h = hashes.get(text)
  if (h === undefined) {
    if (hashes.size > 200_000) hashes.clear()
    hashes.set(text, (h = createHash('md5').update(text).digest('hex')))
  }
  return h
}
export const stripeOf = (k: string): number => Number.parseInt(md5(`{${k}}`).slice(0, 8), 16) & 1023
export const link = (previous: bigint, gid: string): bigint => BigInt(`0x${md5(`${previous}${gid}`).slice(0, 15)}`)
export const digestOf = (raw: string): string => createHash('sha256').update(raw).digest('hex').slice(0, 32)
const quote = (s: string): string => (/^[\w-]+$/.test(s) ? s : `"${s}"`)
export const imageOf = (k: string, v: string): string => `(${quote(k)},${quote(v)})`
export function rowOf(image: string): { k: string; v: string } {
  const m = /^\(("?)(.*?)\1,("?)(.*)\3\)$/.exec(image)
  if (!m) throw new Error(`not a row: ${image}`)
  return { k: m[2]!, v: m[4]! }
}
const bodies = new Map<string, Body>()
export function bodyOf(raw: string): Body {
  let b = bodies.get(raw)
  if (!b) {
    if (bodies.size > 2000) bodies.clear()
    bodies.set(raw, (b = JSON.parse(raw) as Body))
  }
  return b
}
const byPlace = (a: { t: string; n: number }, b: { t: string; n: number }): number =>
  a.t < b.t ? -1 : a.t > b.t ? 1 : a.n - b.n
const place = (t: string, n: number): string => `${t}/${n}`

export function normalise(requests: readonly LockRequest[]): Granule[] {
  const merged = new Map<string, Granule>()
  for (const r of requests) {
    const t = r.t === '*' || r.t.startsWith('@') ? r.t : TABLES.find((x) => x === r.t || x === `public.${r.t}`)
    if (t === undefined) {
      if (r.soft) continue
      throw refuse('QB007', `lock on unknown table "${r.t}"`)
    }
    const key = r.k ?? (r.kv?.['k'] === undefined ? undefined : [r.kv['k']])
    const n = t === '*' ? -1 : t.startsWith('@') ? 0 : key ? stripeOf(key[0]!) : -1
    merged.set(place(t, n), { t, n, w: r.w || (merged.get(place(t, n))?.w ?? false) })
  }
  return [...merged.values()].sort(byPlace)
}
export const granulesOf = (base: readonly BaseEntry[]): Granule[] =>
  base.filter((e) => !e.i).map(({ t, n, w }) => ({ t, n, w }))

export class State {
  readonly rows = new Map<string, Map<string, string>>(TABLES.map((t) => [t, new Map<string, string>()]))
  readonly stripes = new Map<
    string,
    { readonly t: string; readonly n: number; readonly v: number; readonly c: bigint }
  >()
  readonly changesets = new Map<string, string>()
  readonly applied = new Map<string, number>()
  /** Place → gids; the gid at index i made version i + 1. */
  readonly history = new Map<string, string[]>()
  readonly marks = new Map<string, { readonly v: number; readonly gids: Set<string> }>()
  readonly ballots = new Map<string, Ballot>()
  readonly prepared = new Map<string, { readonly effects: Effects; readonly at: number }>()
  position = 0
  seq = 0

  apply(entry: Entry): void {
    switch (entry.kind) {
      case 'changeset':
        if (!this.changesets.has(entry.gid)) this.changesets.set(entry.gid, entry.raw)
        return
      case 'commit':
        return this.#commit(entry.effects)
      case 'prepare':
        this.prepared.set(entry.gid, { effects: entry.effects, at: entry.at })
        this.seq = Math.max(this.seq, entry.effects.seq ?? 0)
        return
      case 'commit-prepared': {
        const p = this.prepared.get(entry.gid)
        this.prepared.delete(entry.gid)
        if (p) this.#commit(p.effects)
        return
      }
      case 'rollback-prepared':
        this.prepared.delete(entry.gid)
        return
      case 'ballot':
        this.ballots.set(entry.gid, entry.ballot)
        return
    }
  }

  #commit(effects: Effects): void {
    for (const { t, k, v } of effects.rows) {
      if (v === null) this.rows.get(t)?.delete(k)
      else this.rows.get(t)?.set(k, v)
    }
    if (effects.gid === undefined || effects.raw === undefined) return
    const { gid, raw } = effects
    this.changesets.set(gid, raw)
    this.#extend(gid, bodyOf(raw))
    this.applied.set(gid, effects.seq ?? 0)
    this.seq = Math.max(this.seq, effects.seq ?? 0)
  }

  #extend(gid: string, body: Body): void {
    for (const [t, n] of body.writes) {
      const p = place(t, n)
      const s = this.stripes.get(p)
      this.stripes.set(p, { t, n, v: (s?.v ?? 0) + 1, c: link(s?.c ?? 0n, gid) })
      const h = this.history.get(p)
      if (h) h.push(gid)
      else this.history.set(p, [gid])
      this.marks.delete(p)
      this.position++
    }
    const written = new Set(body.writes.map(([t, n]) => place(t, n)))
    for (const b of body.base) {
      if (b.w || b.i || b.n < 0 || written.has(place(b.t, b.n))) continue
      const m = this.marks.get(place(b.t, b.n))
      if (m && m.v === b.v) m.gids.add(gid)
      else this.marks.set(place(b.t, b.n), { v: b.v, gids: new Set([gid]) })
    }
  }

  #marksAt(t: string, n: number): { mk: number; ms: bigint } {
    const m = this.marks.get(place(t, n))
    if (!m || m.v !== (this.stripes.get(place(t, n))?.v ?? 0)) return { mk: 0, ms: 0n }
    let ms = 0n
    for (const g of m.gids) ms += link(0n, g)
    return { mk: m.gids.size, ms }
  }

  base(granules: readonly Granule[]): BaseEntry[] {
    const out: BaseEntry[] = []
    const whole = new Set(granules.filter((g) => g.n === -1).map((g) => g.t))
    const intents = new Set<string>()
    for (const { t, n, w } of granules) {
      if (n >= 0) {
        const { mk, ms } = w ? this.#marksAt(t, n) : { mk: 0, ms: 0n }
        out.push({ t, n, w, i: false, v: this.stripes.get(place(t, n))?.v ?? 0, c: '0', mk, ms: String(ms) })
        if (!t.startsWith('@') && !whole.has(t)) intents.add(t)
      } else {
        let v = 0,
          c = 0n,
          mk = 0,
          ms = 0n
        for (const s of this.stripes.values())
          if (t === '*' || s.t === t) {
            v += s.v
            c += s.c
          }
        for (const p of this.marks.keys()) {
          const at = p.slice(0, p.lastIndexOf('/'))
          if (t !== '*' && at !== t) continue
          const m = this.#marksAt(at, Number(p.slice(p.lastIndexOf('/') + 1)))
          mk += m.mk
          ms += m.ms
        }
        out.push({ t, n, w, i: false, v, c: String(c), mk, ms: String(ms) })
      }
    }
    if (!whole.has('*')) intents.add('*')
    for (const t of intents)
      out.push({ t, n: -1, w: false, i: true, v: this.stripes.get(place(t, -1))?.v ?? 0, c: '0', mk: 0, ms: '0' })
    return out.sort(byPlace)
  }

  against(base: readonly BaseEntry[]): 'same' | 'behind' | 'ahead' {
    const here = new Map(this.base(granulesOf(base)).map((h) => [place(h.t, h.n), h]))
    let behind = false
    for (const b of base) {
      const h = here.get(place(b.t, b.n))
      if (!h) continue
      if (
        h.v > b.v ||
        (h.v === b.v && h.c !== b.c) ||
        (b.w && h.v === b.v && (h.mk > b.mk || (h.mk === b.mk && h.ms !== b.ms)))
      )
        return 'ahead'
      if (h.v < b.v || (b.w && h.mk < b.mk)) behind = true
    }
    return behind ? 'behind' : 'same'
  }

  moved(base: readonly BaseEntry[]): boolean {
    const here = new Map(this.base(granulesOf(base)).map((h) => [place(h.t, h.n), h]))
    return base.some((b) => {
      const h = here.get(place(b.t, b.n))
      return h !== undefined && (h.v !== b.v || h.c !== b.c)
    })
  }

  chainSum(): bigint {
    let sum = 0n
    for (const s of this.stripes.values()) sum += s.c
    return sum
  }

  versions(): [string, number, number, string][] {
    return [...this.stripes.values()].map((s) => [s.t, s.n, s.v, String(s.c)])
  }

  beyond(theirs: readonly (readonly unknown[])[], most: number): string[] {
    const known = new Map(theirs.map(([t, n, v]) => [place(t as string, n as number), v as number]))
    const gids = new Set<string>()
    for (const [p, h] of this.history) for (const g of h.slice(known.get(p) ?? 0)) gids.add(g)
    return [...gids]
      .filter((g) => this.applied.has(g))
      .sort((a, b) => this.applied.get(a)! - this.applied.get(b)!)
      .slice(0, most)
  }

  /** quorum.accept's checks under A, and what the rows would become. Throws what the server would. */
  admit(body: Body): Row[] {
    const stand = this.against(body.base)
    if (stand === 'behind') throw refuse('QB001', 'this member lags')
    if (stand === 'ahead') throw refuse('QB002', 'the changeset is stale')
    const rows: Row[] = []
    for (const item of body.items) {
      const table = this.rows.get(item.t)
      if (!table) throw refuse('QB004', `no table ${item.t}`)
      const gone = item.o.map(rowOf)
      const come = item.n.map(rowOf)
      for (const { k, v } of gone)
        if (table.get(k) !== v) throw refuse('QB004', `rows of ${item.t} found here differ from those of the lead`)
      for (const { k } of come)
        if (table.has(k) && !gone.some((g) => g.k === k))
          throw refuse('23505', 'duplicate key value violates unique constraint')
      rows.push(
        ...gone.filter((g) => !come.some((c) => c.k === g.k)).map(({ k }) => ({ t: item.t, k, v: null })),
        ...come.map(({ k, v }) => ({ t: item.t, k, v })),
      )
    }
    this.unique(rows)
    return rows
  }

  /** A frozen copy for REPEATABLE READ. */
  snapshot(): State {
    const copy = new State()
    for (const [t, rows] of this.rows) copy.rows.set(t, new Map(rows))
    for (const [p, s] of this.stripes) copy.stripes.set(p, s)
    for (const [p, m] of this.marks) copy.marks.set(p, { v: m.v, gids: new Set(m.gids) })
    return copy
  }

  unique(rows: readonly Row[]): void {
    for (const { t, k, v } of rows) {
      if (v === null || !UNIQUE.has(t)) continue
      for (const [other, value] of this.rows.get(t) ?? [])
        if (other !== k && value === v && !rows.some((r) => r.t === t && r.k === other))
          throw refuse('23505', 'duplicate key value violates unique constraint')
    }
  }

  /** What must be locked before these rows may change: the rows, and unique values. */
  static rowLocks(rows: readonly Row[]): string[] {
    return rows.flatMap(({ t, k, v }) =>
      v !== null && UNIQUE.has(t) ? [`row ${t} ${k}`, `unique ${t} ${v}`] : [`row ${t} ${k}`],
    )
  }
}
