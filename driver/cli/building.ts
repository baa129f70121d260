/**
 * A clone from beginning to end (docs/protocol.md, section 8; docs/decisions/0005): look, refuse, take the vote
 * away, wipe if that was asked for by name, install, copy, join. Every step leaves the target such that the same
 * call goes on, or starts the copy again.
 */
import type pg from 'pg'
import { replicaConfigs } from '../config.ts'
import { sentenceOf } from '../errors.ts'
import { barrier } from '../pool/barrier.ts'
import { Pool } from '../pool/pool.ts'
import { majority } from '../protocol/quorum.ts'
import { join } from '../repair/clone.ts'
import { copyTables, type CopyProgress } from '../repair/copy-tables.ts'
import { bulkConnection, cutOff } from '../replica/copy.ts'
import { PostgresReplica } from '../replica/postgres.ts'
import { newId, now_ms, sleep } from '../runtime.ts'
import { check, factsOf, install, transaction, type Facts } from '../schema/install.ts'
import { contentsOf, dropAll, type Contents } from '../schema/recreate.ts'
import { pick, survey, type Sight, type Survey } from './survey.ts'
import { takeVote } from './taking-votes.ts'
import { count, UsageError } from './terminal.ts'

export interface CloneOptions {
  readonly urls: readonly string[]
  /** host:port, name or member number. */
  readonly which: string
  /** The same server's host:port again: what it holds may be dropped. */
  readonly wipe?: string | undefined
  readonly from?: string | undefined
  readonly jobs?: number | undefined
  readonly pgDump?: string | undefined
  /** Its number, where it cannot be told because others do not answer. */
  readonly member?: number | undefined
  readonly dryRun?: boolean | undefined
  /** How long to wait for transactions in flight. Default 120 000 ms. */
  readonly patience_ms?: number | undefined
  tell?(line: string): void
  show?(progress: CopyProgress | { readonly changesets: number }): void
  /**
   * Tests only. false: nothing is settled before it is emptied, and it votes at once: the mistakes that the
   * barriers are there for.
   */
  readonly withBarrier?: boolean
}
export interface CloneReport {
  readonly replica: string
  readonly source: string
  readonly rows: number
  readonly bytes: number
  readonly copy_ms: number
  readonly changesets: number
  readonly dropped: readonly Contents[]
  readonly dry_run: boolean
}

const SETTLE = 'pg-quorum: another clone works on it'
const PATIENCE_MS = 120_000

