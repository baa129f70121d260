/**
 * From a complete copy to a voting member (docs/protocol.md, section 8; docs/decisions/0005). The copy is caught up
 * like any laggard; then a transaction under `*` is committed by a majority of the OTHERS, so that nothing is left
 * in flight that may still count a vote which this member has forgotten; and only when it holds that transaction
 * itself does it take part again.
 */
import type { Replica } from '../replica/replica.ts'
import { now_ms, sleep } from '../runtime.ts'
import type { Cluster } from '../transaction/cluster.ts'
import { catchUp, type CatchUpOptions } from './catch-up.ts'

export interface JoinSite {
  /** The cluster as every driver sees it: the target is refused there, since it is being built. */
  readonly cluster: Cluster
  /** The target by itself. */
  readonly target: Replica
  /** Commits a transaction under `*` whose changeset bears this note. */
  barrier(note: string): Promise<void>
  /** Has the target committed the changeset with this note? */
  has(note: string): Promise<boolean>
  /** The target becomes a voting member, durably. */
  admit(): Promise<void>
}
/** How long the others may take to end what the barrier has left them with. */
const PATIENCE_MS = 60_000

/** Returns how many changesets were brought over. */
export async function join(site: JoinSite, note: string, options: CatchUpOptions = {}): Promise<number> {
  let brought = 0
  const level = async (): Promise<void> => {
    const before = brought
    brought =
      before +
      (await catchUp(site.cluster, site.target, {
        ...options,
        to: 'in step',
        onProgress: (n) => options.onProgress?.(before + n),
      }))
  }
  await level()
  await site.barrier(note)
  const from = now_ms()
  for (;;) {
    await level()
    if (await site.has(note)) break
    if (now_ms() - from > PATIENCE_MS)
      throw new Error(
        `${site.target.name} did not get the transaction that lets it join within ${PATIENCE_MS / 1000} s; ` +
          'repeat the command',
      )
    await sleep(site.cluster.limits.pulse_ms)
  }
  await site.admit()
  return brought
}
