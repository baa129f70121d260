/**
 * What a seed means: how many servers, clients and users, how long, and which faults. Everything can be overridden,
 * to shrink a failure. Four kinds of run, since one that mostly commits seldom gets to the rare corners:
 * - general: users work, single faults strike;
 * - duel: a few transactions, each of which several drivers resolve while its owner is still at it, in bad weather;
 * - readers: mostly reads, on any lead, against writers whose commits reach changing majorities;
 * - dial: one of these, with writes on more than a majority and strong reads that ask as many fewer. Nothing is
 *   destroyed: it would stand still.
 */
import { leastRead } from '../../driver/protocol/dial.ts'
import { majority } from '../../driver/protocol/quorum.ts'
import type { Limits } from '../../driver/transaction/cluster.ts'
import { dice, type Dice } from './dice.ts'
import { KINDS, type FaultKind } from './faults.ts'
import { CALM, CLEAR, type Weather } from './world.ts'

export const RUN_KINDS = ['general', 'duel', 'readers', 'dial'] as const
export type RunKind = (typeof RUN_KINDS)[number]

export interface Plan {
  readonly seed: number
  readonly kind: RunKind
  readonly servers: number
  /** On how many of them every write is; a strong read asks the fewest that this allows. */
  readonly floor?: number
  readonly clients: number
  readonly workers: number
  readonly keys: readonly string[]
  readonly transactions: number
  readonly think_ms: number
  readonly length_ms: number
  /** Impatient drivers resolve what others are still about to decide: duels. */
  readonly limits: Limits
  /** Servers are near to one client and far from another, by up to this. */
  readonly spread_ms: number
  /** The share of strong reads: long forks show only to many readers. */
  readonly reading: number
  /** The share of whole tables among them, instead of rows. */
  readonly scans: number
  /** The share of REPEATABLE READ among the others. */
  readonly repeatable: number
  /** The share of transactions without locks: two of them may meet in the accepts. */
  readonly undeclared: number
  /** Each client prefers a lead of its own; otherwise they tend to meet on the first. */
  readonly anyLead: boolean
  readonly weather: Weather
  /** How often each client is cut off from another minority; 0: only where a fault says so. */
  readonly churn_ms: number
  /** The share of clients that sweep from the beginning; the others when the bad part is over. */
  readonly sweeping: number
  /** How many clients must get a write through in the end. */
  readonly probing: number
  /** How often others resolve each transaction that is sealed, and within what time. */
  readonly meddling: number
  readonly meddling_ms: number
  readonly kinds: readonly FaultKind[]
  readonly faults: number
  /** How long, in simulated time, everything may take to drain once a majority is healed. */
  readonly drain_ms: number
}

export interface Overrides {
  kind?: RunKind
  servers?: number
  clients?: number
  workers?: number
  transactions?: number
  faults?: number
  without?: readonly string[]
}

export function planOf(seed: number, o: Overrides = {}): Plan {
  const kind = o.kind ?? dice(seed, 'kind').pick(['general', 'general', 'duel', 'duel', 'readers', 'dial'])
  const plan = { general, duel, readers, dial }[kind](seed)
  const chosen = Object.fromEntries(
    Object.entries(o).filter(([name, value]) => name !== 'without' && value !== undefined),
  )
  return { ...plan, ...chosen, kinds: plan.kinds.filter((k) => !o.without?.includes(k)) }
}

function general(seed: number): Plan {
  const d = dice(seed, 'plan')
  const servers = d.hits(0.4) ? 5 : 3
  const clients = 1 + d.below(3)
  const workers = 1 + d.below(2)
  const keys = ['a', 'b', 'c', 'd'].slice(0, 1 + d.below(4))
  const transactions = 10 + d.below(30)
  const think_ms = d.pick([0, 20, 150, 600])
  const length_ms = d.hits(0.1) ? d.between(8000, 20_000) : d.between(1000, 5000)
  const grace_ms = d.pick([20, 200, 1500])
  const pulse_ms = d.pick([40, 250])
  const spread_ms = d.pick([0, 0, 20, 300])
  const reading = d.pick([0.1, 0.1, 0.6])
  const rate = d.pick([0.15, 0.3, 0.6])
  const kinds = KINDS.filter(() => d.hits(rate))
  const faults = d.below(16)
  return {
    seed,
    kind: 'general',
    servers,
    clients,
    workers,
    keys,
    transactions,
    think_ms,
    length_ms,
    limits: { connect_ms: 800, call_ms: 1000, lock_ms: 2500, grace_ms, pulse_ms, changeset_bytes: 1e6 },
    spread_ms,
    reading,
    scans: 0.7,
    repeatable: 0.15,
    undeclared: 0.4,
    anyLead: false,
    weather: CALM,
    churn_ms: 0,
    sweeping: 1,
    probing: Infinity,
    meddling: 0,
    meddling_ms: 0,
    kinds,
    faults,
    drain_ms: 60_000,
  }
}

