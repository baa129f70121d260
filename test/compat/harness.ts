/**
 * One program, twice: on a plain pg.Pool over one server, as the control, and on ours over three servers, where the
 * lead is killed in the middle and comes back. What the caller saw is counted and told; at the end the three
 * servers must be equal and nothing prepared.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import pg from 'pg'
import { Client, Pool } from '../../driver/index.ts'
import { init } from '../../driver/schema/install.ts'
import { settled } from '../cluster.ts'
import { destroyAll, threeServers, type TestServer } from '../servers.ts'

export interface Database {
  pool: pg.Pool
  /** For what constructs its own connections: the module to give it, and the options. */
  pg: typeof pg
  options: pg.PoolConfig
  /**
   * Works with `workers` at once for `ms`, while the lead is killed (not on plain pg). Each `work` is repeated by
   * again(). Returns how many were done.
   */
  storm(workers: number, ms: number, work: (n: number) => Promise<unknown>): Promise<number>
  /**
   * As an application repeats it: only what certainly was not committed. An unknown outcome is counted and left
   * alone: its work may be there or not.
   */
  again<T>(work: () => Promise<T>, tries?: number): Promise<T | undefined>
  /** How often each code was seen. */
  seen: Map<string, number>
  unknown(): number
  /** Rows as one server itself has them. */
  ask(text: string): Promise<Record<string, unknown>[]>
}

/** refused: what we say to it, instead of running it. */
export function compat(library: string, program: (db: Database) => Promise<void>, refused?: RegExp): void {
  describe(library, () => {
    it('on plain pg.Pool', () => run(library, 1, program))
    if (refused)
      it('is refused on three servers, with a sentence', () =>
        run(library, 3, (db) =>
          program(db).then(
            () => expect.fail('it works'),
            (error: Error) => void expect(error.message).to.match(refused),
          ),
        ))
    else it('on three servers, the lead killed in the middle', () => run(library, 3, program))
  })
}

async function run(library: string, n: number, program: (db: Database) => Promise<void>): Promise<void> {
  const servers = await threeServers({}, n)
  const urls = servers.map((s) => s.url)
  if (n > 1)
    await init(
      urls.map((connectionString) => ({ connectionString })),
      urls,
    )
  const options = n > 1 ? { replicas: urls, max: 10 } : { connectionString: urls[0], max: 10 }
  const pool = n > 1 ? new Pool(options) : new pg.Pool(options)
  pool.on('error', () => undefined)
  const db = database(servers, pool, options)
  try {
    await program(db)
    for (const server of servers) await server.start()
    if (n > 1) await level(servers, urls)
    if (db.seen.size > 0)
      console.log(`        ${library} saw ${[...db.seen].map(([code, times]) => `${code} ${times}×`).join(', ')}`)
  } finally {
    if (!pool.ended) await pool.end()
    await destroyAll(servers)
  }
}

/** The library may have ended its pool: another driver, when it is used, brings the server that was away up to date. */
async function level(servers: TestServer[], replicas: string[]): Promise<void> {
  const next = new Pool({ replicas })
  try {
    await next.query('SELECT count(*) FROM quorum.tracked')
    await settled(servers, 20_000)
  } finally {
    await next.end()
  }
}

function database(servers: TestServer[], pool: pg.Pool, options: pg.PoolConfig): Database {
  const seen = new Map<string, number>()
  const quorum = servers.length > 1
  const again = async <T>(work: () => Promise<T>, tries = 50): Promise<T | undefined> => {
    for (let attempt = 1; ; attempt++) {
      try {
        return await work()
      } catch (error) {
        const code = codeIn(error)
        seen.set(code, (seen.get(code) ?? 0) + 1)
        if (code === '08007') return undefined
        if (!REPEATABLE.has(code) || attempt >= tries) throw error
        await sleep(Math.random() * 10 * attempt)
      }
    }
  }
  return {
    pool,
    options,
    seen,
    again,
    pg: quorum ? ({ ...pg, Pool, Client } as unknown as typeof pg) : pg,
    unknown: () => seen.get('08007') ?? 0,
    async ask(text) {
      const client = new pg.Client(servers.at(-1)?.url)
      await client.connect()
      return (await client.query<Record<string, unknown>>(text).finally(() => client.end())).rows
    },
    async storm(workers, ms, work) {
      let n = 0
      let done = 0
      let killed = !quorum
      let after = 0
      const end = Date.now() + ms
      const killing = sleep(ms / 3).then(async () => {
        if (quorum) await servers[0]?.kill() // of several members in good health the first is the lead
        killed = true
      })
      await Promise.all([
        killing,
        ...Array.from({ length: workers }, async () => {
          while (Date.now() < end || !killed) {
            const mine = n++
            if ((await again(() => work(mine).then(() => true))) !== true) continue
            done++
            if (killed) after++
          }
        }),
      ])
      expect(after, 'done after the lead was killed').to.be.above(workers)
      return done
    },
  }
}

const REPEATABLE = new Set(['40001', '40P01', '55P03', '08006'])

/** Libraries wrap: the SQLSTATE is in the error, or in what it came from. */
export function codeIn(error: unknown): string {
  for (
    let e = error as Wrapped | undefined, depth = 0;
    e && depth < 6;
    e = e.driverError ?? e.original ?? e.nativeError ?? e.originalError ?? (e.cause as Wrapped | undefined), depth++
  ) {
    const code = e.code ?? e.originalCode
    if (typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code)) return code
  }
  return error instanceof Error ? `${error.name}: ${error.message.slice(0, 300)}` : JSON.stringify(error)
}
interface Wrapped {
  code?: unknown
  originalCode?: unknown
  cause?: unknown
  driverError?: Wrapped
  original?: Wrapped
  nativeError?: Wrapped
  originalError?: Wrapped
}

export async function failing(work: Promise<unknown>): Promise<string> {
  return work.then(() => 'no error', codeIn)
}
