/**
 * From seal to told (docs/protocol.md, section 4, steps 6 to 8). Accept on all followers at once, but on none
 * before W − 1 can be reached: what nobody was asked is certainly not committed. With W − 1 yeses the lead commits,
 * last and in one phase; fewer, and no longer possible: the lead lets go, and the transaction is resolved as anyone
 * would resolve it. Every accept that was sent has an owner until that follower is committed or rolled back,
 * however late it answers.
 */
import { conflict, QuorumError, sentenceOf, unknownOutcome } from '../errors.ts'
import type { Decision } from '../protocol/decision.ts'
import { tally } from '../protocol/quorum.ts'
import { OWNER, type AcceptReply, type Changeset, type Replica, type Session } from '../replica/replica.ts'
import { resolve } from '../repair/resolve.ts'
import { sleep, step } from '../runtime.ts'
import type { Cluster } from './cluster.ts'
import { WORD_MS } from './hold.ts'

/** The lead's part, kept by the client that owns the connection. */
export interface Lead {
  readonly replica: Replica
  /** COMMIT in one phase: 'yes' by its tag, 'no' by the server's word, 'silent' otherwise. */
  commit(): Promise<{ answer: 'yes' } | { answer: 'no' | 'silent'; error: unknown }>
  /** Ends the transaction without commit, the connection if need be. */
  abandon(): Promise<void>
}

interface Follower {
  readonly replica: Replica
  readonly session: Session | undefined
  reply: AcceptReply | undefined
}

/** Resolves when the transaction is committed, rejects with a typed error otherwise. */
export async function commit(
  cluster: Cluster,
  lead: Lead,
  changeset: Changeset,
  write: number,
  sessionFor: (replica: Replica) => Promise<Session>,
): Promise<void> {
  const { gid } = changeset
  cluster.live.add(gid)
  let decision: Decision | undefined
  let decided: (d: Decision | undefined) => void = () => undefined
  /** undefined: given up undecided. What is prepared then stays so, and belongs to the sweep of any driver. */
  const whenDecided = new Promise<Decision | undefined>((r) => (decided = r))
  const decide = (d: Decision): void => {
    decision = d
    decided(d)
  }
  const followers: Follower[] = []
  let change = Promise.resolve()
  let changed: () => void = () => undefined
  const again = (): void => {
    changed()
    change = new Promise<void>((r) => (changed = r))
  }
  again()

  const others = cluster.replicas.filter((r) => r !== lead.replica)
  let [open, closed] = [0, 0]
  let sent = false
  let reached: (enough: boolean) => void = () => undefined
  const reachable = new Promise<boolean>((r) => (reached = r))
  const look = (): void => {
    const state = tally(write - 1, open, others.length - open - closed)
    if (state !== 'pending') reached(state === 'won')
  }

  const send = async (replica: Replica): Promise<void> => {
    let session: Session | undefined
    let reply: AcceptReply
    try {
      session = await sessionFor(replica)
      open++
      look()
      if (await reachable) {
        sent = true
        reply = await session.accept(changeset, OWNER)
      } else
        reply = { answer: 'no', why: 'unasked', error: new Error('not asked, since too few others can be reached') }
    } catch (error) {
      closed++
      look()
      reply = { answer: 'no', why: 'unreachable', error } // never sent
    }
    const follower: Follower = { replica, session, reply }
    followers.push(follower)
    // The lead's seal stood at what the lead had: who is ahead of it has what the lead lacks.
    const laggard =
      reply.answer !== 'no'
        ? undefined
        : reply.why === 'behind'
          ? replica
          : reply.why === 'ahead'
            ? lead.replica
            : undefined
    if (laggard && !cluster.lagging.has(laggard)) {
      cluster.lagging.add(laggard)
      cluster.hurry(laggard) // it is brought forward at its next pulse
    }
    if (reply.answer === 'silent') cluster.suspect(replica, reply.error)
    again()
    await finishFollower(cluster, gid, follower, await whenDecided)
  }
  let tended = 1 + others.length
  const tendedTo = (): void => {
    if (--tended === 0) cluster.live.delete(gid)
  }
  look()
  for (const replica of others) cluster.background(send(replica).finally(tendedTo))
  if (await reachable) await step('accept-sent', gid)

  // Once a member has refused it, one that is suspected is not waited for: it is resolved, which asks whoever is there.
  const due = (): number => {
    const unheard = others.filter((r) => !followers.some((f) => f.replica === r))
    const refused = followers.some((f) => f.reply?.answer === 'no' && f.reply.why !== 'unreachable')
    return (refused ? unheard.filter((r) => !cluster.suspects.has(r)) : unheard).length
  }
  const count = (): 'won' | 'lost' | 'pending' =>
    tally(write - 1, followers.filter((f) => f.reply?.answer === 'yes').length, due())
  const forget = cluster.onSuspicion(again)
  while (count() === 'pending') await change
  forget()
  /** All others, or so long. */
  const heard = async (ms: number): Promise<void> => {
    const word = sleep(ms).then(() => true)
    for (let over = false; !over && followers.length < others.length;)
      over = await Promise.race([word, change.then(() => false)])
  }

  let untold = true
  try {
    let leadError: unknown
    if (count() === 'won') {
      await step('accepted', gid)
      await step('lead-committing', gid)
      untold = false
      const reply = await lead.commit()
      if (reply.answer === 'yes') {
        await step('lead-committed', gid)
        decide('commit')
        return
      }
      leadError = reply.error
      await lead.abandon()
    } else {
      await lead.abandon()
      // A definite abort needs a definite no from everyone: one that has not answered may still say yes, and be
      // adopted by a resolver.
      if (!sent) await heard(WORD_MS)
      if (!sent || (followers.length === others.length && followers.every((f) => f.reply?.answer === 'no'))) {
        decide('abort')
        throw refusal(cluster, write, followers, gid)
      }
    }
    const outcome = await resolve(cluster, gid, changeset, undefined, untold)
    if (outcome === 'commit') {
      decide('commit')
      return
    }
    if (outcome === 'abort') {
      decide('abort')
      throw refusal(cluster, write, followers, gid, leadError)
    }
    throw unknownOutcome(`the outcome of ${gid} is not known yet: ${outcome.unknown}`, gid, leadError)
  } finally {
    tendedTo()
    if (decision === undefined)
      cluster.background(
        resolve(cluster, gid, changeset, 60_000, untold).then(
          (d) => decided(typeof d === 'string' ? d : undefined),
          () => decided(undefined),
        ),
      )
    await step('told', gid)
  }
}

