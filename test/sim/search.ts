/**
 * Runs seeds, and makes a failing one smaller: as few kinds of faults, transactions, clients and servers as still
 * fail the same way.
 */
import { planOf, type Overrides, type Plan } from './plan.ts'
import { Run, type Report } from './run.ts'

export const runSeed = (seed: number, o: Overrides = {}, log?: (line: string) => void): Promise<Report> =>
  new Run(planOf(seed, o), log).go()

/** The kind of a violation: its words before the particulars. */
const kindOf = (r: Report): string =>
  (r.violations[0] ?? '')
    .replace(/^at [\d.]+ ms: /, '')
    .split(/[ :]/)
    .slice(0, 2)
    .join(' ')

export async function shrink(seed: number, failed: Report, start: Overrides = {}, budget = 120): Promise<Overrides> {
  let best: Overrides = start
  const tried = async (o: Overrides): Promise<boolean> => {
    if (budget-- <= 0 || kindOf(await runSeed(seed, o)) !== kindOf(failed)) return false
    best = o
    return true
  }
  const plan = (): Plan => planOf(seed, best)
  for (const kind of plan().kinds) await tried({ ...best, without: [...(best.without ?? []), kind] })
  for (const field of ['faults', 'transactions', 'clients', 'workers'] as const) {
    for (let step = Math.ceil(plan()[field] / 2); step >= 1; step = step === 1 ? 0 : Math.ceil(step / 2)) {
      const least = field === 'faults' ? 0 : 1
      while (plan()[field] - step >= least && (await tried({ ...best, [field]: plan()[field] - step })));
    }
  }
  if (plan().servers > 3) await tried({ ...best, servers: 3 })
  return best
}

export function commandOf(seed: number, o: Overrides): string {
  const options = Object.entries(o).flatMap(([name, value]) =>
    value === undefined || (Array.isArray(value) && value.length === 0)
      ? []
      : [`--${name} ${Array.isArray(value) ? value.join(',') : String(value)}`],
  )
  return ['npm run sim -- --seed', seed, ...options, '--log'].join(' ')
}
