/**
 * npm run mutants [-- --seeds 2000] [--only text,text] [--kind duel] [--heart]: each mutant in a copy of the tree,
 * under the simulator, until a seed catches it. One that survives is a missing check. Exit code 1 if any does.
 */
import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { hunt } from './hunt.ts'
import type { RunKind } from '../sim/plan.ts'
import { MUTANTS } from './mutants.ts'

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '3000' },
    from: { type: 'string', default: '1' },
    only: { type: 'string' },
    kind: { type: 'string' },
    jobs: { type: 'string' },
    heart: { type: 'boolean' },
    json: { type: 'boolean' },
  },
})
const chosen = MUTANTS.filter(
  (m) => (!values.heart || m.heart) && (!values.only || values.only.split(',').some((part) => m.name.includes(part))),
)
if (chosen.length === 0) {
  console.error(
    `no mutant's name contains '${values.only ?? ''}'. There are:\n${MUTANTS.map((m) => m.name).join('\n')}`,
  )
  process.exit(2)
}
const results: { name: string; seeds: number | null; violation: string }[] = []
const queue = [...chosen]
await Promise.all(
  Array.from({ length: Number(values.jobs ?? availableParallelism()) }, async () => {
    for (let m = queue.shift(); m; m = queue.shift()) {
      const caught = await hunt(
        m,
        Number(values.from),
        Number(values.seeds),
        (values.kind ?? m.kind) as RunKind | undefined,
      )
      results.push({ name: m.name, seeds: caught?.seeds ?? null, violation: caught?.violation ?? '' })
      if (!values.json)
        console.log(
          `${caught ? `caught, seed ${String(caught.seeds).padStart(4)}` : m.elsewhere ? `by ${m.elsewhere.padEnd(14)}` : 'SURVIVED         '}  ${m.name}: ${(caught?.violation ?? m.what).slice(0, 110)}`,
        )
    }
  }),
)
const seeds = results.flatMap((r) => (r.seeds === null ? [] : [r.seeds])).sort((a, b) => a - b)
const survivors = results.filter((r) => r.seeds === null && !MUTANTS.find((m) => m.name === r.name)?.elsewhere)
if (values.json)
  console.log(
    JSON.stringify({
      mutants: results.length,
      caught: seeds.length,
      median_seeds: seeds[Math.floor(seeds.length / 2)],
      results,
    }),
  )
else
  console.log(
    `\n${results.length} mutants, ${seeds.length} caught, ${survivors.length} survived; seeds until caught: median ${seeds[Math.floor(seeds.length / 2)]}, most ${seeds.at(-1)}`,
  )
process.exitCode = survivors.length > 0 ? 1 : 0
