-- Everything a replica does for the protocol, replaced as a whole by every `init`. Sections are those of docs/protocol.md.
-- Refusals are data for the driver: SQLSTATE QB001 behind (this member lags), QB002 ahead (the changeset is stale), QB003 promised,
-- QB004 rows differ, QB005 other epoch, QB006 not allowed (for the user), QB007 unknown table, QB009 being built, QB010 the log was pruned.

SET LOCAL check_function_bodies = off;  -- they call one another
DROP FUNCTION IF EXISTS quorum.apply_rows(text, text[], text[]), quorum.check_keys(jsonb), quorum.replay(text), quorum.seal(text, jsonb, bool, bool);  -- as earlier versions had them

CREATE OR REPLACE FUNCTION quorum.stripe_of(key text) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT ('x' || substr(md5(key), 1, 8))::bit(32)::int & 1023 $$;

CREATE OR REPLACE FUNCTION quorum.link(previous bigint, gid text) RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$ SELECT ('x' || substr(md5(previous || gid), 1, 15))::bit(60)::bigint $$;

CREATE OR REPLACE FUNCTION quorum.lock_key(kind text, name text) RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$ SELECT hashtextextended(kind || ':' || name, 1903) $$;

-- Declared locks become granules: [{"t": table, "n": stripe or -1 for all of it, "w": written}], one per (t, n), in the global order.
CREATE OR REPLACE FUNCTION quorum.normalise(locks jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE l jsonb; known record; key text[]; granules jsonb := '[]'; c text; i int; typ text; v text; rel regclass;
BEGIN
  FOR l IN SELECT * FROM jsonb_array_elements(locks) LOOP
    IF l->>'t' = '*' THEN granules := granules || jsonb_build_object('t', '*', 'n', -1, 'w', (l->>'w')::bool); CONTINUE; END IF;
    IF left(l->>'t', 1) = '@' THEN granules := granules || jsonb_build_object('t', l->>'t', 'n', 0, 'w', (l->>'w')::bool); CONTINUE; END IF;
    rel := to_regclass(l->>'t');
    IF rel IS NULL THEN rel := to_regclass(quote_ident(l->>'t')); END IF;
    SELECT k.* INTO known FROM quorum.tracked k WHERE to_regclass(k.t) = rel;
    IF NOT FOUND THEN
      IF (l->>'soft')::bool THEN CONTINUE; END IF;  -- an inferred name that is a view, a catalogue or a temporary table: the seal sees what lies behind it
      RAISE EXCEPTION 'lock on unknown table "%"', l->>'t' USING ERRCODE = 'QB007',
        HINT = 'A lock names a table ("accounts"), a row by primary key ("accounts/42"), a name ("@billing") or everything ("*").';
    END IF;
    IF l ? 'kv' AND cardinality(known.pk) > 0 AND (SELECT bool_and(l->'kv' ? k) FROM unnest(known.pk) k) THEN
      l := l || jsonb_build_object('k', (SELECT jsonb_agg(l->'kv'->k ORDER BY o) FROM unnest(known.pk) WITH ORDINALITY u(k, o)));
    END IF;
    IF l->'k' IS NULL OR cardinality(known.pk) = 0 THEN
      granules := granules || jsonb_build_object('t', known.t, 'n', -1, 'w', (l->>'w')::bool); CONTINUE;
    END IF;
    IF jsonb_array_length(l->'k') <> cardinality(known.pk) THEN
      RAISE EXCEPTION 'lock on a row of "%" needs % key value(s) (%), got %', l->>'t', cardinality(known.pk), array_to_string(known.pk, ', '), jsonb_array_length(l->'k') USING ERRCODE = 'QB007';
    END IF;
    key := '{}';
    FOR i IN 1 .. cardinality(known.pk) LOOP
      SELECT format_type(a.atttypid, a.atttypmod) INTO typ FROM pg_attribute a WHERE a.attrelid = rel AND a.attname = known.pk[i];
      EXECUTE format('SELECT ($1::%s)::text', typ) INTO v USING l->'k'->>(i - 1);
      key := key || v;
    END LOOP;
    granules := granules || jsonb_build_object('t', known.t, 'n', quorum.stripe_of(key::text), 'w', (l->>'w')::bool);
  END LOOP;
  RETURN (SELECT coalesce(jsonb_agg(jsonb_build_object('t', t, 'n', n, 'w', w) ORDER BY t COLLATE "C", n), '[]') FROM (
    SELECT g->>'t' t, (g->>'n')::int n, bool_or((g->>'w')::bool) w FROM jsonb_array_elements(granules) g GROUP BY 1, 2) s);
END $$ SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1 SET timezone = 'UTC';

-- A, the locks that PREPARE keeps: in the global order, inside the transaction. A row's is advisory, a table's the lock of its shadow.
CREATE OR REPLACE FUNCTION quorum.take(granules jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE g record; last text := ''; strong bool; sh text; whole bool;
BEGIN
  IF EXISTS (SELECT FROM jsonb_array_elements(granules) e WHERE e->>'t' = '*') THEN
    SELECT bool_or((e->>'w')::bool) INTO strong FROM jsonb_array_elements(granules) e WHERE e->>'t' = '*';
    IF strong THEN LOCK TABLE quorum.everything IN EXCLUSIVE MODE; ELSE LOCK TABLE quorum.everything IN SHARE MODE; END IF;
    RETURN;
  END IF;
  SELECT bool_or((e->>'w')::bool) INTO strong FROM jsonb_array_elements(granules) e;
  IF strong THEN LOCK TABLE quorum.everything IN ROW EXCLUSIVE MODE; ELSE LOCK TABLE quorum.everything IN ROW SHARE MODE; END IF;
  FOR g IN SELECT e->>'t' t, (e->>'n')::int n, (e->>'w')::bool w FROM jsonb_array_elements(granules) e ORDER BY e->>'t' COLLATE "C", 2 LOOP
    IF g.t <> last AND left(g.t, 1) <> '@' THEN
      last := g.t;
      SELECT bool_or((e->>'w')::bool), bool_or((e->>'n')::int = -1) INTO strong, whole FROM jsonb_array_elements(granules) e WHERE e->>'t' = g.t;
      SELECT shadow INTO sh FROM quorum.tracked WHERE t = g.t;
      IF sh IS NULL THEN RAISE EXCEPTION 'table "%" is not tracked here', g.t USING ERRCODE = 'QB001'; END IF;
      EXECUTE format('LOCK TABLE %s IN %s MODE', sh, CASE WHEN whole AND strong THEN 'EXCLUSIVE' WHEN whole THEN 'SHARE' WHEN strong THEN 'ROW EXCLUSIVE' ELSE 'ROW SHARE' END);
    END IF;
    IF g.n >= 0 THEN
      IF g.w THEN PERFORM pg_advisory_xact_lock(quorum.lock_key('A', g.t || '/' || g.n));
      ELSE PERFORM pg_advisory_xact_lock_shared(quorum.lock_key('A', g.t || '/' || g.n)); END IF;
    END IF;
  END LOOP;
END $$;

-- (plpgsql even where SQL would do, for what runs in every transaction: before PostgreSQL 18 a SQL function is planned at each call.)
-- The base of granules: version (v), chain (c, sums only), read marks (mk: count, ms: sum). Rows also rest on their table's and everything's own
-- stripe (i: intent): whoever takes the whole extends that one, and counts every row's.
CREATE OR REPLACE FUNCTION quorum.base(granules jsonb) RETURNS jsonb LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN (
  WITH g AS (SELECT e->>'t' t, (e->>'n')::int n, (e->>'w')::bool w FROM jsonb_array_elements(granules) e),
  row_base AS (
    SELECT g.t, g.n, g.w, false i, coalesce(s.version, 0) v, 0::numeric c, coalesce(m.mk, 0) mk, coalesce(m.ms, 0) ms
    FROM g LEFT JOIN quorum.stripe s ON s.t = g.t AND s.n = g.n
    LEFT JOIN LATERAL (SELECT count(*) mk, sum(quorum.link(0, k.gid)) ms FROM quorum.mark k WHERE k.t = g.t AND k.n = g.n AND k.version = coalesce(s.version, 0)) m ON g.w
    WHERE g.n >= 0),
  whole_base AS (
    SELECT g.t, g.n, g.w, false i, coalesce(s.v, 0) v, coalesce(s.c, 0) c, coalesce(m.mk, 0) mk, coalesce(m.ms, 0) ms
    FROM g
    LEFT JOIN LATERAL (SELECT sum(version)::bigint v, sum(chain::numeric) c FROM quorum.stripe x WHERE x.t = g.t OR g.t = '*') s ON true
    LEFT JOIN LATERAL (SELECT count(*) mk, sum(quorum.link(0, k.gid)) ms FROM quorum.mark k LEFT JOIN quorum.stripe x USING (t, n)
                       WHERE (k.t = g.t OR g.t = '*') AND k.version = coalesce(x.version, 0)) m ON true
    WHERE g.n = -1),
  intents AS (
    SELECT DISTINCT t, -1 n FROM g WHERE n >= 0 AND left(t, 1) <> '@' AND NOT EXISTS (SELECT FROM g w WHERE w.t = g.t AND w.n = -1)
    UNION SELECT '*', -1 WHERE NOT EXISTS (SELECT FROM g WHERE t = '*')),
  intent_base AS (
    SELECT i.t, i.n, false w, true i, coalesce(s.version, 0) v, 0::numeric c, 0::bigint mk, 0::numeric ms FROM intents i LEFT JOIN quorum.stripe s ON s.t = i.t AND s.n = i.n)
  SELECT jsonb_agg(jsonb_build_object('t', t, 'n', n, 'w', w, 'i', i, 'v', v, 'c', c::text, 'mk', mk, 'ms', ms::text) ORDER BY t COLLATE "C", n)
  FROM (SELECT * FROM row_base UNION ALL SELECT * FROM whole_base UNION ALL SELECT * FROM intent_base) b);
END $$;

CREATE OR REPLACE FUNCTION quorum.granules_of(base jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RETURN (
  SELECT coalesce(jsonb_agg(jsonb_build_object('t', e->'t', 'n', e->'n', 'w', e->'w')), '[]') FROM jsonb_array_elements(base) e WHERE NOT (e->>'i')::bool);
END $$;

-- A member under construction has no vote: drivers refuse it when they connect, and this refuses those who connected before.
CREATE OR REPLACE FUNCTION quorum.takes_part() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF (SELECT building FROM quorum.self) THEN RAISE EXCEPTION 'this replica is being built, or has forgotten what it promised (pg-quorum clone); it takes no part' USING ERRCODE = 'QB009'; END IF;
END $$;

-- Where do we stand against a base? same, behind (we lag), ahead (a committed write or mark went past it: it can never be accepted here).
CREATE OR REPLACE FUNCTION quorum.against(base jsonb) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN (
  SELECT CASE WHEN bool_or(h.v > b.v OR (h.v = b.v AND h.c <> b.c) OR (b.w AND h.v = b.v AND (h.mk > b.mk OR (h.mk = b.mk AND h.ms <> b.ms)))) THEN 'ahead'
              WHEN bool_or(h.v < b.v OR (b.w AND h.mk < b.mk)) THEN 'behind' ELSE 'same' END
  FROM jsonb_to_recordset(base) b(t text, n int, w bool, i bool, v bigint, c numeric, mk bigint, ms numeric)
  JOIN jsonb_to_recordset(quorum.base(quorum.granules_of(base))) h(t text, n int, w bool, i bool, v bigint, c numeric, mk bigint, ms numeric) USING (t, n));
END $$;

-- Extends what was written, leaves marks on what was only read. Under A, inside the transaction that is to be committed.
CREATE OR REPLACE FUNCTION quorum.extend(gid text, body jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  WITH up AS (
    INSERT INTO quorum.stripe AS s (t, n, version, chain)
      SELECT w->>0, (w->>1)::int, 1, quorum.link(0, extend.gid) FROM jsonb_array_elements(body->'writes') w
    ON CONFLICT (t, n) DO UPDATE SET version = s.version + 1, chain = quorum.link(s.chain, extend.gid) RETURNING t, n, version),
  gone AS (DELETE FROM quorum.mark m USING up WHERE m.t = up.t AND m.n = up.n)
  INSERT INTO quorum.history SELECT t, n, version, extend.gid FROM up;
  INSERT INTO quorum.mark
    SELECT b.t, b.n, b.v, extend.gid FROM jsonb_to_recordset(body->'base') b(t text, n int, w bool, i bool, v bigint) WHERE NOT b.w AND NOT b.i AND b.n >= 0
      AND NOT body->'writes' @> jsonb_build_array(jsonb_build_array(b.t, b.n));
  INSERT INTO quorum.applied (gid) VALUES (extend.gid);
END $$;

---------------------------------------------------------------------------------------------------- capture

-- One trigger function for each tracked table, written out so that its statements are planned once. See track().
CREATE OR REPLACE FUNCTION quorum.record(t text, n int, image text, sign int) RETURNS void LANGUAGE sql AS
$$ INSERT INTO quorum.capture (xid, segment, t, n, image, sign) VALUES (pg_current_xact_id(), coalesce(nullif(current_setting('quorum.segment', true), ''), '0')::int, t, n, image, sign) $$;

CREATE OR REPLACE FUNCTION quorum.covered(t text, stripes int[]) RETURNS void LANGUAGE plpgsql STABLE AS $$
DECLARE cover text := current_setting('quorum.cover', true); missing int;
BEGIN
  IF coalesce(cover, '') = '' THEN
    IF current_setting('quorum.bypass', true) = 'on' THEN RETURN; END IF;
    RAISE EXCEPTION 'write to "%" goes round pg-quorum', t USING ERRCODE = 'QB006',
      HINT = 'Write through the pg-quorum driver; a direct write would make this replica differ from the others.';
  END IF;
  IF cover = 'infer' THEN RETURN; END IF;
  SELECT s INTO missing FROM unnest(stripes) s WHERE NOT EXISTS (
    SELECT FROM jsonb_array_elements(cover::jsonb) g WHERE (g->>'w')::bool AND (g->>'t' = '*' OR (g->>'t' = covered.t AND ((g->>'n')::int = -1 OR (g->>'n')::int = s)))) LIMIT 1;
  IF missing IS NOT NULL THEN
    RAISE EXCEPTION 'write to "%" is not covered by the declared locks', t USING ERRCODE = 'QB006',
      HINT = 'Declare the row ("table/key"), the table or "*" as an exclusive lock, or declare nothing and let pg-quorum infer the locks.';
  END IF;
END $$;

CREATE OR REPLACE FUNCTION quorum.before_statement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN  -- a statement that changes no row must be refused as well: whether it does depends on what this replica happens to know
  IF coalesce(current_setting('quorum.cover', true), '') = '' THEN PERFORM quorum.covered(format('%I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME), '{}'); END IF;
  RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION quorum.untrack(gone text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE k record;
BEGIN
  FOR k IN SELECT * FROM quorum.tracked WHERE t = gone LOOP
    EXECUTE format('DROP TABLE IF EXISTS %s', k.shadow);
    -- CASCADE: a table that was renamed still has its triggers, and gets new ones.
    EXECUTE format('DROP FUNCTION IF EXISTS %s(), %s(text[], text[]), %s(text[], text[]) CASCADE', quorum.made('capture', gone), quorum.made('apply', gone), quorum.made('keys', gone));
    DELETE FROM quorum.tracked WHERE t = gone;
  END LOOP;
END $$;

-- Brings tracking in line with the tables that exist: called by init and after every DDL. Refuses what could not be carried faithfully.
CREATE OR REPLACE FUNCTION quorum.track() RETURNS void LANGUAGE plpgsql AS $$
DECLARE r record; name text; key text[]; fn text; keyexpr text; me quorum.self; q record; bad text; stride bigint; start bigint; first bigint;
BEGIN
  SELECT * INTO me FROM quorum.self;
  FOR r IN SELECT k.t FROM quorum.tracked k WHERE to_regclass(k.t) IS NULL LOOP PERFORM quorum.untrack(r.t); END LOOP;
  FOR r IN SELECT c.oid, c.relname, s.nspname, c.relkind, c.relispartition, c.relpersistence FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
           WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND s.nspname NOT IN ('quorum', 'quorum_shadow', 'pg_catalog', 'information_schema') AND s.nspname !~ '^pg_' 
             AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e') ORDER BY 3, 2 LOOP
    name := format('%I.%I', r.nspname, r.relname);
    bad := CASE WHEN r.relkind = 'p' OR r.relispartition OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = r.oid OR i.inhrelid = r.oid) THEN 'partitions and inheritance are not supported yet'
                WHEN NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') THEN 'it has no columns that hold values'
                WHEN r.relpersistence = 'u' THEN 'an unlogged table would be emptied by a crash: make it LOGGED'
                WHEN EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = r.oid AND g.tgenabled IN ('A', 'R') AND NOT g.tgisinternal) THEN 'a trigger that is ENABLE ALWAYS or REPLICA would fire again on every replica'
                WHEN EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = r.oid AND k.contype IN ('u', 'p', 'x') AND k.condeferrable) THEN 'a DEFERRABLE unique or exclusion constraint is not supported'
                WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = r.oid AND a.atttypid = 'oid'::regtype AND a.attnum > 0) THEN 'a column of type oid (large objects) differs between servers'
           END;
    IF bad IS NOT NULL THEN RAISE EXCEPTION 'table %: %', name, bad USING ERRCODE = '0A000'; END IF;
    SELECT coalesce(array_agg(a.attname::text ORDER BY p.ord), '{}') INTO key FROM pg_constraint k, unnest(k.conkey) WITH ORDINALITY p(num, ord) JOIN pg_attribute a ON a.attnum = p.num
      WHERE k.conrelid = r.oid AND k.contype = 'p' AND a.attrelid = r.oid;
    IF NOT EXISTS (SELECT FROM quorum.tracked WHERE t = name) THEN
      EXECUTE format('CREATE TABLE IF NOT EXISTS %s ()', quorum.made('table', name));
      INSERT INTO quorum.tracked VALUES (name, key, quorum.made('table', name));
    ELSE UPDATE quorum.tracked SET pk = key WHERE t = name AND pk <> key; END IF;
    keyexpr := CASE WHEN cardinality(key) = 0 THEN '-1' ELSE (SELECT 'quorum.stripe_of(ARRAY[' || string_agg(format('(x.%I)::text', k), ', ') || ']::text)' FROM unnest(key) k) END;
    fn := quorum.made('capture', name);
    EXECUTE format($f$
      CREATE OR REPLACE FUNCTION %1$s() RETURNS trigger LANGUAGE plpgsql AS $body$
      BEGIN
        IF coalesce(current_setting('quorum.cover', true), '') = '' THEN RETURN NULL; END IF;  -- a bypass: the BEFORE trigger let it through
        IF TG_OP = 'TRUNCATE' THEN
          INSERT INTO quorum.capture (xid, segment, t, n, image, sign) SELECT pg_current_xact_id(), coalesce(nullif(current_setting('quorum.segment', true), ''), '0')::int, %2$L, %3$s, x::text, 1 FROM %4$s x;
        END IF;
        IF TG_OP IN ('DELETE', 'UPDATE') THEN
          INSERT INTO quorum.capture (xid, segment, t, n, image, sign) SELECT pg_current_xact_id(), coalesce(nullif(current_setting('quorum.segment', true), ''), '0')::int, %2$L, %3$s, x::text, 1 FROM old_rows x;
        END IF;
        IF TG_OP IN ('INSERT', 'UPDATE') THEN
          INSERT INTO quorum.capture (xid, segment, t, n, image, sign) SELECT pg_current_xact_id(), coalesce(nullif(current_setting('quorum.segment', true), ''), '0')::int, %2$L, %3$s, x::text, -1 FROM new_rows x;
        END IF;
        IF current_setting('quorum.cover', true) IS DISTINCT FROM 'infer' THEN
          PERFORM quorum.covered(%2$L, (SELECT array_agg(DISTINCT n) FROM quorum.capture WHERE xid = pg_current_xact_id() AND t = %2$L));
        END IF;
        RETURN NULL;
      END $body$ SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1 SET timezone = 'UTC' SET lc_monetary = 'C' SET xmloption = 'content' SET search_path = pg_catalog$f$,
      fn, name, keyexpr, name);
    FOR q IN SELECT * FROM (VALUES ('insert', 'AFTER INSERT', 'REFERENCING NEW TABLE AS new_rows'), ('update', 'AFTER UPDATE', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows'),
        ('delete', 'AFTER DELETE', 'REFERENCING OLD TABLE AS old_rows'), ('truncate', 'BEFORE TRUNCATE', '')) v(op, event, refs) LOOP
      IF NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = r.oid AND g.tgname = 'quorum_' || q.op) THEN
        EXECUTE format('CREATE TRIGGER %I %s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION %s()', 'quorum_' || q.op, q.event, name, q.refs, fn);
      END IF;
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = r.oid AND g.tgname = 'quorum_before') THEN
      EXECUTE format('CREATE TRIGGER quorum_before BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION quorum.before_statement()', name);
    END IF;
  END LOOP;
  -- Each member hands out its own residue class of every sequence, so that two leads can never give the same value twice (N31).
  FOR q IN SELECT c.oid, format('%I.%I', s.nspname, c.relname) name, p.seqincrement, p.seqstart FROM pg_sequence p JOIN pg_class c ON c.oid = p.seqrelid JOIN pg_namespace s ON s.oid = c.relnamespace
           WHERE s.nspname NOT IN ('quorum', 'quorum_shadow', 'pg_catalog', 'information_schema') AND s.nspname !~ '^pg_' AND c.relpersistence <> 't'
             AND coalesce(obj_description(c.oid, 'pg_class'), '') NOT LIKE 'pg-quorum:%' LOOP
    EXECUTE format('SELECT CASE WHEN is_called THEN last_value + %s ELSE last_value END FROM %s', q.seqincrement, q.name) INTO start;
    stride := q.seqincrement * me.members;
    first := q.seqstart + q.seqincrement * (me.member - 1);
    -- What was handed out before (another class, perhaps) stays behind; START and RESTART are of one class, which apply keeps to.
    EXECUTE format('ALTER SEQUENCE %s INCREMENT BY %s START WITH %s RESTART WITH %s', q.name, stride, first, first + stride * greatest(0, ceil((start - first)::numeric / stride))::bigint);
    EXECUTE format('COMMENT ON SEQUENCE %s IS %L', q.name, format('pg-quorum: member %s of %s', me.member, me.members));
  END LOOP;
  PERFORM quorum.make_apply(t), quorum.make_keys(t) FROM quorum.tracked;
END $$;

-- Everything about the users' tables that must be equal on all replicas (not the sequences' strides, which must differ).
CREATE OR REPLACE FUNCTION quorum.schema_hash() RETURNS text LANGUAGE sql STABLE AS $$
  SELECT md5(coalesce(string_agg(line, E'\n' ORDER BY line COLLATE "C"), '')) FROM (
    SELECT format('%I.%I.%s %I %s %s %s %s %s', s.nspname, c.relname, row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated, pg_get_expr(d.adbin, d.adrelid)) line
    FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relkind IN ('r', 'p', 'v', 'm') AND s.nspname NOT IN ('quorum', 'quorum_shadow', 'information_schema') AND s.nspname !~ '^pg_'
    UNION ALL SELECT format('%s %s %s', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid)) FROM pg_constraint k JOIN pg_namespace s ON s.oid = k.connamespace WHERE k.contype <> 'n' AND s.nspname NOT IN ('quorum', 'quorum_shadow', 'information_schema') AND s.nspname !~ '^pg_'
    UNION ALL SELECT x.indexdef FROM pg_indexes x WHERE x.schemaname NOT IN ('quorum', 'quorum_shadow', 'information_schema') AND x.schemaname !~ '^pg_'
    UNION ALL SELECT pg_get_triggerdef(g.oid) FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace s ON s.oid = c.relnamespace WHERE NOT g.tgisinternal AND g.tgname !~ '^quorum_' AND s.nspname !~ '^(pg_|quorum|information_schema)'
  ) l $$ SET search_path = pg_catalog;

