/** What a user's connection is asked: the few statements of the simulated users, BEGIN, COMMIT, and quorum.seal. */
import type { BaseEntry, Granule, LockRequest } from '../../driver/protocol/locks.ts'
import type { Stripes } from '../../driver/protocol/seen.ts'
import type { Sealed } from '../../driver/replica/replica.ts'
import { take } from './granule-locks.ts'
import { refuse } from './refusals.ts'
import type { Backend } from './server.ts'
import { digestOf, EPOCH, granulesOf, imageOf, normalise, State, stripeOf, type Item, type Row } from './state.ts'

function view(b: Backend, t: string, k: string): string | undefined {
  const mine = b.tx?.rows.get(`${t} ${k}`)
  return mine ? (mine.v ?? undefined) : (b.tx?.snapshot ?? b.server.state).rows.get(t)?.get(k)
}

/**
 * Every statement of a transaction begins here: refused when it failed before; under REPEATABLE READ the first one
 * takes the snapshot.
 */
function statement(b: Backend): void {
  if (b.tx?.failed)
    throw refuse('25P02', 'current transaction is aborted, commands ignored until end of transaction block')
  if (b.tx?.isolation === 'repeatable read') b.tx.snapshot ??= b.server.state.snapshot()
}

async function write(b: Backend, t: string, k: string, change: (old: string | undefined) => string): Promise<void> {
  statement(b)
  const { tx, server } = b
  if (!tx?.cover) throw refuse('QB006', `write to "${t}" goes round pg-quorum`)
  const n = stripeOf(k)
  if (
    tx.cover !== 'infer' &&
    !(JSON.parse(tx.cover) as Granule[]).some((g) => g.w && (g.t === '*' || (g.t === t && (g.n === -1 || g.n === n))))
  )
    throw refuse('QB006', `write to "${t}" is not covered by the declared locks`)
  await b.lock(`row ${t} ${k}`, 'X')
  if (tx.snapshot && !tx.rows.has(`${t} ${k}`) && server.state.rows.get(t)?.get(k) !== tx.snapshot.rows.get(t)?.get(k))
    throw refuse('40001', 'could not serialize access due to concurrent update')
  const old = view(b, t, k)
  const row: Row = { t, k, v: change(old) }
  for (const key of State.rowLocks([row]).slice(1)) await b.lock(key, 'X')
  server.state.unique([row])
  const captured = tx.captured.get(`${t} ${k}`)
  if (captured) captured.new = row.v
  else tx.captured.set(`${t} ${k}`, { t, k, old: old ?? null, new: row.v })
  tx.rows.set(`${t} ${k}`, row)
}

