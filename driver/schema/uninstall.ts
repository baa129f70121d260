/**
 * What `uninstall` does to each server: it stands still, says how far its sequences are, and becomes a plain
 * database: what pg-quorum has installed goes, what it has changed (sequences) becomes what it was. Everything but
 * the standing still is one transaction.
 */
import type pg from 'pg'
import { transaction } from './install.ts'

/** What a sequence hands out next on every server, above whatever any member has handed out. */
export type Plan = ReadonlyMap<string, bigint>
/** plan: agreed on by all before the first of them lost its schema; so the others go on with it. */
export interface Presence {
  readonly cluster: string
  readonly member: number
  readonly members: number
  readonly building: boolean
  readonly copy: string | null
  readonly leaving: boolean
  readonly plan: Plan | null
}

/** null: nothing of pg-quorum is here. */
export async function presenceOf(client: pg.ClientBase): Promise<Presence | null> {
  const {
    rows: [here],
  } = await client.query<{ quorum: boolean; leaving: boolean }>(
    "SELECT to_regclass('quorum.self') IS NOT NULL AS quorum, to_regclass('quorum.leaving') IS NOT NULL AS leaving",
  )
  if (!here?.quorum) return null
  const {
    rows: [self],
  } = await client.query<Omit<Presence, 'leaving' | 'plan'>>(
    'SELECT cluster, member, members, building, copy FROM quorum.self',
  )
  const plan = here.leaving
    ? (await client.query<{ seq: string; next: string }>('SELECT seq, next FROM quorum.leaving')).rows
    : []
  return {
    ...self!,
    leaving: here.leaving,
    plan: plan.length === 0 ? null : new Map(plan.filter((r) => r.seq !== '').map((r) => [r.seq, BigInt(r.next)])),
  }
}

/** What of the users' would be dropped with the schema. */
export async function leaners(client: pg.ClientBase): Promise<string[]> {
  return (
    await client.query<{ r: string }>(`
      SELECT DISTINCT w.ev_class::regclass::text AS r
      FROM pg_depend d
      JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
      JOIN pg_class c ON c.oid = w.ev_class
      WHERE c.relnamespace::regnamespace::text NOT IN ('quorum', 'quorum_shadow')
        AND (
          (d.refclassid = 'pg_class'::regclass AND d.refobjid IN (
            SELECT oid FROM pg_class WHERE relnamespace::regnamespace::text IN ('quorum', 'quorum_shadow')))
          OR (d.refclassid = 'pg_proc'::regclass AND d.refobjid IN (
            SELECT oid FROM pg_proc WHERE pronamespace::regnamespace::text IN ('quorum', 'quorum_shadow'))))`)
  ).rows.map((row) => row.r)
}

/** It takes no part any more, durably, also for those who are connected. Direct writes are refused as before. */
export async function freeze(client: pg.ClientBase): Promise<void> {
  await transaction(client, async () => {
    await client.query('CREATE TABLE IF NOT EXISTS quorum.leaving (seq text PRIMARY KEY, next numeric NOT NULL)')
    if ((await client.query('UPDATE quorum.self SET building = true WHERE NOT building')).rowCount !== 1)
      throw new Error('a member has lost its vote meanwhile: pg-quorum status says more')
  })
  await client.query(`
    SELECT pg_terminate_backend(pid, 10000)
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'`)
}

/** Only for who was a voting member a moment ago: it has forgotten nothing. */
export async function thaw(client: pg.ClientBase): Promise<void> {
  await transaction(client, async () => {
    await client.query('UPDATE quorum.self SET building = false')
    await client.query('DROP TABLE IF EXISTS quorum.leaving')
  })
}

/** What must be the same on all, and what must not be there. */
export async function standing(client: pg.ClientBase): Promise<{ state: string; prepared: string[] }> {
  const {
    rows: [r],
  } = await client.query<{ state: string; prepared: string[] }>(`
    SELECT quorum.position() || ' ' || quorum.schema_hash() AS state,
      ARRAY(
        SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND gid LIKE 'quorum\\_%'
      ) AS prepared`)
  return r!
}

export interface Handed {
  readonly name: string
  readonly inc: bigint
  /** The last one that it or, before `init`, anybody handed out; or somewhat beyond. */ readonly last: bigint
}

export async function handedOut(client: pg.ClientBase): Promise<Handed[]> {
  const { rows } = await client.query<{ name: string; inc: string }>('SELECT name, inc FROM quorum.sequences()')
  const all: Handed[] = []
  for (const { name, inc } of rows) {
    const {
      rows: [at],
    } = await client.query<{ last_value: string; is_called: boolean }>(`SELECT last_value, is_called FROM ${name}`)
    // what is below a value that is not called yet may be another class's
    all.push({ name, inc: BigInt(inc), last: BigInt(at!.last_value) - (at!.is_called ? 0n : BigInt(inc)) })
  }
  return all
}

