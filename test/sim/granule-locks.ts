/** G and A, as quorum.guard and quorum.take take them: in the global order, a row under its table under everything. */
import type { Granule } from '../../driver/protocol/locks.ts'
import type { Mode } from './lock-table.ts'
import { refuse } from './refusals.ts'
import type { Backend } from './server.ts'

export async function guard(b: Backend, granules: readonly Granule[], wait_ms: number | null): Promise<boolean> {
  const names = new Map<string, boolean>([['*', false]])
  for (const g of granules) {
    const name = g.n === -1 ? g.t : `${g.t}/${g.n}`
    names.set(name, (names.get(name) ?? false) || g.w)
    if (g.n >= 0 && !names.has(g.t)) names.set(g.t, false)
  }
  for (const [name, exclusive] of [...names].sort(([a], [c]) => (a < c ? -1 : 1))) {
    const mode: Mode = exclusive ? 'X' : 'RS'
    if (wait_ms !== null) {
      const verdict = await b.server.locks.take(`G ${name}`, b.holder, mode, true, wait_ms, b)
      if (verdict !== 'granted') throw refuse(verdict === 'timeout' ? '55P03' : '40P01', verdict)
    } else if (!b.server.locks.try(`G ${name}`, b.holder, mode, true)) {
      b.server.locks.release(b.holder, 'session')
      return false
    }
  }
  return true
}

export async function take(b: Backend, granules: readonly Granule[], shared = false): Promise<void> {
  const written = (g: Granule): boolean => g.w && !shared
  const all = granules.filter((g) => g.t === '*')
  if (all.length > 0) return b.lock('A *', all.some(written) ? 'X' : 'S')
  await b.lock('A *', granules.some(written) ? 'RX' : 'RS')
  let last = ''
  for (const g of granules) {
    if (g.t !== last && !g.t.startsWith('@')) {
      last = g.t
      const mine = granules.filter((x) => x.t === g.t)
      const strong = mine.some(written)
      const whole = mine.some((x) => x.n === -1)
      await b.lock(`A ${g.t}`, whole ? (strong ? 'X' : 'S') : strong ? 'RX' : 'RS')
    }
    if (g.n >= 0) await b.lock(`A ${g.t}/${g.n}`, written(g) ? 'X' : 'RS')
  }
}
