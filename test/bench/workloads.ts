/** The workloads, in plain pg code: what takes a pg.Pool runs them. 10,000 accounts. */
import type pg from 'pg'

export const ROWS = 10_000
export type Pooled = Pick<pg.Pool, 'query' | 'connect'>
export type Workload = (worker: number) => Promise<unknown>
export const NAMES = ['update', 'transfer', 'hot', 'select', 'eventual'] as const
export type Name = (typeof NAMES)[number]
/** With how many callers at once each is measured. */
export const AT: Readonly<Record<Name, readonly number[]>> = {
  update: [1, 8, 32],
  transfer: [1, 8, 32],
  hot: [8, 32],
  select: [1, 32],
  eventual: [1, 32],
}

export const UPDATE = 'UPDATE accounts SET balance = balance + $2 WHERE id = $1'
export const SELECT = 'SELECT balance FROM accounts WHERE id = $1'

/** Each worker has its own numbers (splitmix32), so that two contenders are given the same rows. */
const states = new Map<number, number>()
export function draw(worker: number, below: number): number {
  const state = ((states.get(worker) ?? worker * 7919) + 0x9e3779b9) | 0
  states.set(worker, state)
  let x = Math.imul(state ^ (state >>> 16), 0x21f0aaad)
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97)
  return Math.floor((((x ^ (x >>> 15)) >>> 0) / 2 ** 32) * below)
}
export const anAccount = (worker: number): number => 1 + draw(worker, ROWS)
export function twoAccounts(worker: number): [from: number, to: number] {
  const from = anAccount(worker)
  return [from, 1 + ((from + draw(worker, ROWS - 1)) % ROWS)]
}

async function transfer(pool: Pooled, worker: number): Promise<void> {
  const [from, to] = twoAccounts(worker)
  const client = await pool.connect()
  try {
    await client.query('BEGIN')
    await client.query(SELECT, [from])
    await client.query(UPDATE, [from, -1])
    await client.query(UPDATE, [to, 1])
    await client.query('COMMIT')
  } catch (error) {
    await client.query('ROLLBACK').catch(() => undefined)
    throw error
  } finally {
    client.release()
  }
}

/** `weaker`: what answers a read that may be old. */
export function through(pool: Pooled, weaker: Pick<Pooled, 'query'> = pool): Readonly<Record<Name, Workload>> {
  return {
    update: (w) => pool.query(UPDATE, [anAccount(w), 1]),
    transfer: (w) => transfer(pool, w),
    hot: () => pool.query(UPDATE, [1, 1]),
    select: (w) => pool.query(SELECT, [anAccount(w)]),
    eventual: (w) => weaker.query(SELECT, [anAccount(w)]),
  }
}

export interface Ran {
  readonly elapsed_ms: number
  readonly took: readonly number[]
  readonly repeats: number
  readonly errors: readonly string[]
}

/**
 * `workers` callers, each with one call at a time, until `ms` are over; times sorted. A conflict (40001) is
 * repeated, as an application would, and its time counts.
 */
export async function run(workload: Workload, workers: number, ms: number): Promise<Ran> {
  const took: number[] = []
  const errors: string[] = []
  let repeats = 0
  const patient = async (w: number): Promise<unknown> => {
    for (;;) {
      try {
        return await workload(w)
      } catch (error) {
        if ((error as { code?: string }).code !== '40001') throw error
        repeats++
      }
    }
  }
  const from = performance.now()
  await Promise.all(
    Array.from({ length: workers }, async (_, w) => {
      while (performance.now() - from < ms) {
        const at = performance.now()
        try {
          await patient(w)
          took.push(performance.now() - at)
        } catch (error) {
          errors.push(error instanceof Error ? error.message : String(error))
        }
      }
    }),
  )
  return { elapsed_ms: performance.now() - from, took: took.sort((a, b) => a - b), repeats, errors }
}
