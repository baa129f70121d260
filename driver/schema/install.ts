/**
 * What `init` does to each server: checks it can keep the promise, installs or renews the schema, and writes who is
 * who. Idempotent: a second run renews the functions and changes nothing else. All members must answer; init is the
 * one thing that needs them all. Where the cluster has history, a server that has none may be a member that lost
 * its disk: it is installed as under construction, and never votes before `clone` has made up for what it forgot
 * (docs/decisions/0005).
 */
import { readFileSync } from 'node:fs'
import pg from 'pg'
import { sentenceOf } from '../errors.ts'
import { newId } from '../runtime.ts'

export const SCHEMA_VERSION = 1
/** Everything a replica does for the protocol, replaced as a whole by every `init`. */
const FUNCTIONS = [
  'dial',
  'granules',
  'rows',
  'capture',
  'sequences',
  'seal',
  'accept',
  'guards',
  'group',
  'look',
  'repair',
  'unheard',
  'prune',
  'flushed',
  'events',
] as const
const read = (name: string): string => readFileSync(new URL(name, import.meta.url), 'utf8')

export interface Facts {
  name: string
  version: number
  prepared: number
  fsync: string
  full_page_writes: string
  encoding: string
  sysid: string
  cluster: string | null
  member: number | null
  members: number | null
  superuser: boolean
  building: boolean
  copy: 'begun' | 'complete' | 'adopted' | null
  used: boolean
}

export interface InitReport {
  cluster: string
  members: { name: string; member: number; created: boolean; building: boolean }[]
}

/** roles: the applications' and those that run migrations; as superusers they need not be named. */
export async function init(
  configs: readonly pg.ClientConfig[],
  names: readonly string[],
  roles: readonly string[] = [],
): Promise<InitReport> {
  const clients = configs.map((c) => new pg.Client({ connectionTimeoutMillis: 3000, ...c }))
  for (const c of clients) c.on('error', () => undefined)
  try {
    const connected = await Promise.allSettled(clients.map((c) => c.connect()))
    const down = connected.flatMap((r, i) => (r.status === 'rejected' ? [`${names[i]}: ${sentenceOf(r.reason)}`] : []))
    if (down.length > 0)
      throw new Error(
        `init needs all ${configs.length} replicas, and ${down.length} did not answer. ${down.join('; ')}`,
      )
    const facts = await Promise.all(clients.map((c, i) => factsOf(c, names[i] ?? '')))
    const cluster = oneCluster(facts)
    const taken = new Set(facts.map((f) => f.member))
    const spare = facts.map((_, i) => i + 1).filter((m) => !taken.has(m))
    const used = facts.some((f) => f.used)
    const members = facts.map((f) => ({
      name: f.name,
      member: f.member ?? spare.shift() ?? 0,
      created: f.cluster === null,
      building: f.building || (f.cluster === null && used),
    }))
    await Promise.all(
      clients.map((c, i) =>
        transaction(c, () => install(c, cluster, members[i]?.member ?? 0, configs.length, members[i]?.building, roles)),
      ),
    )
    await compare(clients, names)
    return { cluster, members }
  } finally {
    await Promise.allSettled(clients.map((c) => c.end()))
  }
}

/** The id of the cluster that these servers make, or are to make; throws a sentence if they cannot. */
export function oneCluster(facts: readonly Facts[]): string {
  for (const f of facts) check(f)
  const first = facts[0]
  for (const f of facts) {
    if (f.encoding !== first?.encoding)
      throw new Error(
        `${f.name} has encoding ${f.encoding}, ${first?.name} has ${first?.encoding}: ` +
          'create the databases with one encoding',
      )
    const twin = facts.find((o) => o !== f && o.sysid === f.sysid)
    if (twin)
      throw new Error(
        `${f.name} and ${twin.name} have the same system identifier: one is a copy of the other, ` +
          'or one server is listed twice. Create each replica with initdb.',
      )
    if (f.members !== null && f.members !== facts.length)
      throw new Error(
        `${f.name} was initialised in a cluster of ${f.members} members, but ${facts.length} replicas are given`,
      )
  }
  const clusters = new Set(facts.map((f) => f.cluster).filter((c) => c !== null))
  if (clusters.size > 1)
    throw new Error(
      `the replicas belong to different clusters: ${facts.map((f) => `${f.name}: ${f.cluster ?? 'none'}`).join(', ')}`,
    )
  return [...clusters][0] ?? newId()
}

