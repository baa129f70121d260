/**
 * What verify asks of one server about everything but rows: FACTS must be equal on all members, FAULTS and LOG
 * (log-questions.ts) name what is wrong by the member's own lights. Each answers (kind, object, says). Sent by the
 * driver rather than installed, since the functions on the servers are among what is looked at; the exceptions are
 * `stripe_of`, `link` and `made`, whose bodies are facts themselves.
 */

/**
 * What must be pinned for equal rows to have equal texts: as in schema/accept.sql. And plans: a table's groups are
 * few, sorting its rows is not.
 */
export const PINNED = `
  SET datestyle = 'ISO, MDY';
  SET intervalstyle = 'postgres';
  SET bytea_output = 'hex';
  SET extra_float_digits = 1;
  SET quote_all_identifiers = off;
  SET array_nulls = on;
  SET timezone = 'UTC';
  SET lc_monetary = 'C';
  SET xmloption = 'content';
  SET search_path = pg_catalog;
  SET enable_sort = off;
  SET lock_timeout = '500ms';
  SET statement_timeout = 0;
  SET transaction_read_only = off`

const USERS = `nspname NOT IN ('quorum', 'quorum_shadow', 'information_schema') AND nspname !~ '^pg_'`
/** The protocol's own tables, but for those that only one member may have. */
const OWN = `(
  'self', 'tracked', 'stripe', 'changeset', 'applied', 'history', 'mark', 'ballot', 'capture', 'everything')`

/**
 * The rows of a sequence's class are each member's own: its start, and the line of an apply function that moves it
 * there.
 */
