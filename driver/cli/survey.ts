/**
 * One look at every server of the list, in parallel, each with its own deadline: who answers, who is a member of
 * what, how far each is, what is in doubt. Looks with open eyes, without the cluster's check: a stranger among the
 * replicas is a finding here, not an error, and the cluster is what most of them say it is, not what the first to
 * answer says.
 */
import type pg from 'pg'
import pTimeout from 'p-timeout'
import { limitsOf, replicaConfigs } from '../config.ts'
import { codeOf, QuorumError } from '../errors.ts'
import type { Versions } from '../protocol/locks.ts'
import { leastRead } from '../protocol/dial.ts'
import { majority } from '../protocol/quorum.ts'
import { nameOf } from '../replica/address.ts'
import { PostgresReplica } from '../replica/postgres.ts'
import type { Doubt, Replica, Self } from '../replica/replica.ts'
import { factsOf, visit, type Facts } from './facts.ts'
import { inWords, UsageError } from './terminal.ts'

/** Only who is current or behind is used; `too-far-behind` is what the others' logs no longer reach back to. */
export type State =
  | 'current'
  | 'behind'
  | 'too-far-behind'
  | 'building'
  | 'recovering'
  | 'diverged'
  | 'unreachable'
  | 'empty'
  | 'foreign'
  | 'copy'
  | 'misconfigured'
export interface Sight {
  readonly name: string
  state: State
  member: number | null
  /** Changesets that others have and this one has neither committed nor prepared. */
  behind: number
  doubt: Doubt[]
  error: string | null
  /** Why it cannot take part in a write although it answers. */
  refuses: string | null
  /** null where it could not be asked. */
  facts: Facts | null
}
export interface Survey {
  readonly cluster: string | null
  readonly replicas: Sight[]
  /** Current or behind; those that are behind are brought up by any driver in use. */
  readonly usable: number
  readonly needed: number
  readonly writable: boolean
  /** Of tables: a strong read asks a majority too. */
  readonly readable: boolean
  /** On how many replicas every write is. */
  readonly write_quorum: number
  /** How many more of them may fail before writes stop. */
  readonly spare: number
  /** Between the slowest and the fastest clock of those that answer. */
  readonly clock_spread_ms: number | null
}
interface Look {
  sight: Sight
  replica: Replica
  config: pg.ClientConfig
  self?: Self
  versions: Versions
}
/** What a replica answers that no longer has the log that it is asked for. */
export const PRUNED = 'QB010'
/** Counting stops here: "at least". */
export const MOST_BEHIND = 10_000

export async function survey(urls: readonly string[]): Promise<Survey> {
  const configs = replicaConfigs({ replicas: urls })
  const limits = limitsOf({})
  const looks = configs.map((config, index): Look => {
    const name = nameOf(config)
    const replica = new PostgresReplica({
      name,
      index,
      config,
      links: 3,
      connectMs: limits.connect_ms,
      callMs: limits.call_ms,
      check: () => undefined,
    })
    return {
      replica,
      config,
      versions: [],
      sight: {
        name,
        state: 'unreachable',
        member: null,
        behind: 0,
        doubt: [],
        error: null,
        refuses: null,
        facts: null,
      },
    }
  })
  const within = <T>(work: Promise<T>, ms = limits.call_ms): Promise<T> => pTimeout(work, { milliseconds: ms })
  const attempt = (look: Look, work: () => Promise<void>): Promise<void> =>
    work().catch((error: unknown) => {
      const empty = error instanceof QuorumError && /is not initialised/.test(error.message)
      look.sight.state = empty
        ? 'empty'
        : error instanceof QuorumError
          ? 'misconfigured'
          : codeOf(error) === '57P03'
            ? 'recovering'
            : 'unreachable'
      look.sight.error = empty ? null : error instanceof QuorumError ? error.message : inWords(error)
    })
  try {
    const facts = looks.map((look) =>
      visit(look.config, limits.connect_ms, factsOf).then(
        (f) => {
          look.sight.facts = f
        },
        () => undefined,
      ),
    )
    await Promise.all([
      ...facts,
      ...looks.map((look) =>
        attempt(look, async () => {
          look.self = await within(look.replica.hello(), limits.connect_ms)
          look.sight.member = look.self.member
          look.sight.state = 'current'
        }),
      ),
    ])
    const cluster = tellMembers(looks)
    looks.forEach(tellFacts)
    for (const { sight } of looks)
      if (sight.state === 'empty')
        sight.error =
          cluster === null
            ? 'not initialised: run `pg-quorum init`'
            : 'nothing of pg-quorum is here: run `pg-quorum clone` for it'
    const answering = (): Look[] => looks.filter((l) => l.sight.state === 'current' || l.sight.state === 'behind')
    await Promise.all(
      answering().map((look) =>
        attempt(look, async () => {
          const session = await within(look.replica.open())
          look.sight.doubt = (await within(session.pulse())).doubt
          session.release()
          look.versions = await within(look.replica.versions())
        }),
      ),
    )
    const members = answering()
    await Promise.all(
      members.map((look) =>
        attempt(look, async () => {
          const missing = new Set<string>()
          const pruned: string[] = []
          await Promise.all(
            members
              .filter((o) => o !== look)
              .map((o) =>
                within(o.replica.beyond(look.versions, MOST_BEHIND)).then(
                  (gids) => gids.forEach((g) => missing.add(g)),
                  (error: unknown) => {
                    if (codeOf(error) === PRUNED) pruned.push(o.sight.name.split('/')[0] ?? '')
                  },
                ),
              ),
          )
          if (pruned.length > 0 && missing.size === 0) {
            look.sight.state = 'too-far-behind'
            look.sight.error =
              `the log of ${pruned.join(' and ')} no longer reaches back to it; it needs a clone` +
              `${members.length < looks.length ? ', unless one that is not usable now still has the log' : ''}`
            return
          }
          // prepared here, or here by now
          if (missing.size > 0) (await within(look.replica.present([...missing]))).forEach((g) => missing.delete(g))
          look.sight.behind = missing.size
          if (missing.size > 0) look.sight.state = 'behind'
        }),
      ),
    )
    tellDiverged(members)
    const usable = answering().length
    const writers = answering().filter((l) => l.sight.refuses === null).length
    const write_quorum = Math.max(majority(looks.length), ...answering().map((l) => l.self?.write ?? 0))
    const needed = write_quorum
    const clocks = looks.flatMap((l) => l.sight.facts?.clock_offset_ms ?? [])
    return {
      cluster,
      replicas: looks.map((l) => l.sight),
      usable,
      needed,
      write_quorum,
      writable: writers >= needed,
      readable: usable >= Math.min(majority(looks.length), leastRead(looks.length, write_quorum)),
      spare: Math.max(0, writers - needed),
      clock_spread_ms: clocks.length > 1 ? Math.max(...clocks) - Math.min(...clocks) : null,
    }
  } finally {
    await pTimeout(Promise.all(looks.map((l) => l.replica.close())), { milliseconds: 500, fallback: () => [] })
  }
}

