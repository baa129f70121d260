/**
 * An existing database becomes a cluster (docs/operations.md): look and rehearse, ask, install, copy to each of the
 * others, begin. From its installation on the source refuses direct writes, so it stands still while it is copied.
 * Nobody votes before all hold a full copy; until then each server says in quorum.self how far it is, and the same
 * call goes on from there.
 */
import type pg from 'pg'
import { replicaConfigs } from '../config.ts'
import { codeOf, sentenceOf } from '../errors.ts'
import { copyTables, type CopyProgress } from '../repair/copy-tables.ts'
import { bulkConnection, cutOff } from '../replica/copy.ts'
import { nameOf } from '../replica/address.ts'
import { newId } from '../runtime.ts'
import { factsOf, install, oneCluster, transaction, type Facts, type InitReport } from '../schema/install.ts'
import { hashOf } from '../schema/recreate.ts'
import { rehearseSource, rehearseTarget, type Rehearsal } from '../schema/rehearse.ts'
import { alone } from './building.ts'
import { UsageError } from './terminal.ts'

export interface AdoptOptions {
  readonly urls: readonly string[]
  /** Its url, or host:port. */
  readonly from: string
  readonly roles?: readonly string[] | undefined
  readonly jobs?: number | undefined
  readonly pgDump?: string | undefined
  readonly dryRun?: boolean | undefined
  /** Before the first change: what it is about. false: nothing is done. */
  consent(source: string, found: Rehearsal): Promise<boolean>
  tell?(line: string): void
  show?(target: string, progress: CopyProgress): void
  /** Tests only: the mistake of letting members vote before the copies are complete. */
  readonly voteAtOnce?: boolean
}
export interface AdoptReport extends InitReport {
  readonly source: string
  readonly rows: number
  readonly bytes: number
  readonly copy_ms: number
  readonly done: boolean
}

interface Site {
  readonly name: string
  readonly client: pg.Client
  readonly config: pg.ClientConfig
  readonly facts: Facts
  readonly member: number
}

export async function adopt(o: AdoptOptions): Promise<AdoptReport> {
  const tell = o.tell ?? ((): void => undefined)
  const configs = replicaConfigs({ replicas: o.urls })
  const at = o.urls.findIndex(
    (url, i) =>
      url === o.from || nameOf(configs[i] ?? {}).split('/')[0] === o.from || nameOf(configs[i] ?? {}) === o.from,
  )
  if (at < 0)
    throw new UsageError(
      `--from must name one of the ${o.urls.length} servers, by its url or host:port: ` +
        `${configs.map((c) => nameOf(c).split('/')[0]).join(', ')}`,
    )
  const clients = await connect(configs, at)
  try {
    await alone(clients[at]!, nameOf(configs[at] ?? {}))
    const sites = await look(configs, clients, at)
    const [source, ...targets] = sites as [Site, ...Site[]]
    oneCluster(sites.map((s) => s.facts))
    const cluster = source.facts.cluster ?? newId() // what an interrupted run left on the others begins again
    const report = {
      cluster,
      members: sites.map((s) => ({
        name: s.name,
        member: s.member,
        created: s.facts.cluster === null,
        building: false,
      })),
      source: source.name,
      rows: 0,
      bytes: 0,
      copy_ms: 0,
      done: true,
    }
    if (source.facts.cluster !== null && !source.facts.building) {
      await admit(latecomers(source, targets))
      return report
    }
    if (source.facts.cluster !== null && source.facts.copy !== 'adopted')
      throw new Error(
        `${source.name} is being built itself, ` +
          'so it is not the database to begin with: `pg-quorum clone` completes it',
      )
    if (source.facts.cluster === null) {
      const found = await rehearse(source, targets, o)
      if (o.dryRun || !(await o.consent(source.name, found))) return { ...report, done: false }
    } else if (o.dryRun) return { ...report, done: false }
    else tell(`${source.name}: goes on where the last run stopped`)
    for (const t of targets) {
      await transaction(t.client, async () => {
        if (source.facts.cluster === null) await t.client.query('DROP SCHEMA IF EXISTS quorum, quorum_shadow CASCADE')
        await install(t.client, cluster, t.member, sites.length, true)
      })
    }
    if (source.facts.cluster === null) {
      await takeOver(source, cluster, sites.length, o.roles ?? [])
      tell(`${source.name}: installed as member ${source.member}; it refuses direct writes from now on`)
    }
    await refresh(source.client)
    if (o.voteAtOnce) await admit(sites)
    for (const t of targets) {
      if (t.facts.copy === 'adopted') {
        tell(`${t.name}: copied before`)
        continue
      }
      const done = await copyTables({
        source: source.config,
        target: t.config,
        jobs: o.jobs ?? 2,
        pgDump: o.pgDump,
        tell: (line) => tell(`${t.name}: ${line}`),
        show: (p) => o.show?.(t.name, p),
      })
      await complete(source, t, cluster, sites.length, o.roles ?? [])
      tell(`${t.name}: ${done.rows} rows copied, compared by checksums`)
      report.rows += done.rows
      report.bytes += done.bytes
      report.copy_ms += Math.round(done.ms)
    }
    const hash = await hashOf(source.client)
    for (const t of targets)
      if ((await hashOf(t.client)) !== hash)
        throw new Error(
          `${t.name} has another schema than ${source.name}, although it was copied: was it changed meanwhile? ` +
            'Empty it (DROP DATABASE, CREATE DATABASE), and repeat',
        )
    // The source first: while it is no member, nobody is.
    await admit(sites)
    return report
  } finally {
    for (const client of clients) cutOff(client)
  }
}

