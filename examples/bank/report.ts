/**
 * What is left of the run in two tables of at most 80 columns: what happened, and what each server holds. A pause
 * is the longest time between two acknowledged commits, over all clients, that ended after an event and began
 * before the next one.
 */
import Table from 'cli-table3'
import type { Audit } from './audit.ts'
import type { Fleet } from './fleet.ts'

export interface Event {
  readonly name: string
  readonly at: number
}
export interface Findings {
  doubt: { found: number; finished: number; committed: number }
  missed: number
  level_ms: number | undefined
  seconds: number
}

const plain = { style: { head: [], border: [], compact: true } }

export function longestPause(arrivals: readonly number[], from: number, to: number): number {
  const before = arrivals.filter((at) => at <= from).at(-1) ?? from
  const points = [before, ...arrivals.filter((at) => at > from)]
  if ((points.at(-1) ?? from) < to) points.push(to) // nothing came any more: that is a pause too
  let longest = 0
  for (let i = 1; i < points.length && (points[i - 1] ?? 0) < to; i++)
    longest = Math.max(longest, (points[i] ?? 0) - (points[i - 1] ?? 0))
  return longest
}

export function pauses(fleet: Fleet, events: readonly Event[], end: number): { name: string; pause_ms: number }[] {
  const arrivals = [...fleet.acknowledged.values()].sort((a, b) => a - b)
  return events.map((event, i) => ({
    name: event.name,
    pause_ms: longestPause(arrivals, event.at, events[i + 1]?.at ?? end),
  }))
}

export function happened(
  fleet: Fleet,
  audit: Audit,
  pausesSeen: readonly { name: string; pause_ms: number }[],
  found: Findings,
): string {
  const table = new Table({ ...plain, head: ['what happened', ''], colWidths: [46, 31], wordWrap: true })
  const acknowledged = fleet.acknowledged.size
  table.push(
    ['commits acknowledged', `${acknowledged} (${Math.round(acknowledged / found.seconds)}/s)`],
    ['commits lost', String(audit.lost)],
    ...pausesSeen.map((p) => [`longest pause after ${p.name}`, `${p.pause_ms} ms`]),
    [
      'in-doubt transactions: found / finished',
      `${found.doubt.found} / ${found.doubt.finished} (${found.doubt.committed} committed)`,
    ],
    [
      'changesets caught up by the server that died',
      found.level_ms === undefined
        ? `not level (${found.missed} missed)`
        : `${found.missed} in ${(found.level_ms / 1000).toFixed(1)} s`,
    ],
    ['committed, client killed before it heard', String(audit.unannounced)],
    ['outcome unknown at first, then asked for', String(fleet.asked)],
    ['transfers that failed with an error', String(fleet.failures.length)],
  )
  return table.toString()
}

export function proof(audit: Audit): string {
  const table = new Table({
    ...plain,
    head: ['asked directly', 'accounts, hash', 'history, hash', 'total', 'transfers'],
    colAligns: ['left', 'left', 'left', 'right', 'right'],
  })
  for (const b of audit.books)
    table.push([b.name, b.accounts.slice(0, 16), b.history.slice(0, 16), b.total, b.transfers])
  return table.toString()
}

/** Errors that workers were given, by kind: a driver that refuses much is not one that loses nothing. */
export function failures(fleet: Fleet): string[] {
  const kinds = new Map<string, { count: number; example: string }>()
  for (const f of fleet.failures) {
    const kind = kinds.get(f.code) ?? { count: 0, example: f.message }
    kinds.set(f.code, { ...kind, count: kind.count + 1 })
  }
  return [...kinds].map(([code, k]) => `${k.count} × ${code || 'error'}: ${k.example}`)
}
