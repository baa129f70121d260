/**
 * Shortening the log (docs/decisions/0006): a member may forget the changeset of a transaction that every member
 * has committed, or, under a policy, one that is too old; whoever lacks that one then needs a clone. That a
 * transaction was committed is forgotten only under a policy, and only when every member has it (docs/decisions/0011).
 * Any driver may do this at any time, in small transactions that no writer waits for; it may be interrupted anywhere.
 */
import { sentenceOf } from '../errors.ts'
import type { Freed, Keep, Replica } from '../replica/replica.ts'
import type { Cluster } from '../transaction/cluster.ts'

export interface Pruned extends Freed {
  readonly replica: string
  /** Among the changesets: not known to be committed everywhere, deleted for the policy's sake. */
  readonly given_up: number
  /** Changesets of transactions that were rolled back more than a day ago. */
  readonly aborted: number
  /** Changesets kept because some member may still need them. */
  readonly needed: number
  /** Transactions of which it is not known any more that they were committed. */
  readonly outcomes: number
  readonly error: string | null
}
export interface PruneReport {
  readonly replicas: Pruned[]
  /** Members that did not say what they have: what they may need is kept. */
  readonly silent: string[]
}

/** Changesets a transaction: some milliseconds of work. */
const BATCH = 500

/** keep: the policy; {} keeps all that a member may need. dry: only counts. */
export async function prune(cluster: Cluster, keep: Keep, dry = false): Promise<PruneReport> {
  const silent = new Map<Replica, unknown>()
  const replicas: Pruned[] = []
  for (const replica of cluster.replicas) replicas.push(await pruneOne(cluster, replica, keep, dry, silent))
  const all = silent.size === 0 && replicas.every((r) => r.error === null)
  const forgotten = all && keep.outcomeDays !== undefined ? await forget(cluster, keep.outcomeDays, dry) : []
  return {
    replicas: replicas.map((r, i) => {
      const { outcomes, bytes, error } = forgotten[i] ?? NOTHING
      return { ...r, outcomes, bytes: r.bytes + bytes, error: r.error ?? error }
    }),
    silent: [...silent.keys()].map((r) => r.name),
  }
}

const NOTHING = { outcomes: 0, bytes: 0, error: null as string | null }

/**
 * Forgets what every member has for good and for so long, and of which nobody has a changeset any more. If a member
 * fails in the middle, or this driver dies, some hundred outcomes stay known on some members, for ever: harmless.
 */
async function forget(cluster: Cluster, days: number, dry: boolean): Promise<(typeof NOTHING)[]> {
  const { replicas } = cluster
  const sums = replicas.map(() => ({ ...NOTHING }))
  for (const [i, lister] of replicas.entries())
    try {
      for (let after = 0; !cluster.closed;) {
        const entries = await lister.log.outcomes(after, days, BATCH)
        const last = entries.at(-1)
        if (!last) break
        after = last[1]
        const gids = entries.map(([gid]) => gid)
        const said = await Promise.all(replicas.map(async (r) => new Set(await r.log.forgettable(gids, days))))
        const everywhere = gids.filter((gid) => said.every((s) => s.has(gid)))
        if (everywhere.length === 0) continue
        for (const [k, r] of replicas.entries()) {
          if (dry && r !== lister) continue
          const freed = await r.log.forget(everywhere, dry)
          sums[k]!.outcomes += freed.outcomes
          sums[k]!.bytes += freed.bytes
        }
      }
    } catch (error) {
      sums[i]!.error = sentenceOf(error)
    }
  return sums
}

async function pruneOne(
  cluster: Cluster,
  replica: Replica,
  keep: Keep,
  dry: boolean,
  silent: Map<Replica, unknown>,
): Promise<Pruned> {
  const sum = { changesets: 0, history: 0, bytes: 0, given_up: 0, aborted: 0, needed: 0 }
  const add = (f: Freed): void => {
    sum.changesets += f.changesets
    sum.history += f.history
    sum.bytes += f.bytes
  }
  try {
    const limit = await replica.log.limit(keep)
    for (let after = 0; !cluster.closed;) {
      const entries = await replica.log.entries(after, BATCH)
      const last = entries.at(-1)
      if (!last) break
      after = last[1]
      const everywhere = await committedElsewhere(
        cluster,
        replica,
        entries.map(([gid]) => gid),
        silent,
      )
      const some = entries.filter(([gid, place]) => place <= limit || everywhere.has(gid))
      if (some.length > 0)
        add(
          await replica.log.prune(
            some.map(([gid]) => gid),
            dry,
          ),
        )
      sum.given_up += some.filter(([gid]) => !everywhere.has(gid)).length
      sum.needed += entries.length - some.length
    }
    for (let more = true; more && !cluster.closed;) {
      const freed = await replica.log.pruneAborted(BATCH, dry)
      add(freed)
      sum.aborted += freed.changesets
      more = !dry && freed.changesets === BATCH
    }
    return { replica: replica.name, ...sum, outcomes: 0, error: null }
  } catch (error) {
    return { replica: replica.name, ...sum, outcomes: 0, error: sentenceOf(error) }
  }
}

/** A member that does not answer has nothing, as far as we know; it is not asked again in this run. */
async function committedElsewhere(
  cluster: Cluster,
  replica: Replica,
  gids: readonly string[],
  silent: Map<Replica, unknown>,
): Promise<Set<string>> {
  const answers = await Promise.all(
    cluster.replicas
      .filter((r) => r !== replica)
      .map(async (other) => {
        if (silent.has(other)) return []
        return other.log.committed(gids).catch((error: unknown) => {
          silent.set(other, error)
          return []
        })
      }),
  )
  const [first = gids, ...rest] = answers.map((a) => new Set(a))
  return new Set([...first].filter((gid) => rest.every((a) => a.has(gid))))
}
