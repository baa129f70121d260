/**
 * Bringing a lagging replica forward (docs/protocol.md, section 8): what a member that is ahead has beyond our versions, in its order, each
 * changeset seen on a majority or else agreed on by a ballot first; the chains are compared at the end. Resumable at any point: every
 * changeset is its own commit, and the target's versions say where to go on.
 */
import { sentenceOf } from '../errors.ts'
import type { Changeset, Replica } from '../replica/replica.ts'
import { jitter, sleep } from '../runtime.ts'
import type { Cluster } from '../transaction/cluster.ts'
import { findChangeset, resolve } from './resolve.ts'

export interface Progress { readonly brought: number; readonly source: string }
/** Changesets asked for at once, and sent in one message: short enough that a writer who waits for one waits for little. */
const BATCH = 200
const MESSAGE = 20

/** Returns how many changesets this call brought over. avoid: gids that the caller itself is about to decide. */
export async function catchUp(cluster: Cluster, target: Replica, avoid: ReadonlySet<string> = new Set(), onProgress?: (p: Progress) => void): Promise<number> {
  let brought = 0
  for (;;) {
    let moved = 0
    let yielded = false
    const failures: string[] = []
    for (const source of cluster.replicas) {
      if (source === target || cluster.suspects.has(source)) continue
      try {
        const gids = (await source.beyond(await target.versions(), BATCH)).filter((g) => !avoid.has(g))
        if (gids.length === 0) continue
        const proven = await seenOnMajority(cluster, gids)
        for (const gid of gids) {
          if (proven.has(gid)) continue
          const outcome = await resolve(cluster, gid)
          if (outcome !== 'commit') throw new Error(`${gid} is committed on ${source.name}, but ${typeof outcome === 'string' ? 'was aborted elsewhere: the replicas have diverged' : outcome.unknown}`)
        }
        const changesets = new Map((await source.changesets(gids)).map((c) => [c.gid, c]))
        for (let i = 0; i < gids.length; i += MESSAGE) {
          const some = gids.slice(i, i + MESSAGE)
          const fresh = await bring(cluster, target, some, changesets)
          moved += fresh
          onProgress?.({ brought: brought + moved, source: source.name })
          if (some.length === MESSAGE && fresh < MESSAGE / 2) { // another driver brings the same: it shall have the target to itself, as long as it does
            yielded = true
            await sleep(jitter(cluster.limits.pulse_ms))
            break
          }
        }
      } catch (error) {
        failures.push(`${source.name}: ${sentenceOf(error)}`)
      }
    }
    brought += moved
    if (moved === 0 && !yielded) {
      if (failures.length > 0) throw new Error(`catch-up of ${target.name} stopped: ${failures.join('; ')}`)
      await compareChains(cluster, target)
      cluster.lagging.delete(target)
      return brought
    }
  }
}

async function seenOnMajority(cluster: Cluster, gids: readonly string[]): Promise<Set<string>> {
  const count = new Map<string, number>()
  await Promise.all(cluster.replicas.filter((r) => !cluster.suspects.has(r)).map(async (r) => {
    for (const gid of await r.present(gids).catch(() => [])) count.set(gid, (count.get(gid) ?? 0) + 1)
  }))
  return new Set(gids.filter((g) => (count.get(g) ?? 0) >= cluster.needed))
}

async function bring(cluster: Cluster, target: Replica, gids: readonly string[], changesets: ReadonlyMap<string, Changeset>): Promise<number> {
  const batch: Changeset[] = []
  for (const gid of gids) {
    const changeset = changesets.get(gid) ?? (await findChangeset(cluster, gid))
    if (!changeset) throw new Error(`no replica holds the changeset of ${gid} any more: ${target.name} needs a clone`)
    batch.push(changeset)
  }
  try {
    return await target.replay(batch)
  } catch (error) {
    // One of them may be prepared there, which replay cannot pass: its decision is commit, so finish it, and go on.
    const evidence = await Promise.all(gids.map((g) => target.evidence(g)))
    const prepared = gids.filter((_, i) => evidence[i]?.prepared)
    if (prepared.length === 0) throw error
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

async function compareChains(cluster: Cluster, target: Replica): Promise<void> {
  const mine = new Map((await target.versions()).map(([t, n, v, chain]) => [`${t}/${n}/${v}`, chain]))
  for (const other of cluster.replicas) {
    if (other === target || cluster.suspects.has(other)) continue
    for (const [t, n, v, chain] of await other.versions().catch(() => [])) {
      const here = mine.get(`${t}/${n}/${v}`)
      if (here !== undefined && here !== chain) throw new Error(`${target.name} and ${other.name} have different histories of ${t} (stripe ${n}, version ${v}): one of them was restored or changed behind the driver`)
    }
  }
}
