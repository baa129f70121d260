/**
 * The users' schema of one server, made again on another that has none: by pg_dump where there is one that knows
 * the server's version, else by running the DDL statements of the changeset log again. Either is judged by
 * quorum.schema_hash(): equal, or it did not happen.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type pg from 'pg'
import { sentenceOf } from '../errors.ts'
import { transaction } from './install.ts'
import { asLibpq } from './libpq.ts'

/** Schemas of the users, as a condition on pg_namespace n. */
const THEIRS =
  "n.nspname NOT IN ('quorum', 'quorum_shadow', 'pg_catalog', 'information_schema') AND n.nspname !~ '^pg_'"
const MOST_BYTES = 256 * 2 ** 20

export interface Contents {
  readonly schema: string
  readonly tables: readonly string[]
  readonly bytes: number
  readonly rows: boolean
}

/** What the users have on a server, a schema a line. rows: there is at least one. */
export async function contentsOf(client: pg.ClientBase): Promise<Contents[]> {
  const { rows } = await client.query<{ schema: string; tables: string[]; bytes: string }>(`
    SELECT n.nspname AS schema,
      coalesce(
        array_agg(format('%I.%I', n.nspname, c.relname) ORDER BY c.relname) FILTER (WHERE c.relkind IN ('r', 'p')),
        '{}') AS tables,
      coalesce(sum(pg_total_relation_size(c.oid)) FILTER (WHERE c.relkind = 'r'), 0) AS bytes
    FROM pg_namespace n
    LEFT JOIN pg_class c ON c.relnamespace = n.oid
      AND NOT EXISTS (
        SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')
    WHERE ${THEIRS}
    GROUP BY 1
    ORDER BY 1`)
  const all: Contents[] = []
  for (const r of rows) {
    const some = r.tables.map((t) => `EXISTS (SELECT FROM ${t})`).join(' OR ')
    const filled = some !== '' && (await client.query<{ r: boolean }>(`SELECT ${some} AS r`)).rows[0]?.r === true
    all.push({ schema: r.schema, tables: r.tables, bytes: Number(r.bytes), rows: filled })
  }
  return all
}

/** Everything of the users' and of pg-quorum's; in the caller's transaction. */
export async function dropAll(client: pg.ClientBase): Promise<void> {
  await client.query('DROP SCHEMA IF EXISTS quorum, quorum_shadow CASCADE')
  await dropTheirs(client)
}

async function dropTheirs(client: pg.ClientBase): Promise<void> {
  for (const { schema } of await contentsOf(client)) {
    await client.query(`DROP SCHEMA "${schema.replaceAll('"', '""')}" CASCADE`)
    if (schema === 'public')
      await client.query(`
        CREATE SCHEMA public AUTHORIZATION pg_database_owner;
        GRANT USAGE ON SCHEMA public TO PUBLIC;
        COMMENT ON SCHEMA public IS 'standard public schema'`)
  }
}

/** A connection with an open transaction, whose snapshot it has exported. */
export interface Origin {
  readonly client: pg.Client
  readonly snapshot?: string
}

export const hashOf = async (client: pg.ClientBase): Promise<string> =>
  (await client.query<{ r: string }>('SELECT quorum.schema_hash() AS r')).rows[0]?.r ?? ''

/**
 * Returns how. Each way is one transaction on the target: it is there as a whole, or not at all, and with it the
 * mark that what the target holds is a copy, and may be replaced by the next one.
 */
export async function recreate(source: Origin, target: pg.ClientBase, pgDump: string | undefined): Promise<string> {
  const ours = (await target.query('SELECT FROM quorum.self WHERE copy IS NOT NULL')).rowCount === 1
  const wanted = await hashOf(source.client)
  if ((await hashOf(target)) === wanted) return 'the same already'
  const empty = (await contentsOf(target)).every((c) => c.tables.length === 0)
  if (!empty && !ours) throw new Error('the target has tables, but not those of the others: drop them, or give --wipe')
  const failures: string[] = []
  for (const [how, statements] of [
    ['pg_dump', () => dumped(source, target, pgDump ?? 'pg_dump')],
    ['the DDL in the changeset log', () => logged(source.client)],
  ] as const) {
    try {
      const texts = await statements()
      await transaction(target, async () => {
        if (!empty) await dropTheirs(target)
        await build(target, texts)
        await target.query("UPDATE quorum.self SET copy = 'begun'")
        if ((await hashOf(target)) !== wanted)
          throw new Error('what it gave differs from the source (quorum.schema_hash)')
      })
      return how
    } catch (error) {
      failures.push(`${how}: ${sentenceOf(error).replaceAll(/\s+/g, ' ').trim()}`)
    }
  }
  throw new Error(
    `the schema could not be made on the target. ${failures.join('; ')}. ` +
      "Give --pg-dump the pg_dump of the source's version, or create the schema on the target by hand " +
      '(pg_dump --schema-only -N quorum -N quorum_shadow) and repeat',
  )
}