/** The cluster is the one that most of those that answer belong to. */
function tellMembers(looks: readonly Look[]): string | null {
  const votes = new Map<string, number>()
  for (const { self } of looks) if (self) votes.set(self.cluster, (votes.get(self.cluster) ?? 0) + 1)
  const cluster = [...votes].sort((a, b) => b[1] - a[1])[0]?.[0] ?? null
  const seen = new Map<number, string>()
  for (const { self, sight } of looks) {
    if (!self) continue
    const twin = seen.get(self.member)
    const judged: [State, string] | null =
      self.cluster !== cluster
        ? ['foreign', `it belongs to another cluster (${self.cluster}, not ${cluster})`]
        : self.members !== looks.length
          ? ['misconfigured', `its cluster has ${self.members} members, but ${looks.length} replicas are given`]
          : self.system_identifier !== self.actual_identifier
            ? ['copy', 'it is a copy or a restored dump of another replica']
            : twin !== undefined
              ? ['copy', `it is member ${self.member}, and so is ${twin}: one url twice, or a copy`]
              : self.prepared_max === 0
                ? [
                    'misconfigured',
                    'max_prepared_transactions is 0: set it to 100 in its postgresql.conf and restart it',
                  ]
                : null
    seen.set(self.member, sight.name)
    if (judged) [sight.state, sight.error] = judged
    else if (self.building)
      [sight.state, sight.error] = ['building', 'it takes no part before `pg-quorum clone` has built it']
  }
  return cluster
}

/** What the server itself says that bars it, or keeps it from writing. */
function tellFacts({ sight }: Look): void {
  const { facts } = sight
  if (!facts || sight.state !== 'current') return
  if (facts.standby)
    [sight.state, sight.error] = ['recovering', 'it is a standby, or still restoring a backup: it takes no writes']
  else if (facts.building)
    [sight.state, sight.error] = ['building', 'a clone is being made of it; until that ends it does not vote']
  else if (facts.read_only) sight.refuses = 'default_transaction_read_only is on'
  else if (facts.prepared_used >= facts.prepared_max)
    sight.refuses = `all ${facts.prepared_max} prepared slots are taken`
}

/** Equal versions with unequal chains: the one that disagrees with most of the others, or with the only other. */
function tellDiverged(members: readonly Look[]): void {
  const chains = new Map(
    members.map((l) => [l, new Map(l.versions.map(([t, n, v, chain]) => [`${t}/${n}/${v}`, chain]))]),
  )
  const odd = members.filter((mine) => {
    const against = members.filter(
      (other) =>
        other !== mine &&
        [...(chains.get(mine) ?? [])].some(([at, chain]) => (chains.get(other)?.get(at) ?? chain) !== chain),
    )
    return against.length > (members.length - 1) / 2
  })
  for (const { sight } of odd) {
    sight.state = 'diverged'
    sight.error = 'its history differs from the others: it was restored, or changed behind the driver'
  }
}

/** By name, host:port, or member number. */
export function pick(found: Survey, what: string): Sight {
  const hit = found.replicas.find(
    (r) => r.name === what || r.name.split('/')[0] === what || (r.member !== null && String(r.member) === what),
  )
  if (!hit)
    throw new UsageError(
      `no replica "${what}"; there are ${found.replicas
        .map((r) => `${r.name.split('/')[0]}${r.member === null ? '' : ` (${r.member})`}`)
        .join(', ')}`,
    )
  return hit
}
