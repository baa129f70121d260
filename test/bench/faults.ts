/**
 * `npm run bench -- --faults [--rounds 3] [--at 8] [--only transaction/lead-stopped]`: how long callers wait when a
 * server is killed (kill -9) or stands still (SIGSTOP) under load: the longest time in which nobody got an
 * acknowledgement, the longest single call, and the errors that callers saw. After each: every acknowledged write
 * is there once, and the replicas are equal. Two controls: the same without a fault, and plain pg on one server
 * that stands still for 2 s.
 */
import { loadavg } from 'node:os'
import pg from 'pg'
import { Pool, type Client } from '../../driver/index.ts'
import { cluster, settled, until } from '../cluster.ts'
import { ask, destroyAll, threeServers, type TestServer } from '../servers.ts'

const ROWS = 100 // of each worker's own, so that nobody waits for another's transaction
const WARM_MS = 1000
const WARM_CALLS = 10 // of each caller
const WATCH_MS = 3000
const STOPPED_MS = 2000
const GOALS: Readonly<Record<string, number>> = {
  'follower-killed': 50,
  'lead-killed': 250,
  'lead-stopped': 1000,
  'follower-stopped': 1000,
}

interface Load {
  readonly pool: pg.Pool
  readonly worker: number
  readonly wrote: (id: number) => void
  readonly turn: number
}
const rowOf = (worker: number, turn: number): number => worker * ROWS + (turn % ROWS)
const ADD = 'UPDATE accounts SET balance = balance + 1 WHERE id = $1'

const KINDS: Readonly<Record<string, (load: Load) => Promise<void>>> = {
  async 'one-shot'({ pool, worker, turn, wrote }) {
    const id = rowOf(worker, turn)
    await pool.query(ADD, [id])
    wrote(id)
  },
  async transaction({ pool, worker, turn, wrote }) {
    const ids = [rowOf(worker, turn), rowOf(worker, turn + 1)]
    if (pool instanceof Pool)
      await pool.transaction(async (tx) => {
        for (const id of ids) await tx.query(ADD, [id])
      })
    ids.forEach(wrote)
  },
  /** All want the same row, and queue for it. */
  async locked({ pool, wrote }) {
    if (pool instanceof Pool) await pool.transaction({ locks: ['accounts/0'] }, (tx) => tx.query(ADD, [0]))
    wrote(0)
  },
  async read({ pool, worker, turn }) {
    const { rows } = await pool.query('SELECT balance FROM accounts WHERE id = $1', [rowOf(worker, turn)])
    if (rows.length !== 1) throw new Error(`${rows.length} rows`)
  },
}

interface Run {
  readonly pause_ms: number
  readonly call_ms: number
  readonly calls: number
  readonly errors: readonly string[]
  readonly load: number
}

/**
 * Works until told; what was acknowledged when, and how long the longest call took: on a busy machine to be read
 * beside 'nothing'.
 */
async function measure(
  pool: pg.Pool,
  kind: string,
  callers: number,
  written: Map<number, number>,
  strike: () => Promise<unknown>,
): Promise<Run> {
  const work = KINDS[kind]
  if (!work) throw new Error(`no kind ${kind}; there are ${Object.keys(KINDS).join(', ')}`)
  const calls: { from: number; to: number }[] = []
  const errors: string[] = []
  let over = false
  const wrote = (id: number): void => void written.set(id, (written.get(id) ?? 0) + 1)
  const lanes = Array.from({ length: callers }, async (_, worker) => {
    for (let turn = 0; !over; turn++) {
      const from = performance.now()
      await work({ pool, worker, turn, wrote }).catch((error: unknown) => {
        errors.push(String(error))
        return new Promise((r) => setTimeout(r, 5))
      })
      calls.push({ from, to: performance.now() })
    }
  })
  await new Promise((r) => setTimeout(r, WARM_MS))
  while (calls.length < WARM_CALLS * callers) await new Promise((r) => setTimeout(r, 10))
  const struck = performance.now()
  await Promise.all([strike(), new Promise((r) => setTimeout(r, WATCH_MS))])
  const load = loadavg()[0] ?? NaN
  over = true
  await Promise.all(lanes) // before anything is mended: nobody may wait for that
  const around = calls.filter((c) => c.to >= struck)
  const ends = [struck, ...around.map((c) => c.to)].sort((a, b) => a - b)
  return {
    pause_ms: Math.max(...ends.slice(1).map((t, i) => t - (ends[i] ?? t))),
    call_ms: Math.max(...around.map((c) => c.to - c.from)),
    calls: around.length,
    errors,
    load,
  }
}

const median = (xs: readonly number[]): number => [...xs].sort((a, b) => a - b)[Math.floor(xs.length / 2)] ?? NaN
const say = (what: string, runs: readonly Run[]): void => {
  const of = (f: (r: Run) => number): string =>
    `${median(runs.map(f)).toFixed(0)} (${Math.max(...runs.map(f)).toFixed(0)})`
  const errors = runs.flatMap((r) => r.errors)
  console.log(
    `${what.padEnd(30)} nobody acknowledged ${of((r) => r.pause_ms).padEnd(13)} longest call ${of((r) => r.call_ms).padEnd(13)} errors ${errors.length}, ${of((r) => r.calls)} calls, load ${median(runs.map((r) => r.load)).toFixed(1)}${errors.length > 0 ? `\n  ${[...new Set(errors)].slice(0, 3).join('\n  ')}` : ''}`,
  )
}

