/**
 * The seal, as its transaction asks for it (docs/protocol.md, section 4, step 5, (f) and (p)): what the lead's own
 * answer leaves open is settled here. Nothing was sent to anybody yet, so whatever fails is certainly not
 * committed.
 */
import { conflict, leadLost, QuorumError } from '../errors.ts'
import { baseOf } from '../protocol/changeset.ts'
import type { BaseEntry } from '../protocol/locks.ts'
import type { LeadSession, Sealed } from '../replica/replica.ts'
import { isConflict, isServersWord } from '../replica/sqlstate.ts'
import { within } from '../runtime.ts'
import type { Cluster } from './cluster.ts'

export interface Rests {
  /** Asked again when the lead has answered: in a flight, the base comes with it. */
  base(): readonly BaseEntry[]
  /** The base has been left on the lead. */
  readonly kept: boolean
  /** What was read beyond the texts is a conflict. */
  readonly inferring: boolean
  /** All that was read is in the texts, so the lead need not look. */
  readonly told: boolean
  /** Each statement saw the latest commits. */
  readonly latest: boolean
  /** Everything's version at which tables were taken for what they are. */
  readonly plainAt: number | undefined
  /** W. */
  readonly write: number
}

export async function seal(cluster: Cluster, lead: LeadSession, rests: Rests): Promise<Sealed> {
  const { kept, inferring, told, latest, plainAt, write } = rests
  const { call_ms, changeset_bytes } = cluster.limits
  try {
    // Two writers that sealed half of each other's locks would wait for ever; a plain conflict is better.
    const sealed = await within<Sealed>(
      2 * call_ms,
      lead.seal(
        cluster.prefix(),
        kept ? undefined : rests.base(),
        inferring && !told,
        latest,
        call_ms / 2,
        changeset_bytes,
        write,
      ),
    )
    // Who wrote nothing rests on everything's version by what it read.
    if (sealed.state === 'clean' && told && rests.base().find((e) => e.t === '*')?.v !== plainAt)
      return await seal(cluster, lead, { ...rests, told: false })
    if (sealed.state !== 'sealed') return sealed
    if (
      plainAt !== undefined &&
      (sealed.everything ?? baseOf(sealed.body ?? '').find((e) => e.t === '*')?.v) !== plainAt
    ) {
      // a table is another than was thought
      lead.forget()
      return { state: 'stale' }
    }
    return (sealed.fresh ?? latest) || !(await moved(lead, sealed, rests.base())) ? sealed : { state: 'stale' }
  } catch (error) {
    if (isServersWord(error)) {
      if (isConflict(error.code ?? ''))
        throw conflict(`another transaction holds what this one wants to commit: ${error.message}`, undefined, error)
      if (error.code === '54000')
        throw new QuorumError(error.message, {
          code: '54000',
          outcome: 'not-committed',
          retryable: false,
          cause: error,
          hint: 'Change the rows in several transactions, or raise maxChangesetBytes; docs/guarantees.md says what that costs.',
        })
      throw error // a deferred constraint of the user's: his own error
    }
    if (error instanceof QuorumError) throw error
    cluster.suspect(lead.replica(), error)
    lead.destroy()
    throw leadLost(
      `the lead ${lead.replica().name} was lost before anything was sent to the others: nothing was committed`,
      error,
    )
  }
}

/**
 * Under REPEATABLE READ and above the lead's own snapshot is too old to see; another session on the same member is
 * not.
 */
async function moved(lead: LeadSession, sealed: Sealed, base: readonly BaseEntry[]): Promise<boolean> {
  const replica = lead.replica()
  return (
    (await replica.against(baseOf(sealed.body ?? ''))) !== 'same' ||
    (await replica.against(base.map((e) => ({ ...e, w: false })))) !== 'same'
  )
}