export async function factsOf(client: pg.Client, name: string): Promise<Facts> {
  const { rows } = await client.query<Omit<Facts, 'name'> & { here: boolean }>(`
    SELECT current_setting('server_version_num')::int AS version,
      current_setting('max_prepared_transactions')::int AS prepared,
      current_setting('fsync') AS fsync,
      current_setting('full_page_writes') AS full_page_writes,
      current_setting('server_encoding') AS encoding,
      (SELECT system_identifier::text FROM pg_control_system()) AS sysid,
      (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
      to_regclass('quorum.self') IS NOT NULL AS here`)
  const row = rows[0]
  if (!row) throw new Error(`${name} did not answer`)
  // (to_jsonb: where an older schema is installed, the newer columns are missing)
  const self = row.here
    ? (
        await client.query<{
          cluster: string
          member: number
          members: number
          building: boolean
          copy: 'begun' | 'complete' | 'adopted' | null
          used: boolean
        }>(`
          SELECT cluster, member, members, coalesce((to_jsonb(s)->>'building')::bool, false) AS building,
            to_jsonb(s)->>'copy' AS copy, EXISTS (SELECT FROM quorum.applied) AS used
          FROM quorum.self s`)
      ).rows[0]
    : undefined
  return {
    ...row,
    name,
    cluster: self?.cluster ?? null,
    member: self?.member ?? null,
    members: self?.members ?? null,
    building: self?.building ?? false,
    copy: self?.copy ?? null,
    used: self?.used ?? false,
  }
}

/** Throws a sentence that says what to change, if this server cannot be a replica. */
export function check(f: Facts): void {
  const change = (setting: string, value: string): never => {
    throw new Error(`${f.name}: ${setting}. Put \`${value}\` into its postgresql.conf and restart it`)
  }
  if (f.version < 150000)
    throw new Error(`${f.name} runs PostgreSQL ${Math.floor(f.version / 10000)}; 15 or newer is needed`)
  if (f.prepared === 0)
    change('max_prepared_transactions is 0, so it cannot take part in a commit', 'max_prepared_transactions = 100')
  if (f.fsync !== 'on') change('fsync is off, so a crash could lose what it acknowledged', 'fsync = on')
  if (f.full_page_writes !== 'on')
    change('full_page_writes is off, so a crash could corrupt it', 'full_page_writes = on')
  if (!f.superuser)
    throw new Error(`${f.name}: this needs a superuser, once; the drivers need none (docs/operations.md)`)
}

export async function transaction<T>(client: pg.ClientBase, work: () => Promise<T>): Promise<T> {
  await client.query('BEGIN')
  try {
    const result = await work()
    await client.query('COMMIT')
    return result
  } catch (error) {
    await client.query('ROLLBACK').catch(() => undefined)
    throw error
  }
}

/** Those that were named, those that were before, and whoever owns something that is to be tracked. */
const REGISTER = `
  SELECT pg_temp.register(who, bool_or(named))
  FROM (
    SELECT unnest($1::text[]) AS who, true AS named
    UNION ALL
    SELECT pg_get_userbyid(p.proowner), false
    FROM pg_proc p
    WHERE p.pronamespace = 'quorum_shadow'::regnamespace AND p.proname LIKE 'run %'
    UNION ALL
    SELECT pg_get_userbyid(c.relowner), false
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
      AND n.nspname <> 'information_schema' AND n.nspname !~ '^(pg_|quorum)'
  ) r
  GROUP BY who`

