/**
 * Seeded chance. Each purpose has its own stream, so that switching one fault off leaves the others' dice as they
 * were.
 */
export interface Dice {
  /** From 0 to below 1. */
  next(): number
  below(limit: number): number
  between(low: number, high: number): number
  /** True with this probability. */
  hits(probability: number): boolean
  pick<T>(from: readonly T[]): T
}

/** mulberry32 over a hash of seed and purpose. */
export function dice(seed: number, purpose: string): Dice {
  let state = seed | 0
  for (let i = 0; i < purpose.length; i++) state = Math.imul(state ^ purpose.charCodeAt(i), 0x9e3779b1)
  const next = (): number => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  for (let i = 0; i < 4; i++) next()
  return {
    next,
    below: (limit) => Math.floor(next() * limit),
    between: (low, high) => low + next() * (high - low),
    hits: (probability) => next() < probability,
    pick: (from) => from[Math.floor(next() * from.length)]!,
  }
}
