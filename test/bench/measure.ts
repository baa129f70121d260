/**
 * One combination of workload and callers, all contenders by turns: what it took, per transaction, and beside the
 * floor in the same round.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Contender } from './contenders.ts'
import { logged, others, used } from './meter.ts'
import { run, type Name } from './workloads.ts'

/**
 * A pool's beginning is not what it costs: each of its sessions plans what it is asked for the first time, and each
 * code path of ours runs uncompiled. (It was 300 ms, in which 32 callers of ours had not begun.) What beginning
 * costs is measured by start.ts.
 */
const WARM_MS = 1500
/** Latencies by powers of two, from below 1/8 ms. */
const BUCKETS = 16
const bucketOf = (ms: number): number => Math.min(BUCKETS - 1, Math.max(0, Math.ceil(Math.log2(ms)) + 3))

interface Round {
  per_s: number
  others: number
  took: readonly number[]
  client_ms: number
  servers_ms: number
  sends: number
  replies: number
  fsyncs: number
  wal_bytes: number
  repeats: number
  errors: readonly string[]
}

async function oneRound(contender: Contender, name: Name, workers: number, ms: number): Promise<Round> {
  const log = await logged(contender.servers)
  const { does, end } = contender.open(workers)
  const warm = await run(does[name], workers, WARM_MS)
  const before = used(contender.servers)
  const { took, elapsed_ms, repeats, errors } = await run(does[name], workers, ms)
  const after = used(contender.servers)
  await end()
  await sleep(50) // a backend's end is when it tells its counts
  const written = await logged(contender.servers)
  const [done, all] = [took.length, took.length + warm.took.length]
  return {
    per_s: (done * 1000) / elapsed_ms,
    others: others(before, after),
    took,
    errors: [...warm.errors, ...errors],
    client_ms: ((after.client_s - before.client_s) * 1000) / done,
    servers_ms: ((after.servers_s - before.servers_s) * 1000) / done,
    sends: (after.sends - before.sends) / done,
    replies: (after.replies - before.replies) / done,
    repeats: repeats / done,
    fsyncs: (written.fsyncs - log.fsyncs) / all,
    wal_bytes: (written.bytes - log.bytes) / all,
  }
}

export interface Result {
  readonly workload: Name
  readonly workers: number
  readonly contender: string
  readonly rounds: number
  /** Transactions a second: the median round, the slowest, the fastest. */
  readonly per_s: number
  readonly least: number
  readonly most: number
  /** To the floor in the same round: median, least, most. */
  readonly ratio: number
  readonly ratio_least: number
  readonly ratio_most: number
  readonly p50_ms: number
  readonly p90_ms: number
  readonly p99_ms: number
  readonly p999_ms: number
  readonly max_ms: number
  readonly buckets: readonly number[]
  /** Per transaction, medians of the rounds. */
  readonly client_ms: number
  readonly servers_ms: number
  readonly sends: number
  readonly replies: number
  readonly fsyncs: number
  readonly wal_bytes: number
  /** Conflicts (40001) that the caller repeated, per transaction. */
  readonly repeats: number
  /**
   * The part of the machine that worked for somebody else meanwhile: above a tenth, only what is counted means
   * much.
   */
  readonly others: number
  readonly failed: number
  readonly error?: string
}

export const median = (xs: readonly number[]): number => [...xs].sort((a, b) => a - b)[Math.floor(xs.length / 2)] ?? NaN

/** The floor is the first contender. */
export async function measure(
  contenders: readonly Contender[],
  workload: Name,
  workers: number,
  rounds: number,
  ms: number,
): Promise<Result[]> {
  const all = contenders.map((): Round[] => [])
  for (let i = 0; i < rounds; i++)
    for (const [c, contender] of contenders.entries()) all[c]!.push(await oneRound(contender, workload, workers, ms))
  for (const contender of contenders) await contender.check?.()
  return contenders.map(({ name }, c) => {
    const mine = all[c]!
    const of = (f: (r: Round) => number): number => median(mine.map(f))
    const speeds = mine.map((r) => r.per_s)
    const ratios = mine.map((r, i) => r.per_s / all[0]![i]!.per_s)
    const took = mine.flatMap((r) => r.took).sort((a, b) => a - b)
    const at = (q: number): number => took[Math.min(took.length - 1, Math.floor(took.length * q))] ?? NaN
    const buckets = Array<number>(BUCKETS).fill(0)
    for (const t of took) buckets[bucketOf(t)]!++
    const errors = mine.flatMap((r) => r.errors)
    return {
      workload,
      workers,
      contender: name,
      rounds,
      per_s: median(speeds),
      least: Math.min(...speeds),
      most: Math.max(...speeds),
      ratio: median(ratios),
      ratio_least: Math.min(...ratios),
      ratio_most: Math.max(...ratios),
      p50_ms: at(0.5),
      p90_ms: at(0.9),
      p99_ms: at(0.99),
      p999_ms: at(0.999),
      max_ms: at(1),
      buckets,
      client_ms: of((r) => r.client_ms),
      servers_ms: of((r) => r.servers_ms),
      sends: of((r) => r.sends),
      replies: of((r) => r.replies),
      fsyncs: of((r) => r.fsyncs),
      wal_bytes: of((r) => r.wal_bytes),
      repeats: of((r) => r.repeats),
      others: of((r) => r.others),
      failed: errors.length,
      ...(errors[0] === undefined ? {} : { error: errors[0] }),
    }
  })
}