/**
 * In the caller's transaction. roles: may use pg-quorum from now on. building: only for a server that is not
 * installed yet; who is a member already stays what it is.
 */
export async function install(
  client: pg.ClientBase,
  cluster: string,
  member: number,
  members: number,
  building = false,
  roles: readonly string[] = [],
): Promise<void> {
  await lay(client, cluster, member, members, building, roles)
  await client.query('SELECT quorum.track()')
}

/** Added only where they are missing: ALTER waits for every transaction that is prepared here, and all drivers for it. */
const LATER_COLUMNS = [
  ['quorum.capture', 'as', 'text'],
  ['quorum.mark', 'many', 'bigint NOT NULL DEFAULT 1'],
  ['quorum.mark', 'total', 'numeric'],
] as const

/** All of that but what touches the users' tables. */
export async function lay(
  client: pg.ClientBase,
  cluster: string,
  member: number,
  members: number,
  building: boolean,
  roles: readonly string[],
): Promise<void> {
  // an error that can be repeated is better than a queue of drivers behind this
  await client.query("SET LOCAL lock_timeout = '15s'")
  await client.query("SELECT pg_advisory_xact_lock(hashtextextended('pg-quorum init', 1903))")
  const here = (await client.query<{ r: boolean }>("SELECT to_regclass('quorum.self') IS NOT NULL AS r")).rows[0]?.r
  await client.query(read('roles.sql'))
  if (!here) await client.query(`${read('tables.sql')}; CREATE SCHEMA quorum_shadow`)
  else
    for (const [table, column, type] of LATER_COLUMNS)
      if (
        (await client.query('SELECT FROM pg_attribute WHERE attrelid = $1::regclass AND attname = $2', [table, column]))
          .rowCount === 0
      )
        await client.query(`ALTER TABLE ${table} ADD "${column}" ${type}`)
  await client.query('SET LOCAL check_function_bodies = off') // they call one another
  for (const name of FUNCTIONS) await client.query(read(`${name}.sql`))
  await client.query(read('grants.sql'))
  await client.query(REGISTER, [roles])
  await client.query(
    `
      INSERT INTO quorum.self (cluster, member, members, epoch, system_identifier, schema_version, building)
      VALUES ($1, $2, $3, 1, (SELECT system_identifier::text FROM pg_control_system()), $4, $5)
      ON CONFLICT (one) DO UPDATE SET schema_version = excluded.schema_version`,
    [cluster, member, members, SCHEMA_VERSION, building],
  )
}

/**
 * Equal before the first write, or every later comparison is worthless. A cluster that has history is compared by
 * its chains instead.
 */
async function compare(clients: readonly pg.Client[], names: readonly string[]): Promise<void> {
  const states = await Promise.all(
    clients.map(
      async (c) =>
        (
          await c.query<{ schema: string; used: boolean; rows: string }>(`
            SELECT quorum.schema_hash() AS schema, EXISTS (SELECT FROM quorum.applied) AS used,
              coalesce((
                SELECT jsonb_object_agg(t, quorum.table_hash(to_regclass(t)) ORDER BY t) FROM quorum.tracked
              )::text, '') AS rows`)
        ).rows[0],
    ),
  )
  if (states.some((s) => s?.used)) return
  states.forEach((s, i) => {
    if (s?.schema !== states[0]?.schema)
      throw new Error(
        `${names[i]} has another schema than ${names[0]}: give all replicas the same tables first ` +
          '(or none, and create them through the driver)',
      )
    if (s?.rows !== states[0]?.rows)
      throw new Error(
        `${names[i]} has other rows than ${names[0]}: load the same data into all replicas first (or none), ` +
          'or let `pg-quorum init --from` copy one of them',
      )
  })
}
