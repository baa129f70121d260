/**
 * After the faults: doubt ends and the survivors become equal, by the drivers' own doing; then the destroyed are
 * rebuilt, and all rows are compared.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { binaries, sh, template, type Major } from '../../driver/embedded/binaries.ts'
import { EmbeddedServer } from '../../driver/embedded/embedded.ts'
import { Pool } from '../../driver/index.ts'
import { cloneReplica } from '../../driver/cli/building.ts'
import { init } from '../../driver/schema/install.ts'
import { ask } from '../servers.ts'
import { now_ms } from './journal.ts'

export interface State {
  position: string
  schema: string
  rows: string
  history: string
  prepared: number
  captured: number
}

const STATE = `SELECT quorum.position() AS position, quorum.schema_hash() AS schema, (SELECT count(*)::int FROM pg_prepared_xacts) AS prepared, (SELECT count(*)::int FROM quorum.capture) AS captured,
  coalesce((SELECT jsonb_object_agg(t, quorum.table_hash(to_regclass(t)) ORDER BY t) FROM quorum.tracked)::text, '') AS rows,
  (SELECT md5(coalesce(string_agg(concat_ws(',', t, n, version, gid), ';' ORDER BY t, n, version), '')) FROM quorum.history) AS history`

export const stateOf = async (server: EmbeddedServer): Promise<State> =>
  (await ask(server, STATE))[0] as unknown as State
const equal = (states: readonly State[]): boolean =>
  new Set(states.map((s) => [s.position, s.schema, s.rows, s.history].join())).size <= 1

/** Returns how long it took, and in which state they are, whether it succeeded or not. */
export async function settle(
  servers: readonly EmbeddedServer[],
  patience_ms: number,
): Promise<{ ms: number; states: State[]; done: boolean }> {
  const start = now_ms()
  for (;;) {
    const states = await Promise.all(servers.map(stateOf))
    const done = equal(states) && states.every((s) => s.prepared === 0)
    if (done || now_ms() - start > patience_ms) return { ms: now_ms() - start, states, done }
    await sleep(100)
  }
}

/** How many servers hold something else than most. */
export function divergent(states: readonly State[]): number {
  const groups = new Map<string, number>()
  for (const s of states) {
    const key = [s.position, s.schema, s.rows, s.history].join()
    groups.set(key, (groups.get(key) ?? 0) + 1)
  }
  return states.length - Math.max(0, ...groups.values())
}

/** A server with an empty disk, of a template that no server of this run was made from: its own system identifier. */
export async function emptyServer(index: number): Promise<EmbeddedServer> {
  const bin = binaries(Number(process.env['PG_MAJOR'] || 18) as Major)
  const from = await template(bin, index)
  const server = new EmbeddedServer(bin)
  await sh('cp -R "$1/." "$2"', from, server.dir)
  await server.start()
  return server
}

/**
 * As an operator would: init makes the empty servers the missing members, without a vote, and `clone` builds them
 * one after the other.
 */
export async function rebuild(
  all: readonly EmbeddedServer[],
  patience_ms: number,
): Promise<{ ms: number; states: State[]; done: boolean }> {
  const start = now_ms()
  const urls = all.map((s) => s.url)
  const { members } = await init(
    urls.map((connectionString) => ({ connectionString })),
    urls,
  )
  for (const m of members.filter((m) => m.building)) await cloneReplica({ urls, which: String(m.member) })
  const pool = new Pool({ replicas: urls })
  try {
    await pool.query('SELECT count(*) FROM lists')
    const { states, done } = await settle(all, patience_ms)
    return { ms: now_ms() - start, states, done }
  } finally {
    await pool.end()
  }
}

/** The sweep of a driver that is used: what heals the cluster when all its clients are gone. */
export async function withPool<T>(
  urls: readonly string[],
  patience_ms: number,
  work: (pool: Pool) => Promise<T>,
): Promise<T> {
  const pool = new Pool({ replicas: [...urls] })
  try {
    // The first statement of a pool starts its sweep, which may have a lot to end first.
    for (const start = now_ms(); ;) {
      try {
        await pool.query('SELECT count(*) FROM lists')
        break
      } catch (error) {
        if (now_ms() - start > patience_ms) throw error
      }
    }
    return await work(pool)
  } finally {
    await pool.end()
  }
}

export interface Books {
  readonly lists: ReadonlyMap<string, readonly number[]>
  readonly balances: ReadonlyMap<number, number>
}

/** What one server itself says. */
export async function booksOf(server: EmbeddedServer): Promise<Books> {
  const lists = await ask(server, 'SELECT k, v FROM lists ORDER BY k')
  const balances = await ask(server, 'SELECT id, balance::int AS balance FROM accounts')
  return {
    lists: new Map(lists.map((r) => [r['k'] as string, r['v'] as number[]])),
    balances: new Map(balances.map((r) => [r['id'] as number, r['balance'] as number])),
  }
}
