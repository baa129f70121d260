/** Who is measured: plain pg on one server (the floor), ours on three, and the same statements on three servers with two-phase commit by hand. */
import { readdirSync, readFileSync } from 'node:fs'
import pg from 'pg'
import { Pool } from '../../driver/index.ts'
import { init } from '../../driver/schema/install.ts'
import { ask, destroyAll, threeServers, type TestServer } from '../servers.ts'
import { ROWS, type Pooled, type Workload } from './workloads.ts'

export interface Contender {
  readonly name: string
  pool(max: number): Pooled & { end(): Promise<void> }
  /** Its own way to do a workload, if it cannot be done through a pool. */
  readonly own?: Readonly<Record<string, Workload>>
  readonly servers: readonly TestServer[]
  destroy(): Promise<void>
}

async function load(server: TestServer): Promise<void> {
  await ask(server, 'CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL)')
  await ask(server, `INSERT INTO accounts SELECT g, 1000 FROM generate_series(1, ${ROWS}) g`)
  await ask(server, 'VACUUM ANALYZE accounts')
}

export async function floor(): Promise<Contender> {
  const servers = await threeServers({}, 1)
  await load(servers[0]!)
  return { name: 'floor', servers, pool: (max) => new pg.Pool({ connectionString: servers[0]!.url, max }), destroy: () => destroyAll(servers) }
}

export async function ours(n: number): Promise<Contender> {
  const servers = await threeServers({}, n)
  await Promise.all(servers.map(load))
  const urls = servers.map((s) => s.url)
  await init(urls.map((connectionString) => ({ connectionString })), urls)
  return { name: 'pg-quorum', servers, pool: (max) => new Pool({ replicas: urls, max }), destroy: () => destroyAll(servers) }
}

/** CPU seconds that these servers have used: the postmaster's own and its children's, ended ones too. */
export function cpu_s(servers: readonly TestServer[]): number {
  const ports = new Set(servers.map((s) => String(s.port)))
  let ticks = 0
  const roots = new Set<string>()
  const parents = new Map<string, { parent: string; ticks: number }>()
  for (const pid of readdirSync('/proc').filter((f) => /^\d+$/.test(f))) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
      const f = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
      parents.set(pid, { parent: f[1]!, ticks: Number(f[11]) + Number(f[12]) })
      if (line[0]?.endsWith('postgres') && line.some((word) => ports.has(word.replace(/^port=/, '')))) {
        roots.add(pid)
        ticks += Number(f[13]) + Number(f[14]) // of children that were waited for
      }
    } catch { /* it has ended */ }
  }
  for (const [pid, { parent, ticks: t }] of parents) if (roots.has(pid) || roots.has(parent)) ticks += t
  return ticks / 100
}