async function connect(configs: readonly pg.ClientConfig[], source: number): Promise<pg.Client[]> {
  const connected = await Promise.allSettled(
    configs.map((c, i) => bulkConnection({ connectionTimeoutMillis: 3000, ...c }, i !== source)),
  )
  const down = connected.flatMap((r, i) =>
    r.status === 'rejected' ? [`${nameOf(configs[i] ?? {})}: ${sentenceOf(r.reason)}`] : [],
  )
  const clients = connected.flatMap((r) => (r.status === 'fulfilled' ? [r.value] : []))
  if (down.length === 0) return clients
  clients.forEach(cutOff)
  throw new Error(`init needs all ${configs.length} replicas, and ${down.length} did not answer. ${down.join('; ')}`)
}

/** The source first. It is member 1, unless it has been another before. */
async function look(
  configs: readonly pg.ClientConfig[],
  clients: readonly pg.Client[],
  source: number,
): Promise<Site[]> {
  const facts = await Promise.all(clients.map((c, i) => factsOf(c, nameOf(configs[i] ?? {}))))
  const order = [source, ...facts.keys()].filter((i, k, all) => all.indexOf(i) === k)
  // (without the source's word, those of the others are left over from a run that did not come so far)
  const known = facts.map((f) => (facts[source]?.cluster === null ? null : f.member))
  const spare = facts.map((_, i) => i + 1).filter((m) => !known.includes(m))
  return order.map((i) => ({
    name: facts[i]!.name,
    client: clients[i]!,
    config: configs[i]!,
    facts: facts[i]!,
    member: known[i] ?? spare.shift() ?? 0,
  }))
}

/** The cluster has begun: only those may join by themselves that hold what it began with and never voted. */
function latecomers(source: Site, targets: readonly Site[]): Site[] {
  for (const { name, facts } of targets) {
    if (facts.cluster === null || (facts.building && facts.copy !== 'adopted'))
      throw new Error(
        `${source.name} is a member of a cluster already, ` +
          `and ${name} is ${facts.cluster === null ? 'none' : 'being built'}: ` +
          `\`pg-quorum ${facts.cluster === null ? `init\` and then \`pg-quorum ` : ''}` +
          `clone ${name.split('/')[0]}\` builds it`,
      )
  }
  return targets.filter((t) => t.facts.building)
}

async function admit(sites: readonly Site[]): Promise<void> {
  for (const s of sites) await s.client.query('UPDATE quorum.self SET building = false, copy = NULL')
}

async function rehearse(source: Site, targets: readonly Site[], o: AdoptOptions): Promise<Rehearsal> {
  const found = await rehearseSource(source.client, targets.length + 1)
  const wanted = { ...found, roles: [...new Set([...found.roles, ...(o.roles ?? [])])] }
  const against = found.against.map((why) => `${source.name}: ${why}`)
  for (const t of targets) {
    if (t.facts.cluster !== null && !(t.facts.building && t.facts.copy === null))
      throw new Error(
        `${t.name} is a member of a cluster (${t.facts.cluster}) already, and ${source.name} is not: ` +
          'give an empty database',
      )
    against.push(
      ...(await rehearseTarget(source.client, wanted, t.client, targets.length + 1, o.pgDump ?? 'pg_dump')).map(
        (why) => `${t.name}: ${why}`,
      ),
    )
  }
  if (against.length > 0) throw new Error(`nothing was changed, since this stands against it: ${against.join('; ')}`)
  return found
}

/** The old application's transactions end first: what they have written is part of the copy. */
async function takeOver(source: Site, cluster: string, members: number, roles: readonly string[]): Promise<void> {
  await transaction(source.client, async () => {
    await install(source.client, cluster, source.member, members, true, roles)
    await source.client.query("UPDATE quorum.self SET copy = 'adopted'")
  }).catch((error: unknown) => {
    throw codeOf(error) === '55P03'
      ? new Error(
          `${source.name}: a transaction there has not let go of a table for 15 s: ` +
            'stop the old application, and repeat; the source is as it was',
          { cause: error },
        )
      : error
  })
}

/** Who owns something there may run DDL here as well, and materialised views show the rows. */
async function complete(
  source: Site,
  t: Site,
  cluster: string,
  members: number,
  roles: readonly string[],
): Promise<void> {
  await refresh(t.client, await populated(source.client))
  await transaction(t.client, async () => {
    await install(t.client, cluster, t.member, members, true, roles)
    await t.client.query("UPDATE quorum.self SET copy = 'adopted'")
  })
}

async function populated(client: pg.Client): Promise<string[]> {
  return (
    await client.query<{ r: string }>(`
      SELECT format('%I.%I', n.nspname, c.relname) AS r
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind = 'm' AND c.relispopulated
      ORDER BY c.oid`)
  ).rows.map((row) => row.r)
}

/** One may read another that is not filled yet: again, as long as that helps. */
async function refresh(client: pg.Client, names?: readonly string[]): Promise<void> {
  let left = names ?? (await populated(client))
  while (left.length > 0) {
    const failed: [name: string, why: unknown][] = []
    for (const name of left)
      await client.query(`REFRESH MATERIALIZED VIEW ${name}`).catch((error: unknown) => failed.push([name, error]))
    if (failed.length === left.length)
      throw new Error(`materialised view ${failed[0]![0]}: ${sentenceOf(failed[0]![1])}`, { cause: failed[0]![1] })
    left = failed.map(([name]) => name)
  }
}
