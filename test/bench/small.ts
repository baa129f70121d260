/**
 * `npm run bench -- --small`: has it become slower? A few ratios to the floor, beside those that were accepted
 * (expected.json, written by `--small --accept`).
 */
import { readFileSync, writeFileSync } from 'node:fs'
import type { Result } from './measure.ts'
import type { Name } from './workloads.ts'

export const SMALL: readonly (readonly [Name, number])[] = [
  ['update', 1],
  ['update', 8],
  ['transfer', 8],
  ['select', 1],
  ['select', 32],
]
/**
 * A throughput ratio that falls by a third is a failure, and so is a transaction that takes more messages by a
 * third: that one does not depend on the machine.
 */
const THIRD = 1 / 3

export interface Expected {
  readonly date: string
  readonly machine: string
  readonly of: Readonly<Record<string, { readonly ratio: number; readonly sends: number }>>
}
type Figures = Pick<Result, 'workload' | 'workers' | 'ratio' | 'sends' | 'others'>
const keyOf = (r: Figures): string => `${r.workload} ${r.workers}`

/** A sentence for each figure that is worse than it may be. */
export function fallen(expected: Expected, results: readonly Figures[]): string[] {
  return results.flatMap((r) => {
    const was = expected.of[keyOf(r)]
    if (was === undefined)
      return [
        `${keyOf(r)}: nothing is expected of it yet; npm run bench -- --small --accept writes down what it measures`,
      ]
    const said: string[] = []
    if (!(r.ratio >= was.ratio * (1 - THIRD)))
      said.push(
        `${keyOf(r)}: ${r.ratio.toFixed(3)} of plain pg's rate, and ${was.ratio.toFixed(3)} on ${expected.date}: it fell by more than a third${r.others > 0.1 ? ` (others had ${(r.others * 100).toFixed(0)} % of the machine meanwhile: look again when it is quiet)` : ''}`,
      )
    if (!(r.sends <= was.sends * (1 + THIRD)))
      said.push(
        `${keyOf(r)}: ${r.sends.toFixed(1)} sends a transaction, and ${was.sends.toFixed(1)} on ${expected.date}: more by over a third`,
      )
    return said
  })
}

const FILE = new URL('expected.json', import.meta.url)
export const expected = (): Expected => JSON.parse(readFileSync(FILE, 'utf8')) as Expected
export function accept(results: readonly Figures[], machine: string): void {
  const round = (x: number): number => Number(x.toPrecision(3))
  const accepted: Expected = {
    date: new Date().toISOString().slice(0, 10),
    machine,
    of: Object.fromEntries(results.map((r) => [keyOf(r), { ratio: round(r.ratio), sends: round(r.sends) }])),
  }
  writeFileSync(FILE, `${JSON.stringify(accepted, null, 2)}\n`)
}
