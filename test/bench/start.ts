/**
 * `npm run bench:start`: many callers of a pool that has just been made; when the first, the middle and the last of
 * them has its answer, beside plain pg.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { CONTENDERS, type Contender } from './contenders.ts'
import { median } from './measure.ts'
import { machine } from './report.ts'
import type { Name } from './workloads.ts'

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '5' } } })
const CASES: readonly (readonly [Name, number])[] = [
  ['select', 1],
  ['select', 32],
  ['eventual', 32],
  ['update', 1],
  ['update', 32],
  ['transfer', 32],
]

async function answers(contender: Contender, name: Name, callers: number): Promise<number[]> {
  const { does, end } = contender.open(callers)
  const ask = (worker: number): Promise<unknown> =>
    does[name](worker).catch((error: unknown) =>
      (error as { code?: string }).code === '40001' ? ask(worker) : Promise.reject(error as Error),
    )
  const from = performance.now()
  const took = await Promise.all(
    Array.from({ length: callers }, (_, worker) => ask(worker).then(() => performance.now() - from)),
  )
  await end()
  await sleep(50) // their servers’ processes end
  return took.sort((a, b) => a - b)
}

const contenders = [
  await CONTENDERS.floor(3, (url) => Promise.resolve(url)),
  await CONTENDERS['pg-quorum'](3, (url) => Promise.resolve(url)),
]
console.log(
  `${machine()}\nms until the first / the middle / the last caller of a new pool has its answer; medians of ${values.rounds} pools each, by turns`,
)
for (const [name, callers] of CASES) {
  const all = contenders.map((): number[][] => [])
  for (let i = 0; i < Number(values.rounds); i++)
    for (const [c, contender] of contenders.entries()) all[c]!.push(await answers(contender, name, callers))
  for (const [c, contender] of contenders.entries()) {
    const at = (q: number): string =>
      median(all[c]!.map((took) => took[Math.floor((took.length - 1) * q)] ?? NaN)).toFixed(0)
    console.log(
      `${`${name}, ${callers} at once`.padEnd(22)} ${contender.name.padEnd(10)} ${at(0)} / ${at(0.5)} / ${at(1)}`,
    )
  }
}
await Promise.all(contenders.map((c) => c.destroy()))
