/**
 * Adya's direct dependencies between committed transactions, inferred from version orders (Elle, section 5.3), and
 * real time.
 */
import { Graph, THROUGH } from './graph.ts'
import { type Transaction } from './history.ts'
import { differ, type Key, type Observation, type Read } from './observe.ts'

export const WW = 2
export const WR = 4
export const RW = 8
export const REALTIME = 16

/** Up to here edges are added one by one, which gives the plainest explanations. */
const FEW = 64

export function dependencies(
  history: readonly Transaction[],
  { keys, committed }: Observation,
  realtime: boolean,
): Graph {
  const graph = new Graph(history.length)
  keys.forEach((key, k) => dependOn(graph, key, k, committed))
  if (realtime) followTime(graph, history, committed)
  return graph.seal()
}

function dependOn(graph: Graph, key: Key, k: number, committed: Uint8Array): void {
  const { longest } = key
  const unseen = new Map(key.writers)
  // Failed, unknown and repeated elements keep their place in the order but take part in no dependency.
  const order = longest.map((v) => {
    const writer = unseen.get(v)
    unseen.delete(v)
    return writer !== undefined && committed[writer] === 1 ? writer : -1
  })
  let last = -1
  order.forEach((writer, i) => {
    if (writer < 0) return
    if (last >= 0 && order[last] !== writer) graph.add(order[last]!, writer, WW, k, longest[last], longest[i])
    last = i
  })
  const tail: Read[] = []
  for (const read of key.reads) {
    if (key.incompatible && differ(read.list, longest, read.length) < read.length) continue
    const self = read.transaction
    let i = read.length - 1
    while (i >= 0 && order[i]! < 0) i--
    if (i >= 0 && order[i] !== self) graph.add(order[i]!, self, WR, k, -1, longest[i])
    let j = read.length
    while (j < order.length && order[j]! < 0) j++
    if (j === order.length) tail.push(read)
    else if (order[j] !== self) graph.add(self, order[j]!, RW, k, -1, longest[j])
  }
  // Lists only grow: a committed append that the longest read lacks comes after all of it. (Not where reads
  // disagree on what "it" is.)
  if (key.incompatible) return
  const late = new Map<number, number>()
  for (const [value, writer] of unseen) if (committed[writer] === 1) late.set(writer, value)
  if (late.size === 0) return
  if (last >= 0)
    for (const [writer, value] of late)
      if (writer !== order[last]) graph.add(order[last]!, writer, WW, k, longest[last], value)
  antidepend(
    graph,
    k,
    tail.map((read) => read.transaction),
    late,
  )
}

/**
 * An rw edge from each reader to each writer but itself; where these are many, through two chains, writers before
 * and writers after it.
 */
function antidepend(graph: Graph, k: number, readers: readonly number[], late: ReadonlyMap<number, number>): void {
  if (readers.length * late.size <= FEW) {
    for (const reader of readers)
      for (const [writer, value] of late) if (writer !== reader) graph.add(reader, writer, RW, k, -1, value)
    return
  }
  const chain = (writers: readonly (readonly [number, number])[]): Map<number, number> => {
    const entry = new Map<number, number>()
    let before = -1
    for (const [writer, value] of writers) {
      if (before >= 0) entry.set(writer, before)
      const node = graph.auxiliary()
      graph.add(node, writer, THROUGH, k, -1, value)
      if (before >= 0) graph.add(node, before, THROUGH)
      before = node
    }
    return entry.set(-1, before)
  }
  const [before, after] = [chain([...late]), chain([...late].reverse())]
  for (const reader of readers) {
    if (!late.has(reader)) graph.add(reader, before.get(-1)!, RW, k)
    else
      for (const entry of [before.get(reader), after.get(reader)])
        if (entry !== undefined) graph.add(reader, entry, RW, k)
  }
}

/**
 * T1 precedes T2 in real time when T1 was acknowledged before T2 started. That is quadratic in edges; a chain of
 * moments, each entered by the transactions ended since the moment before and left by those started until the next,
 * is linear and as exact.
 */
function followTime(graph: Graph, history: readonly Transaction[], committed: Uint8Array): void {
  const starts: number[] = []
  history.forEach((_, i) => {
    if (committed[i] === 1) starts.push(i)
  })
  const ends = starts.filter((i) => history[i]!.type === 'ok')
  starts.sort((a, b) => history[a]!.start - history[b]!.start)
  ends.sort((a, b) => history[a]!.end - history[b]!.end)
  let [moment, e] = [-1, 0]
  for (const start of starts) {
    const before = moment
    for (; e < ends.length && history[ends[e]!]!.end < history[start]!.start; e++) {
      if (moment === before) {
        moment = graph.auxiliary()
        if (before >= 0) graph.add(before, moment, THROUGH)
      }
      graph.add(ends[e]!, moment, REALTIME)
    }
    if (moment >= 0) graph.add(moment, start, THROUGH)
  }
}
