/** The last word on durability: when all is quiet, every acknowledged append is there, once, and no failed one is. */
import { type Anomaly, Findings, type Transaction } from './history.ts'

/** `final`: each key as read after everything ended; a key that is missing is an empty list. */
export function checkFinal(history: readonly Transaction[], final: ReadonlyMap<string, readonly number[]>): Anomaly[] {
  const findings = new Findings()
  const counts = new Map<string, Map<number, number>>()
  for (const [key, list] of final) {
    const of = new Map<number, number>()
    for (const v of list) of.set(v, (of.get(v) ?? 0) + 1)
    counts.set(key, of)
  }
  const appended = new Set<string>()
  for (const t of history) {
    for (const [f, key, v] of t.mops) {
      if (f !== 'append') continue
      appended.add(`${v} ${key}`)
      const times = counts.get(key)?.get(v) ?? 0
      if (t.type === 'ok' && times === 0)
        findings.add('lost-append', `T${t.id} was acknowledged; its ${v} is not in the final ${key}`, [t])
      if (t.type === 'fail' && times > 0) findings.add('G1a', `T${t.id} failed; its ${v} is in the final ${key}`, [t])
      if (t.type !== 'fail' && times > 1)
        findings.add('duplicate-elements', `T${t.id}'s ${v} is in the final ${key} ${times} times`, [t])
    }
  }
  for (const [key, of] of counts)
    for (const v of of.keys())
      if (!appended.has(`${v} ${key}`))
        findings.add('unwritten-read', `the final ${key} has ${v}, which nobody appended`, [])
  return findings.anomalies
}
