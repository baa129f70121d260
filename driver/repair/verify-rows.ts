/**
 * One table's rows. Checksums by stripe, taken in the servers, are compared between members whose snapshots have
 * that stripe (and `*`) at the same version: what differs then is no write on its way. Stripes that do not agree
 * yet are looked at again, and in the end under A in shared mode, held on all members just while the snapshots are
 * opened; so it ends although writers go on.
 */
import { codeOf, sentenceOf } from '../errors.ts'
import type { Look, RowText, Witness } from '../replica/witness.ts'
import { isServersWord } from '../replica/sqlstate.ts'
import { jitter, now_ms, sleep } from '../runtime.ts'
import { chosen, elements, judge, voicesOf, type Finding } from './verdict.ts'

export interface Limits {
  readonly members: number
  readonly rows: number
  readonly patience_ms: number
  readonly free_looks: number
}
export interface TableResult {
  readonly rows: number
  readonly differences: number
  readonly rounds: number
  readonly findings: Finding[]
}
type Looks = ReadonlyMap<Witness, Look>

const GROUPS = Array.from({ length: 1024 }, (_, n) => n)
/** Rows whose keys and hashes are in memory at once, of each member. */
const MOST_KEYS = 50_000
/** Looks at a table that others have and this one has not, 50 ms apart. */
const PATIENT_LOOKS = 40
const HOLD_ms = 200

export async function verifyTable(
  here: readonly Witness[],
  t: string,
  limits: Limits,
  tell: (part: number) => void,
): Promise<TableResult> {
  const findings: Finding[] = []
  let rest = GROUPS
  let most = rest.length // how many of the rest are held at once
  let [rows, differences, rounds, looks] = [0, 0, 0, 0]
  let since_ms = now_ms()
  let stood = ''
  let stood_ms = now_ms()
  const doubt = new Set<string>()
  const out = new Set<Witness>()
  const missed = new Map<Witness, number>()
  while (rest.length > 0) {
    const asked = here.filter((w) => w.lost === undefined && !out.has(w))
    if (asked.length < 2) break
    // nobody brings them together
    const last = now_ms() - since_ms > limits.patience_ms || (looks > limits.free_looks && now_ms() - stood_ms > 2000)
    const wanted = looks > limits.free_looks && !last ? rest.slice(0, most) : rest
    const release =
      looks > limits.free_looks && !last ? await hold(asked, t, wanted, doubt) : (): Promise<void> => Promise.resolve()
    looks++
    if (!release) {
      most = Math.max(1, Math.floor(wanted.length / 2))
      if (now_ms() - stood_ms > 2000) stood_ms = now_ms() // held by somebody: that is not standing still
      await sleep(jitter(50))
      continue
    }
    let open: Map<Witness, Look> | undefined
    try {
      open = await snapshots(asked, t, out, missed, findings)
    } finally {
      await release()
    }
    if (!open) {
      await sleep(jitter(50))
      if (last) break
      continue
    }
    const at = open
    try {
      const points = new Map(wanted.map((n) => [n, pointOf(at, n)]))
      const ready = last ? wanted : wanted.filter((n) => points.get(n)?.length === at.size)
      const now = JSON.stringify(
        [...at.values()].map((l) => [l.star, l.versions.filter(([n]) => n === -1 || wanted.includes(n))]),
      )
      if (now !== stood) [stood, stood_ms] = [now, now_ms()]
      if (ready.length === 0 || (ready.length < wanted.length && rounds > 0 && looks <= limits.free_looks)) {
        await close(at)
        await sleep(jitter(50))
        continue
      }
      rounds++
      // Where nothing is on its way one sum will do, at two thirds of the price; stripes are for what is, and for
      // finding what differs.
      const one = ready.length === GROUPS.length && !last ? await sum(at, t, 'one', out, findings, tell) : undefined
      const alike = one?.size === at.size && new Set([...one.values()].map((s) => s.get(0))).size === 1
      const sums =
        one && alike ? one : await sum(at, t, rest.length === GROUPS.length ? 'each' : ready, out, findings, tell)
      const on = (n: number): Witness[] => (points.get(n) ?? []).filter((w) => sums.has(w))
      const unequal = ready.filter((n) => new Set(on(n).map((w) => sums.get(w)?.get(n) ?? '')).size > 1)
      differences += await locate(at, t, unequal, on, sums, limits, findings)
      for (const n of ready) rows += Math.max(0, ...[...sums.values()].map((s) => countOf(s.get(n))))
      if (last) findings.push(...laggards(at, t, ready, points, doubt))
      const done = new Set(ready)
      rest = rest.filter((n) => !done.has(n))
      most = rest.length
      since_ms = now_ms()
    } catch (error) {
      if (isServersWord(error)) throw error // else that one is lost, and told so; the others are looked at again
    } finally {
      await close(at)
    }
  }
  return { rows, differences, rounds, findings }
}

