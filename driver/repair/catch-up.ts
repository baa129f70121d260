/**
 * Bringing a lagging replica forward (docs/protocol.md, section 8): what a member that is ahead has beyond our
 * versions, in its order, each changeset seen on a majority or else agreed on by a ballot first; the chains are
 * compared at the end. Resumable at any point: every changeset is its own commit, and the target's versions say
 * where to go on.
 */
import { sentenceOf } from '../errors.ts'
import type { Changeset, Replica } from '../replica/replica.ts'
import { jitter, sleep } from '../runtime.ts'
import type { Cluster } from '../transaction/cluster.ts'
import { whileHeld } from '../transaction/hold.ts'
import { findChangeset, resolve } from './resolve.ts'

export interface CatchUpOptions {
  /** gids that the caller itself is about to decide. */
  readonly avoid?: ReadonlySet<string>
  /**
   * Default: what the others had when it was called. Level: until little is left, although writers go on. In step:
   * their tables stand still for that little as well.
   */
  readonly to?: 'level' | 'in step'
  /** At most so many changesets a second; default: as fast as it goes. */
  readonly rate?: number
  /** Called after each message; how many changesets this call has brought over so far. */
  readonly onProgress?: (brought: number) => void
}
/**
 * Named at once; and read and sent in one message, since a changeset may have megabytes: small ones more at a time,
 * for distant members.
 */
const BATCH = 1000
const MESSAGE = 20
const MOST_IN_MESSAGE = 100
const SMALL_BYTES = 100_000
/** Little enough for writers to stand still. */
const FEW = 100
/** Rounds in which a source or the target failed. */
const MOST_FAILED = 5

/** Returns how many changesets it took. Throws when a source or the target stops it. */
export async function catchUp(cluster: Cluster, target: Replica, options: CatchUpOptions = {}): Promise<number> {
  let brought = 0
  const tell = (n: number): void => {
    brought += n
    options.onProgress?.(brought)
  }
  const job: Job = {
    cluster,
    target,
    to: cluster.unlessSuspected(target),
    rate: options.rate,
    avoid: options.avoid,
    tell,
  }
  let round: Round
  for (let [failed, last] = [0, Infinity]; ;) {
    round = await bringRound(job)
    const nearer = options.to !== undefined && round.moved > FEW && round.moved < last
    last = round.moved
    if (round.more || (nearer && round.failures.length === 0)) continue
    if (round.failures.length === 0) break
    // Not for ever, while writers see to it that each round brings something.
    if (round.moved === 0 || ++failed === MOST_FAILED)
      throw new Error(`catch-up of ${target.name} stopped: ${round.failures.join('; ')}`)
  }
  if (round.found && options.to === 'in step') await takeIntoStep(job)
  await compareChains(job)
  cluster.lagging.delete(target)
  return brought
}

/** Writers may stand still meanwhile: nobody is waited for until a deadline who is suspected before. */
interface Job {
  readonly cluster: Cluster
  readonly target: Replica
  to<T>(work: Promise<T>): Promise<T>
  readonly rate: number | undefined
  readonly avoid: ReadonlySet<string> | undefined
  tell(brought: number): void
}

interface Round {
  readonly found: boolean
  readonly moved: number
  readonly more: boolean
  readonly failures: readonly string[]
}

/** Once over all sources. more: what was beyond at its beginning may not all be here yet. */
async function bringRound({ cluster, target, to, rate, avoid, tell }: Job): Promise<Round> {
  let [found, more, moved] = [false, false, 0]
  const failures: string[] = []
  for (const source of cluster.replicas) {
    if (source === target || cluster.suspects.has(source)) continue
    const from = cluster.unlessSuspected(source)
    try {
      const all = await from(source.beyond(await to(target.versions()), BATCH))
      // What is prepared there is on its way, and no lack: whoever owns it ends it, or the sweep.
      const here = all.length === 0 ? [] : await to(target.present(all))
      const gids = all.filter((g) => !here.includes(g) && !avoid?.has(g))
      if (gids.length === 0) continue
      found = true
      if (all.length === BATCH) more = true
      await prove(cluster, source, gids)
      const read = (some: readonly string[]): Promise<Changeset[]> =>
        some.length > 0 ? from(source.changesets(some)) : Promise.resolve([])
      let coming = gids.slice(0, MESSAGE)
      let next = read(coming)
      for (let i = coming.length; coming.length > 0;) {
        const some = coming
        const changesets = await next
        coming = gids.slice(i, i + (rate === undefined ? nextSize(changesets) : MESSAGE))
        i += coming.length
        next = read(coming) // while these are applied
        next.catch(() => undefined) // told when it is waited for
        const fresh = await to(bring(cluster, source, target, some, new Map(changesets.map((c) => [c.gid, c])), here))
        moved += fresh
        tell(fresh)
        if (some.length >= MESSAGE && fresh < some.length / 2) {
          // another driver brings the same: it shall have the target to itself, as long as it does
          more = true
          await sleep(jitter(cluster.limits.pulse_ms))
          break
        }
        if (rate !== undefined) await sleep((some.length / rate) * 1000)
      }
    } catch (error) {
      // as if it had been one at the beginning
      if (cluster.suspects.has(source) && !cluster.suspects.has(target)) continue
      failures.push(`${source.name}: ${sentenceOf(error)}`)
    }
  }
  return { found, moved, more, failures }
}

