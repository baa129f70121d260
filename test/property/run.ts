/**
 * Random schemas × random statements × capture → apply, on three real servers: afterwards the replicas are equal,
 * or the statement was refused before anything was prepared. A refusal by a follower is a failure: what the lead
 * accepted, everybody must be able to store.
 */
import { expect } from 'chai'
import fc from 'fast-check'
import pg from 'pg'
import { Client, type Pool } from '../../driver/index.ts'
import { until, type TestCluster } from '../cluster.ts'
import { ask, type TestServer } from '../servers.ts'
import { ddlOf, schemas, SHARED, type Table } from './schema.ts'
import { KINDS, steps, textOf, type Step } from './statements.ts'

export interface Counts {
  runs: number
  statements: number
  done: number
  refused: Record<string, number>
  kinds: Record<string, number>
}
export interface Plan {
  readonly runs: number
  readonly seed?: number
  readonly path?: string
  readonly seconds?: number
  readonly sabotage?: (ns: string) => Promise<void>
}

/** Codes that PostgreSQL gives for a wrong statement, and what pg-quorum refuses with a sentence. */
const EXPECTED = /^(0A|22|23|25|26|2B|2F|38|39|3B|3F|42|428|54|55000|55006|P0)/

export async function property(c: TestCluster, pool: Pool, plan: Plan): Promise<Counts> {
  const counts: Counts = {
    runs: 0,
    statements: 0,
    done: 0,
    refused: {},
    kinds: Object.fromEntries(KINDS.map((k) => [k, 0])),
  }
  await pool.query(SHARED)
  const looking = await Promise.all(
    c.servers.map(async (s) => {
      const l = new pg.Client(s.url)
      l.on('error', () => undefined)
      await l.connect()
      return l
    }),
  )
  let n = 0
  try {
    await fc.assert(
      fc.asyncProperty(schemas, steps, fc.nat(2), async (tables, work, lead) => {
        const ns = `r${++n}`
        counts.runs++
        await one(c, pool, looking, ns, tables, work, lead, counts, plan)
      }),
      {
        numRuns: plan.runs,
        endOnFailure: process.env['SHRINK'] === undefined,
        ...(plan.seed === undefined ? {} : { seed: plan.seed }),
        ...(plan.seconds === undefined ? {} : { interruptAfterTimeLimit: plan.seconds * 1000 }),
        ...(plan.path === undefined ? {} : { path: plan.path }),
      },
    )
    return counts
  } finally {
    await Promise.all(looking.map((l) => l.end()))
  }
}

async function one(
  c: TestCluster,
  pool: Pool,
  looking: readonly pg.Client[],
  ns: string,
  tables: readonly Table[],
  work: readonly Step[],
  lead: number,
  counts: Counts,
  plan: Plan,
): Promise<void> {
  const said: string[] = []
  const client = new Client({ replicas: [...c.urls.slice(lead), ...c.urls.slice(0, lead)] })
  client.on('error', () => undefined)
  try {
    await client.connect()
    const run = async (text: string): Promise<void> => {
      counts.statements++
      try {
        await client.query(text)
        counts.done++
        said.push(text)
      } catch (error) {
        const { code = '', message, outcome } = error as { code?: string; message: string; outcome?: string }
        said.push(`${text} -- ${code} ${message}`)
        counts.refused[code] = (counts.refused[code] ?? 0) + 1
        if (!EXPECTED.test(code) || /refused by a replica/.test(message) || outcome === 'unknown') throw error
      }
    }
    await run(`CREATE SCHEMA ${ns}`)
    for (const text of ddlOf(tables, ns, Number(process.env['PG_MAJOR'] ?? 18))) await run(text)
    await equal(c.servers, looking, ns)
    await plan.sabotage?.(ns)
    for (const step of work) {
      counts.kinds[step.kind] = (counts.kinds[step.kind] ?? 0) + 1
      await run(textOf(step, tables, ns))
    }
    if (client.inTransaction) await run('COMMIT')
    await equal(c.servers, looking, ns)
  } catch (error) {
    throw new Error(`${ns}, lead ${client.replicaName}: ${String(error)}\n${said.join('\n')}`, { cause: error })
  } finally {
    await client.end()
  }
  await pool.query(`DROP SCHEMA ${ns} CASCADE`)
}

async function equal(servers: readonly TestServer[], looking: readonly pg.Client[], ns: string): Promise<void> {
  const STATE =
    'SELECT quorum.position() AS position, quorum.schema_hash() AS schema, (SELECT count(*)::int FROM pg_prepared_xacts) AS prepared, (SELECT count(*)::int FROM quorum.capture) AS captured'
  let states: Record<string, unknown>[] = []
  await until('one position, and nothing in doubt', 5000, async () => {
    states = await Promise.all(looking.map(async (l) => (await l.query<Record<string, unknown>>(STATE)).rows[0] ?? {}))
    return states.every((s) => s['prepared'] === 0 && JSON.stringify(s) === JSON.stringify(states[0]))
  }).catch((error: unknown) => {
    throw new Error(`${String(error)}: ${JSON.stringify(states)}`)
  })
  const names = (
    await ask(
      servers[0]!,
      "SELECT c.oid::regclass::text AS t FROM pg_class c WHERE c.relkind IN ('r', 'm') AND c.relnamespace IN ($1::regnamespace, 'prop'::regnamespace) ORDER BY 1",
      [ns],
    )
  ).map((r) => String(r['t']))
  for (const t of names) {
    const rows = await Promise.all(
      looking.map(async (l) =>
        (await l.query<{ r: string }>(`SELECT x::text AS r FROM ${t} x ORDER BY 1`)).rows.map((r) => r.r),
      ),
    )
    for (const r of rows) expect(r, `${t} by plain text`).to.deep.equal(rows[0])
    const hashes = new Set(
      await Promise.all(
        looking.map(
          async (l) => (await l.query<{ h: string }>('SELECT quorum.table_hash($1::regclass) AS h', [t])).rows[0]?.h,
        ),
      ),
    )
    expect(hashes.size, `${t} by checksum`).to.equal(1)
  }
}
