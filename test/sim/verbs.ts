/**
 * What a backend does when it is asked: the functions of schema/functions.sql that change or lock something, the two-phase commands, and
 * the few statements of the simulated users. `breathe` stands where a real backend could be overtaken by another.
 */
import type { Decision, Evidence } from '../../driver/protocol/decision.ts'
import type { BaseEntry, Granule, LockRequest } from '../../driver/protocol/locks.ts'
import type { Changeset, Doubt, LockReply, Observation, PromiseReply, Pulse, Sealed, Self } from '../../driver/replica/replica.ts'
import type { Mode } from './lock-table.ts'
import { refuse } from './refusals.ts'
import type { Backend } from './server.ts'
import { bodyOf, digestOf, EPOCH, granulesOf, imageOf, normalise, State, stripeOf, type Item, type Row } from './state.ts'

const REPLAY = 9007199254740991
const ACCEPT_LOCK_MS = 1000
const SEIZE_MS = 500
export const ownerOf = (gid: string): string => gid.split('_')[3] ?? ''

async function guard(b: Backend, granules: readonly Granule[], wait_ms: number | null): Promise<boolean> {
  const names = new Map<string, boolean>([['*', false]])
  for (const g of granules) {
    const name = g.n === -1 ? g.t : `${g.t}/${g.n}`
    names.set(name, (names.get(name) ?? false) || g.w)
    if (g.n >= 0 && !names.has(g.t)) names.set(g.t, false)
  }
  for (const [name, exclusive] of [...names].sort(([a], [c]) => (a < c ? -1 : 1))) {
    const mode: Mode = exclusive ? 'X' : 'RS'
    if (wait_ms !== null) {
      const verdict = await b.server.locks.take(`G ${name}`, b.holder, mode, true, wait_ms, b)
      if (verdict !== 'granted') throw refuse(verdict === 'timeout' ? '55P03' : '40P01', verdict)
    } else if (!b.server.locks.try(`G ${name}`, b.holder, mode, true)) {
      b.server.locks.release(b.holder, 'session')
      return false
    }
  }
  return true
}

async function take(b: Backend, granules: readonly Granule[], shared = false): Promise<void> {
  const written = (g: Granule): boolean => g.w && !shared
  const all = granules.filter((g) => g.t === '*')
  if (all.length > 0) return b.lock('A *', all.some(written) ? 'X' : 'S')
  await b.lock('A *', granules.some(written) ? 'RX' : 'RS')
  let last = ''
  for (const g of granules) {
    if (g.t !== last && !g.t.startsWith('@')) {
      last = g.t
      const mine = granules.filter((x) => x.t === g.t)
      const strong = mine.some(written)
      const whole = mine.some((x) => x.n === -1)
      await b.lock(`A ${g.t}`, whole ? (strong ? 'X' : 'S') : strong ? 'RX' : 'RS')
    }
    if (g.n >= 0) await b.lock(`A ${g.t}/${g.n}`, written(g) ? 'X' : 'RS')
  }
}

async function observe(b: Backend, granules: readonly Granule[], patience_ms: number): Promise<Observation> {
  let free = true
  const tx = b.tx!
  tx.lock_ms = patience_ms
  try {
    await take(b, granules, true)
  } catch {
    free = false
    b.server.locks.release(b.holder, 'transaction')
  }
  await b.breathe()
  return { granules: [...granules], base: b.server.state.base(granules), doubt: free ? [] : doubt(b), free }
}

function doubt(b: Backend): Doubt[] {
  return [...b.server.state.prepared].map(([gid, p]) => ({ gid, age_ms: b.server.clock() - p.at, owner_alive: b.server.ownerAlive(gid) }))
}

async function evidence(b: Backend, gid: string): Promise<Evidence> {
  const { state } = b.server
  let committed = state.applied.has(gid)
  const prepared = state.prepared.has(gid)
  const ballot = state.ballots.get(gid)
  const raw = state.changesets.get(gid)
  await b.breathe(b.server.world.dice('server').hits(0.2) ? 0.5 : 0) // each look is a snapshot of its own
  const past = !committed && !prepared && raw !== undefined && state.against(bodyOf(raw).base) === 'ahead'
  if (past) committed = state.applied.has(gid)
  return {
    member: b.server.index + 1, lead: raw === undefined ? null : bodyOf(raw).lead, committed, prepared: prepared && !committed, promised: ballot?.promised ?? 0, accepted: ballot?.accepted ?? 0, decision: ballot?.decision ?? null, has: raw !== undefined,
    superseded: past && !committed, owner_alive: b.server.ownerAlive(gid),
  }
}

