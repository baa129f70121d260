/** The four workloads, in plain pg code: what takes a pg.Pool runs them. 10,000 accounts, like pgbench's smallest. */
import type pg from 'pg'

export const ROWS = 10_000
export type Pooled = Pick<pg.Pool, 'query' | 'connect'>
export type Workload = (pool: Pooled, worker: number) => Promise<unknown>

/** A small generator of its own for each worker: the driver's chance is not ours to spend, and two runs shall draw the same rows. */
const states = new Map<number, number>()
export function draw(worker: number, below: number): number {
  const x = (Math.imul((states.get(worker) ?? worker * 7919 + 1) ^ 0x5bd1e995, 0x27d4eb2d) + 0x165667b1) >>> 0
  states.set(worker, x)
  return Math.floor((x / 2 ** 32) * below)
}

async function transfer(pool: Pooled, worker: number): Promise<void> {
  const from = 1 + draw(worker, ROWS)
  const to = 1 + ((from + draw(worker, ROWS - 1)) % ROWS)
  const client = await pool.connect()
  try {
    await client.query('BEGIN')
    await client.query('SELECT balance FROM accounts WHERE id = $1', [from])
    await client.query('UPDATE accounts SET balance = balance - 1 WHERE id = $1', [from])
    await client.query('UPDATE accounts SET balance = balance + 1 WHERE id = $1', [to])
    await client.query('COMMIT')
  } catch (error) {
    await client.query('ROLLBACK').catch(() => undefined)
    throw error
  } finally {
    client.release()
  }
}

export const WORKLOADS: Readonly<Record<string, Workload>> = {
  update: (pool, w) => pool.query('UPDATE accounts SET balance = balance + 1 WHERE id = $1', [1 + draw(w, ROWS)]),
  transfer,
  hot: (pool) => pool.query('UPDATE accounts SET balance = balance + 1 WHERE id = 1'),
  select: (pool, w) => pool.query('SELECT balance FROM accounts WHERE id = $1', [1 + draw(w, ROWS)]),
}

export interface Measured { readonly per_s: number; readonly p50_ms: number; readonly p99_ms: number; readonly failed: number; readonly done: number }

export async function run(pool: Pooled, workload: Workload, workers: number, ms: number): Promise<Measured> {
  const took: number[] = []
  let failed = 0
  const from = performance.now()
  await Promise.all(Array.from({ length: workers }, async (_, w) => {
    while (performance.now() - from < ms) {
      const at = performance.now()
      try {
        await workload(pool, w)
        took.push(performance.now() - at)
      } catch {
        failed++
      }
    }
  }))
  const elapsed = performance.now() - from
  took.sort((a, b) => a - b)
  const at = (q: number): number => took[Math.min(took.length - 1, Math.floor(took.length * q))] ?? NaN
  return { per_s: (took.length / elapsed) * 1000, p50_ms: at(0.5), p99_ms: at(0.99), failed, done: took.length }
}
