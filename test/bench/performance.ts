/**
 * docs/performance.json keeps what was measured last; the charts and the tables of docs/performance.md are made
 * from it. `npm run bench:charts` makes them again.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { atTheEnd, growth, latency, processor, throughput, type Curve } from './charts.ts'
import { roundTripsTable } from './distance.ts'
import { median } from './measure.ts'
import { costs, latencies, table, type Run } from './report.ts'

/** main: all contenders, three servers. five: the same with five. far: servers at a distance. */
interface Kept {
  main?: Run
  five?: Run
  far?: Run
  growth?: { readonly date: string; readonly machine: string; readonly curves: readonly Curve[] }
}
const at = (name: string): URL => new URL(`../../docs/${name}`, import.meta.url)
const read = (): Kept =>
  existsSync(at('performance.json')) ? (JSON.parse(readFileSync(at('performance.json'), 'utf8')) as Kept) : {}

function said(run: { date: string; machine: string; command?: string; results?: Run['results'] }): string {
  const others = run.results
    ? `; others had ${(median(run.results.map((r) => r.others)) * 100).toFixed(0)} % of the machine (median)`
    : ''
  return `${run.command === undefined ? '' : `\`${run.command}\`, `}${run.date.slice(0, 16).replace('T', ' ')} UTC, ${run.machine}${others}.`
}
const exponents = (curves: readonly Curve[]): string =>
  [
    '| grows | cost | from | to | exponent | between the last two |',
    '| --- | --- | --- | --- | --- | --- |',
    ...curves.flatMap((c) =>
      c.series.map((s) => {
        const [first, last] = [s.points[0]!, s.points.at(-1)!]
        const figure = (y: number): string => y.toPrecision(3).replace(/e\+?(\d+)/, ' × 10^$1')
        return `| ${c.grows} | ${[s.name, c.unit].filter(Boolean).join(', ')} | ${figure(first[1])} at ${first[0]} | ${figure(last[1])} at ${last[0]}${c.stopped === undefined ? '' : ` (then: ${c.stopped.split(';')[0]})`} | ${s.exponent.toFixed(2)} | ${atTheEnd(s.points).toFixed(1)} |`
      }),
    ),
  ].join('\n')

export function render(): void {
  const kept = read()
  const parts: Record<string, string | undefined> = {
    main: kept.main && `${said(kept.main)}\n\n${table(kept.main.results)}`,
    latencies: kept.main && latencies(kept.main.results),
    costs: kept.main && costs(kept.main.results),
    five: kept.five && `${said(kept.five)}\n\n${table(kept.five.results)}`,
    far: kept.far && `${said(kept.far)}\n\n${roundTripsTable(kept.far.results, kept.far.rtt_ms)}`,
    growth: kept.growth && `${said(kept.growth)}\n\n${exponents(kept.growth.curves)}`,
  }
  let page = readFileSync(at('performance.md'), 'utf8')
  for (const [name, words] of Object.entries(parts))
    if (words !== undefined)
      page = page.replace(
        new RegExp(`(<!-- ${name} -->\\n)(?:[^]*?\\n)??(<!-- / -->)`),
        (_, open: string, close: string) => `${open}${words}\n${close}`,
      )
  writeFileSync(at('performance.md'), page)
  if (kept.main)
    for (const [name, chart] of Object.entries({ throughput, latency, processor }))
      writeFileSync(at(`${name}.svg`), chart(kept.main.results))
  if (kept.growth) writeFileSync(at('growth.svg'), growth(kept.growth.curves))
}

export function keep(what: Kept): void {
  const before = read()
  const growth = what.growth && {
    ...what.growth,
    curves: [
      ...(before.growth?.curves.filter((c) => !what.growth!.curves.some((n) => n.name === c.name)) ?? []),
      ...what.growth.curves,
    ],
  } // those that were not measured again stay
  writeFileSync(
    at('performance.json'),
    `${JSON.stringify({ ...before, ...what, ...(growth ? { growth } : {}) }, (_, v: unknown) => (typeof v === 'number' ? Number(v.toPrecision(4)) : v), 1)}\n`,
  )
  render()
}

if (process.argv[1] === import.meta.filename) render()
