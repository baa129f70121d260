/**
 * npm run mutants [-- --seeds 2000] [--only text,text] [--kind duel] [--heart] [--elsewhere]: each mutant in a copy of
 * the tree, under the simulator until a seed catches it, or under its own test. One that survives is a missing check.
 * Exit code 1 if any does.
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
    elsewhere: { type: 'boolean' },
    json: { type: 'boolean' },
  },
})
const chosen = MUTANTS.filter(
  (m) =>
    (!values.heart || m.heart) &&
    (!values.elsewhere || m.elsewhere) &&
    (!values.only || values.only.split(',').some((part) => m.name.includes(part))),
)
if (chosen.length === 0) {
  console.error(
    `no mutant's name contains '${values.only ?? ''}'. There are:\n${MUTANTS.map((m) => m.name).join('\n')}`,
  )
  process.exit(2)
}
const results: { name: string; caught: boolean; seeds: number | null; violation: string }[] = []
const queue = [...chosen]
await Promise.all(
  Array.from({ length: Number(values.jobs ?? availableParallelism()) }, async () => {
    for (let m = queue.shift(); m; m = queue.shift()) {
      const found = await hunt(
        m,
        Number(values.from),
        Number(values.seeds),
        (values.kind ?? m.kind) as RunKind | undefined,
      )
      results.push({
        name: m.name,
        caught: found !== undefined,
        seeds: found?.seeds ?? null,
        violation: found?.violation ?? '',
      })
      const how = !found ? 'SURVIVED' : found.seeds === undefined ? 'caught by test' : `caught, seed ${found.seeds}`
      if (!values.json) console.log(`${how.padEnd(17)} ${m.name}: ${(found?.violation ?? m.what).slice(0, 110)}`)
    }
  }),
)
const seeds = results.flatMap((r) => (r.seeds === null ? [] : [r.seeds])).sort((a, b) => a - b)
const median = seeds[Math.floor(seeds.length / 2)]
const caught = results.filter((r) => r.caught).length
if (values.json) console.log(JSON.stringify({ mutants: results.length, caught, median_seeds: median, results }))
else
  console.log(
    `\n${results.length} mutants, ${caught} caught, ${results.length - caught} survived` +
      (seeds.length > 0 ? `; seeds until caught: median ${median}, most ${seeds.at(-1)}` : ''),
  )
process.exitCode = caught < results.length ? 1 : 0