/** quorum.accept, inside the open transaction: what is to be prepared or committed. */
async function admit(b: Backend, gid: string, number: number, by: string): Promise<void> {
  const { server } = b
  await b.lock(`T ${gid}`, 'X')
  if (server.state.applied.has(gid)) throw refuse('QB008', 'committed here already')
  const promise = server.state.ballots.get(gid)
  if (promise && after(promise.promised, promise.to, number, by)) throw refuse('QB003', 'promised to a resolver')
  const raw = server.state.changesets.get(gid)
  if (raw === undefined || digestOf(raw) !== gid.slice(-32)) throw refuse('QB004', 'the changeset is missing or not the one the gid names')
  const body = bodyOf(raw)
  if (body.epoch !== EPOCH) throw refuse('QB005', `epoch ${body.epoch} is not this member's`)
  await take(b, granulesOf(body.base))
  for (const key of State.rowLocks(server.state.admit(body))) await b.lock(key, 'X')
  const rows = server.state.admit(body)
  b.tx!.sealed = { rows, gid, raw, seq: ++server.state.seq }
}

const sessionThatHolds = (b: Backend, key: string): Backend | undefined => [...b.server.backends].find((x) => x !== b && x.holder === b.server.locks.held(key))
const after = (n: number, who: string, than: number, whom: string): boolean => n > than || (n === than && who > whom)

function view(b: Backend, t: string, k: string): string | undefined {
  const mine = b.tx?.rows.get(`${t} ${k}`)
  return mine ? mine.v ?? undefined : (b.tx?.snapshot ?? b.server.state).rows.get(t)?.get(k)
}

/** Every statement of a transaction begins here: refused when it failed before; under REPEATABLE READ the first one takes the snapshot. */
function statement(b: Backend): void {
  if (b.tx?.failed) throw refuse('25P02', 'current transaction is aborted, commands ignored until end of transaction block')
  if (b.tx?.isolation === 'repeatable read') b.tx.snapshot ??= b.server.state.snapshot()
}

async function write(b: Backend, t: string, k: string, change: (old: string | undefined) => string): Promise<void> {
  statement(b)
  const { tx, server } = b
  if (!tx?.cover) throw refuse('QB006', `write to "${t}" goes round pg-quorum`)
  const n = stripeOf(k)
  if (tx.cover !== 'infer' && !(JSON.parse(tx.cover) as Granule[]).some((g) => g.w && (g.t === '*' || (g.t === t && (g.n === -1 || g.n === n))))) throw refuse('QB006', `write to "${t}" is not covered by the declared locks`)
  await b.lock(`row ${t} ${k}`, 'X')
  if (tx.snapshot && !tx.rows.has(`${t} ${k}`) && server.state.rows.get(t)?.get(k) !== tx.snapshot.rows.get(t)?.get(k)) throw refuse('40001', 'could not serialize access due to concurrent update')
  const old = view(b, t, k)
  const row: Row = { t, k, v: change(old) }
  for (const key of State.rowLocks([row]).slice(1)) await b.lock(key, 'X')
  server.state.unique([row])
  const captured = tx.captured.get(`${t} ${k}`)
  if (captured) captured.new = row.v
  else tx.captured.set(`${t} ${k}`, { t, k, old: old ?? null, new: row.v })
  tx.rows.set(`${t} ${k}`, row)
}

