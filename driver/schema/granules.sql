-- Granules (locks, as replicas know them), A, bases, and how a commit extends them (docs/protocol.md, sections 1, 3
-- and 4).
-- Refusals are data for the driver: SQLSTATE QB001 behind (this member lags), QB002 ahead (the changeset is stale),
-- QB003 promised, QB004 rows differ, QB005 other epoch, QB006 not allowed (for the user), QB007 unknown table,
-- QB009 being built, QB010 the log was pruned.

CREATE OR REPLACE FUNCTION quorum.stripe_of(key text)
  RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT ('x' || substr(md5(key), 1, 8))::bit(32)::int & 1023 $$;

-- (a number || text is only STABLE, and this would be called and not written out in place: 10 µs each)
CREATE OR REPLACE FUNCTION quorum.link(previous bigint, gid text)
  RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$ SELECT ('x' || substr(md5(previous::text || gid), 1, 15))::bit(60)::bigint $$;

CREATE OR REPLACE FUNCTION quorum.lock_key(kind text, name text)
  RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$ SELECT hashtextextended(kind || ':' || name, 1903) $$;

-- Declared locks become granules: [{"t": table, "n": stripe or -1 for all of it, "w": written}], one per (t, n), in
-- the global order.
-- As the caller: a key's type may have functions of a user's. path: the caller's, only for the names of tables.
CREATE OR REPLACE FUNCTION quorum.normalise(locks jsonb, path text)
  RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
  l jsonb;
  known record;
  key text[];
  wants text[] := '{}';
  i int;
  typ record;
  v text;
  rel regclass;
  exact text; dotted text; loose text;
  wanted jsonb;
  said text;
  last text;
  tracked bool;
  types oid[]; mods int[];
BEGIN
  FOR l IN SELECT * FROM jsonb_array_elements(locks) LOOP
    IF l->>'t' = '*' THEN
      wants := wants || jsonb_build_object('t', '*', 'n', -1, 'w', (l->>'w')::bool)::text;
      CONTINUE;
    END IF;
    IF left(l->>'t', 1) = '@' THEN
      wants := wants || jsonb_build_object('t', l->>'t', 'n', 0, 'w', (l->>'w')::bool)::text;
      CONTINUE;
    END IF;
    IF l->>'t' IS DISTINCT FROM last THEN
      -- As written in a statement, quotes resolved (and so exact); else as SQL would write it. (Before PostgreSQL 16
      -- to_regclass fails on what is no name.)
      exact := quote_ident(l->>'t');
      dotted := format('%I.%I', split_part(l->>'t', '.', 1), substr(l->>'t', strpos(l->>'t', '.') + 1));
      -- (no backslash: standard_conforming_strings may be off)
      loose := CASE
        WHEN l->>'t' ~ '^([[:alpha:]_][[:alnum:]_$]*|"([^"]|"")+")([.]([[:alpha:]_][[:alnum:]_$]*|"([^"]|"")+"))?$'
        THEN l->>'t'
      END;
      said := set_config('search_path', path, true);
      rel := coalesce(
        pg_catalog.to_regclass(exact),
        pg_catalog.to_regclass(dotted),
        pg_catalog.to_regclass(loose));
      said := pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
      rel := coalesce(pg_partition_root(rel), rel);  -- a partition's rows are its root's
      SELECT k.* INTO known FROM quorum.tracked k WHERE k.t = rel::text;
      last := l->>'t'; tracked := FOUND; types := '{}'; mods := '{}';
    END IF;
    IF NOT tracked THEN
      -- an inferred name that is a view, a catalogue or a temporary table: the seal sees what lies behind it
      IF (l->>'soft')::bool THEN CONTINUE; END IF;
      RAISE EXCEPTION 'lock on unknown table "%"', l->>'t'
        USING ERRCODE = 'QB007',
        HINT =
    'A lock names a table ("accounts"), a row by primary key ("accounts/42"), a name ("@billing") or everything ("*").';
    END IF;
    wanted := l->'k';
    IF cardinality(known.pk) > 0 AND l->'kv' ?& known.pk THEN
      IF cardinality(known.pk) = 1 THEN
        wanted := jsonb_build_array(l->'kv'->known.pk[1]);
      ELSE
        wanted := (SELECT jsonb_agg(l->'kv'->k ORDER BY o) FROM unnest(known.pk) WITH ORDINALITY u(k, o));
      END IF;
    END IF;
    IF wanted IS NULL OR cardinality(known.pk) = 0 THEN
      wants := wants || jsonb_build_object('t', known.t, 'n', -1, 'w', (l->>'w')::bool)::text;
      CONTINUE;
    END IF;
    IF jsonb_array_length(wanted) <> cardinality(known.pk) THEN
      RAISE EXCEPTION 'lock on a row of "%" needs % key value(s) (%), got %',
        l->>'t', cardinality(known.pk), array_to_string(known.pk, ', '), jsonb_array_length(wanted)
        USING ERRCODE = 'QB007';
    END IF;
    key := '{}';
    FOR i IN 1 .. cardinality(known.pk) LOOP
      IF types[i] IS NULL THEN
        SELECT a.atttypid AS id, a.atttypmod AS mod
          INTO typ
          FROM pg_attribute a
          WHERE a.attrelid = rel AND a.attname = known.pk[i];
        types[i] := typ.id; mods[i] := typ.mod;
      END IF;
      v := wanted->>(i - 1);
      CASE types[i]
        WHEN 'int'::regtype THEN v := v::int::text;
        WHEN 'bigint'::regtype THEN v := v::bigint::text;
        WHEN 'uuid'::regtype THEN v := v::uuid::text;
        WHEN 'text'::regtype THEN NULL;
        ELSE
          -- planned anew each time; a literal is read by the type's input function, not by a cast
          EXECUTE 'SELECT ' || quorum.as_text(format('%L::%s', v, format_type(types[i], mods[i])), types[i])
            INTO v;
      END CASE;
      key := key || v;
    END LOOP;
    wants := wants
      || jsonb_build_object('t', known.t, 'n', quorum.stripe_of(key::text), 'w', (l->>'w')::bool)::text;
  END LOOP;
  IF cardinality(wants) < 2 THEN RETURN '[' || coalesce(wants[1], '') || ']'; END IF;
  RETURN (
    SELECT coalesce(jsonb_agg(jsonb_build_object('t', t, 'n', n, 'w', w) ORDER BY t COLLATE "C", n), '[]')
    FROM (
      SELECT g->>'t' t, (g->>'n')::int n, bool_or((g->>'w')::bool) w
      FROM unnest(wants) f, LATERAL (SELECT f::jsonb g OFFSET 0) x
      GROUP BY 1, 2
    ) s
  );
