/**
 * What `resolve` and `catch-up` share: the cluster as a survey found it, and the transactions in doubt there, each
 * once, with the replicas where it is prepared. One whose owner lives and that is younger than the grace time is
 * its owner's business.
 */
import { majority } from '../protocol/quorum.ts'
import { wire } from '../pool/connect.ts'
import { noQuorum } from '../errors.ts'
import { resolve, type Resolution } from '../repair/resolve.ts'
import type { Cluster } from '../transaction/cluster.ts'
import type { Survey } from './survey.ts'

export interface Doubtful {
  readonly gid: string
  readonly age_ms: number
  readonly owner_alive: boolean
  readonly prepared_on: string[]
}

/** Runs `work` on the members that the survey saw, and closes the cluster whatever happens. */
export async function withCluster<T>(
  urls: readonly string[],
  found: Survey,
  work: (cluster: Cluster) => Promise<T>,
): Promise<T> {
  if (!found.writable) {
    const why = found.replicas
      .filter((r) => r.error !== null)
      .map((r) => `${r.name}: ${r.error}`)
      .join('; ')
    throw noQuorum(
      `${found.usable} of ${found.replicas.length} replicas can be used, ${majority(found.replicas.length)} are needed (${why})`,
    )
  }
  const { cluster } = wire({ replicas: urls })
  if (found.cluster !== null) cluster.name = found.cluster
  for (const [i, r] of found.replicas.entries()) {
    const replica = cluster.replicas[i]
    if (replica && r.state !== 'current' && r.state !== 'behind')
      cluster.suspect(replica, new Error(r.error ?? r.state))
  }
  try {
    return await work(cluster)
  } finally {
    await cluster.close()
  }
}

/** Oldest first. */
export function doubtsOf(found: Survey): Doubtful[] {
  const all = new Map<string, Doubtful>()
  for (const r of found.replicas) {
    for (const d of r.doubt) {
      const known = all.get(d.gid)
      all.set(d.gid, {
        gid: d.gid,
        age_ms: Math.max(d.age_ms, known?.age_ms ?? 0),
        owner_alive: d.owner_alive || (known?.owner_alive ?? false),
        prepared_on: [...(known?.prepared_on ?? []), r.name],
      })
    }
  }
  return [...all.values()].sort((a, b) => b.age_ms - a.age_ms)
}

/** The sweep's rule: nobody takes a young transaction from an owner that lives. */
export const isOrphan = (d: Doubtful, grace_ms: number): boolean => !d.owner_alive || d.age_ms > grace_ms

export interface Finished extends Doubtful {
  readonly resolution: Resolution | 'left'
}

export async function finishDoubts(
  cluster: Cluster,
  doubts: readonly Doubtful[],
  tell: (f: Finished) => void = () => undefined,
): Promise<Finished[]> {
  const done: Finished[] = []
  for (const d of doubts) {
    const resolution: Finished['resolution'] = isOrphan(d, cluster.limits.grace_ms)
      ? await resolve(cluster, d.gid)
      : 'left'
    const finished: Finished = { ...d, resolution }
    done.push(finished)
    tell(finished)
  }
  return done
}
