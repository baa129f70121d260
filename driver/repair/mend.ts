/**
 * Puts a row of a minority right: what a strict majority of all members has, at the same point of the stripe's
 * history. While it is looked at and written, A of its stripe is held on every member that answers, so neither a
 * writer nor a catch-up can come between. One transaction, on the one replica.
 */
import { sentenceOf } from '../errors.ts'
import { majority } from '../protocol/quorum.ts'
import type { Witness } from '../replica/witness.ts'
import { jitter, sleep } from '../runtime.ts'
import type { Finding } from './verdict.ts'

export interface Mended {
  readonly table: string
  readonly key: string
  readonly replica: string
  readonly before: string | null
  readonly after: string | null
  readonly error: string | null
}

const TRIES = 20
const HOLD_ms = 500

/** by: who gave consent, for the log (quorum.repair on the replica that was changed). */
export async function mend(witnesses: readonly Witness[], finding: Finding, by: string): Promise<Mended[]> {
  const done: Mended[] = []
  for (const target of witnesses.filter((w) => finding.replicas.includes(w.name))) {
    const row = { table: finding.object, key: finding.key ?? '', replica: target.name }
    done.push(
      await mendOn(witnesses, target, finding, by).then(
        (m) => ({ ...row, ...m, error: null }),
        (error: unknown) => ({ ...row, before: null, after: null, error: sentenceOf(error) }),
      ),
    )
  }
  return done
}

async function mendOn(
  witnesses: readonly Witness[],
  target: Witness,
  { object: t, cure }: Finding,
  by: string,
): Promise<{ before: string | null; after: string | null }> {
  if (!cure) throw new Error('no majority agrees on this row')
  const others = witnesses.filter((w) => w !== target && w.lost === undefined)
  const granule = (w: boolean): { t: string; n: number; w: boolean }[] => [{ t, n: cure.n, w }]
  let obstacle = ''
  for (let attempt = 0; attempt < TRIES; attempt++) {
    if (attempt > 0) await sleep(jitter(100))
    const held = await Promise.allSettled([
      target.seize(granule(true), HOLD_ms),
      ...others.map((w) => w.hold(granule(false), HOLD_ms)),
    ])
    try {
      if (held.some((h) => h.status === 'rejected' || (h.value !== undefined && !h.value.free))) {
        obstacle = 'its lock was not free on all replicas'
        continue
      }
      const mine = await target.stand(t, cure.n, cure.key)
      const theirs = (await Promise.all(others.map(async (w) => w.stand(t, cure.n, cure.key)))).filter(
        (o) => o.at === mine.at,
      )
      const votes = new Map<string, number>()
      for (const o of theirs) votes.set(JSON.stringify(o.rows), (votes.get(JSON.stringify(o.rows)) ?? 0) + 1)
      const best = [...votes].find(([, n]) => n >= majority(witnesses.length))?.[0]
      if (best === undefined) {
        obstacle = `no majority of the ${witnesses.length} members has this row alike at the version of ${target.name}`
        continue
      }
      const want = JSON.parse(best) as string[]
      if (mine.rows.length > 1 || want.length > 1)
        throw new Error('more than one row has this primary key: its index is broken')
      const [before, after] = [mine.rows[0] ?? null, want[0] ?? null]
      if (before === after) return { before, after }
      await target.put(t, cure.key, before, after, by)
      await target.letGo(true)
      await target.seize(granule(false), HOLD_ms) // the others still hold theirs, so nothing was written since
      const now = await target.stand(t, cure.n, cure.key)
      if (now.at !== mine.at || (now.rows[0] ?? null) !== after)
        throw new Error('it was put right, but does not read so')
      return { before, after }
    } finally {
      await Promise.allSettled([target, ...others].map((w) => w.letGo()))
    }
  }
  throw new Error(obstacle)
}