CREATE OR REPLACE FUNCTION quorum.table_hash(t regclass) RETURNS text LANGUAGE plpgsql AS $$
DECLARE h text; BEGIN
  EXECUTE format($q$SELECT count(*) || ':' || coalesce(sum(('x' || substr(md5(x::text), 1, 15))::bit(60)::bigint::numeric), 0) FROM %s x$q$, t) INTO h;
  RETURN h;
END $$ SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1 SET timezone = 'UTC' SET lc_monetary = 'C' SET xmloption = 'content' SET search_path = pg_catalog;

-- Tables whose rows a DDL statement of this transaction wrote (rewritten or born with rows): they are compared by content, since no trigger saw them.
CREATE OR REPLACE FUNCTION quorum.rewritten() RETURNS jsonb LANGUAGE sql AS $$
  SELECT coalesce(jsonb_object_agg(k.t, quorum.table_hash(to_regclass(k.t))), '{}') FROM quorum.tracked k JOIN pg_class c ON c.oid = to_regclass(k.t)
  WHERE c.xmin::text::bigint = (pg_current_xact_id()::text::bigint & 4294967295) $$;

CREATE OR REPLACE FUNCTION quorum.ddl(statement text, path text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE s int := coalesce(nullif(current_setting('quorum.segment', true), ''), '0')::int;
BEGIN
  PERFORM quorum.track();
  INSERT INTO quorum.capture (xid, segment, ddl, path) VALUES (pg_current_xact_id(), s + 1, statement, path);
  PERFORM set_config('quorum.segment', (s + 2)::text, true);
END $$;

---------------------------------------------------------------------------------------------------- seal (section 4, step 5)

-- On the lead, in its open transaction. most: bytes of row images that a changeset may hold (54000 beyond). cover: granules and base as read before the work. prefix: the gid but for its digest.
-- Returns {"state": "clean"} (nothing written), {"state": "stale"} (a version moved), {"state": "uncovered", "tables": […]} or {"state": "sealed", gid, body}.
CREATE OR REPLACE FUNCTION quorum.seal(prefix text, base jsonb, inferred bool, fresh bool, most bigint) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE items jsonb; writes jsonb; granules jsonb; full_base jsonb; body text; gid text; missed jsonb; mine xid8; hashes jsonb; size bigint;
BEGIN
  PERFORM quorum.takes_part();
  SET CONSTRAINTS ALL IMMEDIATE;
  SET LOCAL synchronous_commit = on;  -- the lead's commit is a vote, whatever the role or the database has set
  granules := quorum.granules_of(base);
  IF inferred THEN  -- the server's own word: every tracked relation that was read must have been known before the work
    missed := quorum.uncovered(granules);
    IF missed IS NOT NULL THEN RETURN jsonb_build_object('state', 'uncovered', 'tables', missed); END IF;
  END IF;
  mine := pg_current_xact_id_if_assigned();
  IF mine IS NULL OR (NOT EXISTS (SELECT FROM quorum.capture c WHERE c.xid = mine)) THEN RETURN jsonb_build_object('state', 'clean'); END IF;
  SELECT sum(octet_length(c.image)) INTO size FROM quorum.capture c WHERE c.xid = mine;
  IF size > most THEN RAISE EXCEPTION 'the transaction changes % MB of rows, more than the limit of % MB', ceil(size / 1048576.0), round(most / 1048576.0, 1) USING ERRCODE = '54000'; END IF;
  WITH net AS (  -- the net effect: images that the transaction both made and unmade cancel, whatever the order its triggers ran in
      SELECT c.segment, c.t, c.n, c.image, sum(c.sign) s FROM quorum.capture c WHERE c.xid = mine AND c.ddl IS NULL GROUP BY 1, 2, 3, 4 HAVING sum(c.sign) <> 0),
    copies AS (SELECT segment, t, n, image, s FROM net, generate_series(1, abs(s))),
    by_table AS (
      SELECT segment, t, jsonb_build_object('t', t, 'o', coalesce(jsonb_agg(image ORDER BY image COLLATE "C") FILTER (WHERE s > 0), '[]'), 'n', coalesce(jsonb_agg(image ORDER BY image COLLATE "C") FILTER (WHERE s < 0), '[]')) item
      FROM copies GROUP BY 1, 2
      UNION ALL SELECT c.segment, '', jsonb_build_object('ddl', c.ddl, 'path', c.path) FROM quorum.capture c WHERE c.xid = mine AND c.ddl IS NOT NULL)
    SELECT to_jsonb(coalesce(array_agg(item ORDER BY segment, t COLLATE "C"), '{}')) INTO items FROM by_table;  -- jsonb_agg is quadratic in the length of an item
  SELECT coalesce(jsonb_agg(jsonb_build_array(t, n) ORDER BY t COLLATE "C", n), '[]') INTO writes FROM (
      SELECT DISTINCT c.t, c.n FROM quorum.capture c WHERE c.xid = mine AND c.ddl IS NULL
      UNION SELECT g->>'t', (g->>'n')::int FROM jsonb_array_elements(granules) g WHERE (g->>'w')::bool OR (g->>'n')::int = -1
      UNION SELECT '*', -1 FROM quorum.capture c WHERE c.xid = mine AND c.ddl IS NOT NULL) w;
  -- What was written without having been declared (an insert, a cascade) rests on what stands now; a table that was read whole counts as written.
  SELECT coalesce(jsonb_agg(jsonb_build_object('t', t, 'n', n, 'w', w) ORDER BY t COLLATE "C", n), '[]') INTO granules FROM (
      SELECT t, n, bool_or(w) w FROM (
        SELECT g->>'t' t, (g->>'n')::int n, (g->>'w')::bool OR (g->>'n')::int = -1 w FROM jsonb_array_elements(granules) g
        UNION ALL SELECT w->>0, (w->>1)::int, true FROM jsonb_array_elements(writes) w
          WHERE NOT EXISTS (SELECT FROM jsonb_array_elements(granules) g WHERE g->>'t' = '*' OR (g->>'t' = w->>0 AND (g->>'n')::int = -1))) u GROUP BY 1, 2) v;
  PERFORM quorum.take(granules);
  DELETE FROM quorum.capture WHERE xid = mine;
  IF fresh AND quorum.moved(base) THEN RETURN jsonb_build_object('state', 'stale'); END IF;
  full_base := quorum.base(granules);
  IF EXISTS (SELECT FROM jsonb_array_elements(items) i WHERE i ? 'ddl') THEN
    hashes := quorum.rewritten() || jsonb_build_object('', quorum.schema_hash());
  END IF;
  body := jsonb_build_object('base', full_base, 'writes', writes, 'items', items, 'hashes', hashes, 'epoch', (SELECT epoch FROM quorum.self), 'lead', (SELECT member FROM quorum.self))::text;
  gid := prefix || substr(encode(sha256(convert_to(body, 'UTF8')), 'hex'), 1, 32);
  PERFORM pg_advisory_xact_lock(quorum.lock_key('T', gid));
  INSERT INTO quorum.changeset (gid, body) VALUES (gid, body);
  PERFORM quorum.extend(gid, body::jsonb);
  RETURN jsonb_build_object('state', 'sealed', 'gid', gid, 'body', body);
END $$;

-- Tracked tables that this transaction has read (views and functions expanded: pg_locks knows) and that no granule covers.
CREATE OR REPLACE FUNCTION quorum.uncovered(granules jsonb) RETURNS jsonb LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN (SELECT jsonb_agg(k.t) FROM pg_locks l JOIN quorum.tracked k ON to_regclass(k.t) = l.relation
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.mode = 'AccessShareLock'
      AND NOT EXISTS (SELECT FROM jsonb_array_elements(granules) g WHERE g->>'t' = '*' OR g->>'t' = k.t));
END $$;

-- Did anything that was read before the work move since? Versions only: read marks are for writers' bases.
CREATE OR REPLACE FUNCTION quorum.moved(base jsonb) RETURNS bool LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN (
  SELECT coalesce(bool_or(h.v <> b.v OR h.c <> b.c), false) FROM jsonb_to_recordset(base) b(t text, n int, v bigint, c numeric)
  JOIN jsonb_to_recordset(quorum.base(quorum.granules_of(base))) h(t text, n int, v bigint, c numeric) USING (t, n));
END $$;

---------------------------------------------------------------------------------------------------- accept (section 4, step 6)

-- What applies a changeset's rows and checks its keys is written out for each tracked table, so that it is planned once and not at each accept.
-- Small changesets go by index, whatever the statistics say; a large one gets a plan of its own.
CREATE OR REPLACE FUNCTION quorum.made(what text, t text) RETURNS text LANGUAGE sql STABLE AS  -- a longer name would be cut off, and then be another table's
$$ SELECT format('quorum_shadow.%I', CASE WHEN octet_length(what || t) < 63 THEN what || ' ' || t ELSE what || ' ' || md5(t) END) $$;

CREATE OR REPLACE FUNCTION quorum.make(what text, name text, code text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format($f$
    CREATE OR REPLACE FUNCTION %s(olds text[], news text[]) RETURNS void LANGUAGE plpgsql AS $made$
    DECLARE got bigint; want bigint; few bool := cardinality(olds) + cardinality(news) <= 100;
    BEGIN
      PERFORM set_config('plan_cache_mode', CASE WHEN few THEN 'force_generic_plan' ELSE 'force_custom_plan' END, true), set_config('enable_seqscan', CASE WHEN few THEN 'off' ELSE 'on' END, true);
      %s
    END $made$ SET plan_cache_mode = auto SET enable_seqscan = on$f$, quorum.made(what, name), code);
END $$;

CREATE OR REPLACE FUNCTION quorum.make_apply(name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE rel regclass := to_regclass(name); key text[] := (SELECT pk FROM quorum.tracked WHERE t = name); cols text; vals text; sets text; same text; twin text; swap text; code text; q record;
  olds text := format('(SELECT v::%s r, v FROM unnest(olds) v OFFSET 0)', name); news text := format('(SELECT v::%s r, v FROM unnest(news) v OFFSET 0)', name);
BEGIN
  SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum), string_agg(format('(i.r).%I', attname), ', ' ORDER BY attnum)
    INTO cols, vals FROM pg_attribute WHERE attrelid = rel AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
  IF cardinality(key) > 0 THEN
    SELECT string_agg(format('x.%1$I = (i.r).%1$I', c), ' AND '), string_agg(format('(y.r).%1$I = (i.r).%1$I', c), ' AND ') INTO same, twin FROM unnest(key) c;
    -- A second unique index could be crossed by two updated rows halfway: then they go out before they come in.
    swap := CASE WHEN 1 < (SELECT count(*) FROM pg_index WHERE indrelid = rel AND (indisunique OR indisexclusion)) THEN 'cardinality(news) > 1' ELSE 'false' END;
    SELECT format('UPDATE %s x SET (%s) = ROW(%s) FROM %s i WHERE %s;', name, string_agg(quote_ident(attname), ', ' ORDER BY attnum), string_agg(format('(i.r).%I', attname), ', ' ORDER BY attnum), news, same)
      INTO sets FROM pg_attribute WHERE attrelid = rel AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attidentity <> 'a' AND NOT attname = ANY (key) HAVING count(*) > 0;
    code := format($f$
      IF cardinality(olds) > 0 THEN
        SELECT count(*) INTO got FROM %2$s i JOIN %1$s x ON %4$s WHERE x::text = i.v;
        IF got <> cardinality(olds) THEN RAISE EXCEPTION 'rows of %% found here differ from those of the lead (%% of %% equal)', %9$L, got, cardinality(olds) USING ERRCODE = 'QB004'; END IF;
        DELETE FROM %1$s x USING %2$s i WHERE %4$s AND (%6$s OR NOT EXISTS (SELECT FROM %3$s y WHERE %5$s));
      END IF;
      IF cardinality(news) > 0 THEN
        IF cardinality(olds) > 0 THEN %7$s NULL; END IF;
        INSERT INTO %1$s (%8$s) OVERRIDING SYSTEM VALUE SELECT %10$s FROM %3$s i WHERE %6$s OR NOT EXISTS (SELECT FROM %2$s y WHERE %5$s);  -- a row that is here and not on the lead stops it
        SELECT count(*) INTO got FROM %3$s i JOIN %1$s x ON %4$s WHERE x::text = i.v;
        IF got <> cardinality(news) THEN RAISE EXCEPTION 'rows of %% stored here differ from those of the lead', %9$L USING ERRCODE = 'QB004'; END IF;
      END IF;$f$, name, olds, news, same, twin, swap, sets, cols, name, vals);
  ELSE
    code := format($f$
      WITH o AS (SELECT v, row_number() OVER (PARTITION BY v) k FROM unnest(olds) v), x AS (SELECT ctid at, x::text v, row_number() OVER (PARTITION BY x::text) k FROM %1$s x WHERE cardinality(olds) > 0),
        d AS (DELETE FROM %1$s WHERE ctid IN (SELECT at FROM x JOIN o USING (v, k)) RETURNING 1) SELECT count(*) INTO got FROM d;
      IF got <> cardinality(olds) THEN RAISE EXCEPTION 'rows of %% found here differ from those of the lead', %2$L USING ERRCODE = 'QB004'; END IF;
      WITH s AS (INSERT INTO %1$s AS x (%3$s) OVERRIDING SYSTEM VALUE SELECT %4$s FROM %5$s i RETURNING x::text v)
        SELECT count(*) INTO got FROM (SELECT v FROM s EXCEPT ALL SELECT unnest(news)) y;
      IF got <> 0 THEN RAISE EXCEPTION 'rows of %% stored here differ from those of the lead', %2$L USING ERRCODE = 'QB004'; END IF;$f$, name, name, cols, vals, news);
  END IF;
  FOR q IN SELECT a.attname, format('%I.%I', s.nspname, c.relname) seq, p.seqincrement inc, p.seqstart FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S' JOIN pg_namespace s ON s.oid = c.relnamespace
           JOIN pg_sequence p ON p.seqrelid = c.oid JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid WHERE d.refobjid = rel AND d.deptype IN ('a', 'i') AND p.seqincrement > 0 LOOP
    code := code || format($f$
      PERFORM setval(%2$L, %4$s::bigint + ((m - %4$s + %5$s - 1) / %5$s) * %5$s) FROM (SELECT max((v::%1$s).%3$I)::bigint m FROM unnest(news) v) x, %2$s q WHERE m > q.last_value AND m > %4$s;$f$, name, q.seq, q.attname, q.seqstart, q.inc);
  END LOOP;
  PERFORM quorum.make('apply', name, code);
END $$;

-- Foreign keys, which the replica role leaves unchecked: on every replica that accepts, so that two leads cannot cross (section 6).
CREATE OR REPLACE FUNCTION quorum.make_keys(name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE rel regclass := to_regclass(name); code text := ''; k record;
BEGIN
  FOR k IN SELECT c.conname, c.conrelid, c.confrelid, (SELECT format('%I.%I', s.nspname, r.relname) FROM pg_class r JOIN pg_namespace s ON s.oid = r.relnamespace WHERE r.oid = CASE c.conrelid WHEN rel THEN c.confrelid ELSE c.conrelid END) other,
             j.child, j.parent, j.both
           FROM pg_constraint c, LATERAL (SELECT string_agg(format('(v::%s).%I AS k%s', name, ch.attname, o), ', ' ORDER BY o) child, string_agg(format('(v::%s).%I AS k%s', name, pa.attname, o), ', ' ORDER BY o) parent,
               jsonb_build_object('child', string_agg(format('c.%I = f.k%s', ch.attname, o), ' AND ' ORDER BY o), 'parent', string_agg(format('p.%I = f.k%s', pa.attname, o), ' AND ' ORDER BY o)) both
             FROM unnest(c.conkey, c.confkey) WITH ORDINALITY u(a, b, o) JOIN pg_attribute ch ON ch.attrelid = c.conrelid AND ch.attnum = a JOIN pg_attribute pa ON pa.attrelid = c.confrelid AND pa.attnum = b) j
           WHERE c.contype = 'f' AND rel IN (c.conrelid, c.confrelid) LOOP
    IF k.conrelid = rel THEN
      code := code || format($f$
        IF cardinality(news) > 0 THEN
          SELECT count(*) INTO want FROM (SELECT DISTINCT %1$s FROM unnest(news) v) f WHERE NOT (f IS NULL) AND f IS NOT NULL;
          SELECT count(*) INTO got FROM (SELECT 1 FROM %2$s p JOIN (SELECT DISTINCT %1$s FROM unnest(news) v) f ON %3$s FOR KEY SHARE OF p) x;
          IF got <> want THEN RAISE EXCEPTION 'insert or update on table "%%" violates foreign key constraint "%%"', %4$L, %5$L USING ERRCODE = '23503'; END IF;
        END IF;$f$, k.child, CASE WHEN k.confrelid = rel THEN name ELSE k.other END, k.both->>'parent', name, k.conname);
    END IF;
    IF k.confrelid = rel THEN  -- only keys that are gone can be missed; looking for the others would scan the whole child for every change of a parent
      code := code || format($f$
        IF cardinality(olds) > 0 AND EXISTS (SELECT %1$s FROM unnest(olds) v EXCEPT SELECT %1$s FROM unnest(news) v) THEN
          SELECT count(*) INTO got FROM %2$s c JOIN (SELECT %1$s FROM unnest(olds) v) f ON %3$s WHERE NOT EXISTS (SELECT FROM %4$s p WHERE %5$s);
          IF got <> 0 THEN RAISE EXCEPTION 'update or delete on table "%%" violates foreign key constraint "%%"', %6$L, %7$L USING ERRCODE = '23503'; END IF;
        END IF;$f$, k.parent, CASE WHEN k.conrelid = rel THEN name ELSE k.other END, k.both->>'child', name, k.both->>'parent', name, k.conname);
    END IF;
  END LOOP;
  PERFORM quorum.make('keys', name, code);
END $$;

-- Gives an item's rows to the function that was made for its table.
CREATE OR REPLACE FUNCTION quorum.for_table(what text, item jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF to_regclass(item->>'t') IS NULL THEN RAISE EXCEPTION 'no table %', item->>'t' USING ERRCODE = 'QB004'; END IF;
  EXECUTE format('SELECT %s($1, $2)', quorum.made(what, item->>'t')) USING ARRAY(SELECT jsonb_array_elements_text(item->'o')), ARRAY(SELECT jsonb_array_elements_text(item->'n'));
END $$;

-- Inside the transaction that PREPARE TRANSACTION will keep. ballot 0: the owner's; b >= 1: a resolver's that has promised b here.
CREATE OR REPLACE FUNCTION quorum.accept(gid text, b bigint, who text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE raw text; body jsonb; i jsonb; place text; h record;
BEGIN
  IF b < 9007199254740991 THEN PERFORM quorum.takes_part(); END IF;  -- above: a replay, which is no vote
  PERFORM pg_advisory_xact_lock(quorum.lock_key('T', gid));
  IF EXISTS (SELECT FROM quorum.applied a WHERE a.gid = accept.gid) THEN RAISE EXCEPTION 'committed here already' USING ERRCODE = 'QB008'; END IF;
  IF EXISTS (SELECT FROM quorum.ballot p WHERE p.gid = accept.gid AND (p.promised, p.promised_to) > (b, who)) THEN
    RAISE EXCEPTION 'promised to a resolver' USING ERRCODE = 'QB003'; END IF;
  SELECT c.body INTO raw FROM quorum.changeset c WHERE c.gid = accept.gid;
  IF raw IS NULL OR substr(encode(sha256(convert_to(raw, 'UTF8')), 'hex'), 1, 32) <> right(gid, 32) THEN RAISE EXCEPTION 'the changeset is missing or not the one the gid names' USING ERRCODE = 'QB004'; END IF;
  body := raw::jsonb;
  IF (body->>'epoch')::bigint <> (SELECT epoch FROM quorum.self) THEN RAISE EXCEPTION 'epoch % is not this member''s', body->>'epoch' USING ERRCODE = 'QB005'; END IF;
  PERFORM quorum.take(quorum.granules_of(body->'base'));
  place := quorum.against(body->'base');
  IF place = 'behind' THEN RAISE EXCEPTION 'this member lags' USING ERRCODE = 'QB001'; END IF;
  IF place = 'ahead' THEN RAISE EXCEPTION 'the changeset is stale' USING ERRCODE = 'QB002'; END IF;
  FOR i IN SELECT * FROM jsonb_array_elements(body->'items') LOOP
    IF i ? 'ddl' THEN
      SET LOCAL session_replication_role = origin;
      PERFORM set_config('search_path', i->>'path', true), set_config('quorum.cover', 'infer', true);
      EXECUTE i->>'ddl';
      PERFORM set_config('search_path', 'pg_catalog', true), quorum.track();
      DELETE FROM quorum.capture WHERE xid = pg_current_xact_id_if_assigned();
    ELSE
      SET LOCAL session_replication_role = replica;
      PERFORM quorum.for_table('apply', i);
    END IF;
  END LOOP;
  IF NOT EXISTS (SELECT FROM jsonb_array_elements(body->'items') e WHERE e ? 'ddl') THEN
    SET LOCAL session_replication_role = replica;
    PERFORM quorum.for_table('keys', e) FROM jsonb_array_elements(body->'items') e;  -- under DDL nothing else is in flight: the lead's own checks were everyone's
  END IF;
  IF jsonb_typeof(body->'hashes') = 'object' THEN
    FOR h IN SELECT * FROM jsonb_each_text(body->'hashes') LOOP
      IF h.value IS DISTINCT FROM (CASE WHEN h.key = '' THEN quorum.schema_hash() ELSE quorum.table_hash(to_regclass(h.key)) END) THEN
        RAISE EXCEPTION 'the DDL gave something else here than on the lead (%)', CASE WHEN h.key = '' THEN 'schema' ELSE h.key END USING ERRCODE = 'QB004'; END IF;
    END LOOP;
  END IF;
  PERFORM quorum.extend(gid, body);
END $$ SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1 SET timezone = 'UTC' SET lc_monetary = 'C' SET xmloption = 'content' SET search_path = pg_catalog;

-- Before a replay's first statement: its gid is decided. A session that still holds T(gid) after a while is the lead's that nobody hears any more
-- (or somebody else's replay), and would block even the changeset's row; its work comes from here.
CREATE OR REPLACE FUNCTION quorum.seize(gid text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE patience text := current_setting('lock_timeout');
BEGIN
  PERFORM set_config('lock_timeout', '500ms', true);
  BEGIN
    PERFORM pg_advisory_xact_lock(quorum.lock_key('T', gid));
  EXCEPTION WHEN lock_not_available THEN
    PERFORM pg_terminate_backend(l.pid) FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.pid IS NOT NULL AND l.pid <> pg_backend_pid() AND l.objsubid = 1
      AND l.classid::bigint = ((quorum.lock_key('T', gid) >> 32) & 4294967295) AND l.objid::bigint = (quorum.lock_key('T', gid) & 4294967295)
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database());
  END;
  PERFORM set_config('lock_timeout', patience, true);
  PERFORM pg_advisory_xact_lock(quorum.lock_key('T', gid));
END $$;

-- A changeset whose decision is commit, brought over; false where it is committed already.
CREATE OR REPLACE FUNCTION quorum.replay(gid text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(quorum.lock_key('T', gid));
  IF EXISTS (SELECT FROM quorum.applied a WHERE a.gid = replay.gid) THEN RETURN false; END IF;
  PERFORM quorum.accept(gid, 9007199254740991, '');
  RETURN true;
END $$;

---------------------------------------------------------------------------------------------------- guards and reads (sections 4 and 5)

-- G, session level. wait = false tries all at once and keeps nothing unless it gets all; wait = true queues in the global order (under lock_timeout).
CREATE OR REPLACE FUNCTION quorum.guard(granules jsonb, wait bool) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE g record; taken text[] := '{}'; ok bool; k text;
BEGIN
  FOR g IN SELECT name, bool_or(x) x FROM (
      SELECT CASE (e->>'n')::int WHEN -1 THEN e->>'t' ELSE (e->>'t') || '/' || (e->>'n') END name, (e->>'w')::bool AND NOT ((e->>'n')::int = -1 AND NOT (e->>'w')::bool) x FROM jsonb_array_elements(granules) e
      UNION ALL SELECT e->>'t', false FROM jsonb_array_elements(granules) e WHERE (e->>'n')::int >= 0
      UNION ALL SELECT '*', false) s GROUP BY name ORDER BY name COLLATE "C" LOOP
    IF wait THEN
      IF g.x THEN PERFORM pg_advisory_lock(quorum.lock_key('G', g.name)); ELSE PERFORM pg_advisory_lock_shared(quorum.lock_key('G', g.name)); END IF;
      ok := true;
    ELSIF g.x THEN ok := pg_try_advisory_lock(quorum.lock_key('G', g.name));
    ELSE ok := pg_try_advisory_lock_shared(quorum.lock_key('G', g.name)); END IF;
    IF NOT ok THEN PERFORM pg_advisory_unlock_all(); RETURN false; END IF;
  END LOOP;
  RETURN true;
END $$;

-- Versions, having waited for A in shared mode: whatever is in doubt on these granules has ended, or is named in "doubt".
CREATE OR REPLACE FUNCTION quorum.observe(granules jsonb, patience_ms int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE free bool := true;
BEGIN
  PERFORM quorum.takes_part();
  BEGIN
    PERFORM set_config('lock_timeout', patience_ms::text, true);
    PERFORM quorum.take((SELECT coalesce(jsonb_agg(e || '{"w": false}'), '[]') FROM jsonb_array_elements(granules) e));
  EXCEPTION WHEN lock_not_available OR deadlock_detected THEN free := false;
  END;
  RETURN jsonb_build_object('granules', granules, 'base', quorum.base(granules), 'doubt', CASE WHEN free THEN '[]' ELSE quorum.doubt() END, 'free', free);
END $$;

-- The first message of a declared transaction: guards on this member and, once held, what it knows.
CREATE OR REPLACE FUNCTION quorum.lock(locks jsonb, wait bool, patience_ms int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE granules jsonb := quorum.normalise(locks);
BEGIN
  IF NOT quorum.guard(granules, wait) THEN RETURN '{"granted": false}'; END IF;
  RETURN quorum.observe(granules, patience_ms) || '{"granted": true}';
END $$;

---------------------------------------------------------------------------------------------------- repair (sections 7 and 8)

CREATE OR REPLACE FUNCTION quorum.doubt() RETURNS jsonb LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN (
  SELECT coalesce(jsonb_agg(jsonb_build_object('gid', p.gid, 'age_ms', (extract(epoch FROM clock_timestamp() - p.prepared) * 1000)::bigint, 'owner_alive', quorum.owner_alive(p.gid))), '[]')
  FROM pg_prepared_xacts p WHERE p.database = current_database() AND p.gid LIKE 'quorum\_%');
END $$;

-- The owner's session-level lock stands on a connection of its own; free means that connection is gone.
CREATE OR REPLACE FUNCTION quorum.owner_alive(gid text) RETURNS bool LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN (
  SELECT EXISTS (SELECT FROM pg_locks l, (SELECT quorum.lock_key('L', split_part(gid, '_', 4)) k) x
    WHERE l.locktype = 'advisory' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.objsubid = 1 AND l.granted
      AND l.classid::bigint = ((x.k >> 32) & 4294967295) AND l.objid::bigint = (x.k & 4294967295)));
END $$;

CREATE OR REPLACE FUNCTION quorum.evidence(gid text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE prepared bool; b record; body jsonb; done bool; past bool;
BEGIN
  PERFORM quorum.takes_part();
  -- prepared first, applied after: a commit in between is then seen as committed, never as nothing
  SELECT EXISTS (SELECT FROM pg_prepared_xacts p WHERE p.gid = evidence.gid AND p.database = current_database()) INTO prepared;
  SELECT EXISTS (SELECT FROM quorum.applied a WHERE a.gid = evidence.gid) INTO done;
  SELECT * INTO b FROM quorum.ballot x WHERE x.gid = evidence.gid;
  SELECT c.body::jsonb INTO body FROM quorum.changeset c WHERE c.gid = evidence.gid;
  past := NOT done AND NOT prepared AND body IS NOT NULL AND quorum.against(body->'base') = 'ahead';
  IF past THEN SELECT EXISTS (SELECT FROM quorum.applied a WHERE a.gid = evidence.gid) INTO done; END IF;  -- was it this one that went past its base, just now?
  RETURN jsonb_build_object('member', (SELECT member FROM quorum.self), 'lead', body->'lead', 'committed', done, 'prepared', prepared AND NOT done, 'promised', coalesce(b.promised, 0), 'accepted', coalesce(b.accepted, 0), 'decision', b.decision, 'has', body IS NOT NULL,
    'superseded', past AND NOT done, 'owner_alive', quorum.owner_alive(gid));
END $$;

-- Phase 1 and, with a decision, phase 2 of a ballot. Excludes an accept on its way, and the lead's open session: all of them hold T(gid).
CREATE OR REPLACE FUNCTION quorum.promise(gid text, b bigint, who text, choice text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE e jsonb; mine quorum.ballot; holder int;
BEGIN
  PERFORM quorum.takes_part();
  SET LOCAL synchronous_commit = on;
  IF NOT pg_try_advisory_xact_lock(quorum.lock_key('T', gid)) THEN
    e := quorum.evidence(gid);
    IF NOT ((e->>'prepared')::bool OR (e->>'committed')::bool) THEN
      IF NOT (e->>'owner_alive')::bool THEN
        SELECT l.pid INTO holder FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.pid IS NOT NULL AND l.pid <> pg_backend_pid() AND l.objsubid = 1
          AND l.classid::bigint = ((quorum.lock_key('T', gid) >> 32) & 4294967295) AND l.objid::bigint = (quorum.lock_key('T', gid) & 4294967295);
        PERFORM pg_terminate_backend(holder);
      END IF;
      RETURN e || '{"yes": false, "busy": true}';
    END IF;
  END IF;
  e := quorum.evidence(gid);
  IF (e->>'committed')::bool THEN RETURN e || '{"yes": false}'; END IF;
  IF (e->>'superseded')::bool AND choice IS DISTINCT FROM 'abort' THEN RETURN e || '{"yes": false}'; END IF;
  IF choice = 'commit' AND NOT (e->>'prepared')::bool THEN RETURN e || '{"yes": false}'; END IF;
  INSERT INTO quorum.ballot AS x (gid, promised, promised_to, accepted, decision) VALUES (gid, b, who, CASE WHEN choice IS NULL THEN 0 ELSE b END, choice)
    ON CONFLICT ON CONSTRAINT ballot_pkey DO UPDATE SET promised = b, promised_to = who, accepted = CASE WHEN choice IS NULL THEN x.accepted ELSE b END, decision = coalesce(choice, x.decision)
    WHERE (x.promised, x.promised_to) < (b, who) OR (x.promised = b AND x.promised_to = who) RETURNING * INTO mine;
  IF mine.gid IS NULL THEN RETURN e || '{"yes": false}'; END IF;
  -- The row's own word, not the look taken above: the update may have waited for another resolver's acceptance.
  RETURN e || jsonb_build_object('yes', true, 'accepted', mine.accepted, 'decision', mine.decision);
END $$;

-- Catch-up: which changesets does this member have beyond these versions, in this member's order?
CREATE OR REPLACE FUNCTION quorum.versions() RETURNS jsonb LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN (
  SELECT coalesce(jsonb_agg(jsonb_build_array(t, n, version, chain::text)), '[]') FROM quorum.stripe);
END $$;

-- A log that was pruned must not look like one that has nothing more (QB010). Looked at last: what is pruned meanwhile is then missed as well.
CREATE OR REPLACE FUNCTION quorum.beyond(theirs jsonb, most int) RETURNS TABLE (gid text) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN QUERY
    WITH v AS (SELECT x->>0 t, (x->>1)::int n, (x->>2)::bigint version FROM jsonb_array_elements(theirs) x)
    SELECT a.gid FROM quorum.applied a WHERE a.gid IN (
      SELECT h.gid FROM quorum.stripe s LEFT JOIN v ON v.t = s.t AND v.n = s.n JOIN quorum.history h ON h.t = s.t AND h.n = s.n AND h.version > coalesce(v.version, 0)
      WHERE s.version > coalesce(v.version, 0)) ORDER BY a.seq LIMIT most;
  PERFORM FROM quorum.stripe s LEFT JOIN (SELECT x->>0 t, (x->>1)::int n, (x->>2)::bigint version FROM jsonb_array_elements(theirs) x) v ON v.t = s.t AND v.n = s.n
    WHERE s.version > coalesce(v.version, 0) AND NOT EXISTS (SELECT FROM quorum.history h WHERE h.t = s.t AND h.n = s.n AND h.version = coalesce(v.version, 0) + 1);
  IF FOUND THEN RAISE EXCEPTION 'its log no longer reaches back to what that replica has: that replica needs a clone' USING ERRCODE = 'QB010'; END IF;
END $$;

CREATE OR REPLACE FUNCTION quorum.position() RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN (
  SELECT coalesce(sum(version), 0) || ':' || coalesce(sum(chain::numeric), 0) FROM quorum.stripe);
END $$;

CREATE OR REPLACE FUNCTION quorum.hello() RETURNS jsonb LANGUAGE sql VOLATILE AS $$
  SELECT to_jsonb(s) || jsonb_build_object('actual_identifier', (SELECT system_identifier::text FROM pg_control_system()), 'prepared_max', current_setting('max_prepared_transactions')::int,
    'fsync', current_setting('fsync'), 'full_page_writes', current_setting('full_page_writes')) FROM quorum.self s $$;