/** In the caller's transaction. */
export async function build(
  target: pg.ClientBase,
  texts: readonly (readonly [text: string, path: string])[],
): Promise<void> {
  await target.query(`
    SET LOCAL session_replication_role = origin;
    SET LOCAL check_function_bodies = off;
    SELECT set_config('quorum.bypass', 'on', true)`)
  for (const [text, path] of texts) {
    await target.query("SELECT set_config('search_path', $1, true)", [path])
    await target.query(text)
  }
  await target.query("SELECT set_config('search_path', 'pg_catalog', true)")
  await disown(target)
  await target.query('SELECT quorum.track()')
}

export async function dumped(
  source: Origin,
  target: pg.ClientBase,
  program: string,
): Promise<[text: string, path: string][]> {
  const [major, knows] = [
    Math.floor(await versionOf(source.client)),
    Number(/(\d+)/.exec((await promisify(execFile)(program, ['--version'])).stdout)?.[1]),
  ]
  if (knows < major) throw new Error(`${program} is of version ${knows}, the source of ${major}`)
  const { stdout } = await asLibpq(source.client, (env) =>
    promisify(execFile)(
      program,
      [
        '--schema-only',
        '--exclude-schema=quorum',
        '--exclude-schema=quorum_shadow',
        ...(source.snapshot === undefined ? [] : [`--snapshot=${source.snapshot}`]),
      ],
      { maxBuffer: MOST_BYTES, env },
    ),
  )
  const old = (await versionOf(target)) < 17
  // Our triggers are made by track() there; psql's own commands, and a setting that an older server does not know,
  // are no SQL for it.
  const text = stdout
    .replaceAll(/^CREATE EVENT TRIGGER quorum_[^;]*;$/gm, '')
    .split('\n')
    .filter(
      (line) =>
        !/^CREATE TRIGGER quorum_|^\\(un)?restrict\b/.test(line) &&
        !(old && line.startsWith('SET transaction_timeout')),
    )
    .join('\n')
  return [[`${text}\nRESET ALL`, 'pg_catalog']]
}

const versionOf = async (client: pg.ClientBase): Promise<number> =>
  Number((await client.query<{ v: string }>("SELECT current_setting('server_version_num') AS v")).rows[0]?.v) / 10_000

/** The log must reach back to the cluster's first DDL: version 1, 2, … of everything's own stripe. */
async function logged(source: pg.ClientBase): Promise<[text: string, path: string][]> {
  const { rows } = await source.query<{ version: string; body: string | null }>(`
    SELECT h.version, c.body
    FROM quorum.history h
    LEFT JOIN quorum.changeset c USING (gid)
    WHERE h.t = '*' AND h.n = -1
    ORDER BY h.version`)
  return rows.flatMap(({ version, body }, i) => {
    if (Number(version) !== i + 1 || body === null) throw new Error('it does not reach back to the beginning')
    const { items } = JSON.parse(body) as { items: { ddl?: string; path?: string }[] }
    return items.flatMap((item): [string, string][] =>
      item.ddl === undefined ? [] : [[item.ddl, item.path ?? 'public']],
    )
  })
}

/** A dump brings the source's residue classes of the sequences along; track() shall give them this member's. */
async function disown(target: pg.ClientBase): Promise<void> {
  const { rows } = await target.query<{ name: string; member: string; members: string; inc: string; start: string }>(`
    SELECT format('%I.%I', n.nspname, c.relname) AS name, m[1] AS member, m[2] AS members,
      p.seqincrement AS inc, p.seqstart AS start
    FROM pg_sequence p
    JOIN pg_class c ON c.oid = p.seqrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace,
      regexp_match(obj_description(c.oid, 'pg_class'), '^pg-quorum: member (\\d+) of (\\d+)') m
    WHERE m IS NOT NULL AND ${THEIRS}`)
  for (const s of rows) {
    const step = BigInt(s.inc) / BigInt(s.members)
    const first = BigInt(s.start) - step * (BigInt(s.member) - 1n)
    await target.query(`
      ALTER SEQUENCE ${s.name} INCREMENT BY ${step} START WITH ${first} RESTART WITH ${first};
      COMMENT ON SEQUENCE ${s.name} IS NULL`)
  }
}
