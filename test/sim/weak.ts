/**
 * Weaker reads of the simulated users (kind dial), and what each must not miss. A client is one session. Lists only
 * grow, one history each: so a read is a prefix of the list as it ends, and how long a prefix says what is missing.
 */
import { Seen } from '../../driver/protocol/seen.ts'
import type { LockRequest } from '../../driver/protocol/locks.ts'
import { readStrongly } from '../../driver/transaction/read.ts'
import { Freshness, readForSession, readFresh, readLagging } from '../../driver/transaction/weaker.ts'
import type { Cluster } from '../../driver/transaction/cluster.ts'
import type { Transaction } from '../checker/history.ts'
import { SimLead, type SimReplica } from './replica.ts'

export type WeakMode = 'session' | 'eventual' | { readonly stale_ms: number } | { readonly lag: number }
export interface WeakRead {
  readonly session: string
  readonly mode: WeakMode
  readonly began: number
  readonly end: number
  readonly lists: ReadonlyMap<string, readonly number[]>
}
type Lists = Map<string, readonly number[]>

/** One client's readers: a session of its own to each replica, as pool/readers.ts has them. */
export class Readers {
  readonly #cluster: Cluster
  readonly #leads = new Map<SimReplica, SimLead>()
  readonly #freshness = new Freshness()
  readonly #seen: Seen
  #busy = false

  constructor(cluster: Cluster) {
    this.#cluster = cluster
    this.#seen = cluster.seen = new Seen()
  }

  /** undefined: no replica answered. */
  async read(
    mode: WeakMode,
    requests: readonly LockRequest[],
    order: readonly SimReplica[],
    work: (lead: SimLead) => Promise<Lists>,
  ): Promise<Lists | undefined> {
    if (this.#busy) return undefined // one at a time: its connections are not a pool
    this.#busy = true
    try {
      let strong: SimLead | undefined
      for (const replica of order) {
        const lead = await this.#on(replica).catch(() => undefined)
        if (!lead) continue
        strong ??= lead
        try {
          const lists = await this.#once(mode, lead, requests, () => work(lead))
          if (lists) return lists
        } catch {
          lead.destroy()
        }
      }
      return strong?.usable
        ? ((await readStrongly(this.#cluster, strong, requests, () => work(strong)).catch(
            () => void strong.destroy(),
          )) ?? undefined)
        : undefined
    } finally {
      this.#busy = false
    }
  }

  async #on(replica: SimReplica): Promise<SimLead> {
    const open = this.#leads.get(replica)
    if (open?.usable) return open
    open?.destroy()
    const lead = new SimLead(replica, await replica.connect())
    this.#leads.set(replica, lead)
    return lead
  }

  async #once(
    mode: WeakMode,
    lead: SimLead,
    requests: readonly LockRequest[],
    work: () => Promise<Lists>,
  ): Promise<Lists | undefined> {
    if (mode === 'session') return readForSession(lead, requests, this.#seen, work)
    if (mode === 'eventual') return work()
    if ('stale_ms' in mode)
      return (await readFresh(this.#cluster, lead, requests, mode.stale_ms, this.#freshness, work)).result
    return (await readLagging(this.#cluster, lead, requests, mode.lag, work))?.result
  }

  /** A connection to a member that stands still would be waited for for ever. */
  abandon(replica: SimReplica): void {
    this.#leads.get(replica)?.destroy()
  }
}

/** What each read promised, against what was acknowledged (`history`) and what the lists became. */
export function judgeWeak(
  reads: readonly WeakRead[],
  history: readonly Transaction[],
  final: ReadonlyMap<string, readonly number[]>,
  fail: (what: string) => void,
): void {
  const place = new Map([...final].flatMap(([key, list]) => list.map((v, i) => [`${key} ${v}`, i + 1] as const)))
  const told = history.filter((t) => t.type === 'ok')
  /** How much of each list an acknowledged transaction has written or seen. */
  const lengthOf = (mops: Transaction['mops'], key: string, writes: boolean): number =>
    Math.max(
      0,
      ...mops.map((m) =>
        m[1] !== key ? 0 : m[0] === 'append' ? (place.get(`${key} ${m[2]}`) ?? 0) : writes ? 0 : (m[2]?.length ?? 0),
      ),
    )
  const missing = (read: WeakRead, list: readonly number[], key: string, before: number): Transaction[] =>
    told.filter((t) => t.end <= before && lengthOf(t.mops, key, true) > list.length && read.began >= t.end)
  for (const read of reads) {
    const name = `${JSON.stringify(read.mode)} read of ${read.session} at ${read.began.toFixed(1)} ms`
    const lost = new Set<number>()
    for (const [key, list] of read.lists) {
      if (list.some((v, i) => final.get(key)?.[i] !== v))
        fail(`${name} saw ${key} as ${list.join(',')}, which it never was (${final.get(key)?.join(',')})`)
      if (read.mode === 'session') {
        const mine = [
          ...told
            .filter((t) => t.process.startsWith(`${read.session}/`) && t.end <= read.began)
            .map((t) => ({ at: t.end, n: lengthOf(t.mops, key, false) })),
          ...reads
            .filter((r) => r.session === read.session && r.mode !== 'eventual' && r.end <= read.began)
            .map((r) => ({ at: r.end, n: r.lists.get(key)?.length ?? 0 })),
        ]
        for (const { at, n } of mine)
          if (n > list.length)
            fail(`${name} saw ${list.length} of ${key}, of which its session had seen ${n} at ${at.toFixed(1)} ms`)
      } else if (typeof read.mode === 'object' && 'stale_ms' in read.mode) {
        const late = missing(read, list, key, read.began - read.mode.stale_ms)[0]
        if (late) fail(`${name} misses in ${key} what was acknowledged at ${late.end.toFixed(1)} ms`)
      } else if (typeof read.mode === 'object') for (const t of missing(read, list, key, read.began)) lost.add(t.id)
    }
    if (typeof read.mode === 'object' && 'lag' in read.mode && lost.size > read.mode.lag)
      fail(`${name} misses ${lost.size} acknowledged transactions`)
  }
}
