-- Granules (locks, as replicas know them), A, bases, and how a commit extends them (docs/protocol.md, sections 1, 3 and 4).
-- Refusals are data for the driver: SQLSTATE QB001 behind (this member lags), QB002 ahead (the changeset is stale), QB003 promised,
-- QB004 rows differ, QB005 other epoch, QB006 not allowed (for the user), QB007 unknown table, QB009 being built, QB010 the log was pruned.

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
    -- As written in a statement, quotes resolved (and so exact); else as SQL would write it. (Before PostgreSQL 16 to_regclass fails on what is no name.)
    rel := coalesce(to_regclass(quote_ident(l->>'t')), to_regclass(format('%I.%I', split_part(l->>'t', '.', 1), substr(l->>'t', strpos(l->>'t', '.') + 1))));
    IF rel IS NULL AND l->>'t' ~ '^([[:alpha:]_][[:alnum:]_$]*|"([^"]|"")+")([.]([[:alpha:]_][[:alnum:]_$]*|"([^"]|"")+"))?$' THEN rel := to_regclass(l->>'t'); END IF;  -- (no backslash: standard_conforming_strings may be off)
    rel := coalesce(pg_partition_root(rel), rel);  -- a partition's rows are its root's
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
END $$ SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1 SET quote_all_identifiers = off SET array_nulls = on SET timezone = 'UTC';

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

-- Extends what was written and returns [[table, stripe, version], …] of it, leaves marks on what was only read. Under A, inside the transaction that is to be committed.
DROP FUNCTION IF EXISTS quorum.extend(text, jsonb);  -- it returned nothing once
CREATE OR REPLACE FUNCTION quorum.extend(gid text, body jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE wrote jsonb;
BEGIN
  WITH up AS (
    INSERT INTO quorum.stripe AS s (t, n, version, chain)
      SELECT w->>0, (w->>1)::int, 1, quorum.link(0, extend.gid) FROM jsonb_array_elements(body->'writes') w
    ON CONFLICT (t, n) DO UPDATE SET version = s.version + 1, chain = quorum.link(s.chain, extend.gid) RETURNING t, n, version),
  gone AS (DELETE FROM quorum.mark m USING up WHERE m.t = up.t AND m.n = up.n),
  kept AS (INSERT INTO quorum.history SELECT t, n, version, extend.gid FROM up)
  SELECT coalesce(jsonb_agg(jsonb_build_array(t, n, version)), '[]') INTO wrote FROM up;
  INSERT INTO quorum.mark
    SELECT b.t, b.n, b.v, extend.gid FROM jsonb_to_recordset(body->'base') b(t text, n int, w bool, i bool, v bigint) WHERE NOT b.w AND NOT b.i AND b.n >= 0
      AND NOT body->'writes' @> jsonb_build_array(jsonb_build_array(b.t, b.n));
  INSERT INTO quorum.applied (gid) VALUES (extend.gid);
  RETURN wrote;
END $$;
