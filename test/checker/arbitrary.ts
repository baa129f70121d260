/**
 * Tiny histories without any store behind them: reads of whatever prefix of whatever order, nearly consistent often
 * enough to be hard.
 */
import fc from 'fast-check'
import { type Mop, type Transaction } from './history.ts'

const mop = fc.record({ append: fc.boolean(), key: fc.constantFrom('x', 'y'), n: fc.nat(7), odd: fc.nat(19) })
const draft = fc.record({
  mops: fc.array(mop, { minLength: 1, maxLength: 3 }),
  start: fc.nat(12),
  span: fc.nat(8),
  type: fc.constantFrom<Transaction['type'][]>('ok', 'ok', 'ok', 'ok', 'ok', 'info', 'fail'),
})

export const tinyHistory = fc
  .tuple(fc.array(draft, { minLength: 2, maxLength: 6 }), fc.array(fc.nat(99), { minLength: 18, maxLength: 18 }))
  .map(([drafts, ranks]): Transaction[] => {
    let value = 0
    const numbered = drafts.map((d) => ({ ...d, mops: d.mops.map((m) => ({ ...m, value: m.append ? value++ : -1 })) }))
    const order = (key: string): number[] =>
      numbered
        .flatMap((d) => d.mops.filter((m) => m.append && m.key === key).map((m) => m.value))
        .sort((a, b) => (ranks[a] ?? 0) - (ranks[b] ?? 0))
    return numbered.map(({ mops, start, span, type }, id) => {
      const base = new Map<string, number[]>()
      const list = (i: number, key: string, n: number): number[] => {
        const all = order(key)
        const first = all.findIndex((v) => mops.some((m) => m.value === v))
        if (!base.has(key)) base.set(key, all.slice(0, first < 0 ? n : Math.min(n, first)))
        return [
          ...(base.get(key) ?? []),
          ...mops
            .slice(0, i)
            .filter((m) => m.append && m.key === key)
            .map((m) => m.value),
        ]
      }
      const done = mops.map(({ append, key, n, odd, value: v }, i): Mop => {
        if (append) return ['append', key, v]
        return ['r', key, odd === 0 ? null : odd === 1 ? order(key).slice(0, n) : list(i, key, n)]
      })
      return { id, process: `p${id}`, type, mops: done, start, end: start + span }
    })
  })