function weather(d: Dice): Weather {
  return {
    late: d.pick([0.02, 0.1, 0.3]),
    late_ms: [1, d.pick([20, 100, 400])],
    stall: d.pick([0.002, 0.05, 0.2]),
    stall_ms: [0.5, d.pick([5, 30, 200])],
    lost: d.pick([0, 0, 0.02, 0.1]),
    unheard: d.pick([0, 0, 0.02, 0.1]),
    crash: d.pick([0, 0, 0.02, 0.1]),
  }
}

function duel(seed: number): Plan {
  const d = dice(seed, 'duel')
  const call_ms = d.pick([40, 100, 300])
  return {
    seed,
    kind: 'duel',
    servers: d.hits(0.35) ? 5 : 3,
    clients: 2 + d.below(4),
    workers: 1,
    keys: d.hits(0.7) ? ['a'] : ['a', 'b'],
    transactions: 1 + d.below(4),
    think_ms: 0,
    length_ms: d.between(100, 500),
    limits: {
      connect_ms: call_ms / 2,
      call_ms,
      lock_ms: 4 * call_ms,
      grace_ms: d.pick([20, 200]),
      pulse_ms: d.pick([100, 400]),
      changeset_bytes: 1e6,
    },
    spread_ms: d.pick([0, 0, call_ms / 8]),
    reading: 0,
    scans: 0,
    repeatable: 0.1,
    undeclared: 0.8,
    anyLead: d.hits(0.9),
    weather: weather(d),
    churn_ms: d.pick([0, 10, 40, 150]),
    sweeping: d.pick([0, 0, 0.5]),
    probing: 1,
    meddling: 1 + d.below(8),
    meddling_ms: d.pick([5, 50, 300]),
    kinds: [
      'crash',
      'power',
      'destroy',
      'stop-server',
      'stop-backend',
      'kill-client',
      'kill-at-step',
      'close-client',
      'stop-client',
      'server-clock',
      'crash-after-reply',
      'lose-prepare-reply',
    ],
    faults: d.below(5),
    drain_ms: 30_000,
  }
}

/**
 * fork: many readers of two keys, writers on any lead. lag: commits reach changing majorities and nobody catches
 * up, so that leads lack one row and are ahead in another. skew: REPEATABLE READ writers that read what the others
 * write. crowd: readers of one process that ask together, whose answers are late.
 */
function readers(seed: number): Plan {
  const d = dice(seed, 'readers')
  const scene = d.pick(['fork', 'fork', 'lag', 'skew', 'crowd'] as const)
  const stormy = d.hits(0.3)
  return {
    seed,
    kind: 'readers',
    servers: d.hits(0.1) ? 5 : 3,
    clients: 3 + d.below(2),
    workers: scene === 'lag' ? 1 : scene === 'crowd' ? 5 : 2,
    keys: scene === 'lag' ? ['a', 'b', 'c'] : scene === 'crowd' ? ['a'] : ['a', 'b'],
    transactions: (scene === 'crowd' ? 120 : 30) + d.below(50),
    think_ms: d.pick([0, 5]),
    length_ms: d.between(300, 900),
    limits: {
      connect_ms: 150,
      call_ms: 300,
      lock_ms: 900,
      grace_ms: d.pick([20, 1500]),
      pulse_ms: scene === 'lag' ? 2000 : 500,
      changeset_bytes: 1e6,
    },
    spread_ms: scene === 'fork' ? d.pick([0, 12, 30]) : scene === 'crowd' ? d.pick([0, 20, 60]) : 0,
    reading: scene === 'skew' ? 0.1 : scene === 'crowd' ? 0.8 : 0.5,
    scans: scene === 'crowd' ? 0.05 : 0.7,
    repeatable: scene === 'skew' ? 0.9 : 0,
    undeclared: 0.7,
    anyLead: scene !== 'skew' || d.hits(0.5),
    weather: stormy
      ? { ...weather(d), crash: d.pick([0, 0.02]) }
      : {
          ...CLEAR,
          late: d.pick([0.05, 0.3]),
          late_ms: [1, scene === 'crowd' ? 60 : 20],
          stall: d.pick([0, 0.1]),
          stall_ms: [0.5, 15],
        },
    churn_ms: scene === 'fork' ? 0 : scene === 'lag' ? d.pick([100, 250]) : d.pick([30, 100]),
    sweeping: 1,
    probing: 1,
    meddling: 0,
    meddling_ms: 0,
    kinds: [
      'crash',
      'power',
      'stop-server',
      'stop-backend',
      'crash-after-reply',
      'kill-client',
      'cut-server',
      'slow-client',
    ],
    faults: stormy ? d.below(6) : 0,
    drain_ms: 60_000,
  }
}

function dial(seed: number): Plan {
  const d = dice(seed, 'dial')
  const plan = d.pick([general, readers, readers, duel])(seed)
  const floor = d.hits(0.7) ? plan.servers : plan.servers - d.below(plan.servers - majority(plan.servers))
  return { ...plan, kind: 'dial', floor, kinds: plan.kinds.filter((k) => k !== 'destroy' && k !== 'wipe') }
}

export const dialOf = ({ servers, floor = majority(servers) }: Plan): { write: number; read: number } => ({
  write: majority(servers),
  read: leastRead(servers, floor),
})