export const verbs: Record<string, (b: Backend, ...args: never[]) => unknown> = {
  hello(b): Self {
    if (b.server.wiped) throw refuse('42883', 'function quorum.hello() does not exist')
    return { cluster: 'sim', member: b.server.index + 1, members: 0, epoch: EPOCH, schema_version: 1, system_identifier: b.server.name, actual_identifier: b.server.name, prepared_max: 64 }
  },

  async lock(b, requests: LockRequest[], wait_ms: number | null, patience_ms: number): Promise<LockReply> {
    const granules = normalise(requests)
    if (!(await guard(b, granules, wait_ms))) return { granted: false }
    b.begin()
    try {
      return { ...(await observe(b, granules, patience_ms)), granted: true }
    } finally {
      b.endTransaction()
    }
  },
  unguard: (b) => b.server.locks.release(b.holder, 'session'),
  hold(b, requests: LockRequest[], patience_ms: number): Promise<Observation> {
    b.begin()
    return observe(b, normalise(requests), patience_ms)
  },

  async accept(b, changeset: Changeset, number: number, by: string): Promise<string> {
    const { server } = b
    const { gid } = changeset
    if (!server.state.changesets.has(gid)) b.lazy({ kind: 'changeset', gid, raw: changeset.body })
    await b.breathe()
    b.begin('read committed', ACCEPT_LOCK_MS)
    try {
      await admit(b, gid, number, by)
    } catch (error) {
      if (!server.world.dice('server').hits(0.1)) throw error
      b.endTransaction() // PREPARE in a failed transaction: PostgreSQL answers ROLLBACK, without any error (dangers.md, N8)
      return 'ROLLBACK'
    }
    await b.breathe()
    const { sealed, locks } = b.tx!
    await b.durable({ kind: 'prepare', gid, effects: { ...sealed!, locks }, at: server.clock() })
    const holder = { name: `prepared ${gid}` }
    server.holders.set(gid, holder)
    server.locks.move(b.holder, holder)
    b.endTransaction()
    return 'PREPARE'
  },

  async finish(b, gid: string, decision: Decision): Promise<void> {
    const { server } = b
    if (!server.state.prepared.has(gid)) throw refuse('42704', `prepared transaction with identifier "${gid}" does not exist`)
    if (server.finishing.has(gid)) throw refuse('55000', `prepared transaction with identifier "${gid}" is busy`)
    server.finishing.add(gid)
    await b.durable({ kind: decision === 'commit' ? 'commit-prepared' : 'rollback-prepared', gid })
    const holder = server.holders.get(gid)
    if (holder) server.locks.release(holder, 'all')
    server.holders.delete(gid)
    server.finishing.delete(gid)
  },

  evidence,

  async promise(b, gid: string, number: number, by: string, choice: Decision | null): Promise<PromiseReply> {
    const { server } = b
    b.begin()
    try {
      if (!server.locks.try(`T ${gid}`, b.holder, 'X', false)) {
        const e = await evidence(b, gid)
        if (!e.prepared && !e.committed) {
          if (!e.owner_alive) sessionThatHolds(b, `T ${gid}`)?.terminate()
          return { ...e, yes: false, busy: true }
        }
      }
      const e = await evidence(b, gid)
      if (e.committed || (e.superseded && choice !== 'abort') || (choice === 'commit' && !e.prepared)) return { ...e, yes: false }
      await b.breathe()
      await b.lock(`ballot ${gid}`, 'X', 0)
      const x = server.state.ballots.get(gid)
      if (x && !(after(number, by, x.promised, x.to) || (x.promised === number && x.to === by))) return { ...e, yes: false }
      const ballot = { promised: number, to: by, accepted: choice === null ? x?.accepted ?? 0 : number, decision: choice ?? x?.decision ?? null }
      await b.durable({ kind: 'ballot', gid, ballot })
      return { ...e, yes: true, accepted: ballot.accepted, decision: ballot.decision }
    } finally {
      b.endTransaction()
    }
  },

  changesets: (b, gids: string[]): Changeset[] => gids.flatMap((gid) => { const body = b.server.state.changesets.get(gid); return body === undefined ? [] : [{ gid, body }] }),
  present: (b, gids: string[]) => gids.filter((g) => b.server.state.applied.has(g) || b.server.state.prepared.has(g)),
  versions: (b) => (b.tx?.snapshot ?? b.server.state).versions(),
  beyond: (b, theirs: unknown[][], most: number) => b.server.state.beyond(theirs, most),
  against: (b, base: BaseEntry[]) => b.server.state.against(base),

  async replay(b, changesets: Changeset[], lock_ms: number): Promise<void> {
    for (const [i, { gid, body }] of changesets.entries()) {
      const tx = b.begin('read committed', lock_ms)
      const verdict = await b.server.locks.take(`T ${gid}`, b.holder, 'X', false, SEIZE_MS, b)
      if (verdict !== 'granted') {
        sessionThatHolds(b, `T ${gid}`)?.terminate()
        await b.lock(`T ${gid}`, 'X')
      }
      if (!b.server.state.changesets.has(gid)) b.lazy({ kind: 'changeset', gid, raw: body })
      if (!b.server.state.applied.has(gid)) {
        await admit(b, gid, REPLAY, '')
        if (i === changesets.length - 1) await b.durable({ kind: 'commit', effects: tx.sealed! })
        else b.lazy({ kind: 'commit', effects: tx.sealed! })
      }
      b.endTransaction()
    }
  },

  async liveness(b, owner: string): Promise<void> { await b.server.locks.take(`L ${owner}`, b.holder, 'RS', true, 0, b) },
  pulse: (b): Pulse => ({ position: `${b.server.state.position}:${b.server.state.chainSum()}`, doubt: doubt(b) }),

  // The lead's connection.
  begin: (b, isolation: 'read committed' | 'repeatable read') => void b.begin(isolation, 0),
  cover: (b, cover: string) => { statement(b); if (b.tx) b.tx.cover = cover },
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
    return [...new Set([...((b.tx?.snapshot ?? b.server.state).rows.get(t)?.keys() ?? []), ...[...(b.tx?.rows.values() ?? [])].filter((r) => r.t === t).map((r) => r.k)])].map((k) => [k, view(b, t, k)!])
  },
  append: (b, t: string, k: string, v: string) => write(b, t, k, (old) => (old === undefined || old === '' ? v : `${old},${v}`)),
  insert: (b, t: string, k: string, v: string) => write(b, t, k, (old) => {
    if (old !== undefined) throw refuse('23505', 'duplicate key value violates unique constraint')
    return v
  }),

  async seal(b, prefix: string, base: BaseEntry[], inferring: boolean, fresh: boolean, lock_ms: number): Promise<Sealed> {
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
      return { t, o: mine.flatMap((c) => (c.old === null ? [] : [imageOf(c.k, c.old)])), n: mine.flatMap((c) => (c.new === null ? [] : [imageOf(c.k, c.new)])) }
    })
    const granules = new Map<string, Granule>()
    const add = (t: string, n: number, w: boolean): void => void granules.set(`${t}/${n}`, { t, n, w: w || (granules.get(`${t}/${n}`)?.w ?? false) })
    for (const g of declared) add(g.t, g.n, g.w || g.n === -1)
    for (const c of captured) if (!declared.some((g) => g.t === '*' || (g.t === c.t && g.n === -1))) add(c.t, stripeOf(c.k), true)
    const sorted = [...granules.values()].sort((x, y) => (x.t < y.t ? -1 : x.t > y.t ? 1 : x.n - y.n))
    const writes = new Map<string, readonly [string, number]>([...captured.map((c) => [c.t, stripeOf(c.k)] as const), ...sorted.filter((g) => g.w).map((g) => [g.t, g.n] as const)].map((w) => [w.join('/'), w]))
    await take(b, sorted)
    if (fresh && server.state.moved(base)) return { state: 'stale' }
    const seen = tx.snapshot ?? server.state
    if (tx.snapshot) for (const p of writes.keys()) if (server.state.stripes.get(p)?.v !== tx.snapshot.stripes.get(p)?.v) throw refuse('40001', 'could not serialize access due to concurrent update')
    const raw = JSON.stringify({ base: seen.base(sorted), writes: [...writes.values()].sort(([t, n], [u, m]) => (t < u ? -1 : t > u ? 1 : n - m)), items, hashes: null, epoch: EPOCH, lead: b.server.index + 1 })
    const gid = prefix + digestOf(raw)
    await b.lock(`T ${gid}`, 'X')
    tx.sealed = { rows: captured.map((c) => ({ t: c.t, k: c.k, v: c.new })), gid, raw, seq: ++server.state.seq }
    return { state: 'sealed', gid, body: raw }
  },

  async commit(b): Promise<string> {
    const { tx } = b
    if (tx && !tx.failed && tx.sealed) await b.durable({ kind: 'commit', effects: tx.sealed })
    b.endTransaction()
    return tx?.failed ? 'ROLLBACK' : 'COMMIT'
  },
  rollback: (b) => b.endTransaction(),
  endRead(b, base: BaseEntry[]): string[] {
    statement(b)
    const missed = [...(b.tx?.read ?? [])].filter((t) => !granulesOf(base).some((g) => g.t === '*' || g.t === t))
    b.endTransaction()
    return missed
  },
}
