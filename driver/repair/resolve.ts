/**
 * Deciding for others (docs/protocol.md, section 7). Each gid is one Paxos instance over {commit, abort}; ballot 0
 * is the owner's. Read first (shortcuts), then promise on a majority, choose, accept on a majority, finish
 * everywhere. Any driver may do this for any gid, at any time, and several at once: the ballots keep the decision
 * single.
 */
import { sentenceOf } from '../errors.ts'
import { choose, decide, isForgotten, writeOf, type Decision, type Evidence } from '../protocol/decision.ts'
import type { Ballot, Changeset, PromiseReply, Replica } from '../replica/replica.ts'
import { chance, jitter, now_ms, sleep, step } from '../runtime.ts'
import type { Cluster } from '../transaction/cluster.ts'
import { catchUp } from './catch-up.ts'

export type Resolution = Decision | { readonly unknown: string }
const running = new WeakMap<Cluster, Map<string, Promise<Resolution>>>()

/**
 * One resolver per gid in this process; more would only duel. untold: the caller is the owner, and never told its
 * lead to commit.
 */
export function resolve(
  cluster: Cluster,
  gid: string,
  copy?: Changeset,
  patience_ms = 5000,
  untold = false,
): Promise<Resolution> {
  let mine = running.get(cluster)
  if (!mine) running.set(cluster, (mine = new Map()))
  const already = mine.get(gid)
  if (already) return already
  const work = run(cluster, gid, copy, patience_ms, untold).finally(() => mine.delete(gid))
  mine.set(gid, work)
  return work
}

async function run(
  cluster: Cluster,
  gid: string,
  copy: Changeset | undefined,
  patience_ms: number,
  untold: boolean,
): Promise<Resolution> {
  const deadline = now_ms() + patience_ms
  let round = 0
  let obstacle = ''
  await step('resolving', gid)
  do {
    if (round > 0) await sleep(jitter(Math.min(20 * 2 ** round, 500)))
    const { answers, failures } = await ask(
      cluster,
      (r) => r.evidence(gid),
      (seen) => seen.size >= cluster.needed,
    )
    obstacle =
      `${answers.size} of ${cluster.replicas.length} replicas answered, ` +
      `${cluster.needed} are needed${failures.length > 0 ? ` (${failures.join('; ')})` : ''}`
    if (isForgotten([...answers.values()]))
      return { unknown: 'it is so old that its outcome may have been forgotten (keep.outcomeDays)' }
    let decision = decide([...answers.values()])
    if (!decision && answers.size >= cluster.needed) {
      try {
        decision = await ballot(cluster, gid, copy, [...answers.values()], round, untold)
      } catch (error) {
        obstacle = sentenceOf(error)
      }
    }
    if (decision) {
      await step('decided', gid)
      await finishAll(cluster, gid, decision, answers)
      return decision
    }
    round++
  } while (now_ms() < deadline && !cluster.closed)
  return { unknown: obstacle }
}

/**
 * How long the rest may still take once enough have answered. Their answers help to see more; nothing depends on
 * them.
 */
const GRACE_MS = 50
/** How long suspects may still take when nobody else owes an answer, and it takes theirs. */
const SUSPECTS_MS = 300
interface Asked<T> {
  readonly answers: Map<Replica, T>
  readonly failures: string[]
}

/** Asks every member; done when all have answered, or a little after enough have, or only suspects are left. */
function ask<T>(
  cluster: Cluster,
  question: (replica: Replica) => Promise<T>,
  enough: (answers: ReadonlyMap<Replica, T>) => boolean,
): Promise<Asked<T>> {
  return new Promise((done) => {
    const asked: Asked<T> = { answers: new Map<Replica, T>(), failures: [] }
    // A copy: who answers later must not change what was concluded from these.
    const end = (): void => {
      forget()
      done({ answers: new Map(asked.answers), failures: [...asked.failures] })
    }
    const open = new Set(cluster.replicas)
    let closing = false
    const judge = (): void => {
      const suspects = [...open].every((r) => cluster.suspects.has(r)) // true of none
      if (open.size === 0 || (suspects && enough(asked.answers))) end()
      else if (suspects) void sleep(SUSPECTS_MS).then(end)
      else if (!closing && enough(asked.answers)) {
        closing = true
        void sleep(GRACE_MS).then(end)
      }
    }
    const forget = cluster.onSuspicion(judge)
    for (const replica of cluster.replicas) {
      void question(replica)
        .then(
          (a) => asked.answers.set(replica, a),
          (error: unknown) => asked.failures.push(`${replica.name}: ${sentenceOf(error)}`),
        )
        .then(() => {
          open.delete(replica)
          judge()
        })
    }
  })
}