const countOf = (sums: string | undefined): number => Number(sums?.split(':')[0] ?? 0)
const versionOf = (look: Look, n: number): number =>
  look.versions.find(([s]) => s === (look.pk.length === 0 ? -1 : n))?.[1] ?? 0

/** Those that stand highest on this stripe, and on `*`: comparable with one another. */
function pointOf(open: Looks, n: number): Witness[] {
  const star = Math.max(...[...open.values()].map((l) => Number(l.star)))
  const under = [...open].filter(([, l]) => Number(l.star) === star)
  const version = Math.max(...under.map(([, l]) => versionOf(l, n)))
  return under.filter(([, l]) => versionOf(l, n) === version).map(([w]) => w)
}

function laggards(
  open: Looks,
  t: string,
  groups: readonly number[],
  points: ReadonlyMap<number, Witness[]>,
  doubt: ReadonlySet<string>,
): Finding[] {
  return [...open.keys()].flatMap((w) => {
    const behind = groups.filter((n) => !points.get(n)?.includes(w)).length
    const why = doubt.size > 0 ? `; in doubt meanwhile: ${[...doubt].slice(0, 3).join(', ')}` : ''
    return behind === 0
      ? []
      : [
          {
            kind: 'behind',
            object: t,
            says: `lacks changesets that others have, so ${behind} of 1024 stripes were not compared${why}`,
            replicas: [w.name],
            voices: [],
          },
        ]
  })
}

/** A in shared mode on all of them, or on none. */
async function hold(
  asked: readonly Witness[],
  t: string,
  stripes: readonly number[],
  doubt: Set<string>,
): Promise<(() => Promise<void>) | undefined> {
  const whole = await Promise.all(asked.map((w) => w.pk(t).catch(() => undefined)))
  const granules = (whole.some((pk) => pk?.length === 0) ? [-1] : stripes).map((n) => ({ t, n, w: false }))
  const tried = await Promise.allSettled(asked.map((w) => w.hold(granules, HOLD_ms)))
  const release = async (): Promise<void> => void (await Promise.allSettled(asked.map((w) => w.letGo())))
  doubt.clear()
  for (const r of tried) if (r.status === 'fulfilled' && !r.value.free) r.value.doubt.forEach((gid) => doubt.add(gid))
  if (tried.every((r) => r.status === 'fulfilled' && r.value.free)) return release
  await release()
  return undefined
}

/** undefined: not all could open one now; whoever cannot at all is out, with a finding. */
async function snapshots(
  asked: readonly Witness[],
  t: string,
  out: Set<Witness>,
  missed: Map<Witness, number>,
  findings: Finding[],
): Promise<Map<Witness, Look> | undefined> {
  const open = new Map<Witness, Look>()
  const absent: Witness[] = []
  let again = false
  await Promise.all(
    asked.map(async (w) => {
      try {
        const look = await w.begin(t)
        if (look) open.set(w, look)
        else absent.push(w)
      } catch (error) {
        if (codeOf(error) === '55P03') again = true
        else if (codeOf(error) === '42P01') absent.push(w)
        else unreadable(w, t, error, out, findings)
      }
      if (!open.has(w)) await w.end().catch(() => undefined)
    }),
  )
  for (const w of absent) {
    // made or dropped just now; if it stays so, the schema has told it
    missed.set(w, (missed.get(w) ?? 0) + 1)
    if (absent.length === asked.length || (missed.get(w) ?? 0) >= PATIENT_LOOKS) out.add(w)
    else again = true
  }
  if (!again && open.size >= 2) return new Map([...open].sort(([a], [b]) => a.index - b.index))
  await close(open)
  return undefined
}

async function close(open: Looks): Promise<void> {
  await Promise.allSettled([...open.keys()].map((w) => w.end()))
}

function unreadable(w: Witness, t: string, error: unknown, out: Set<Witness>, findings: Finding[]): void {
  out.add(w)
  if (isServersWord(error))
    findings.push({
      kind: 'unreadable',
      object: t,
      says: `cannot be read: ${sentenceOf(error)}`,
      replicas: [w.name],
      voices: [],
    })
}