export function planOf(members: readonly (readonly Handed[])[]): Plan {
  const plan = new Map<string, bigint>()
  for (const { name, inc, last } of members.flat()) {
    const known = plan.get(name)
    plan.set(name, known === undefined || (inc > 0n ? last + inc > known : last + inc < known) ? last + inc : known)
  }
  return plan
}

export async function remember(client: pg.ClientBase, plan: Plan): Promise<void> {
  await transaction(client, async () => {
    await client.query('TRUNCATE quorum.leaving')
    await client.query('INSERT INTO quorum.leaving SELECT * FROM unnest($1::text[], $2::numeric[])', [
      ['', ...plan.keys()],
      ['0', ...[...plan.values()].map(String)],
    ])
  })
}

/** In one transaction. roles: whether they went too, or why not. */
export async function strip(client: pg.ClientBase, plan: Plan): Promise<{ triggers: number; roles: string }> {
  return transaction(client, async () => {
    await client.query(`
      SET LOCAL lock_timeout = '15s';
      SET LOCAL search_path = pg_catalog;
      DROP EVENT TRIGGER IF EXISTS quorum_ddl;
      DROP EVENT TRIGGER IF EXISTS quorum_drop`)
    for (const s of (
      await client.query<{ name: string; inc: string; start: string; lo: string; hi: string; ours: boolean }>(`
        SELECT q.name, q.inc, q.first - q.inc * (me.member - 1) AS start, q.lo, q.hi,
          obj_description(q.oid, 'pg_class') LIKE 'pg-quorum: member %' AS ours
        FROM quorum.self me, quorum.sequences() q`)
    ).rows) {
      const next = plan.get(s.name) ?? BigInt(s.start)
      const room = next >= BigInt(s.lo) && next <= BigInt(s.hi)
      await client.query(
        `ALTER SEQUENCE ${s.name} INCREMENT BY ${s.inc} START WITH ${s.start} ` +
          `RESTART WITH ${room ? next : BigInt(s.inc) > 0n ? s.hi : s.lo}`,
      )
      if (!room) await client.query('SELECT nextval($1)', [s.name]) // used up: that was its last one
      if (s.ours) await client.query(`COMMENT ON SEQUENCE ${s.name} IS NULL`)
    }
    const triggers = (
      await client.query<{ text: string }>(`
        SELECT format('DROP TRIGGER %I ON %s', g.tgname, g.tgrelid::regclass) AS text
        FROM pg_trigger g
        JOIN pg_proc p ON p.oid = g.tgfoid
        WHERE g.tgname LIKE 'quorum\\_%' AND p.pronamespace::regnamespace::text IN ('quorum', 'quorum_shadow')`)
    ).rows
    for (const { text } of triggers) await client.query(text)
    await client.query('DROP SCHEMA quorum_shadow, quorum CASCADE')
    return { triggers: triggers.length, roles: await dropRoles(client) }
  })
}

const ROLES = ['quorum_lead', 'quorum_app', 'quorum_txn', 'quorum_owner']

/** Roles belong to the server, and another database of it may be another cluster's. */
async function dropRoles(client: pg.ClientBase): Promise<string> {
  const {
    rows: [r],
  } = await client.query<{ others: string[]; owned: boolean }>(
    `
      SELECT
        ARRAY(
          SELECT DISTINCT d.datname::text
          FROM pg_shdepend s
          JOIN pg_database d ON d.oid = s.dbid
          WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = ANY (x.roles)
            AND d.datname <> current_database()
        ) AS others,
        EXISTS (
          SELECT
          FROM pg_shdepend s
          JOIN pg_database d ON d.oid = s.dbid
          WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = ANY (x.roles)
            AND d.datname = current_database() AND s.deptype = 'o' AND s.classid <> 'pg_default_acl'::regclass
        ) AS owned
      FROM (SELECT coalesce(array_agg(oid), '{}') AS roles FROM pg_roles WHERE rolname = ANY ($1)) x`,
    [ROLES],
  )
  const why =
    r!.others.length > 0
      ? `used by ${r!.others.length === 1 ? 'database' : 'databases'} ${r!.others.join(', ')}`
      : r!.owned
        ? 'they own something here'
        : undefined
  if (why !== undefined) {
    await client.query('ALTER DEFAULT PRIVILEGES FOR ROLE quorum_owner GRANT EXECUTE ON FUNCTIONS TO PUBLIC')
    return `kept: ${why}`
  }
  await client.query(`DROP OWNED BY ${ROLES.join(', ')}; DROP ROLE ${ROLES.join(', ')}`)
  return 'dropped'
}