async function ballot(
  cluster: Cluster,
  gid: string,
  copy: Changeset | undefined,
  seen: readonly Evidence[],
  round: number,
  untold: boolean,
): Promise<Decision | undefined> {
  // Above everything seen; the low digits are chance, so that no two resolvers ever share a number. (Below 2^53: 33
  // million rounds.)
  const highest = Math.max(0, ...seen.map((e) => Math.floor(e.promised / 2 ** 28)))
  const mine: Ballot = {
    number: (highest + 1 + (round > 2 ? chance(3) : 0)) * 2 ** 28 + chance(2 ** 28),
    by: cluster.owner,
  }
  const yeses = (said: ReadonlyMap<Replica, PromiseReply>): number => [...said.values()].filter((a) => a.yes).length
  const { answers } = await ask(
    cluster,
    (r) => r.promise(gid, mine, null),
    (said) => yeses(said) >= cluster.needed,
  )
  const known = decide([...answers.values()])
  if (known) return known
  const promised = [...answers].filter(([, a]) => a.yes)
  if (promised.length < cluster.needed) {
    const busy = [...answers.values()].filter((a) => a.busy).length
    throw new Error(
      `${promised.length} of ${cluster.replicas.length} replicas promised, ` +
        `${cluster.needed} are needed${busy > 0 ? `; on ${busy} an accept or the lead's session is still open` : ''}`,
    )
  }
  await step('promised', gid)
  const said = promised.map(([, a]) => a)
  const choice = choose(said, cluster.replicas.length, untold)
  let voters: ReadonlyMap<Replica, PromiseReply> | undefined
  if (choice === 'commit') {
    const W = writeOf(said, cluster.replicas.length)
    // First W prepared copies, then the votes: two that exclude each other can then not both have been voted for
    // (docs/decisions/0004).
    voters = (
      await ask(
        cluster,
        (r) => copyTo(cluster, r, gid, copy, mine),
        (copies) => yeses(copies) >= W,
      )
    ).answers
    const learned = decide([...voters.values()])
    if (learned) return learned
    if (yeses(voters) < W)
      throw new Error(`${yeses(voters)} of ${cluster.replicas.length} replicas could prepare it, ${W} are needed`)
  }
  const { answers: votes } = await ask(
    cluster,
    async (r) => (voters?.get(r) && !voters.get(r)?.yes ? voters.get(r)! : r.promise(gid, mine, choice)),
    (said) => yeses(said) >= cluster.needed,
  )
  const learned = decide([...votes.values()])
  if (learned) return learned
  return yeses(votes) >= cluster.needed ? choice : undefined
}

/**
 * yes: prepared there, under this ballot's promise. In this order a crash in between never looks like an owner's
 * yes.
 */
async function copyTo(
  cluster: Cluster,
  replica: Replica,
  gid: string,
  copy: Changeset | undefined,
  mine: Ballot,
): Promise<PromiseReply> {
  const first = await replica.promise(gid, mine, null)
  if (!first.yes || first.prepared) return first
  const changeset = copy ?? (await findChangeset(cluster, gid))
  if (!changeset) return { ...first, yes: false }
  const session = await replica.open()
  try {
    let reply = await session.accept(changeset, mine)
    if (reply.answer === 'no' && reply.why === 'behind') {
      await catchUp(cluster, replica, { avoid: new Set([gid]) })
      reply = await session.accept(changeset, mine)
    }
    session.release(reply.answer === 'silent')
    return { ...first, yes: reply.answer === 'yes' }
  } catch (error) {
    session.release(true)
    throw error
  }
}

export async function findChangeset(cluster: Cluster, gid: string): Promise<Changeset | undefined> {
  const { answers } = await ask(
    cluster,
    (r) => r.changesets([gid]),
    (seen) => [...seen.values()].some((c) => c.length > 0),
  )
  return [...answers.values()].flat()[0]
}

async function finishAll(
  cluster: Cluster,
  gid: string,
  decision: Decision,
  evidence: ReadonlyMap<Replica, Evidence>,
): Promise<void> {
  await ask(
    cluster,
    async (replica) => {
      if (evidence.get(replica)?.committed) return
      try {
        const session = await replica.open()
        try {
          const done = await session.finish(gid, decision)
          session.release()
          if (decision === 'commit' && !done) cluster.lagging.add(replica)
        } catch (error) {
          session.release(true)
          throw error
        }
      } catch (error) {
        cluster.suspect(replica, error) // still prepared there: the sweep comes back to it
      }
    },
    (done) => done.size >= cluster.needed,
  )
}
