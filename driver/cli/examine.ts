/**
 * What `doctor` asks one server: everything that its checks (checks.ts) judge. Reads only, on a connection of its
 * own, as the driver's role.
 */
import type pg from 'pg'

export interface Setting {
  readonly value: string
  readonly source: string
}
export interface Exam {
  readonly name: string
  readonly role: string
  readonly superuser: boolean
  /** May act as quorum_txn, and changes the schema in a way that others can follow. */
  readonly granted: boolean
  readonly registered: boolean
  readonly database: string
  readonly version: string
  readonly system_identifier: string
  readonly settings: Readonly<Record<string, Setting>>
  readonly encoding: string
  readonly locale: string
  readonly collations: { name: string; recorded: string | null; actual: string | null }[]
  readonly extensions: Readonly<Record<string, string>>
  readonly prepared: { gid: string; age_s: number; ours: boolean }[]
  readonly idle_slots: string[]
  readonly connections: number
  readonly large_objects: number
  readonly database_bytes: number
  readonly wal_bytes: number | null
  /** null where the schema quorum is missing or not readable. */
  readonly quorum: Inside | null
}
export interface Inside {
  readonly functions: string
  readonly schema: string
  readonly triggers: { t: string; missing: string[]; disabled: string[] }[]
  readonly tables: { t: string; tracked: boolean; extension: string | null; bad: string | null }[]
  readonly indexes: string[]
  readonly captured: number
  readonly sequences: { name: string; increment: number; start: number; last: number; class: string | null }[]
}

const SETTINGS = [
  'fsync',
  'full_page_writes',
  'max_prepared_transactions',
  'default_transaction_read_only',
  'autovacuum',
  'synchronous_standby_names',
  'max_connections',
  'superuser_reserved_connections',
  'statement_timeout',
  'lock_timeout',
  'idle_in_transaction_session_timeout',
  'idle_session_timeout',
  'transaction_timeout',
]

const OUTSIDE = `
  SELECT current_user::text AS role, current_database()::text AS database,
    current_setting('server_version') AS version,
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
    (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
    (
      SELECT jsonb_object_agg(name, jsonb_build_object('value', setting, 'source', source))
      FROM pg_settings
      WHERE name = ANY ($1)
    ) AS settings,
    (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()) AS encoding,
    (
      SELECT concat_ws(' ', datlocprovider, datcollate, datctype,
        coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale'))
      FROM pg_database d
      WHERE datname = current_database()
    ) AS locale,
    (
      SELECT jsonb_agg(c)
      FROM (
        SELECT 'the database''s default' AS name, datcollversion AS recorded,
          pg_database_collation_actual_version(oid) AS actual
        FROM pg_database
        WHERE datname = current_database()
        UNION ALL
        SELECT DISTINCT o.collname::text, o.collversion, pg_collation_actual_version(o.oid)
        FROM pg_attribute a
        JOIN pg_class r ON r.oid = a.attrelid AND r.relkind IN ('r', 'i')
        JOIN pg_namespace n ON n.oid = r.relnamespace
        JOIN pg_collation o ON o.oid = a.attcollation
        WHERE n.nspname !~ '^(pg_|information_schema|quorum)' AND o.collname NOT IN ('default', 'C', 'POSIX')
      ) c
    ) AS collations,
    (SELECT coalesce(jsonb_object_agg(extname, extversion), '{}') FROM pg_extension) AS extensions,
    (
      SELECT coalesce(
        jsonb_agg(
          jsonb_build_object(
            'gid', gid,
            'age_s', extract(epoch FROM now() - prepared)::float8,
            'ours', gid LIKE 'quorum\\_%')
          ORDER BY prepared),
        '[]')
      FROM pg_prepared_xacts
    ) AS prepared,
    (
      SELECT coalesce(jsonb_agg(slot_name), '[]')
      FROM pg_replication_slots
      WHERE NOT active AND NOT temporary
    ) AS idle_slots,
    (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
    (SELECT count(*)::int FROM pg_largeobject_metadata) AS large_objects,
    pg_database_size(current_database())::float8 AS database_bytes, to_regnamespace('quorum') IS NOT NULL AS here,
    coalesce(pg_has_role(to_regrole('quorum_txn'), 'MEMBER'), false) AS granted,
    EXISTS (
      SELECT FROM pg_proc p
      WHERE p.pronamespace = to_regnamespace('quorum_shadow')
        AND p.proname LIKE 'run %'
        AND p.proowner = to_regrole(quote_ident(current_user))
    ) AS registered`

