/**
 * `npm run bench:growth`: what it costs when something grows. `-- --only
 * servers,log,rows,size,clients,names,locks`, `--most 100000` for a shorter way, `--ms 1500` for each point,
 * `--keep` to put the curves into docs/performance.md.
 */
import { parseArgs } from 'node:util'
import { atTheEnd, type Curve } from './charts.ts'
import { STEPS } from './growing.ts'
import { keep } from './performance.ts'
import { machine } from './report.ts'

const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    most: { type: 'string', default: 'Infinity' },
    ms: { type: 'string', default: '1500' },
    keep: { type: 'boolean' },
  },
})

/** The slope of the straight line through the logarithms, by least squares. */
export function exponent(points: readonly (readonly [number, number])[]): number {
  const logs = points.filter(([x, y]) => x > 0 && y > 0).map(([x, y]) => [Math.log(x), Math.log(y)] as const)
  const mean = (i: 0 | 1): number => logs.reduce((sum, p) => sum + p[i], 0) / logs.length
  const [mx, my] = [mean(0), mean(1)]
  return logs.reduce((sum, [x, y]) => sum + (x - mx) * (y - my), 0) / logs.reduce((sum, [x]) => sum + (x - mx) ** 2, 0)
}

const names = values.only?.split(',') ?? Object.keys(STEPS)
for (const name of names) {
  const step = STEPS[name]
  if (!step) throw new Error(`nothing is called '${name}' that could grow; there are ${Object.keys(STEPS).join(', ')}`)
  console.log(`${[name, step.unit].filter(Boolean).join(', ')}, as there are more ${step.grows} (${machine()})`)
  const points = new Map<string, [number, number][]>()
  let stopped: string | undefined
  const growing = step.grow(
    step.sizes.filter((x) => x <= Number(values.most)),
    Number(values.ms),
    (size, costs) => {
      console.log(
        `  ${String(size).padStart(9)}  ${Object.entries(costs)
          .map(([what, y]) => `${what} ${y.toPrecision(3)}`)
          .join(', ')}`,
      )
      for (const [what, y] of Object.entries(costs)) points.set(what, [...(points.get(what) ?? []), [size, y]])
    },
  )
  await growing.catch((error: unknown) => {
    // as far as it went is a result too
    stopped = error instanceof Error ? error.message : String(error)
    console.error(`  STOPPED: ${stopped}`)
    process.exitCode = 1
  })
  const curve: Curve = {
    name,
    grows: step.grows,
    unit: step.unit,
    series: [...points].map(([what, of]) => ({ name: what, points: of, exponent: exponent(of) })),
    ...(stopped === undefined ? {} : { stopped }),
  }
  for (const s of curve.series)
    console.log(`  ${s.name}: to the power of ${s.exponent.toFixed(2)}, at the end ${atTheEnd(s.points).toFixed(1)}`)
  if (values.keep) keep({ growth: { date: new Date().toISOString(), machine: machine(), curves: [curve] } })
}
