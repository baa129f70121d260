import { planOf } from './plan.ts'
import { Run } from './run.ts'
const run = new Run(planOf(Number(process.argv[2])), process.env.LOG ? console.log : undefined)
const r = await run.go()
console.log(r.hash, r.violations)
for (const t of run.history) console.log(t.id, t.process, t.type, t.start.toFixed(1), t.end.toFixed(1), JSON.stringify(t.mops))
