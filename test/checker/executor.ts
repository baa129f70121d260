/**
 * A list-append store with virtual time, honest or with one planted fault: what the checker is checked with. Every
 * transaction takes effect at one point between its start and its end, so the honest store is strictly serializable
 * by construction.
 */
import { type Mop, type Transaction } from './history.ts'

/** Each fault but `none` breaks strict serializability whenever it shows. */
export type Fault =
  | 'none'
  | 'stale-read'
  | 'stale-key'
  | 'dropped-append'
  | 'snapshot-isolation'
  | 'lost-update'
  | 'failed-append'
  | 'early-append'
  | 'divergence'

export interface Plan {
  readonly seed: number
  readonly fault: Fault
  readonly transactions: number
  readonly processes?: number
  /** A key is retired after this many appends. */
  readonly appendsPerKey?: number
  readonly keys?: number
}

interface Draft {
  id: number
  process: string
  start: number
  point: number
  end: number
  type: Transaction['type']
  happens: boolean
  mops: Mop[]
}

/** mulberry32: small, seeded, good enough. */
function random(seed: number): () => number {
  let a = seed | 0
  return () => {
    a = (a + 0x6d2b79f5) | 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

/** Each key as its appends and when each took effect: a snapshot is a prefix. */
class Store {
  private readonly lists = new Map<string, { values: number[]; times: number[] }>()

  private list(key: string): { values: number[]; times: number[] } {
    let list = this.lists.get(key)
    if (list === undefined) this.lists.set(key, (list = { values: [], times: [] }))
    return list
  }

  append(key: string, value: number, time: number): void {
    const { values, times } = this.list(key)
    let i = times.length
    while (i > 0 && times[i - 1]! > time) i--
    values.splice(i, 0, value)
    times.splice(i, 0, time)
  }

  read(key: string, time: number): number[] {
    const { values, times } = this.list(key)
    let n = times.length
    while (n > 0 && times[n - 1]! > time) n--
    return values.slice(0, n)
  }

  changedSince(key: string, time: number): boolean {
    return (this.list(key).times.at(-1) ?? -1) > time
  }
  contents(): Map<string, number[]> {
    return new Map([...this.lists].map(([key, { values }]) => [key, [...values]]))
  }
}

function drafts({ transactions, processes = 6, appendsPerKey = 12, keys = 3 }: Plan, chance: () => number): Draft[] {
  const free = Array.from({ length: processes }, () => chance() * 3)
  const live = Array.from({ length: keys }, (_, i) => ({ name: `k${i}`, appends: 0 }))
  let [made, value] = [keys, 0]
  return Array.from({ length: transactions }, (_, id) => {
    const p = free.indexOf(Math.min(...free))
    const start = free[p]!
    const [point, end] = [start + 0.01 + chance() * 2, start + 2.02 + chance() * 2]
    free[p] = end + 0.01 + chance()
    const mops = Array.from({ length: 1 + Math.floor(chance() * 4) }, (): Mop => {
      const k = Math.floor(chance() * keys)
      const key = live[k]!
      if (chance() < 0.5) return ['r', key.name, null]
      if (++key.appends >= appendsPerKey) live[k] = { name: `k${made++}`, appends: 0 }
      return ['append', key.name, ++value]
    })
    const fate = chance()
    const type = fate < 0.85 ? ('ok' as const) : fate < 0.92 ? ('fail' as const) : ('info' as const)
    return {
      id,
      process: `p${p}`,
      start,
      point,
      end,
      type,
      happens: type === 'ok' || (type === 'info' && chance() < 0.5),
      mops,
    }
  })
}

export function execute(plan: Plan): { history: Transaction[]; final: Map<string, number[]> } {
  const { fault } = plan
  const chance = random(plan.seed)
  const planned = drafts(plan, chance)
  const stores = [new Store(), new Store()]
  for (const t of [...planned].sort((a, b) => a.point - b.point)) {
    const strikes = fault !== 'none' && chance() < 0.25
    const keys = [...new Set(t.mops.map(([, key]) => key))]
    const appends = t.mops.filter(([f]) => f === 'append').map(([, key]) => key)
    const store = stores[fault === 'divergence' && strikes ? 1 : 0]!
    const snapshot =
      fault === 'snapshot-isolation' || fault === 'lost-update'
        ? t.start
        : fault === 'stale-read' && strikes
          ? t.start - 4
          : t.point
    // First committer wins: what snapshot isolation does against lost updates.
    if (fault === 'snapshot-isolation' && t.happens && appends.some((key) => store.changedSince(key, snapshot)))
      [t.type, t.happens] = ['fail', false]
    const own = new Map<string, number[]>()
    t.mops = t.mops.map(([f, key, v], i): Mop => {
      if (f === 'append') {
        own.set(key, [...(own.get(key) ?? []), v])
        const lost = fault === 'dropped-append' && strikes
        const shown = t.happens || (fault === 'failed-append' && strikes && t.type === 'fail')
        // early-append: visible from the transaction's start on, before its other effects.
        if (shown && !lost)
          for (const s of fault === 'divergence' && !strikes ? stores : [store])
            s.append(key, v, fault === 'early-append' && strikes ? t.start : t.point + i * 1e-9)
        return [f, key, v]
      }
      if (!t.happens || t.type !== 'ok') return [f, key, null]
      const at = fault === 'stale-key' && strikes && key === keys[0] ? t.start - 4 : snapshot
      const mine = own.get(key) ?? []
      return [f, key, [...store.read(key, at).filter((e) => !mine.includes(e)), ...mine]]
    })
  }
  const history = planned.map(({ id, process, start, end, type, mops }) => ({ id, process, start, end, type, mops }))
  return { history, final: stores[0]!.contents() }
}