END $$
  SET datestyle = 'ISO, MDY'
  SET intervalstyle = 'postgres'
  SET bytea_output = 'hex'
  SET extra_float_digits = 1
  SET quote_all_identifiers = off
  SET array_nulls = on
  SET timezone = 'UTC'
  SET search_path = pg_catalog, pg_temp;

-- Locks by name are one table where lists are gone through by table: in the global order they stand together.
CREATE OR REPLACE FUNCTION quorum.among(t text)
  RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN left(t, 1) = '@' THEN '@' ELSE t END $$;

-- A, the locks that PREPARE keeps: in the global order, inside the transaction. A row's is advisory, a table's the lock
-- of its shadow; who writes the whole takes an advisory one as well, which a look can ask for without waiting.
CREATE OR REPLACE FUNCTION quorum.take(granules jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  g record;
  strong bool;
  sh text;
BEGIN
  IF EXISTS (SELECT FROM jsonb_array_elements(granules) e WHERE e->>'t' = '*') THEN
    SELECT bool_or((e->>'w')::bool) INTO strong
      FROM jsonb_array_elements(granules) e
      WHERE e->>'t' = '*';
    IF strong THEN
      LOCK TABLE quorum.everything IN EXCLUSIVE MODE;
      PERFORM pg_advisory_xact_lock(quorum.lock_key('A', '*/-1'));
    ELSE
      LOCK TABLE quorum.everything IN SHARE MODE;
    END IF;
    RETURN;
  END IF;
  SELECT bool_or((e->>'w')::bool) INTO strong FROM jsonb_array_elements(granules) e;
  IF strong THEN
    LOCK TABLE quorum.everything IN ROW EXCLUSIVE MODE;
  ELSE
    LOCK TABLE quorum.everything IN ROW SHARE MODE;
  END IF;
  FOR g IN
    SELECT quorum.among(e->>'t') COLLATE "C" t,
      bool_or((e->>'w')::bool) w,
      bool_or((e->>'n')::int = -1) whole
    FROM jsonb_array_elements(granules) e
    GROUP BY 1
    ORDER BY 1
  LOOP
    IF g.t <> '@' THEN
      SELECT k.shadow INTO sh FROM quorum.tracked k WHERE k.t = g.t;
      IF sh IS NULL THEN
        RAISE EXCEPTION 'table "%" is not tracked here', g.t USING ERRCODE = 'QB001';
      END IF;
      EXECUTE format('LOCK TABLE %s IN %s MODE', sh,
        CASE
          WHEN g.whole AND g.w THEN 'EXCLUSIVE'
          WHEN g.whole THEN 'SHARE'
          WHEN g.w THEN 'ROW EXCLUSIVE'
          ELSE 'ROW SHARE'
        END);
      IF g.whole AND g.w THEN
        PERFORM pg_advisory_xact_lock(quorum.lock_key('A', g.t || '/-1'));
      END IF;
    END IF;
    PERFORM
      CASE
        WHEN r.w THEN pg_advisory_xact_lock(quorum.lock_key('A', r.t || '/' || r.n))
        ELSE pg_advisory_xact_lock_shared(quorum.lock_key('A', r.t || '/' || r.n))
      END
    FROM (
      SELECT e->>'t' COLLATE "C" t, (e->>'n')::int n, (e->>'w')::bool w
      FROM jsonb_array_elements(granules) e
      WHERE quorum.among(e->>'t') = g.t AND (e->>'n')::int >= 0
      ORDER BY 1, 2
    ) r;
  END LOOP;
END $$;

-- The read marks on a stripe: how many, and the sum of their gids' hashes. (Becomes a part of the statements that ask.)
CREATE OR REPLACE FUNCTION quorum.marks(place text, stripe int, v bigint)
  RETURNS TABLE (mk bigint, ms numeric) LANGUAGE sql STABLE AS $$
  SELECT coalesce(sum(k.many), 0)::bigint, coalesce(sum(coalesce(k.total, quorum.link(0, k.gid))), 0)
  FROM quorum.mark k
  WHERE k.t = place AND k.n = stripe AND k.version = v
$$;

-- Leaves a mark on stripes that were only read. One transaction in 64, the same on all members, takes into its own mark
-- all that it finds there: where nobody writes they would become more for ever, and who writes at last has to count
-- them. Not those that another transaction is taking in; and none above READ COMMITTED, where it would fail on what has
-- been taken in since its snapshot.
CREATE OR REPLACE FUNCTION quorum.leave_marks(gid text, place text, ns int[], vs bigint[])
  RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF right(gid, 2) COLLATE "C" >= '04' OR current_setting('transaction_isolation') NOT LIKE 'read %' THEN
    INSERT INTO quorum.mark SELECT place, u.n, u.v, leave_marks.gid FROM unnest(ns, vs) u(n, v);
    RETURN;
  END IF;
  WITH free AS (
    SELECT k.ctid AS at
    FROM unnest(ns, vs) u(n, v)
    JOIN quorum.mark k ON k.t = place AND k.n = u.n AND k.version = u.v
    LIMIT 10000
    FOR UPDATE OF k SKIP LOCKED
  ), old AS (
    DELETE FROM quorum.mark m
    WHERE m.ctid = ANY (ARRAY(SELECT free.at FROM free))
    RETURNING m.n, m.many, coalesce(m.total, quorum.link(0, m.gid)) AS total
  )
  INSERT INTO quorum.mark
    SELECT place, u.n, u.v, leave_marks.gid,
      1 + coalesce(sum(old.many), 0),
      quorum.link(0, leave_marks.gid) + sum(old.total)
    FROM unnest(ns, vs) u(n, v)
    LEFT JOIN old ON old.n = u.n
    GROUP BY u.n, u.v;
END $$;

-- (plpgsql even where SQL would do, for what runs in every transaction: before PostgreSQL 18 a SQL function is planned
-- at each call.)
-- One entry of a base, as it stands: version (v), chain (c, of a whole: sums), read marks (mk: count, ms: sum). Small
-- statements, whose plans are kept: in a plan for all entries at once, starting it up takes longer than running it.
CREATE OR REPLACE FUNCTION quorum.stand(
    t text, n int, w bool, i bool,
    OUT v bigint, OUT c numeric, OUT mk bigint, OUT ms numeric)
  LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  IF n >= 0 OR i THEN
    v := coalesce((SELECT s.version FROM quorum.stripe s WHERE s.t = stand.t AND s.n = stand.n), 0);
    c := 0;
    IF w AND NOT i THEN
      SELECT m.mk, m.ms INTO mk, ms FROM quorum.marks(t, n, v) m;
    END IF;
  ELSE
    SELECT sum(x.version), sum(x.chain::numeric)
      INTO v, c
      FROM quorum.stripe x
      WHERE x.t = stand.t OR stand.t = '*';
    SELECT sum(k.many), sum(coalesce(k.total, quorum.link(0, k.gid)))
      INTO mk, ms
      FROM quorum.mark k
      LEFT JOIN quorum.stripe x USING (t, n)
      WHERE (k.t = stand.t OR stand.t = '*') AND k.version = coalesce(x.version, 0);
  END IF;
  v := coalesce(v, 0); c := coalesce(c, 0); mk := coalesce(mk, 0); ms := coalesce(ms, 0);
END $$;

CREATE OR REPLACE FUNCTION quorum.entry(t text, w bool, i bool, h record)
  RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RETURN format(
    '{"t": %s, "n": -1, "w": %s, "i": %s, "v": %s, "c": "%s", "mk": %s, "ms": "%s"}',
    to_json(t), w::text, i::text, h.v, h.c, h.mk, h.ms);
END $$;

-- The base of granules, which come sorted. Rows also rest on their table's and everything's own stripe (i: intent):
-- whoever takes the whole extends that one, and counts every row's.
DROP FUNCTION IF EXISTS quorum.base(jsonb);  -- it returned jsonb once
CREATE OR REPLACE FUNCTION quorum.base(granules jsonb)
  RETURNS json LANGUAGE plpgsql VOLATILE SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  g record;
  h record;
  entries text[] := '{}';
  rows text;
BEGIN
  IF NOT granules @> '[{"t": "*"}]' THEN
    entries := ARRAY[quorum.entry('*', false, true, quorum.stand('*', -1, false, true))];
  END IF;
  FOR g IN
    SELECT quorum.among(e->>'t') COLLATE "C" t,
      bool_or((e->>'n')::int = -1) whole,
      bool_or((e->>'w')::bool) FILTER (WHERE (e->>'n')::int = -1) w
    FROM jsonb_array_elements(granules) e
    GROUP BY 1
    ORDER BY 1
  LOOP
    IF g.whole THEN
      entries := entries || quorum.entry(g.t, g.w, false, quorum.stand(g.t, -1, g.w, false));
    ELSIF g.t <> '@' THEN
      entries := entries || quorum.entry(g.t, false, true, quorum.stand(g.t, -1, false, true));
    END IF;
    SELECT string_agg(
        format(
          '{"t": %s, "n": %s, "w": %s, "i": false, "v": %s, "c": "0", "mk": %s, "ms": "%s"}',
          to_json(r.t), r.n, r.w::text, r.v, m.mk, m.ms),
        ', ' ORDER BY r.t COLLATE "C", r.n)
      INTO rows
      FROM (
        SELECT e->>'t' t, (e->>'n')::int n, (e->>'w')::bool w,
          coalesce((
            SELECT s.version FROM quorum.stripe s WHERE s.t = e->>'t' AND s.n = (e->>'n')::int
          ), 0) v
        FROM jsonb_array_elements(granules) e
        WHERE quorum.among(e->>'t') = g.t AND (e->>'n')::int >= 0
        OFFSET 0
      ) r,
      quorum.marks(CASE WHEN r.w THEN r.t END, r.n, r.v) m;
    entries := array_remove(entries || rows, NULL);
  END LOOP;
  RETURN '[' || array_to_string(entries, ', ') || ']';
END $$;

CREATE OR REPLACE FUNCTION quorum.granules_of(base jsonb)
  RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RETURN (
    SELECT coalesce(jsonb_agg(jsonb_build_object('t', e->'t', 'n', e->'n', 'w', e->'w')), '[]')
    FROM jsonb_array_elements(base) e
    WHERE NOT (e->>'i')::bool
  );
END $$;

-- A member under construction has no vote: drivers refuse it when they connect, and this refuses those who connected
-- before.
CREATE OR REPLACE FUNCTION quorum.takes_part() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF (SELECT building FROM quorum.self) THEN
    RAISE EXCEPTION
      'this replica is being built, or has forgotten what it promised (pg-quorum clone); it takes no part'
      USING ERRCODE = 'QB009';
  END IF;
END $$;

-- Where do we stand against a base? same, behind (we lag), ahead (a committed write or mark went past it: it can never
-- be accepted here).
CREATE OR REPLACE FUNCTION quorum.against(base jsonb) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  b record;
  h record;
  behind bool;
  ahead bool;
BEGIN
  SELECT
      coalesce(bool_or(
        r.now > r.v
        OR (r.w AND r.now = r.v AND (m.mk > r.mk OR (m.mk = r.mk AND m.ms <> r.ms)))
      ), false),
      coalesce(bool_or(r.now < r.v OR (r.w AND m.mk < r.mk)), false)
    INTO ahead, behind
    FROM (
      SELECT e.t, e.n, e.w, e.v, e.mk, e.ms,
        coalesce((SELECT s.version FROM quorum.stripe s WHERE s.t = e.t AND s.n = e.n), 0) now
      FROM jsonb_to_recordset(base) e(t text, n int, w bool, i bool, v bigint, mk bigint, ms numeric)
      WHERE e.n >= 0 OR e.i
      OFFSET 0
    ) r,
    quorum.marks(CASE WHEN r.w THEN r.t END, r.n, r.now) m;
  IF ahead THEN RETURN 'ahead'; END IF;
  FOR b IN
    SELECT *
    FROM jsonb_to_recordset(base) e(t text, n int, w bool, i bool, v bigint, c numeric, mk bigint, ms numeric)
    WHERE e.n = -1 AND NOT e.i
  LOOP
    h := quorum.stand(b.t, b.n, b.w, b.i);
    IF h.v > b.v
      OR (h.v = b.v AND h.c <> b.c)
      OR (b.w AND h.v = b.v AND (h.mk > b.mk OR (h.mk = b.mk AND h.ms <> b.ms)))
    THEN
      RETURN 'ahead';
    END IF;
    behind := behind OR h.v < b.v OR (b.w AND h.mk < b.mk);
  END LOOP;
  RETURN CASE WHEN behind THEN 'behind' ELSE 'same' END;
END $$;

-- Extends what was written and returns [[table, stripe, version], …] of it, leaves marks on what was only read. Under
-- A, inside the transaction that is to be committed.
DROP FUNCTION IF EXISTS quorum.extend(text, jsonb);  -- it took the changeset's body once
CREATE OR REPLACE FUNCTION quorum.extend(gid text, base jsonb, writes jsonb)
  RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  wrote jsonb;
  first bigint := quorum.link(0, gid);
BEGIN
  PERFORM quorum.leave_marks(gid, b.t, array_agg(b.n), array_agg(b.v))
    FROM jsonb_to_recordset(base) b(t text, n int, w bool, i bool, v bigint)
    WHERE NOT b.w AND NOT b.i AND b.n >= 0
      AND (b.t, b.n) NOT IN (SELECT x.v->>0, (x.v->>1)::int FROM jsonb_array_elements(writes) x(v))
    GROUP BY b.t;
  WITH up AS (
    INSERT INTO quorum.stripe AS s (t, n, version, chain)
      SELECT w->>0, (w->>1)::int, 1, first FROM jsonb_array_elements(writes) w
    ON CONFLICT (t, n) DO UPDATE
      SET version = s.version + 1, chain = quorum.link(s.chain, extend.gid)
    RETURNING t, n, version
  ), gone AS (
    DELETE FROM quorum.mark m USING up WHERE m.t = up.t AND m.n = up.n
  ), kept AS (
    INSERT INTO quorum.history SELECT t, n, version, extend.gid FROM up
  ), here AS (
    INSERT INTO quorum.applied (gid) VALUES (extend.gid)
  )
  SELECT coalesce(jsonb_agg(jsonb_build_array(t, n, version)), '[]') INTO wrote FROM up;
  RETURN wrote;
END $$;
