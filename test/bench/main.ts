/**
 * `npm run bench`: the workloads of issue 7, ours beside plain pg on one server, by turns in one run; medians, and ratios to that floor.
 * `-- --only update,hot --at 1,8 --ms 2000 --rounds 3 --n 3`; `--small` for two minutes.
 */
import { parseArgs } from 'node:util'
import { cpu_s, floor, ours, type Contender } from './contenders.ts'
import { run, WORKLOADS, type Measured } from './workloads.ts'

const { values } = parseArgs({ options: { only: { type: 'string' }, at: { type: 'string' }, ms: { type: 'string', default: '2500' }, rounds: { type: 'string', default: '3' }, n: { type: 'string', default: '3' }, json: { type: 'boolean' } } })
const names = values.only?.split(',') ?? Object.keys(WORKLOADS)
const AT: Readonly<Record<string, number[]>> = { update: [1, 8, 32], transfer: [1, 8, 32], hot: [8, 32], select: [1, 32] }
const median = (xs: readonly number[]): number => [...xs].sort((a, b) => a - b)[Math.floor(xs.length / 2)] ?? NaN

const lines: object[] = []
interface Sample extends Measured { readonly client_ms: number; readonly servers_ms: number }
const contenders: Contender[] = [await floor(), await ours(Number(values.n))]
try {
  const samples = new Map<string, Sample[]>()
  for (const name of names) for (const workers of values.at?.split(',').map(Number) ?? AT[name] ?? [1]) {
    for (let round = 0; round < Number(values.rounds); round++) for (const c of contenders) {
      const pool = c.pool(workers)
      const workload = c.own?.[name] ?? WORKLOADS[name]!
      await run(pool, workload, workers, 300)
      const [cpu, theirs] = [process.cpuUsage(), cpu_s(c.servers)]
      const measured = await run(pool, workload, workers, Number(values.ms))
      const { user, system } = process.cpuUsage(cpu)
      const key = `${name} ${workers} ${c.name}`
      samples.set(key, [...(samples.get(key) ?? []), { ...measured, client_ms: (user + system) / 1000 / measured.done, servers_ms: ((cpu_s(c.servers) - theirs) * 1000) / measured.done }])
      await pool.end()
    }
    for (const c of contenders) {
      const mine = samples.get(`${name} ${workers} ${c.name}`) ?? []
      const base = samples.get(`${name} ${workers} floor`) ?? []
      const of = (f: (s: Sample) => number, s = mine): number => median(s.map(f))
      const line = { workload: name, workers, contender: c.name, per_s: of((s) => s.per_s), ratio: of((s) => s.per_s) / of((s) => s.per_s, base), p50_ms: of((s) => s.p50_ms), p99_ms: of((s) => s.p99_ms), cpu_client_ms: of((s) => s.client_ms), cpu_servers_ms: of((s) => s.servers_ms), failed: mine.reduce((n, s) => n + s.failed, 0), spread: [Math.min(...mine.map((s) => s.per_s)), Math.max(...mine.map((s) => s.per_s))] }
      lines.push(line)
      if (!values.json) console.log(`${name} ${workers} ${c.name.padEnd(10)} ${line.per_s.toFixed(0)}/s (${line.spread.map((x) => x.toFixed(0)).join('–')}), ratio ${line.ratio.toFixed(2)}, p50 ${line.p50_ms.toFixed(2)} ms, p99 ${line.p99_ms.toFixed(1)} ms, cpu ${line.cpu_client_ms.toFixed(2)} + ${line.cpu_servers_ms.toFixed(2)} ms, failed ${line.failed}`)
    }
  }
  if (values.json) console.log(JSON.stringify(lines, null, 2))
} finally {
  await Promise.all(contenders.map((c) => c.destroy()))
}
