import { planOf } from './plan.ts'
import { Run } from './run.ts'
const a = Number(process.argv[2] ?? 1), b = Number(process.argv[3] ?? a)
const t = performance.now()
let ack = 0, ev = 0, sim = 0, reads = 0, refused = 0, unknown = 0
for (let seed = a; seed <= b; seed++) {
  if (process.env.LOG) console.log(planOf(seed))
  const r = await new Run(planOf(seed), process.env.LOG ? console.log : undefined).go()
  ack += r.acknowledged; ev += r.events; sim += r.simulated_ms; reads += r.reads; refused += r.refused; unknown += r.unknown
  if (r.violations.length) console.log(seed, r.hash, r.violations[0])
  else if (a === b) console.log(r)
}
console.log({ seeds: b - a + 1, ms: performance.now() - t, ack, reads, refused, unknown, ev, sim })
