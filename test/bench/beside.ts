/**
 * `npm run bench:beside -- ../before 8 update 8 transfer 1`: this state and that of another folder (a checkout with
 * its node_modules), by turns of half a second in one process, so many seconds each; medians, and the ratio of
 * neighbouring turns. Run it from both sides: who is second is a few percent slower.
 */
import { resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import type { ours } from './contenders.ts'
import { median } from './measure.ts'
import type { used } from './meter.ts'
import type { Name, run } from './workloads.ts'

interface State {
  readonly ours: typeof ours
  readonly run: typeof run
  readonly used: typeof used
}
const TURN_MS = 500
const WARM_TURNS = 4

async function stateIn(folder: string): Promise<State> {
  const load = (file: string): Promise<object> =>
    import(pathToFileURL(`${resolve(folder)}/test/bench/${file}`).href) as Promise<object>
  return Object.assign({}, ...(await Promise.all(['contenders.ts', 'workloads.ts', 'meter.ts'].map(load)))) as State
}

const [other, seconds, ...what] = process.argv.slice(2)
if (other === undefined || what.length === 0)
  throw new Error('npm run bench:beside -- <folder> <seconds> <workload> <callers> …')
const states = [await stateIn(other), await stateIn(fileURLToPath(new URL('../..', import.meta.url)))]
const clusters = [
  await states[0]!.ours(3, (url) => Promise.resolve(url)),
  await states[1]!.ours(3, (url) => Promise.resolve(url)),
]
for (let w = 0; w < what.length; w += 2) {
  const [name, callers] = [what[w] as Name, Number(what[w + 1])]
  const pools = clusters.map((c) => c.open(callers))
  const turns = states.map((): { per_s: number; client_ms: number; servers_ms: number }[] => [])
  for (let i = -WARM_TURNS; i < Number(seconds) * (1000 / TURN_MS); i++) {
    for (const [k, state] of states.entries()) {
      const { servers } = clusters[k]!
      const before = state.used(servers)
      const { took, elapsed_ms } = await state.run(pools[k]!.does[name], callers, TURN_MS)
      const after = state.used(servers)
      if (i >= 0)
        turns[k]!.push({
          per_s: (took.length * 1000) / elapsed_ms,
          client_ms: ((after.client_s - before.client_s) * 1000) / took.length,
          servers_ms: ((after.servers_s - before.servers_s) * 1000) / took.length,
        })
    }
  }
  for (const [k, all] of turns.entries())
    console.log(
      `${name} ${callers} ${k === 0 ? 'there' : 'here '}  ${median(all.map((t) => t.per_s)).toFixed(0)}/s, ${median(all.map((t) => t.client_ms)).toFixed(2)} + ${median(all.map((t) => t.servers_ms)).toFixed(2)} ms`,
    )
  console.log(
    `${name} ${callers} here to there: ${median(turns[1]!.map((t, i) => t.per_s / turns[0]![i]!.per_s)).toFixed(2)}`,
  )
  for (const pool of pools) await pool.end()
}
await Promise.all(clusters.map((c) => c.destroy()))
