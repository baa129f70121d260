/**
 * A directed graph with typed, labelled edges: strongly connected components (Tarjan 1972) and shortest paths, both
 * over the edges of a mask. Nothing here recurses: a dependency graph is as deep as its history is long.
 */

/**
 * Continues, at no cost, the edge that led to an auxiliary node; it is in every mask, since only a typed edge leads
 * to one.
 */
export const THROUGH = 1

export interface Edge {
  readonly from: number
  readonly to: number
  readonly type: number
  readonly key: number
  readonly before: number
  readonly value: number
}

/** A path search ends without an answer when its edges are used up or the path would not be shorter than `below`. */
export interface Budget {
  edges: number
  below: number
}

export class Graph {
  size: number
  private readonly from: number[] = []
  private readonly to: number[] = []
  private readonly type: number[] = []
  private readonly key: number[] = []
  private readonly before: number[] = []
  private readonly value: number[] = []
  /** Compressed rows: edges of node n are out[row[n]] … out[row[n + 1] - 1]. */
  private row = new Int32Array(0)
  private out = new Int32Array(0)
  private distance = new Int32Array(0)
  private parent = new Int32Array(0)

  constructor(nodes: number) {
    this.size = nodes
  }

  /**
   * A node that is no transaction: it stands for all edges from its sources to its targets, so that m × n of them
   * cost m + n.
   */
  auxiliary(): number {
    return this.size++
  }

  add(from: number, to: number, type: number, key = -1, before = -1, value = -1): void {
    this.from.push(from)
    this.to.push(to)
    this.type.push(type)
    this.key.push(key)
    this.before.push(before)
    this.value.push(value)
  }

  seal(): this {
    const row = new Int32Array(this.size + 2)
    for (const n of this.from) row[n + 2]!++
    for (let n = 2; n < row.length; n++) row[n]! += row[n - 1]!
    const out = new Int32Array(this.from.length)
    for (let e = 0; e < out.length; e++) out[row[this.from[e]! + 1]!++] = e
    Object.assign(this, { row, out, distance: new Int32Array(this.size).fill(-1), parent: new Int32Array(this.size) })
    return this
  }

  edge(e: number): Edge {
    return {
      from: this.from[e]!,
      to: this.to[e]!,
      type: this.type[e]!,
      key: this.key[e]!,
      before: this.before[e]!,
      value: this.value[e]!,
    }
  }

  /** The components of more than one node. */
  components(mask: number): number[][] {
    const { row, out, to, type, size } = this
    const allowed = mask | THROUGH
    const found: number[][] = []
    const index = new Int32Array(size)
    const low = new Int32Array(size)
    const next = row.slice(0, size)
    const closed = new Uint8Array(size)
    const stack: number[] = []
    const path: number[] = []
    let count = 0
    for (let root = 0; root < size; root++) {
      if (index[root] !== 0) continue
      path.push(root)
      while (path.length > 0) {
        const n = path[path.length - 1]!
        if (index[n] === 0) {
          index[n] = low[n] = ++count
          stack.push(n)
        }
        let child = -1
        while (next[n]! < row[n + 1]!) {
          const e = out[next[n]!++]!
          if ((type[e]! & allowed) === 0) continue
          const m = to[e]!
          if (index[m] === 0) {
            child = m
            break
          }
          if (closed[m] === 0 && index[m]! < low[n]!) low[n] = index[m]!
        }
        if (child >= 0) {
          path.push(child)
          continue
        }
        path.pop()
        const above = path[path.length - 1]
        if (above !== undefined && low[n]! < low[above]!) low[above] = low[n]!
        if (low[n] !== index[n]) continue
        const component: number[] = []
        let m: number
        do {
          m = stack.pop()!
          closed[m] = 1
          component.push(m)
        } while (m !== n)
        if (component.length > 1) found.push(component)
      }
    }
    return found
  }

  /** The edges of a type inside a component. */
  *edges(component: readonly number[], within: (node: number) => boolean, types: number): Generator<number> {
    for (const n of component) {
      for (let i = this.row[n]!; i < this.row[n + 1]!; i++) {
        const e = this.out[i]!
        if ((this.type[e]! & types) !== 0 && within(this.to[e]!)) yield e
      }
    }
  }

  /**
   * A shortest path as edges, THROUGH edges not counted (0-1 breadth first search); undefined: there is none, or
   * the budget is spent.
   */
  path(
    source: number,
    target: number,
    mask: number,
    within: (node: number) => boolean,
    budget: Budget,
  ): number[] | undefined {
    const { row, out, from, to, type, distance, parent } = this
    const allowed = mask | THROUGH
    const touched = [source]
    let [level, next, depth, found] = [[source], [] as number[], 0, false]
    distance[source] = 0
    search: while (level.length > 0 && depth < budget.below && budget.edges > 0) {
      while (level.length > 0) {
        const n = level.pop()!
        if (distance[n]! < depth) continue
        if (n === target) {
          found = true
          break search
        }
        for (let i = row[n]!; i < row[n + 1]!; i++) {
          budget.edges--
          const e = out[i]!
          const m = to[e]!
          if ((type[e]! & allowed) === 0 || !within(m)) continue
          const free = type[e] === THROUGH
          const d = free ? depth : depth + 1
          if (distance[m]! >= 0 && distance[m]! <= d) continue
          if (distance[m] === -1) touched.push(m)
          distance[m] = d
          parent[m] = e
          ;(free ? level : next).push(m)
        }
      }
      ;[level, next, depth] = [next, [], depth + 1]
    }
    const edges: number[] = []
    if (found) for (let n = target; n !== source; n = from[parent[n]!]!) edges.push(parent[n]!)
    for (const n of touched) distance[n] = -1
    return found ? edges.reverse() : undefined
  }
}