export async function cloneReplica(o: CloneOptions): Promise<CloneReport> {
  const tell = o.tell ?? ((): void => undefined)
  const configs = replicaConfigs({ replicas: o.urls })
  const found = await survey(o.urls)
  const target = pick(found, o.which)
  const index = found.replicas.indexOf(target)
  const config = configs[index] ?? {}
  const others = usableOthers(found, target)
  const source = sourceOf(found, others, o.from)
  const client = await bulkConnection({ connectionTimeoutMillis: 3000, ...config }, true)
  const pool = new Pool({ replicas: [...o.urls], max: 2 })
  // By itself and unchecked: in the pool's cluster it is refused, and so has no voice in what is proven or resolved.
  const replica = new PostgresReplica({
    name: target.name,
    index,
    config,
    links: 5,
    connectMs: pool.cluster.limits.connect_ms,
    callMs: pool.cluster.limits.call_ms,
    check: () => undefined,
  })
  const settle = (note: string): Promise<void> =>
    o.withBarrier === false
      ? Promise.resolve()
      : barrier(pool, note, o.patience_ms ?? PATIENCE_MS, (why) => tell(`waiting for what is in flight: ${why}`))
  try {
    await alone(client, target.name)
    const facts = await factsOf(client, target.name)
    check(facts)
    const plan = { facts, number: numberOf(facts, found, target, o.member), contents: await contentsOf(client) }
    const places = others.map((s) => found.replicas.indexOf(s))
    await sameKind(pool, places, facts, found, configs[found.replicas.indexOf(source)] ?? {})
    const consented = consents(o.wipe, target.name)
    const needs = whyWipe(plan.facts, plan.contents)
    if (needs !== undefined && !consented && o.dryRun !== true)
      throw new UsageError(
        `${target.name} ${needs}: ` +
          `look with --dry-run at what would be dropped, then give --wipe ${shortOf(target.name)}`,
      )
    // a copy of ours is replaced, or gone on with, as it is
    const wiping = needs !== undefined || (consented && facts.copy === null)
    const report = {
      replica: target.name,
      source: source.name,
      rows: 0,
      bytes: 0,
      copy_ms: 0,
      changesets: 0,
      dropped: wiping ? plan.contents : [],
      dry_run: o.dryRun ?? false,
    }
    if (o.dryRun) return report
    if (wiping)
      await takeVote(
        client,
        replica,
        facts,
        places.flatMap((i) => pool.cluster.replicas[i] ?? []),
        settle,
      )
    const roles = await rolesFor(client, configs[found.replicas.indexOf(source)] ?? {}, (missing) =>
      tell(
        `${target.name}: there is no role ${missing.join(', ')}, which uses pg-quorum on ${source.name}: ` +
          'CREATE ROLE it, then `pg-quorum init --role`',
      ),
    )
    const renew = (): Promise<void> =>
      install(client, found.cluster ?? '', plan.number, found.replicas.length, true, roles)
    await transaction(client, async () => {
      if (wiping) await dropAll(client)
      await renew()
    })
    if (wiping || facts.cluster === null)
      tell(`${target.name}: ${wiping ? 'emptied, ' : ''}installed as member ${plan.number}, under construction`)
    pool.cluster.suspect(pool.cluster.replicas[index]!, new Error('is being built'))
    let copied: CopyProgress | undefined
    if (facts.copy === 'complete' && !wiping) tell(`${target.name}: the copy is complete, catch-up goes on`)
    else
      copied = await copyTables({
        source: configs[found.replicas.indexOf(source)] ?? {},
        target: config,
        jobs: o.jobs ?? 2,
        pgDump: o.pgDump,
        tell: (line) => tell(`${target.name}: ${line}`),
        show: (p) => o.show?.(p),
      })
    await transaction(client, renew) // those who own the tables that have come run DDL there
    const note = newId()
    await pool.query('SELECT 1') // starts the pool's sweep, which ends what is in doubt among the others
    const changesets = await join(
      {
        cluster: pool.cluster,
        target: replica,
        barrier: settle,
        has: async (n) =>
          o.withBarrier === false ||
          (
            await client.query(
              `
                SELECT FROM quorum.history h
                JOIN quorum.changeset c USING (gid)
                WHERE h.t = '*' AND h.n = -1 AND strpos(c.body, $1) > 0`,
              [n],
            )
          ).rowCount !== 0,
        admit: async () => void (await client.query('UPDATE quorum.self SET building = false, copy = NULL')),
      },
      note,
      { onProgress: (n) => o.show?.({ changesets: n }) },
    ).catch(async (error: unknown) => {
      // the log was pruned past this copy: the next one is newer
      if (sentenceOf(error).includes('needs a clone')) await client.query("UPDATE quorum.self SET copy = 'begun'")
      throw error
    })
    return {
      ...report,
      rows: copied?.rows ?? 0,
      bytes: copied?.bytes ?? 0,
      copy_ms: Math.round(copied?.ms ?? 0),
      changesets,
    }
  } finally {
    cutOff(client)
    await Promise.all([pool.end(), replica.close()])
  }
}

function usableOthers(found: Survey, target: Sight): Sight[] {
  const others = found.replicas.filter((r) => r !== target && (r.state === 'current' || r.state === 'behind'))
  const needed = majority(found.replicas.length)
  if (others.length >= needed) return others
  const why = found.replicas
    .filter((r) => r !== target && r.error !== null)
    .map((r) => `${r.name}: ${r.error}`)
    .join('; ')
  throw new Error(
    `${count(others.length, 'other replica')} can be used, ${needed} are needed to build one: ` +
      `they alone can tell what it has forgotten${why === '' ? '' : ` (${why})`}`,
  )
}

/** The last one that is current: the first ones are where the clients tend to work. */
function sourceOf(found: Survey, others: readonly Sight[], from: string | undefined): Sight {
  const wanted =
    from === undefined ? (others.filter((r) => r.state === 'current').at(-1) ?? others.at(-1)) : pick(found, from)
  if (!wanted || !others.includes(wanted))
    throw new UsageError(
      `${wanted?.name ?? 'the source'} cannot be the source: ` +
        `it is ${wanted?.state.replaceAll('-', ' ') ?? 'missing'}` +
        `${wanted && !others.includes(wanted) && wanted.error === null ? ', or the target itself' : ''}`,
    )
  return wanted
}

