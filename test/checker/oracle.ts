/**
 * Strict serializability by trying every order: exponential, and obviously right. What the checker is held against
 * on tiny histories.
 */
import { type Transaction } from './history.ts'

type State = ReadonlyMap<string, readonly number[]>

/** The state after the transaction, or undefined when a read saw something else. */
function apply(state: State, t: Transaction): State | undefined {
  const after = new Map(state)
  for (const [f, key, v] of t.mops) {
    const list = after.get(key) ?? []
    if (f === 'append') after.set(key, [...list, v])
    else if (v !== null && (v.length !== list.length || v.some((e, i) => e !== list[i]))) return undefined
  }
  return after
}

function extend(state: State, left: readonly Transaction[], realtime: boolean): boolean {
  if (left.every((t) => t.type === 'info')) return true
  return left.some((t) => {
    if (realtime && left.some((u) => u.type === 'ok' && u.end < t.start)) return false
    const after = apply(state, t)
    return (
      after !== undefined &&
      extend(
        after,
        left.filter((u) => u !== t),
        realtime,
      )
    )
  })
}

export function explainable(history: readonly Transaction[], realtime = true): boolean {
  return extend(
    new Map(),
    history.filter((t) => t.type !== 'fail'),
    realtime,
  )
}
