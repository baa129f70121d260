/**
 * The network of a run: a proxy for each pair of client and server, so that each client can see another one.
 * Disturbances are laid over one another; a pair suffers from all that lie on it, and is healed when the last one
 * is lifted.
 */
import { startProxy, type Direction, type Proxy, type Rule } from '../faults/proxy.ts'

export type Cut = Direction | 'both'
/** What a disturbance does to the pair (client, server); undefined: nothing. */
export interface Disturbance {
  cut?(client: number, server: number): Cut | undefined
  rule?(client: number, server: number): Rule | undefined
  latency?(client: number, server: number): number
}

interface Pair {
  readonly proxy: Proxy
  cut: string
  latency: number
  readonly rules: Map<Disturbance, ReturnType<Proxy['add']>>
}

export class Net {
  readonly #pairs: Pair[][] = []
  readonly #on = new Set<Disturbance>()
  #lostReplies = 0

  static async open(clients: number, urls: readonly string[]): Promise<Net> {
    const net = new Net()
    for (let c = 0; c < clients; c++) {
      net.#pairs.push(
        await Promise.all(
          urls.map(async (url): Promise<Pair> => ({
            proxy: await startProxy(url),
            cut: '',
            latency: 0,
            rules: new Map(),
          })),
        ),
      )
    }
    return net
  }

  urls(client: number): string[] {
    return (this.#pairs[client] ?? []).map((p) => p.proxy.url)
  }

  lay(d: Disturbance): void {
    this.#on.add(d)
    this.#apply()
  }

  lift(d: Disturbance): void {
    this.#on.delete(d)
    this.#apply()
  }

  liftAll(): void {
    this.#on.clear()
    this.#apply()
  }

  reset(client: number): void {
    for (const pair of this.#pairs[client] ?? []) pair.proxy.resetAll()
  }

  reaches(client: number, server: number): boolean {
    return this.#cut(client, server) === ''
  }

  /** How often a rule has struck. */
  get hits(): number {
    let hits = this.#lostReplies
    for (const pair of this.#pairs.flat()) for (const rule of pair.rules.values()) hits += rule.hits
    return hits
  }

  async close(): Promise<void> {
    await Promise.all(this.#pairs.flat().map((p) => p.proxy.close()))
  }

  #cut(client: number, server: number): string {
    const cuts = new Set<Cut>()
    for (const d of this.#on) {
      const cut = d.cut?.(client, server)
      if (cut) for (const one of cut === 'both' ? (['to-server', 'to-client'] as const) : [cut]) cuts.add(one)
    }
    return [...cuts].sort().join()
  }

  #apply(): void {
    this.#pairs.forEach((row, client) =>
      row.forEach((pair, server) => {
        const cut = this.#cut(client, server)
        const latency = Math.max(0, ...[...this.#on].map((d) => d.latency?.(client, server) ?? 0))
        const lifted = [...pair.rules.keys()].some((d) => !this.#on.has(d))
        if ((cut !== pair.cut && pair.cut !== '') || lifted || latency < pair.latency) {
          for (const rule of pair.rules.values()) this.#lostReplies += rule.hits
          pair.rules.clear()
          pair.proxy.heal() // what goes on is laid again below
          pair.cut = ''
          pair.latency = 0
        }
        if (cut !== '' && cut !== pair.cut)
          for (const direction of cut.split(',') as Direction[]) pair.proxy.cut(direction)
        if (latency !== pair.latency) pair.proxy.latency(latency)
        Object.assign(pair, { cut, latency })
        for (const d of this.#on) {
          const rule = pair.rules.has(d) ? undefined : d.rule?.(client, server)
          if (rule) pair.rules.set(d, pair.proxy.add(rule))
        }
      }),
    )
  }
}