export const FACTS = `
  WITH users AS (SELECT oid, nspname FROM pg_namespace WHERE ${USERS}),
    rel AS (
      SELECT c.*, format('%I.%I', s.nspname, c.relname) AS name
      FROM pg_class c
      JOIN users s ON s.oid = c.relnamespace
      WHERE c.relpersistence <> 't'
        AND NOT EXISTS (
          SELECT FROM pg_depend d
          WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')),
    kept AS (
      SELECT oid, name FROM rel
      UNION ALL
      SELECT c.oid, format('quorum.%I', c.relname)
      FROM pg_class c
      WHERE c.relnamespace = 'quorum'::regnamespace AND c.relname IN ${OWN})
  SELECT
    CASE relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialised view' ELSE 'table' END AS kind,
    name AS object,
    concat_ws(' ',
      relkind,
      relpersistence,
      relrowsecurity,
      relforcerowsecurity,
      (
        SELECT string_agg(quote_ident(attname), ',' ORDER BY attnum)
        FROM pg_attribute a
        WHERE a.attrelid = rel.oid AND attnum > 0 AND NOT attisdropped),
      pg_get_viewdef(oid)) AS says
  FROM rel
  WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
  UNION ALL
  SELECT
    'column',
    format('%s.%I', name, a.attname),
    concat_ws(' ',
      format_type(a.atttypid, a.atttypmod),
      CASE WHEN a.attnotnull THEN 'not null' END,
      nullif(a.attidentity, ''),
      nullif(a.attgenerated, ''),
      'default ' || pg_get_expr(d.adbin, d.adrelid),
      nullif(a.attcollation, 0)::regcollation::text)
  FROM rel
  JOIN pg_attribute a ON a.attrelid = rel.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = rel.oid AND d.adnum = a.attnum
  WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
  UNION ALL
  SELECT 'constraint', format('%I on %s', k.conname, kept.name), pg_get_constraintdef(k.oid)
  FROM pg_constraint k
  JOIN kept ON kept.oid = k.conrelid
  WHERE k.contype NOT IN ('n', 't')
  UNION ALL
  SELECT
    'index',
    i.indexrelid::regclass::text,
    concat_ws(' ', pg_get_indexdef(i.indexrelid), CASE WHEN NOT i.indisvalid THEN 'invalid' END)
  FROM pg_index i
  JOIN kept ON kept.oid = i.indrelid
  UNION ALL
  SELECT
    'trigger',
    format('%I on %s', g.tgname, rel.name),
    concat_ws(' ', pg_get_triggerdef(g.oid), nullif(g.tgenabled, 'O'))
  FROM pg_trigger g
  JOIN rel ON rel.oid = g.tgrelid
  WHERE NOT g.tgisinternal
  UNION ALL
  SELECT
    'policy',
    format('%I on %s', p.polname, rel.name),
    concat_ws(' ',
      p.polcmd,
      p.polpermissive,
      pg_get_expr(p.polqual, p.polrelid),
      pg_get_expr(p.polwithcheck, p.polrelid))
  FROM pg_policy p
  JOIN rel ON rel.oid = p.polrelid
  UNION ALL
  SELECT
    'function',
    p.oid::regprocedure::text,
    md5(concat_ws('|',
      regexp_replace(p.prosrc, '\\s*PERFORM setval\\([^;]*;', '', 'g'),
      pg_get_function_sqlbody(p.oid),
      p.proconfig,
      p.provolatile,
      p.proisstrict,
      p.prosecdef,
      p.prokind,
      pg_get_function_arguments(p.oid),
      pg_get_function_result(p.oid),
      l.lanname))
  FROM pg_proc p
  JOIN pg_namespace s ON s.oid = p.pronamespace
  JOIN pg_language l ON l.oid = p.prolang
  WHERE (${USERS} OR nspname IN ('quorum', 'quorum_shadow'))
    AND NOT EXISTS (
      SELECT FROM pg_depend d
      WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
  UNION ALL
  SELECT
    'type',
    t.oid::regtype::text,
    concat_ws(' ',
      nullif(t.typbasetype, 0)::regtype::text,
      CASE WHEN t.typnotnull THEN 'not null' END,
      t.typdefault,
      (
        SELECT string_agg(quote_literal(enumlabel), ',' ORDER BY enumsortorder)
        FROM pg_enum e
        WHERE e.enumtypid = t.oid),
      (
        SELECT string_agg(pg_get_constraintdef(k.oid), ' ' ORDER BY k.conname)
        FROM pg_constraint k
        WHERE k.contypid = t.oid))
  FROM pg_type t
  JOIN users s ON s.oid = t.typnamespace
  WHERE t.typtype IN ('e', 'd')
    AND NOT EXISTS (
      SELECT FROM pg_depend d
      WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')
  UNION ALL
  SELECT
    'sequence',
    rel.name,
    concat_ws(' ',
      q.seqtypid::regtype,
      'increment', q.seqincrement,
      'from', q.seqmin,
      'to', q.seqmax,
      CASE WHEN q.seqcycle THEN 'cycle' END)
  FROM pg_sequence q
  JOIN rel ON rel.oid = q.seqrelid
  UNION ALL
  SELECT 'extension', extname, extversion
  FROM pg_extension
  UNION ALL
  SELECT 'tracked table', t, pk::text
  FROM quorum.tracked
  UNION ALL
  SELECT
    'membership',
    'quorum.self',
    format('cluster %s, epoch %s, %s members, schema version %s', cluster, epoch, members, schema_version)
  FROM quorum.self`

