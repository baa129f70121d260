/**
 * What a backend does when a driver asks it: the functions of schema/*.sql that change or lock something, and the
 * two-phase commands. `breathe` stands where a real backend could be overtaken by another.
 */
import type { Decision, Evidence } from '../../driver/protocol/decision.ts'
import type { BaseEntry, Granule, LockRequest } from '../../driver/protocol/locks.ts'
import type {
  Changeset,
  Doubt,
  LockReply,
  Look,
  Observation,
  PromiseReply,
  Pulse,
  Row,
  Self,
} from '../../driver/replica/replica.ts'
import { guard, take } from './granule-locks.ts'
import { refuse } from './refusals.ts'
import type { Backend } from './server.ts'
import { bodyOf, digestOf, EPOCH, granulesOf, normalise, State, stripeOf } from './state.ts'
import { userVerbs } from './user-verbs.ts'

const REPLAY = 9007199254740991
const SEIZE_MS = 500
export const ownerOf = (gid: string): string => gid.split('_')[3] ?? ''

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
  return {
    granules: [...granules],
    base: b.server.state.base(granules),
    doubt: free ? [] : doubt(b),
    free,
    write: b.server.floor,
  }
}

function doubt(b: Backend): Doubt[] {
  return [...b.server.state.prepared].map(([gid, p]) => ({
    gid,
    age_ms: b.server.clock() - p.at,
    owner_alive: b.server.ownerAlive(gid),
  }))
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
    member: b.server.index + 1,
    lead: raw === undefined ? null : bodyOf(raw).lead,
    write: raw === undefined ? null : bodyOf(raw).write,
    committed,
    prepared: prepared && !committed,
    promised: ballot?.promised ?? 0,
    accepted: ballot?.accepted ?? 0,
    decision: ballot?.decision ?? null,
    has: raw !== undefined,
    superseded: past && !committed,
    forgotten: false,
    owner_alive: b.server.ownerAlive(gid),
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
  if (raw === undefined || digestOf(raw) !== gid.slice(-32))
    throw refuse('QB004', 'the changeset is missing or not the one the gid names')
  const body = bodyOf(raw)
  if (body.epoch !== EPOCH) throw refuse('QB005', `epoch ${body.epoch} is not this member's`)
  await take(b, granulesOf(body.base))
  for (const key of State.rowLocks(server.state.admit(body))) await b.lock(key, 'X')
  const rows = server.state.admit(body)
  b.tx!.sealed = { rows, gid, raw, seq: ++server.state.seq }
}

const sessionThatHolds = (b: Backend, key: string): Backend | undefined =>
  [...b.server.backends].find((x) => x !== b && x.holder === b.server.locks.held(key))
const after = (n: number, who: string, than: number, whom: string): boolean => n > than || (n === than && who > whom)

export const verbs: Record<string, (b: Backend, ...args: never[]) => unknown> = {
  hello(b): Self {
    if (b.server.wiped) throw refuse('42883', 'function quorum.hello() does not exist')
    return {
      cluster: 'sim',
      member: b.server.index + 1,
      members: 0,
      epoch: EPOCH,
      schema_version: 1,
      system_identifier: b.server.name,
      actual_identifier: b.server.name,
      prepared_max: 64,
      write: b.server.floor,
    }
  },

  everything_at: (b): number => b.server.state.stripes.get('*/-1')?.v ?? 0,

  async looks(b, rows: Row[], patience_ms: number | null): Promise<Look[]> {
    const { locks, state, floor } = b.server
    b.begin().lock_ms = patience_ms ?? 0
    try {
      const free: boolean[] = []
      for (const r of rows) {
        const keys = ['A *', `A ${r.t}`, `A ${r.t}/${stripeOf(r.key.slice(1, -1))}`]
        if (patience_ms === null) free.push(keys.map((key) => locks.try(key, b.holder, 'RS', false)).every(Boolean))
        else for (const key of keys) await b.lock(key, 'RS')
      }
      await b.breathe()
      const v = (t: string, n: number): number => state.stripes.get(`${t}/${n}`)?.v ?? 0
      return rows.map((r, i) => {
        const n = stripeOf(r.key.slice(1, -1))
        return {
          n,
          version: free[i] === false ? -1 : v(r.t, n),
          whole: v(r.t, -1),
          everything: v('*', -1),
          write: floor,
        }
      })
    } finally {
      b.endTransaction()
    }
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

  async accept(b, changeset: Changeset, number: number, by: string, lock_ms: number): Promise<string> {
    const { server } = b
    const { gid } = changeset
    if (!server.state.changesets.has(gid)) b.lazy({ kind: 'changeset', gid, raw: changeset.body })
    await b.breathe()
    b.begin('read committed', lock_ms)
    try {
      await admit(b, gid, number, by)
    } catch (error) {
      if (!server.world.dice('server').hits(0.1)) throw error
      // PREPARE in a failed transaction: PostgreSQL answers ROLLBACK, without any error (dangers.md, N8)
      b.endTransaction()
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
    if (!server.state.prepared.has(gid))
      throw refuse('42704', `prepared transaction with identifier "${gid}" does not exist`)
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
      if (e.committed || (e.superseded && choice !== 'abort') || (choice === 'commit' && !e.prepared))
        return { ...e, yes: false }
      await b.breathe()
      await b.lock(`ballot ${gid}`, 'X', 0)
      const x = server.state.ballots.get(gid)
      if (x && !(after(number, by, x.promised, x.to) || (x.promised === number && x.to === by)))
        return { ...e, yes: false }
      const ballot = {
        promised: number,
        to: by,
        accepted: choice === null ? (x?.accepted ?? 0) : number,
        decision: choice ?? x?.decision ?? null,
      }
      await b.durable({ kind: 'ballot', gid, ballot })
      return { ...e, yes: true, accepted: ballot.accepted, decision: ballot.decision }
    } finally {
      b.endTransaction()
    }
  },

  changesets: (b, gids: string[]): Changeset[] =>
    gids.flatMap((gid) => {
      const body = b.server.state.changesets.get(gid)
      return body === undefined ? [] : [{ gid, body }]
    }),
  present: (b, gids: string[]) => gids.filter((g) => b.server.state.applied.has(g) || b.server.state.prepared.has(g)),
  versions: (b) => (b.tx?.snapshot ?? b.server.state).versions(),
  beyond: (b, theirs: unknown[][], most: number) => b.server.state.beyond(theirs, most),
  against: (b, base: BaseEntry[]) => b.server.state.against(base),

  async replay(b, changesets: Changeset[], lock_ms: number): Promise<number> {
    let brought = 0
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
        brought++
      }
      b.endTransaction()
    }
    return brought
  },

  async liveness(b, owner: string): Promise<void> {
    await b.server.locks.take(`L ${owner}`, b.holder, 'RS', true, 0, b)
  },
  pulse: (b): Pulse => ({ position: `${b.server.state.position}:${b.server.state.chainSum()}`, doubt: doubt(b) }),

  ...userVerbs,
}
