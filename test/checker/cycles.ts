/**
 * Cycles of the dependency graph by Adya's classes, the worst first: one short cycle of the worst class per
 * component, in words.
 */
import { REALTIME, RW, WR, WW } from './dependencies.ts'
import { type Budget, type Edge, type Graph, THROUGH } from './graph.ts'
import { type Findings, type Transaction } from './history.ts'
import { type Key } from './observe.ts'

/**
 * A class of cycles: one edge of type `first`, closed over edges of `rest`; both together are the graph whose
 * components are searched.
 */
interface Class {
  readonly first: number
  readonly rest: number
}

const PLAIN: readonly Class[] = [
  { first: WW, rest: WW }, // G0: dirty write
  { first: WR, rest: WW | WR }, // G1c: circular information flow
  { first: RW, rest: WW | WR }, // G-single: read skew, lost update
  { first: RW, rest: WW | WR | RW }, // G2-item: write skew
]
const CLASSES = [...PLAIN, ...PLAIN.map((c) => ({ ...c, rest: c.rest | REALTIME }))]

const ALL = WW | WR | RW | REALTIME

/**
 * Edges that the search for a short cycle may look at, per component and class: only a history broken throughout
 * comes near.
 */
const BUDGET = 1_000_000

/** Steps of a cycle put into words. */
const READABLE = 24

/** Class b allows all that class a allows: where a was found, b is no news. */
const includes = (b: Class, a: Class): boolean =>
  ((a.first | a.rest) & ~(b.first | b.rest)) === 0 && (a.rest & ~b.rest) === 0

export function reportCycles(
  graph: Graph,
  history: readonly Transaction[],
  keys: readonly Key[],
  findings: Findings,
): void {
  if (graph.components(ALL).length === 0) return
  const membership = new Int32Array(graph.size).fill(-1)
  /** A bit per class: a cycle of it was reported through this node. */
  const reported = new Uint8Array(graph.size)
  let serial = 0
  CLASSES.forEach((c, bit) => {
    const known = CLASSES.reduce((bits, a, i) => (includes(c, a) ? bits | (1 << i) : bits), 0)
    for (const component of graph.components(c.first | c.rest)) {
      serial++
      for (const n of component) membership[n] = serial
      const within = (n: number): boolean => membership[n] === serial
      if (component.some((n) => (reported[n]! & known) !== 0)) continue
      const cycle = shortCycle(graph, component, within, c)
      if (cycle === undefined) continue
      reported[cycle[0]!.from]! |= 1 << bit
      const steps = byTransaction(cycle, history.length)
      findings.add(
        kindOf(cycle),
        explain(steps, history, keys),
        steps.map((step) => history[step[0]!.from]!),
      )
    }
  })
}

/** The shortest cycle of the class that the budget allows to find. */
function shortCycle(
  graph: Graph,
  component: readonly number[],
  within: (n: number) => boolean,
  c: Class,
): Edge[] | undefined {
  // Where `rest` has `first`, the component promises that the very first search succeeds: no budget may cut that
  // one short.
  const budget: Budget = { edges: (c.rest & c.first) === 0 ? BUDGET : Infinity, below: Infinity }
  let best: Edge[] | undefined
  for (const e of graph.edges(component, within, c.first)) {
    const { from, to } = graph.edge(e)
    const back = graph.path(to, from, c.rest, within, budget)?.map((step) => graph.edge(step))
    if (back !== undefined)
      [best, budget.below] = [[graph.edge(e), ...back], back.filter((step) => step.type !== THROUGH).length]
    if (budget.edges === Infinity) budget.edges = BUDGET
    if (budget.below === 1 || budget.edges <= 0) break
  }
  return best
}

/** Named by what the cycle is made of, so that no search order and no budget can mislabel it. */
function kindOf(cycle: readonly Edge[]): string {
  const count = (type: number): number => cycle.filter((e) => e.type === type).length
  const plain = count(RW) > 1 ? 'G2-item' : count(RW) === 1 ? 'G-single' : count(WR) > 0 ? 'G1c' : 'G0'
  return count(REALTIME) > 0 ? `${plain}-realtime` : plain
}

/** The cycle as steps from transaction to transaction, auxiliary nodes folded into the step that passes them. */
function byTransaction(cycle: readonly Edge[], transactions: number): Edge[][] {
  const start = cycle.findIndex((e) => e.from < transactions)
  const steps: Edge[][] = []
  for (const e of [...cycle.slice(start), ...cycle.slice(0, start)]) {
    if (e.from < transactions) steps.push([e])
    else steps[steps.length - 1]!.push(e)
  }
  return steps
}

function explain(steps: readonly (readonly Edge[])[], history: readonly Transaction[], keys: readonly Key[]): string {
  const sentence = (step: readonly Edge[]): string => {
    const [head, end] = [step[0]!, step[step.length - 1]!]
    const [a, b] = [`T${history[head.from]!.id}`, `T${history[end.to]!.id}`]
    const key = keys[head.key]?.name
    if (head.type === WW) return `${b} appended ${head.value} to ${key} after ${a}'s ${head.before} (ww)`
    if (head.type === WR) return `${b} read ${a}'s ${head.value} from ${key} (wr)`
    if (head.type === RW) return `${a} read ${key} without ${b}'s ${end.value} (rw)`
    return `${a} ended before ${b} started (realtime)`
  }
  const rest = steps.length > READABLE ? [`… ${steps.length - READABLE} more steps`] : []
  return `${[...steps.slice(0, READABLE).map((step) => sentence(step)), ...rest].join('; ')}: a cycle`
}