export const FAULTS = `
  WITH caught AS (
    SELECT c.oid, format('%I.%I', s.nspname, c.relname) AS t, c.relkind
    FROM pg_class c
    JOIN pg_namespace s ON s.oid = c.relnamespace
    JOIN quorum.tracked k ON to_regclass(k.t) = coalesce(pg_partition_root(c.oid), c.oid)
    WHERE c.relkind IN ('r', 'p'))
  SELECT
    'trigger' AS kind,
    format('quorum_%s on %s', v.op, k.t) AS object,
    CASE
      WHEN g.oid IS NULL THEN 'is missing'
      WHEN g.tgenabled <> 'O' THEN 'is not enabled as it was'
      ELSE 'calls another function'
    END AS says
  FROM caught k
  CROSS JOIN (VALUES ('before'), ('insert'), ('update'), ('delete'), ('truncate')) v(op)
  LEFT JOIN pg_trigger g ON g.tgrelid = k.oid AND g.tgname = 'quorum_' || v.op
  WHERE NOT (v.op = 'truncate' AND k.relkind = 'p')
    AND (
      g.oid IS NULL
      OR g.tgenabled <> 'O'
      OR g.tgfoid IS DISTINCT FROM to_regprocedure(
        CASE v.op
          WHEN 'before' THEN 'quorum.before_statement()'
          ELSE quorum.made('capture', k.t) || '()'
        END)::oid)
  UNION ALL
  SELECT
    'table',
    format('%I.%I', s.nspname, c.relname),
    'is not tracked: what is written there is on this replica only'
  FROM pg_class c
  JOIN pg_namespace s ON s.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p')
    AND NOT c.relispartition
    AND c.relpersistence <> 't'
    AND ${USERS}
    AND NOT EXISTS (
      SELECT FROM pg_depend d
      WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')
    AND NOT EXISTS (
      SELECT FROM quorum.tracked k
      WHERE k.t = format('%I.%I', s.nspname, c.relname))
  UNION ALL
  SELECT
    'tracked table',
    k.t,
    CASE
      WHEN to_regclass(k.t) IS NULL THEN 'does not exist'
      ELSE 'has no shadow relation, so its locks cannot be taken'
    END
  FROM quorum.tracked k
  WHERE to_regclass(k.t) IS NULL OR to_regclass(k.shadow) IS NULL
  UNION ALL
  SELECT 'function', made.f, 'is missing'
  FROM quorum.tracked k
  CROSS JOIN LATERAL (
    VALUES
      (quorum.made('capture', k.t) || '()'),
      (quorum.made('apply', k.t) || '(text[],text[])'),
      (CASE WHEN cardinality(k.pk) > 0 THEN quorum.made('rows', k.t) || '(text,bigint,jsonb)' END),
      (CASE WHEN cardinality(k.pk) > 0 THEN quorum.made('accept', k.t) || '(text,bigint,text)' END)) made(f)
  WHERE made.f IS NOT NULL AND to_regprocedure(made.f) IS NULL
  UNION ALL
  SELECT 'sequence', format('%I.%I', s.nspname, c.relname), 'is not in the residue class of this member'
  FROM pg_class c
  JOIN pg_namespace s ON s.oid = c.relnamespace,
    quorum.self me
  WHERE c.relkind = 'S'
    AND c.relpersistence <> 't'
    AND ${USERS}
    AND coalesce(obj_description(c.oid, 'pg_class'), '')
      !~ format('^pg-quorum: member %s of %s(,|$)', me.member, me.members)
  UNION ALL
  SELECT
    'setting',
    v.name,
    format('is %s; put %s = %s into its postgresql.conf', current_setting(v.name), v.name, v.must)
  FROM (
    VALUES
      ('fsync', 'on'),
      ('full_page_writes', 'on'),
      ('session_replication_role', 'origin')) v(name, must)
  WHERE current_setting(v.name) <> v.must
  UNION ALL
  SELECT 'membership', 'quorum.self', 'says it is another server: it is a copy or a restored dump'
  FROM quorum.self, pg_control_system() c
  WHERE self.system_identifier <> c.system_identifier::text
  UNION ALL
  SELECT 'captured rows', t, format('%s are left over from a transaction that has ended', count(*))
  FROM quorum.capture
  GROUP BY t`

/** Prepared first, changesets in a later snapshot: what is prepared has committed its changeset before. */
export const PREPARED = `
  SELECT coalesce(array_agg(gid), '{}') AS gids
  FROM pg_prepared_xacts
  WHERE database = current_database() AND gid LIKE 'quorum\\_%'`
export const WITHOUT_CHANGESET = `
  SELECT
    'prepared transaction' AS kind,
    g AS object,
    'has no changeset here, so it cannot be brought to anybody' AS says
  FROM unnest($1::text[]) g
  WHERE NOT EXISTS (SELECT FROM quorum.changeset c WHERE c.gid = g)`

/** Classes must not meet: (name, residue) of each sequence that has given a value. */
export const RESIDUES = `
  SELECT
    format('%I.%I', schemaname, sequencename) AS name,
    (mod(mod(last_value, increment_by) + increment_by, increment_by))::text AS residue
  FROM pg_sequences
  WHERE last_value IS NOT NULL
    AND increment_by > 1
    AND schemaname NOT IN ('quorum', 'quorum_shadow')
    AND schemaname !~ '^pg_'`