const USERS = "s.nspname NOT IN ('quorum', 'quorum_shadow', 'pg_catalog', 'information_schema') AND s.nspname !~ '^pg_'"
const INSIDE = `
  SELECT (
      SELECT md5(string_agg(proname || prosrc, '' ORDER BY proname, prosrc))
      FROM pg_proc
      WHERE pronamespace = 'quorum'::regnamespace
    ) AS functions,
    quorum.schema_hash() AS schema,
    (
      SELECT coalesce(jsonb_agg(g), '[]')
      FROM (
        SELECT k.t, coalesce(array_agg(w.name) FILTER (WHERE g.oid IS NULL), '{}') missing,
          coalesce(array_agg(w.name) FILTER (WHERE g.tgenabled <> 'O'), '{}') disabled
        FROM (
          SELECT c.oid, c.relkind, format('%I.%I', s.nspname, c.relname) t
          FROM pg_class c
          JOIN pg_namespace s ON s.oid = c.relnamespace
          JOIN quorum.tracked k ON to_regclass(k.t) = coalesce(pg_partition_root(c.oid), c.oid)
          WHERE c.relkind IN ('r', 'p')
        ) k
        CROSS JOIN unnest(
          ARRAY['quorum_before', 'quorum_insert', 'quorum_update', 'quorum_delete', 'quorum_truncate']) w(name)
        LEFT JOIN pg_trigger g ON g.tgrelid = k.oid AND g.tgname = w.name
        WHERE NOT (w.name = 'quorum_truncate' AND k.relkind = 'p')
        GROUP BY k.t
        HAVING bool_or(g.oid IS NULL OR g.tgenabled <> 'O')
      ) g
    ) AS triggers,
    (
      SELECT coalesce(jsonb_agg(x) FILTER (WHERE NOT x.tracked OR x.bad IS NOT NULL), '[]')
      FROM (
        SELECT format('%I.%I', s.nspname, c.relname) t,
          EXISTS (
            SELECT FROM quorum.tracked k
            WHERE to_regclass(k.t) = coalesce(pg_partition_root(c.oid), c.oid)
          ) tracked,
          (
            SELECT e.extname
            FROM pg_depend d
            JOIN pg_extension e ON e.oid = d.refobjid
            WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
            LIMIT 1
          ) extension,
          CASE
            WHEN c.relkind = 'f' THEN 'a foreign table'
            WHEN EXISTS (
              SELECT FROM pg_inherits i
              JOIN pg_class p ON p.oid = i.inhparent
              WHERE c.oid IN (i.inhparent, i.inhrelid) AND p.relkind <> 'p'
            ) THEN 'inheritance is not supported'
            WHEN c.relpersistence = 'u' THEN 'an unlogged table would be emptied by a crash'
            WHEN EXISTS (
              SELECT FROM pg_trigger g
              WHERE g.tgrelid = c.oid AND g.tgenabled IN ('A', 'R') AND NOT g.tgisinternal
            ) THEN 'a trigger that is ENABLE ALWAYS or REPLICA fires again on every replica'
            WHEN EXISTS (
              SELECT FROM pg_constraint k
              WHERE k.conrelid = c.oid AND k.contype IN ('u', 'p', 'x') AND k.condeferrable
            ) THEN 'a DEFERRABLE unique or exclusion constraint is not supported'
          END bad
        FROM pg_class c
        JOIN pg_namespace s ON s.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND ${USERS}
        ORDER BY 1
      ) x
    ) AS tables,
    (
      SELECT coalesce(jsonb_agg(pg_get_indexdef(i.indexrelid) ORDER BY 1), '[]')
      FROM pg_index i
      JOIN pg_class c ON c.oid = i.indrelid
      JOIN pg_namespace s ON s.oid = c.relnamespace
      WHERE i.indisvalid AND NOT i.indisunique AND ${USERS}
    ) AS indexes,
    (SELECT count(*)::int FROM quorum.capture WHERE xid < pg_snapshot_xmin(pg_current_snapshot())) AS captured`
const SEQUENCES = `
  SELECT format('%I.%I', s.nspname, c.relname) AS name, p.seqincrement::float8 AS increment,
    p.seqstart::float8 AS start, obj_description(c.oid, 'pg_class') AS class
  FROM pg_sequence p
  JOIN pg_class c ON c.oid = p.seqrelid
  JOIN pg_namespace s ON s.oid = c.relnamespace
  WHERE ${USERS} AND c.relpersistence <> 't'
  ORDER BY 1`

export async function examine(client: pg.Client, name: string): Promise<Exam> {
  const { here, ...outside } = (
    await client.query<Omit<Exam, 'name' | 'wal_bytes' | 'quorum'> & { here: boolean }>(OUTSIDE, [SETTINGS])
  ).rows[0]!
  const wal = outside.superuser
    ? (await client.query<{ n: number }>('SELECT coalesce(sum(size), 0)::float8 AS n FROM pg_ls_waldir()')).rows[0]!.n
    : null
  return { name, ...outside, wal_bytes: wal, quorum: here && outside.granted ? await inside(client) : null }
}

async function inside(client: pg.Client): Promise<Inside> {
  await client.query('SET ROLE quorum_txn')
  const found = (await client.query<Omit<Inside, 'sequences'>>(INSIDE)).rows[0]!
  const sequences = (await client.query<Omit<Inside['sequences'][number], 'last'>>(SEQUENCES)).rows
  const lasts =
    sequences.length === 0
      ? []
      : (
          await client.query<{ last: number }>(
            sequences.map((s, i) => `SELECT ${i} AS i, last_value::float8 AS last FROM ${s.name}`).join(' UNION ALL ') +
              ' ORDER BY i',
          )
        ).rows
  return { ...found, sequences: sequences.map((s, i) => ({ ...s, last: lasts[i]!.last })) }
}