/** Every write that was acknowledged is there, once, on the server itself; where no call failed, nothing else is. */
async function counted(
  servers: readonly TestServer[],
  written: ReadonlyMap<number, number>,
  exactly: boolean,
): Promise<void> {
  for (const server of servers) {
    const rows = new Map(
      (await ask(server, 'SELECT id, balance FROM accounts')).map((r) => [Number(r['id']), Number(r['balance'])]),
    )
    for (const [id, n] of written) {
      const there = rows.get(id) ?? NaN
      if (!(there >= n) || (exactly && there !== n))
        throw new Error(`row ${id} on port ${server.port}: ${n} writes acknowledged, ${there} there`)
    }
  }
}

const TABLE = 'CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL)'
const FILL = 'INSERT INTO accounts SELECT g, 0 FROM generate_series(0, $1::int - 1) g'

async function control(callers: number, rounds: number): Promise<Run[]> {
  const servers = await threeServers({}, 1)
  const [server] = servers
  if (!server) throw new Error('no server')
  const pool = new pg.Pool({ connectionString: server.url, max: callers })
  pool.on('error', () => undefined) // its idle connections end with the server
  try {
    await pool.query(TABLE)
    await pool.query(FILL, [callers * ROWS])
    const written = new Map<number, number>()
    const runs: Run[] = []
    for (let i = 0; i < rounds; i++) {
      runs.push(
        await measure(pool, 'one-shot', callers, written, async () => {
          await server.freeze()
          await new Promise((r) => setTimeout(r, STOPPED_MS))
          await server.thaw()
        }),
      )
    }
    await counted(servers, written, true)
    return runs
  } finally {
    await pool.end()
    await destroyAll(servers)
  }
}

/** False: a goal was missed. A lost write, a write too many or unequal replicas throw. */
export async function faults({
  rounds = 3,
  callers = 8,
  only,
}: {
  rounds?: number
  callers?: number
  only?: readonly string[]
}): Promise<boolean> {
  const wanted = (what: string): boolean => only === undefined || only.some((o) => what.includes(o))
  console.log(`medians (worst) of ${rounds}, ms; ${callers} callers`)
  let ok = true
  const written = new Map<number, number>()
  let exactly = true
  const c = await cluster()
  try {
    const first = c.pool()
    await first.query(TABLE)
    await first.query(FILL, [callers * ROWS])
    const strikes: Readonly<Record<string, (lead: TestServer, follower: TestServer) => Promise<() => Promise<void>>>> =
      {
        nothing: () => Promise.resolve(() => Promise.resolve()),
        'follower-killed': async (_, follower) => {
          await follower.kill()
          return () => follower.start()
        },
        'lead-killed': async (lead) => {
          await lead.kill()
          return () => lead.start()
        },
        'follower-stopped': async (_, follower) => {
          await follower.freeze()
          return () => Promise.resolve(follower.thaw())
        },
        'lead-stopped': async (lead) => {
          await lead.freeze()
          return () => Promise.resolve(lead.thaw())
        },
      }
    for (const kind of Object.keys(KINDS))
      for (const [name, strike] of Object.entries(strikes)) {
        if (!wanted(`${kind}/${name}`)) continue
        const runs: Run[] = []
        for (let i = 0; i < rounds; i++) {
          const pool = c.pool({ max: callers })
          await pool.query('SELECT 1')
          const client = await pool.connect()
          const at = (client as unknown as Client).leadReplica.index
          client.release()
          const [lead, follower] = [c.servers[at], c.servers[(at + 1 + (i % 2)) % 3]]
          if (!lead || !follower) throw new Error('no server')
          let mend: () => Promise<void> = () => Promise.resolve()
          const run = await measure(pool, kind, callers, written, async () => {
            mend = await strike(lead, follower)
          })
          runs.push(run)
          if (run.errors.length > 0) exactly = false
          await mend()
          await settled(c.servers, 20_000)
          await counted(c.servers, written, exactly)
          await pool.end()
          await until('all members take part again', 10_000, () =>
            Promise.resolve(first.cluster.suspects.size + first.cluster.lagging.size === 0),
          )
        }
        say(`${kind}, ${name}`, runs)
        const goal = GOALS[name]
        if (
          goal !== undefined &&
          (median(runs.map((r) => r.pause_ms)) > goal || runs.some((r) => r.errors.length > 0))
        ) {
          ok = false
          console.log(`  missed: the goal is a pause of ${goal} ms, without an error`)
        }
      }
  } finally {
    await c.destroy()
  }
  if (wanted('control')) {
    const runs = await control(callers, rounds)
    say('control: plain pg stopped 2 s', runs)
    if (runs.some((r) => r.pause_ms < STOPPED_MS - 50))
      throw new Error('the control shows no pause: this measure sees nothing')
  }
  return ok
}