async function finishFollower(
  cluster: Cluster,
  gid: string,
  follower: Follower,
  decision: Decision | undefined,
): Promise<void> {
  const { session, reply } = follower
  if (!session) return
  try {
    if (reply?.answer === 'yes' && decision) await session.finish(gid, decision)
    session.release(reply?.answer === 'silent')
  } catch {
    session.release(true)
    // Not forgotten: it stays prepared there, and the sweep of any driver ends it when the member answers again.
    cluster.suspect(follower.replica, reply)
  }
}

function refusal(
  cluster: Cluster,
  write: number,
  followers: readonly Follower[],
  gid: string,
  leadError?: unknown,
): QuorumError {
  const differs = followers.map((f) => f.reply).find((r) => r?.answer === 'no' && r.why === 'differs')
  if (differs?.answer === 'no')
    return new QuorumError(`not committed: ${sentenceOf(differs.error)}`, {
      code: '0A000',
      outcome: 'not-committed',
      retryable: false,
      gid,
      cause: differs.error,
      hint:
        'Rows that a statement makes differently on each server (random(), now()) cannot come from DDL: ' +
        'create the table first, then INSERT. ' +
        'Without DDL, run `pg-quorum status`: a replica was changed behind the driver.',
    })
  const own = followers.map((f) => f.reply).find((r) => r?.answer === 'no' && r.why === 'refused')
  if (own && own.answer === 'no') {
    const error = conflict(`refused by a replica: ${sentenceOf(own.error)}`, gid, own.error)
    return error
  }
  const away = followers.filter(
    (f) => f.reply?.answer === 'silent' || (f.reply?.answer === 'no' && f.reply.why === 'unreachable'),
  )
  const members = cluster.replicas.length
  if (
    (write > cluster.needed || followers.some((f) => f.reply?.answer === 'no' && f.reply.why === 'unasked')) &&
    members - away.length < write
  ) {
    return new QuorumError(
      `not committed: the dial asks for ${write} of ${members} replicas at each write, ` +
        `and ${away.map((f) => f.replica.name).join(' and ')} did not answer. ` +
        `Bring ${away.length > 1 ? 'them' : 'it'} back${
          write > cluster.needed
            ? ', or turn the dial (pg-quorum dial majority; ' +
              `with --lost if ${away.length > 1 ? 'they are' : 'it is'} destroyed)`
            : ''
        }`,
      { code: '08001', outcome: 'not-committed', retryable: true, gid, cause: leadError },
    )
  }
  const why = followers.map(
    (f) =>
      `${f.replica.name}: ${
        f.reply?.answer === 'no'
          ? `${f.reply.why} (${sentenceOf(f.reply.error)})`
          : f.reply?.answer === 'yes'
            ? 'accepted, then rolled back'
            : 'no answer'
      }`,
  )
  if (leadError !== undefined) why.push(`lead: ${sentenceOf(leadError)}`)
  return conflict(`not committed: too few replicas accepted the changes. ${why.join('; ')}`, gid, leadError)
}
