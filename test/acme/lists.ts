/** The lists of the list-append workload: which keys there are, and what a micro-operation is in SQL. */
import type pg from 'pg'
import type { Lock } from '../../driver/index.ts'
import type { Mop } from '../checker/history.ts'

/** Every so often the window of keys that are in use moves on by one, so that no list grows long. */
export const WINDOW_MS = 3000
export const ACTIVE = 12

/** Keys with an even number exist from the start, the others are made by their first append. */
export const keysFor = (seconds: number): string[] =>
  Array.from({ length: Math.ceil((seconds * 1000 + 90_000) / WINDOW_MS) }, (_, i) => `k${i * 2}`)
export const UPSERT =
  'INSERT INTO lists (k, v) VALUES ($1, ARRAY[$2::int]) ON CONFLICT (k) DO UPDATE SET v = lists.v || excluded.v'
const APPEND = 'UPDATE lists SET v = v || $2::int WHERE k = $1'
const READ = 'SELECT v FROM lists WHERE k = $1'

export interface Runner {
  query(text: string, values?: unknown[]): Promise<pg.QueryResult>
}

export function lockRows(plan: readonly { kind: 'append' | 'r'; key: string }[]): Lock[] {
  const written = new Map<string, boolean>()
  for (const { kind, key } of plan) written.set(key, (written.get(key) ?? false) || kind === 'append')
  return [...written].map(([key, w]): Lock => (w ? `lists/${key}` : { row: `lists/${key}`, mode: 'shared' }))
}

export async function perform(on: Runner, mops: readonly Mop[]): Promise<Mop[]> {
  const done: Mop[] = []
  for (const m of mops) {
    if (m[0] === 'r') {
      done.push(['r', m[1], ((await on.query(READ, [m[1]])).rows[0] as { v: number[] } | undefined)?.v ?? []])
      continue
    }
    const exists = Number(m[1].slice(1)) % 2 === 0
    const { rowCount } = await on.query(exists ? APPEND : UPSERT, [m[1], m[2]])
    if (rowCount !== 1) throw new Error(`the row ${m[1]} was not there (${rowCount} rows changed)`)
    done.push(m)
  }
  return done
}
