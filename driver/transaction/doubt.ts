/**
 * Somebody holds A on what we need: it is in doubt. It ends by itself within milliseconds, or its owner is gone and
 * we end it (docs/protocol.md, section 4).
 */
import type { Doubt } from '../replica/replica.ts'
import { resolve } from '../repair/resolve.ts'
import { sleep } from '../runtime.ts'
import type { Cluster } from './cluster.ts'

/** Whoever holds A: gone owners' transactions are resolved now, the others get a moment. */
export async function endDoubt(cluster: Cluster, doubt: readonly Doubt[]): Promise<void> {
  const orphans = doubt.filter((d) => cluster.orphaned(d))
  await Promise.all(orphans.map((d) => resolve(cluster, d.gid)))
  if (orphans.length === 0) await sleep(2)
}
