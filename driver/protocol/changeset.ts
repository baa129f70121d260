/**
 * What a changeset rests on and writes, from its text (docs/protocol.md, sections 1 and 6). Single rows stand in it
 * table by table, as PostgreSQL's own arrays (schema/rows.sql); whatever else there is as lists. Pure.
 */
import { intent, type BaseEntry } from './locks.ts'

interface Part {
  readonly t: string
  readonly own: number
  readonly n?: string
  readonly v?: string
  readonly mk?: string
  readonly ms?: string
  readonly r?: string
  readonly rv?: string
}
interface Body {
  readonly base?: readonly BaseEntry[]
  readonly writes?: readonly (readonly [string, number])[]
  readonly everything?: number
  readonly rows?: readonly Part[]
}

const words = (array: string | undefined): string[] =>
  array === undefined || array === '{}' ? [] : array.slice(1, -1).split(',')

function rowsOf({ t, n, v, mk, ms, r, rv }: Part): BaseEntry[] {
  const [vs, mks, mss, rvs] = [words(v), words(mk), words(ms), words(rv)]
  return [
    ...words(n).map((stripe, k) => ({
      t,
      n: Number(stripe),
      w: true,
      i: false,
      v: Number(vs[k]),
      c: '0',
      mk: Number(mks[k] ?? 0),
      ms: mss[k] ?? '0',
    })),
    ...words(r).map((stripe, k) => ({
      t,
      n: Number(stripe),
      w: false,
      i: false,
      v: Number(rvs[k]),
      c: '0',
      mk: 0,
      ms: '0',
    })),
  ].sort((a, b) => a.n - b.n)
}

export function baseOf(text: string): readonly BaseEntry[] {
  const { base, everything = 0, rows = [] } = JSON.parse(text) as Body
  return base ?? [intent('*', everything), ...rows.flatMap((part) => [intent(part.t, part.own), ...rowsOf(part)])]
}

/** (table, n) of every stripe that it extends. */
export function writesOf(text: string): readonly (readonly [string, number])[] {
  const { writes, rows = [] } = JSON.parse(text) as Body
  return writes ?? rows.flatMap(({ t, n }) => words(n).map((stripe) => [t, Number(stripe)] as const))
}

/**
 * The version of each stripe of a base, and of everything itself, when what rests on it has been committed. (Of whole
 * tables a base has only a sum.) written: whether it wrote at all.
 */
export const versionsAfter = (base: readonly BaseEntry[], written: boolean): (readonly [string, number, number])[] =>
  base.flatMap((e) => (e.n >= 0 || (e.t === '*' && e.i) ? [[e.t, e.n, e.v + (e.w && written ? 1 : 0)] as const] : []))
