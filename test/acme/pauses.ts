/**
 * How long nobody could write. A fault's pause is the longest time without an acknowledged write, by any client,
 * from its beginning to 5 s after its end. Moments in which no client could reach a majority are nobody's fault but
 * that fault's own, and left out of the others.
 */
import type { Happened } from './nemesis.ts'

const AFTER_MS = 5000
/** A lead that was lost with the majority takes this long to be noticed; what is still silent then counts again. */
const GRACE_MS = 1000

export interface Pause {
  readonly kind: string
  readonly times: number
  readonly longest_ms: number
}
interface Span {
  readonly from: number
  readonly to: number
}

export function pausesOf(
  happened: readonly Happened[],
  writes: readonly number[],
  dark: readonly Span[],
  end: number,
): Pause[] {
  const found = new Map<string, { times: number; longest_ms: number }>()
  for (const fault of happened) {
    const entry = found.get(fault.kind) ?? { times: 0, longest_ms: 0 }
    found.set(fault.kind, entry)
    entry.times++
    const until = Math.min(end, (fault.to === Infinity ? fault.from : fault.to) + AFTER_MS)
    for (const gap of gapsIn(writes, fault.from, until, end)) {
      if (
        fault.kind !== 'no majority' &&
        dark.some((d) => d.from < gap.to && Math.min(d.to, end) + GRACE_MS > gap.from)
      )
        continue
      entry.longest_ms = Math.max(entry.longest_ms, gap.to - gap.from)
    }
  }
  return [...found].map(([kind, e]) => ({ kind, ...e }))
}

/** The first begins with the fault; the last ends with the next write, however late that came. */
function gapsIn(writes: readonly number[], from: number, until: number, end: number): Span[] {
  const gaps: Span[] = []
  let at = from
  for (const w of writes) {
    if (w < from) continue
    gaps.push({ from: at, to: w })
    at = w
    if (w > until) return gaps
  }
  return end > at ? [...gaps, { from: at, to: end }] : gaps
}