export const userVerbs: Record<string, (b: Backend, ...args: never[]) => unknown> = {
  begin: (b, isolation: 'read committed' | 'repeatable read') => void b.begin(isolation, 0),
  cover: (b, cover: string) => {
    statement(b)
    if (b.tx) b.tx.cover = cover
  },
  base(b, requests: LockRequest[]): BaseEntry[] {
    statement(b)
    return (b.tx?.snapshot ?? b.server.state).base(normalise(requests))
  },
  async read(b, t: string, k: string): Promise<string | null> {
    statement(b)
    await b.breathe()
    b.tx?.read.add(t)
    return view(b, t, k) ?? null
  },
  scan(b, t: string): [string, string][] {
    statement(b)
    b.tx?.read.add(t)
    return [
      ...new Set([
        ...((b.tx?.snapshot ?? b.server.state).rows.get(t)?.keys() ?? []),
        ...[...(b.tx?.rows.values() ?? [])].filter((r) => r.t === t).map((r) => r.k),
      ]),
    ].map((k) => [k, view(b, t, k)!])
  },
  append: (b, t: string, k: string, v: string) =>
    write(b, t, k, (old) => (old === undefined || old === '' ? v : `${old},${v}`)),
  insert: (b, t: string, k: string, v: string) =>
    write(b, t, k, (old) => {
      if (old !== undefined) throw refuse('23505', 'duplicate key value violates unique constraint')
      return v
    }),

  async seal(
    b,
    prefix: string,
    base: BaseEntry[],
    inferring: boolean,
    fresh: boolean,
    lock_ms: number,
    want: number,
  ): Promise<Sealed> {
    statement(b)
    const tx = b.tx!
    const { server } = b
    tx.lock_ms = lock_ms
    const declared = granulesOf(base)
    if (inferring) {
      const missed = [...tx.read].filter((t) => !declared.some((g) => g.t === '*' || g.t === t))
      if (missed.length > 0) return { state: 'uncovered', tables: missed }
    }
    if (tx.captured.size === 0) return { state: 'clean' }
    const captured = [...tx.captured.values()]
    const items: Item[] = [...new Set(captured.map((c) => c.t))].sort().map((t) => {
      const mine = captured.filter((c) => c.t === t && c.old !== c.new)
      return {
        t,
        o: mine.flatMap((c) => (c.old === null ? [] : [imageOf(c.k, c.old)])),
        n: mine.flatMap((c) => (c.new === null ? [] : [imageOf(c.k, c.new)])),
      }
    })
    const granules = new Map<string, Granule>()
    const add = (t: string, n: number, w: boolean): void =>
      void granules.set(`${t}/${n}`, { t, n, w: w || (granules.get(`${t}/${n}`)?.w ?? false) })
    for (const g of declared) add(g.t, g.n, g.w || g.n === -1)
    for (const c of captured)
      if (!declared.some((g) => g.t === '*' || (g.t === c.t && g.n === -1))) add(c.t, stripeOf(c.k), true)
    const sorted = [...granules.values()].sort((x, y) => (x.t < y.t ? -1 : x.t > y.t ? 1 : x.n - y.n))
    const writes = new Map<string, readonly [string, number]>(
      [
        ...captured.map((c) => [c.t, stripeOf(c.k)] as const),
        ...sorted.filter((g) => g.w).map((g) => [g.t, g.n] as const),
      ].map((w) => [w.join('/'), w]),
    )
    await take(b, sorted)
    if (fresh && server.state.moved(base)) return { state: 'stale' }
    const seen = tx.snapshot ?? server.state
    if (tx.snapshot)
      for (const p of writes.keys())
        if (server.state.stripes.get(p)?.v !== tx.snapshot.stripes.get(p)?.v)
          throw refuse('40001', 'could not serialize access due to concurrent update')
    const many = Math.max(want, server.floor)
    const raw = JSON.stringify({
      write: many,
      base: seen.base(sorted),
      writes: [...writes.values()].sort(([t, n], [u, m]) => (t < u ? -1 : t > u ? 1 : n - m)),
      items,
      hashes: null,
      epoch: EPOCH,
      lead: b.server.index + 1,
    })
    const gid = prefix + digestOf(raw)
    await b.lock(`T ${gid}`, 'X')
    const wrote = [...writes.values()].map(
      ([t, n]) => [t, n, (server.state.stripes.get(`${t}/${n}`)?.v ?? 0) + 1] as const,
    )
    tx.sealed = { rows: captured.map((c) => ({ t: c.t, k: c.k, v: c.new })), gid, raw, seq: ++server.state.seq }
    return { state: 'sealed', gid, body: raw, write: many, wrote }
  },

  async commit(b): Promise<string> {
    const { tx } = b
    if (tx && !tx.failed && tx.sealed) await b.durable({ kind: 'commit', effects: tx.sealed })
    b.endTransaction()
    return tx?.failed ? 'ROLLBACK' : 'COMMIT'
  },
  rollback: (b) => b.endTransaction(),
  stripes(b, requests: LockRequest[]): { granules: Granule[]; stripes: Stripes } {
    statement(b)
    const granules = normalise(requests)
    const versions = (b.tx?.snapshot ?? b.server.state).versions() as [string, number, number, string][]
    return {
      granules,
      stripes: versions
        .filter(([t, n]) => t === '*' || granules.some((g) => g.t === '*' || (g.t === t && (g.n === -1 || g.n === n))))
        .map(([t, n, v]) => [t, n, v] as const),
    }
  },
  endRead(b, granules: Granule[]): string[] {
    statement(b)
    const missed = [...(b.tx?.read ?? [])].filter((t) => !granules.some((g) => g.t === '*' || g.t === t))
    b.endTransaction()
    return missed
  },
}