/** Two at once would truncate each other's work. The lock of one that was killed goes within moments. */
export async function alone(client: pg.Client, name: string): Promise<void> {
  for (const end = now_ms() + 5000; ; await sleep(200)) {
    const { rows } = await client.query<{ r: boolean }>(
      'SELECT pg_try_advisory_lock(hashtextextended($1, 1903)) AS r',
      [SETTLE],
    )
    if (rows[0]?.r) return
    if (now_ms() > end) throw new Error(`${name}: another pg-quorum command is at work on it`)
  }
}

function numberOf(facts: Facts, found: Survey, target: Sight, given: number | undefined): number {
  const members = found.replicas.length
  if (facts.cluster !== null && facts.cluster !== found.cluster)
    throw new Error(
      `${facts.name} belongs to another cluster (${facts.cluster}, not ${found.cluster}): ` +
        "pg-quorum does not wipe other clusters' members; give an empty server",
    )
  if (facts.members !== null && facts.members !== members)
    throw new Error(
      `${facts.name} was initialised in a cluster of ${facts.members} members, but ${members} replicas are given`,
    )
  const taken = new Set(found.replicas.filter((r) => r !== target && r.member !== null).map((r) => r.member))
  const free = found.replicas.map((_, i) => i + 1).filter((m) => !taken.has(m))
  const wanted =
    given ??
    (facts.member !== null && !taken.has(facts.member) ? facts.member : free.length === 1 ? free[0] : undefined)
  if (wanted === undefined)
    throw new UsageError(
      `it cannot be told which member ${target.name} is to be, since others do not answer; ` +
        `give --member with one of ${free.join(', ')} that no other server has`,
    )
  if (!free.includes(wanted))
    throw new UsageError(
      `member ${wanted} answers already: ` +
        `it is ${found.replicas.find((r) => r.member === wanted)?.name ?? 'none of 1 to ' + members}`,
    )
  return wanted
}

/** Compared with those that it is to be built from. */
async function sameKind(
  pool: Pool,
  places: readonly number[],
  facts: Facts,
  found: Survey,
  source: pg.ClientConfig,
): Promise<void> {
  for (const i of places) {
    const { actual_identifier } = (await pool.cluster.replicas[i]?.hello()) ?? {}
    if (actual_identifier === facts.sysid)
      throw new Error(
        `${facts.name} has the system identifier of ${found.replicas[i]?.name}: ` +
          'it is a copy of it, or the same server. Create it anew with initdb.',
      )
  }
  const client = await bulkConnection({ connectionTimeoutMillis: 3000, ...source }, false)
  const { encoding } = await factsOf(client, 'the source').finally(() => cutOff(client))
  if (encoding !== facts.encoding)
    throw new Error(
      `${facts.name} has encoding ${facts.encoding}, the others have ${encoding}: create its database with theirs`,
    )
}

const shortOf = (name: string): string => name.split('/')[0] ?? name

/** Who uses pg-quorum on the source and exists on the target, too. */
async function rolesFor(
  target: pg.Client,
  source: pg.ClientConfig,
  lacks: (missing: string[]) => void,
): Promise<string[]> {
  const other = await bulkConnection({ connectionTimeoutMillis: 3000, ...source }, false)
  try {
    const { rows } = await other.query<{ role: string }>(`
      SELECT m.rolname::text AS role
      FROM pg_auth_members a
      JOIN pg_roles m ON m.oid = a.member
      JOIN pg_roles r ON r.oid = a.roleid
      WHERE r.rolname = 'quorum_app'
      ORDER BY 1`)
    const all = rows.map((r) => r.role)
    const here = (
      await target.query<{ role: string }>(
        'SELECT rolname::text AS role FROM pg_roles WHERE rolname = ANY ($1::text[])',
        [all],
      )
    ).rows.map((r) => r.role)
    if (here.length < all.length) lacks(all.filter((r) => !here.includes(r)))
    return here
  } finally {
    cutOff(other)
  }
}

function consents(wipe: string | undefined, name: string): boolean {
  if (wipe === undefined) return false
  if (wipe !== name && wipe !== shortOf(name))
    throw new UsageError(`--wipe names ${wipe}, but the server to be built is ${shortOf(name)}: nothing was done`)
  return true
}

/** undefined: nothing is lost by building here. */
function whyWipe(facts: Facts, contents: readonly Contents[]): string | undefined {
  if (facts.cluster !== null && !facts.building) return `is member ${facts.member} of this cluster and takes part`
  if (facts.copy !== null) return undefined // our own copy, complete or interrupted
  const filled = contents.filter((c) => c.rows)
  return filled.length > 0
    ? `is not empty (${filled.map((c) => `schema ${c.schema}: ${count(c.tables.length, 'table')}`).join(', ')})`
    : undefined
}