const nextSize = (last: readonly Changeset[]): number =>
  last.reduce((bytes, c) => bytes + c.body.length, 0) < SMALL_BYTES
    ? Math.max(MESSAGE, Math.min(2 * last.length, MOST_IN_MESSAGE))
    : MESSAGE

/** Each was seen on a majority, or is agreed on by a ballot now. */
async function prove(cluster: Cluster, source: Replica, gids: readonly string[]): Promise<void> {
  const proven = await seenOnMajority(cluster, gids)
  for (const gid of gids) {
    if (proven.has(gid)) continue
    const outcome = await resolve(cluster, gid)
    if (outcome !== 'commit')
      throw new Error(
        `${gid} is committed on ${source.name}, but ${
          typeof outcome === 'string' ? 'was aborted elsewhere: the replicas have diverged' : outcome.unknown
        }`,
      )
  }
}

/**
 * A stripe that is written without a pause is always one ahead, and each accept of it is refused as behind. So
 * nobody commits on these tables while the last few are brought. Best effort: where a majority without the target
 * cannot be held, it needs no help to vote.
 */
async function takeIntoStep(job: Job): Promise<void> {
  const { cluster, target, to } = job
  const others = cluster.replicas.filter((r) => r !== target && !cluster.suspects.has(r))
  if (others.length < cluster.needed) return
  const here = new Map((await to(target.versions())).map(([t, n, v]) => [`${t}/${n}`, v]))
  const tables = new Set<string>()
  await Promise.all(
    others.map(async (r) => {
      for (const [t, n, v] of await cluster
        .unlessSuspected(r)(r.versions())
        .catch(() => []))
        if ((here.get(`${t}/${n}`) ?? 0) < v) tables.add(t)
    }),
  )
  if (tables.size === 0) return
  await whileHeld(
    cluster,
    [...tables].map((t) => ({ t, w: false, soft: true as const })),
    () => bringRound(job),
    others,
    cluster.needed,
  ).catch(() => undefined)
}

async function seenOnMajority(cluster: Cluster, gids: readonly string[]): Promise<Set<string>> {
  const count = new Map<string, number>()
  await Promise.all(
    cluster.replicas
      .filter((r) => !cluster.suspects.has(r))
      .map(async (r) => {
        for (const gid of await cluster
          .unlessSuspected(r)(r.present(gids))
          .catch(() => []))
          count.set(gid, (count.get(gid) ?? 0) + 1)
      }),
  )
  return new Set(gids.filter((g) => (count.get(g) ?? 0) >= cluster.needed))
}

async function bring(
  cluster: Cluster,
  source: Replica,
  target: Replica,
  gids: readonly string[],
  changesets: ReadonlyMap<string, Changeset>,
  before: readonly string[],
): Promise<number> {
  const batch: Changeset[] = []
  for (const gid of gids) {
    const changeset = changesets.get(gid) ?? (await findChangeset(cluster, gid))
    if (!changeset) throw new Error(`no replica holds the changeset of ${gid} any more: ${target.name} needs a clone`)
    batch.push(changeset)
  }
  try {
    return await target.replay(batch)
  } catch (error) {
    // One of them, or of those before them, may be prepared there, which replay cannot pass: where its decision is
    // commit, finish it, and go on.
    const all = [...before, ...gids]
    const evidence = await Promise.all(all.map((g) => target.evidence(g).catch(() => undefined)))
    const prepared = all.filter((_, i) => evidence[i]?.prepared)
    if (prepared.length === 0) throw error
    await prove(cluster, source, prepared)
    const session = await target.open()
    try {
      for (const gid of prepared) await session.finish(gid, 'commit')
      session.release()
    } catch (failed) {
      session.release(true)
      throw failed
    }
    return await target.replay(batch)
  }
}

async function compareChains({ cluster, target, to }: Job): Promise<void> {
  const mine = new Map((await to(target.versions())).map(([t, n, v, chain]) => [`${t}/${n}/${v}`, chain]))
  for (const other of cluster.replicas) {
    if (other === target || cluster.suspects.has(other)) continue
    for (const [t, n, v, chain] of await cluster
      .unlessSuspected(other)(other.versions())
      .catch(() => [])) {
      const here = mine.get(`${t}/${n}/${v}`)
      if (here !== undefined && here !== chain)
        throw new Error(
          `${target.name} and ${other.name} have different histories of ${t} (stripe ${n}, version ${v}): ` +
            'one of them was restored or changed behind the driver',
        )
    }
  }
}
