/** What simulated users do: every way of declaring and of not declaring, few keys, so that they meet. */
import type { Lock } from '../../driver/protocol/locks.ts'
import type { Dice } from './dice.ts'
import type { Plan } from './plan.ts'

export type Kind = 'append' | 'read' | 'scan' | 'insert'
export interface Shape {
  readonly kind: 'declared' | 'undeclared' | 'one-shot'
  readonly locks: readonly Lock[]
  readonly steps: readonly (readonly [Kind, string])[]
  readonly isolation: 'read committed' | 'repeatable read'
}

export function shape(dice: Dice, plan: Plan): Shape {
  for (;;) {
    const s = draw(dice, plan)
    if (plan.kind !== 'duel' || s.steps.some(([kind]) => kind === 'append')) return s
  }
}

function draw(dice: Dice, { kind, keys, reading, scans, repeatable, undeclared }: Plan): Shape {
  if (dice.hits(reading))
    return {
      kind: 'one-shot',
      locks: [],
      steps: dice.hits(scans) ? [['scan', '']] : [['read', dice.pick(keys)]],
      isolation: 'read committed',
    }
  const isolation = dice.hits(repeatable) ? 'repeatable read' : 'read committed'
  if (kind === 'readers' && isolation === 'repeatable read')
    return {
      kind: 'undeclared',
      locks: [],
      steps: [
        ['read', dice.pick(keys)],
        ['append', dice.pick(keys)],
      ],
      isolation,
    }
  if (dice.hits(kind === 'readers' ? 0.9 : 0.3)) {
    const step = dice.pick([
      ['append', dice.pick(keys)],
      ['append', dice.pick(keys)],
      ['read', dice.pick(keys)],
      ['scan', ''],
      ['insert', String(dice.below(3))],
    ] as const)
    return { kind: 'one-shot', locks: [], steps: [step], isolation: 'read committed' }
  }
  const steps = Array.from({ length: 1 + dice.below(3) }, (): readonly [Kind, string] => {
    const r = dice.next()
    return r < 0.5
      ? ['append', dice.pick(keys)]
      : r < 0.9
        ? ['read', dice.pick(keys)]
        : r < 0.95
          ? ['scan', '']
          : ['insert', String(dice.below(3))]
  })
  if (dice.hits(undeclared)) return { kind: 'undeclared', locks: [], steps, isolation }
  const insert = steps.some(([k]) => k === 'insert')
  const locks: Lock[] = []
  if (dice.hits(0.1)) locks.push(dice.pick(['*', 'lists']))
  else if (steps.some(([k]) => k === 'scan'))
    locks.push(steps.some(([k]) => k === 'append') ? 'lists' : { table: 'lists', mode: 'shared' })
  else
    for (const key of new Set(steps.filter(([k]) => k !== 'insert').map(([, k]) => k))) {
      const written = steps.some(([kind, k]) => kind === 'append' && k === key)
      locks.push(written || dice.hits(0.2) ? `lists/${key}` : { row: `lists/${key}`, mode: 'shared' })
    }
  if (insert && !locks.includes('*')) locks.push('once')
  if (dice.hits(0.2)) locks.push(dice.hits(0.5) ? '@job' : { name: 'job', mode: 'shared' })
  return { kind: 'declared', locks, steps, isolation }
}
