/**
 * What a session has seen or written: the highest version of each stripe. A replica whose stripes are all as high,
 * of what is read, is not older than the session (Terry et al., Session Guarantees for Weakly Consistent Replicated
 * Data, 1994: read your writes, monotonic reads).
 */
import { badInput } from '../errors.ts'

/** [table, stripe, version]. */
export type Stripes = readonly (readonly [t: string, n: number, version: number])[]

export class Seen {
  readonly #tables = new Map<string, Map<number, number>>()

  learn(stripes: Stripes): void {
    for (const [t, n, version] of stripes) {
      let table = this.#tables.get(t)
      if (!table) this.#tables.set(t, (table = new Map<number, number>()))
      if (version > (table.get(n) ?? 0)) table.set(n, version)
    }
  }

  /**
   * Of these granules (n = -1: the whole table; '*': everything), has a replica with these stripes what the session
   * has seen? The schema, '*', counts for all of them.
   */
  coveredBy(stripes: Stripes, granules: readonly { readonly t: string; readonly n: number }[]): boolean {
    const there = new Map(stripes.map(([t, n, version]) => [`${t}/${n}`, version]))
    const has = (t: string, n: number, version: number): boolean => (there.get(`${t}/${n}`) ?? 0) >= version
    const all = granules.some((g) => g.t === '*')
    for (const [t, table] of this.#tables) {
      const mine = granules.filter((g) => g.t === t)
      const whole = all || t === '*' || mine.some((g) => g.n === -1)
      for (const [n, version] of table) if ((whole || mine.some((g) => g.n === n)) && !has(t, n, version)) return false
    }
    return true
  }

  /** For another process: letters, digits, - and _. A few bytes a stripe, of which a table has at most 1024. */
  token(): string {
    const tables = [...this.#tables].map(([t, table]) => [t, [...table].flat()])
    return Buffer.from(JSON.stringify({ seen: tables })).toString('base64url')
  }

  join(token: string): void {
    this.learn(stripesFrom(token))
  }
}

/** What a token of a session or a snapshot names. */
export function stripesFrom(token: string): Stripes {
  try {
    const { seen } = JSON.parse(Buffer.from(token, 'base64url').toString()) as { seen: [string, number[]][] }
    return seen.flatMap(([t, flat]) =>
      flat.flatMap((n, i): [string, number, number][] => (i % 2 === 0 ? [[t, n, flat[i + 1] ?? 0]] : [])),
    )
  } catch {
    throw badInput(
      'this is not a token of a session or a snapshot: pass on what session.token() or pool.snapshot() gave, as a whole',
    )
  }
}
