/**
 * What a run used: processor time, writes to sockets and replies of the client process, flushes and bytes of the
 * servers' logs.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { Socket } from 'node:net'
import pg from 'pg'
import { ask, type TestServer } from '../servers.ts'

/** CPU seconds that these servers have used: the postmaster's own and its children's, ended ones too. Linux. */
export function cpu_s(servers: readonly TestServer[]): number {
  const ports = new Set(servers.map((s) => `port=${s.port}`))
  let ticks = 0
  const roots = new Set<string>()
  const processes: { pid: string; parent: string; ticks: number }[] = []
  for (const pid of readdirSync('/proc').filter((f) => /^\d+$/.test(f))) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
      const f = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      processes.push({ pid, parent: f[1]!, ticks: Number(f[11]) + Number(f[12]) })
      const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
      if (!words[0]?.endsWith('postgres') || !words.some((word) => ports.has(word))) continue
      roots.add(pid)
      ticks += Number(f[13]) + Number(f[14]) // of children that were waited for
    } catch {
      /* it has ended */
    }
  }
  for (const p of processes) if (roots.has(p.pid) || roots.has(p.parent)) ticks += p.ticks
  return ticks / 100
}

/** What the whole machine has worked, CPU seconds, and how much it could have. */
function machine_s(): { busy: number; all: number } {
  const [, user, nice, system, idle, iowait, irq, softirq, steal] = readFileSync('/proc/stat', 'utf8')
    .split('\n')[0]!
    .split(/\s+/)
    .map((x) => Number(x) / 100) as number[]
  const busy = user! + nice! + system! + irq! + softirq! + steal!
  return { busy, all: busy + idle! + iowait! }
}

/** A send is one write to a socket, however many messages of the protocol are in it; a reply is one ReadyForQuery. */
const counted = { sends: 0, replies: 0 }
function count(prototype: object, method: string, counts: (args: unknown[]) => void): void {
  const original = (prototype as Record<string, (...args: unknown[]) => unknown>)[method]!
  Object.assign(prototype, {
    [method](this: unknown, ...args: unknown[]) {
      counts(args)
      return original.apply(this, args)
    },
  })
}
for (const method of ['_write', '_writev']) count(Socket.prototype, method, () => counted.sends++)
count((pg as unknown as { Connection: { prototype: object } }).Connection.prototype, 'emit', ([event]) => {
  if (event === 'readyForQuery') counted.replies++
})

export interface Used {
  readonly machine: { readonly busy: number; readonly all: number }
  readonly client_s: number
  readonly servers_s: number
  readonly sends: number
  readonly replies: number
}
export function used(servers: readonly TestServer[]): Used {
  const { user, system } = process.cpuUsage()
  return { machine: machine_s(), client_s: (user + system) / 1e6, servers_s: cpu_s(servers), ...counted }
}

/** The part of the machine that was working for somebody else. */
export function others(from: Used, to: Used): number {
  const mine = to.client_s - from.client_s + to.servers_s - from.servers_s
  return Math.max(0, (to.machine.busy - from.machine.busy - mine) / (to.machine.all - from.machine.all))
}

export interface Logged {
  readonly fsyncs: number
  readonly bytes: number
}
/**
 * A backend tells its counts at its end at the latest: to be asked when the pool is closed. A standby's receiver
 * tells them much later, so its flushes are not counted.
 */
export async function logged(servers: readonly TestServer[]): Promise<Logged> {
  const rows = await Promise.all(
    servers.map(async (s) => {
      const [version] = await ask(s, "SELECT current_setting('server_version_num')::int v")
      const fsyncs =
        Number(version!['v']) >= 180000
          ? "(SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal')"
          : '(SELECT wal_sync FROM pg_stat_wal)'
      return (
        await ask(
          s,
          `SELECT CASE WHEN pg_is_in_recovery() THEN 0 ELSE ${fsyncs} END::float8 fsyncs, (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_insert_lsn() END - '0/0')::float8 bytes`,
        )
      )[0] as unknown as Logged
    }),
  )
  return { fsyncs: rows.reduce((n, r) => n + r.fsyncs, 0), bytes: rows.reduce((n, r) => n + r.bytes, 0) }
}
