/** What a seed means: how many servers, clients and users, how long, and which faults. Everything can be overridden, to shrink a failure. */
import { dice } from './dice.ts'
import { KINDS, type FaultKind } from './faults.ts'

export interface Plan {
  readonly seed: number
  readonly servers: number
  readonly clients: number
  readonly workers: number
  readonly keys: readonly string[]
  readonly transactions: number
  readonly think_ms: number
  readonly length_ms: number
  /** Impatient drivers resolve what others are still about to decide: duels. */
  readonly grace_ms: number
  readonly pulse_ms: number
  /** Servers are near to one client and far from another, by up to this. */
  readonly spread_ms: number
  /** The share of strong reads: long forks show only to many readers. */
  readonly reading: number
  readonly kinds: readonly FaultKind[]
  readonly faults: number
}

export interface Overrides { servers?: number; clients?: number; workers?: number; transactions?: number; faults?: number; without?: readonly string[] }

export function planOf(seed: number, o: Overrides = {}): Plan {
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
    seed, servers: o.servers ?? servers, clients: o.clients ?? clients, workers: o.workers ?? workers, keys, transactions: o.transactions ?? transactions, think_ms, length_ms, grace_ms, pulse_ms, spread_ms, reading,
    kinds: kinds.filter((k) => !o.without?.includes(k)), faults: o.faults ?? faults,
  }
}