async function sum(
  open: Looks,
  t: string,
  groups: readonly number[] | 'one' | 'each',
  out: Set<Witness>,
  findings: Finding[],
  tell: (part: number) => void,
): Promise<Map<Witness, Map<number, string>>> {
  const sums = new Map<Witness, Map<number, string>>()
  const all = [...open.values()].reduce((blocks, l) => blocks + l.blocks, 0)
  let done = 0
  await Promise.all(
    [...open].map(async ([w, look]) => {
      try {
        sums.set(
          w,
          await w.sums(t, look, groups, (blocks) => {
            done += blocks
            if (typeof groups === 'string') tell(done / all)
          }),
        )
      } catch (error) {
        unreadable(w, t, error, out, findings)
      }
    }),
  )
  return sums
}

/** The rows of unequal stripes, by key and hash, a bounded number of them at once; returns how many differ. */
async function locate(
  open: Looks,
  t: string,
  unequal: readonly number[],
  on: (n: number) => Witness[],
  sums: ReadonlyMap<Witness, Map<number, string>>,
  limits: Limits,
  findings: Finding[],
): Promise<number> {
  let [found, named, i] = [0, 0, 0]
  while (i < unequal.length && named < limits.rows) {
    const some: number[] = []
    let keys = 0
    do {
      const n = unequal[i++] ?? 0
      some.push(n)
      keys += Math.max(...on(n).map((w) => countOf(sums.get(w)?.get(n))))
    } while (i < unequal.length && keys < MOST_KEYS)
    const parties = new Set(some.flatMap(on))
    const hashes = new Map<Witness, Map<string, [number, string]>>()
    await Promise.all([...parties].map(async (w) => hashes.set(w, await w.rows(t, open.get(w)!, some))))
    const odd = new Map<string, number>()
    for (const w of parties) {
      for (const [key, [n, h]] of hashes.get(w) ?? [])
        if (on(n).some((o) => hashes.get(o)?.get(key)?.[1] !== h)) odd.set(key, n)
    }
    const chosen_few = [...odd].sort(([a], [b]) => (a < b ? -1 : 1)).slice(0, limits.rows - named)
    found += odd.size
    named += chosen_few.length
    const texts = new Map<Witness, RowText[]>()
    await Promise.all(
      [...parties].map(async (w) =>
        texts.set(
          w,
          await w.texts(
            t,
            open.get(w)!,
            chosen_few.map(([key]) => key),
          ),
        ),
      ),
    )
    for (const [key, n] of chosen_few)
      findings.push(
        describe(
          t,
          key,
          n,
          new Map(
            on(n).map((w) => [w, { look: open.get(w)!, rows: (texts.get(w) ?? []).filter((r) => r.key === key) }]),
          ),
          limits,
        ),
      )
  }
  if (found > named || i < unequal.length)
    findings.push({
      kind: 'more rows',
      object: t,
      says: `differ too: ${found - named}${
        i < unequal.length ? `, and what is in ${unequal.length - i} of 1024 stripes that were not looked into` : ''
      }; --rows names more`,
      replicas: [],
      voices: [],
    })
  return found
}

function describe(
  t: string,
  key: string,
  n: number,
  says: ReadonlyMap<Witness, { look: Look; rows: RowText[] }>,
  limits: Limits,
): Finding {
  const {
    look: { pk },
  } = [...says.values()][0]!
  const text = (rows: readonly RowText[]): string | null =>
    rows.length === 0
      ? null
      : rows
          .map((r) => r.text)
          .sort()
          .join('\n')
  const values = new Map([...says].map(([w, s]) => [w.name, text(s.rows)]))
  const voices = voicesOf(values)
  const odd = judge('row', t, values, limits.members, 'another one') ?? {
    kind: 'row',
    object: t,
    says: 'differs',
    replicas: [],
    voices,
  }
  const single = [...says].filter(([, s]) => s.rows.length === 1)
  const names = single[0]?.[1].look.columns ?? []
  const columns = names.flatMap((column, i) => {
    const each = voicesOf(new Map(single.map(([w, s]) => [w.name, s.rows[0]?.values[i] ?? null])))
    return each.length > 1 ? [{ column, voices: each }] : []
  })
  const parts = elements(key)
  return {
    ...odd,
    key:
      pk.length === 0
        ? ([...says.values()].flatMap((s) => s.rows)[0]?.text ?? key)
        : pk.map((c, i) => `${c}=${parts[i]}`).join(', '),
    ...(columns.length > 0 ? { columns } : {}),
    ...(pk.length > 0 && chosen(voices, limits.members) ? { cure: { key: parts, n } } : {}),
  }
}
