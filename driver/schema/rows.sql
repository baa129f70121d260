-- Changesets of single rows, as most are (docs/protocol.md, sections 4 and 6). What they rest on and write travels as
-- arrays, a part for each table, and each step is one statement for all rows of a table: what a server spends on small
-- transactions is starting up plans and reading JSON.
-- A part: {t: table, own: its own version, n, v: the stripes written and the versions they rest on, mk, ms: their read
-- marks if there are any, r, rv: the stripes only read, o, i: the images of rows as they were and are}; arrays as
-- PostgreSQL writes them. Beside "rows" a changeset has "everything": the own version of that. All parts come in the
-- global order.

-- What a changeset rests on, in either form, as one list.
CREATE OR REPLACE FUNCTION quorum.base_of(body jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF body ? 'base' THEN RETURN body->'base'; END IF;
  RETURN (
    SELECT
        jsonb_agg(jsonb_build_object(
          't', b.t, 'n', b.n, 'w', b.w, 'i', b.n = -1, 'v', b.v, 'c', '0', 'mk', b.mk, 'ms', b.ms::text
        ))
      FROM (
        SELECT '*' t, -1 n, false w, (body->>'everything')::bigint v, 0::bigint mk, 0::numeric ms
        UNION ALL
        SELECT x.*
          FROM jsonb_array_elements(body->'rows') p, LATERAL (
            SELECT p->>'t', -1, false, (p->>'own')::bigint, 0::bigint, 0::numeric
            UNION ALL
            SELECT * FROM (
              SELECT p->>'t', u.n, true, u.v, coalesce(u.mk, 0), coalesce(u.ms, 0)
                FROM unnest(
                  (p->>'n')::int[], (p->>'v')::bigint[], (p->>'mk')::bigint[], (p->>'ms')::numeric[]
                ) u(n, v, mk, ms)
              UNION ALL
              SELECT p->>'t', u.n, false, u.v, 0, 0
                FROM unnest((p->>'r')::int[], (p->>'rv')::bigint[]) u(n, v)
              ORDER BY 2
            ) y
          ) x
      ) b
  );
END $$;

-- Its rows and DDL, in either form.
CREATE OR REPLACE FUNCTION quorum.items_of(body jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF body ? 'items' THEN RETURN body->'items'; END IF;
  RETURN (
    SELECT
        coalesce(
          jsonb_agg(
            jsonb_build_object(
              't', p->>'t',
              'o', coalesce(p->>'o', '{}')::text[],
              'n', coalesce(p->>'i', '{}')::text[]
            ) ORDER BY o
          ),
          '[]'
        )
      FROM jsonb_array_elements(body->'rows') WITH ORDINALITY x(p, o)
      WHERE p ?| '{o,i}'
  );
END $$;

-- (Each look at a stripe is a look-up by its key, wherever plans are kept: a join would read the whole table's.)
-- A of a table's rows (the shadow's lock is its own, before): ns written, rs read.
CREATE OR REPLACE FUNCTION quorum.take_rows(place text, ns int[], rs int[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF rs IS NULL THEN PERFORM pg_advisory_xact_lock(quorum.lock_key('A', place || '/' || n)) FROM unnest(ns) n;
  ELSE
    PERFORM
        CASE
          WHEN x.w THEN pg_advisory_xact_lock(quorum.lock_key('A', place || '/' || x.n))
          ELSE pg_advisory_xact_lock_shared(quorum.lock_key('A', place || '/' || x.n))
        END
      FROM (SELECT n, true w FROM unnest(ns) n UNION ALL SELECT n, false FROM unnest(rs) n ORDER BY n) x;
  END IF;
END $$;

-- How they stand here, under A: a part but for its braces and images; and everything's own version.
CREATE OR REPLACE FUNCTION quorum.stand_rows(place text, ns int[], rs int[], OUT everything bigint, OUT part text)
  LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  vs bigint[];
  marked bool;
BEGIN
  SELECT
      coalesce((SELECT s.version FROM quorum.stripe s WHERE s.t = '*' AND s.n = -1), 0),
      v.vs,
      EXISTS (SELECT FROM quorum.mark m WHERE m.t = place AND m.n = ANY (ns)),
      format(
        '"t": %s, "own": %s%s%s',
        to_json(place),
        coalesce((SELECT s.version FROM quorum.stripe s WHERE s.t = place AND s.n = -1), 0),
        CASE WHEN ns IS NOT NULL THEN format(', "n": "%s", "v": "%s"', ns, v.vs) END,
        CASE
          WHEN rs IS NOT NULL THEN format(
            ', "r": "%s", "rv": "%s"',
            rs,
            (
              SELECT
                  array_agg(
                    coalesce((SELECT s.version FROM quorum.stripe s WHERE s.t = place AND s.n = u.n), 0) ORDER BY u.o
                  )
                FROM unnest(rs) WITH ORDINALITY u(n, o)
            )
          )
        END
      )
    INTO everything, vs, marked, part
    FROM (
      SELECT
          array_agg(
            coalesce((SELECT s.version FROM quorum.stripe s WHERE s.t = place AND s.n = u.n), 0) ORDER BY u.o
          ) AS vs
        FROM unnest(ns) WITH ORDINALITY u(n, o)
    ) v;
  IF marked THEN
    SELECT
        part || format(
          ', "mk": "%s", "ms": "%s"', array_agg(m.mk ORDER BY u.o), array_agg(m.ms ORDER BY u.o)
        )
      INTO part
      FROM unnest(ns, vs) WITH ORDINALITY u(n, v, o), quorum.marks(place, u.n, u.v) m;
  END IF;
END $$;

-- A part against how its rows stand here, under A: 'same', and they are extended, their history written, marks left on
-- what was only read; else 'behind' or 'ahead' (quorum.against), and the transaction must end. (One statement where all
-- is as usual: in each transaction, PL/pgSQL makes each of its expressions ready anew.)
CREATE OR REPLACE FUNCTION quorum.enter(gid text, everything bigint, part jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  place text := part->>'t';
  ns int[] := part->>'n';
  same bool;
BEGIN
  WITH up AS (
    UPDATE quorum.stripe s
      SET version = s.version + 1, chain = quorum.link(s.chain, enter.gid)
      WHERE s.t = place AND s.n = ANY (ns)
      RETURNING s.n, s.version
  ), kept AS (
    INSERT INTO quorum.history SELECT place, up.n, up.version, enter.gid FROM up
  )
  SELECT
      array_agg(up.version - 1 ORDER BY up.n) = (part->>'v')::bigint[]
      AND coalesce((SELECT s.version FROM quorum.stripe s WHERE s.t = '*' AND s.n = -1), 0) = everything
      AND coalesce((SELECT s.version FROM quorum.stripe s WHERE s.t = place AND s.n = -1), 0) = (part->>'own')::bigint
      AND NOT part ?| '{mk,r}'
      AND NOT EXISTS (SELECT FROM quorum.mark m WHERE m.t = place AND m.n = ANY (ns))
    INTO same
    FROM up;
  IF same THEN RETURN 'same'; END IF;
  RETURN quorum.enter_closely(gid, everything, part);
END $$;

-- The same where it is not so plain: stripes that were never written, read marks, what was only read; or it stands
-- elsewhere. Those written are extended already.
CREATE OR REPLACE FUNCTION quorum.enter_closely(gid text, everything bigint, part jsonb)
  RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  place text := part->>'t';
  ns int[] := part->>'n'; vs bigint[] := part->>'v';
  rs int[] := part->>'r'; rvs bigint[] := part->>'rv';
  ahead bool; behind bool;
BEGIN
  SELECT bool_or(x.now > x.v), bool_or(x.now < x.v)
    INTO ahead, behind
    FROM (
      SELECT
          enter_closely.everything v,
          coalesce((SELECT s.version FROM quorum.stripe s WHERE s.t = '*' AND s.n = -1), 0) now
      UNION ALL
      SELECT
          (part->>'own')::bigint,
          coalesce((SELECT s.version FROM quorum.stripe s WHERE s.t = place AND s.n = -1), 0)
      UNION ALL
      SELECT u.v, coalesce((SELECT s.version - 1 FROM quorum.stripe s WHERE s.t = place AND s.n = u.n), 0)
        FROM unnest(ns, vs) u(n, v)
      UNION ALL
      SELECT u.v, coalesce((SELECT s.version FROM quorum.stripe s WHERE s.t = place AND s.n = u.n), 0)
        FROM unnest(rs, rvs) u(n, v)
    ) x;
  IF ahead THEN RETURN 'ahead'; END IF;
  SELECT
      coalesce(bool_or(m.mk > u.mk OR (m.mk = u.mk AND m.ms <> u.ms)), false),
      behind OR coalesce(bool_or(m.mk < u.mk), false)
    INTO ahead, behind
    FROM (
      SELECT x.n, x.v, coalesce(x.mk, 0) mk, coalesce(x.ms, 0) ms
        FROM unnest(ns, vs, (part->>'mk')::bigint[], (part->>'ms')::numeric[]) x(n, v, mk, ms)
    ) u, quorum.marks(place, u.n, u.v) m;
  IF ahead THEN RETURN 'ahead'; END IF;
  IF behind THEN RETURN 'behind'; END IF;
  WITH first AS (
    INSERT INTO quorum.stripe
      SELECT place, u.n, 1, quorum.link(0, enter_closely.gid) FROM unnest(ns, vs) u(n, v) WHERE u.v = 0
      RETURNING n
  )
  INSERT INTO quorum.history SELECT place, first.n, 1, enter_closely.gid FROM first;
  DELETE FROM quorum.mark m WHERE m.t = place AND m.n = ANY (ns);
  IF rs IS NOT NULL THEN PERFORM quorum.leave_marks(gid, place, rs, rvs); END IF;
  RETURN 'same';
END $$;

-- Written out for each table with a key: `rows` takes, enters and writes a part; `accept` is quorum.accept of a
-- changeset that is one part and has read nothing else, as most are: there the server looks for nothing by name, and
-- parses nothing. settings: as for its capture.
CREATE OR REPLACE FUNCTION quorum.make_rows(name text, settings text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  w record;
  few text;
  declared text;
  plans text :=
    'SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET search_path = pg_catalog, pg_temp';
  keys text := quorum.made('keys', name);
BEGIN
  w := quorum.written(name);
  IF cardinality(w.key) = 0 THEN RETURN; END IF;  -- every write is one of the whole table
  -- Rows that keep their keys, as most do, in one statement, and new ones in one; whatever else, and many, the longer
  -- way. (An update that finds a key changed has changed the others' rows.)
  few := format($f$
        IF cardinality(olds) + cardinality(news) > 100 THEN PERFORM %1$s(olds, news);
        ELSIF cardinality(olds) = 0 THEN
          WITH up AS (
            INSERT INTO %2$s AS x (%3$s) OVERRIDING SYSTEM VALUE
              SELECT %4$s FROM (SELECT v::%2$s r FROM unnest(news) v OFFSET 0) i
              RETURNING %5$s v
          )
          SELECT count(*) = 0 INTO alike
            FROM (SELECT up.v FROM up EXCEPT ALL SELECT n FROM unnest(news) n) y;
          IF NOT alike THEN
            RAISE EXCEPTION 'rows of %% stored here differ from those of the lead', %6$L USING ERRCODE = 'QB004';
          END IF;
        %7$s
        ELSE PERFORM %1$s(olds, news);
        END IF;%8$s$f$,
    quorum.made('apply', name), name, w.cols, w.vals, w.img, name,
    CASE
      WHEN w.sets IS NOT NULL AND NOT w.crossing THEN format($f$
        ELSIF cardinality(olds) = cardinality(news) THEN
          WITH up AS (
            UPDATE %1$s x SET %2$s
              FROM (
                SELECT u.v::%1$s r, u.v, u.o, u.k
                  FROM unnest(olds, news) WITH ORDINALITY u(o, v, k)
                  OFFSET 0
              ) i
              WHERE %3$s AND %4$s = i.o
              RETURNING i.k, %4$s = i.v alike
          )
          SELECT count(*) = cardinality(news), bool_and(up.alike), array_agg(up.k)
            INTO every, alike, done
            FROM up;
          IF NOT alike THEN
            RAISE EXCEPTION 'rows of %% stored here differ from those of the lead', %5$L USING ERRCODE = 'QB004';
          END IF;
          IF NOT every THEN
            PERFORM %6$s(array_agg(u.o), array_agg(u.v))
              FROM unnest(olds, news) WITH ORDINALITY u(o, v, k)
              WHERE u.k <> ALL (coalesce(done, '{}'));
          END IF;$f$,
        name, w.sets, w.same, w.img, name, quorum.made('apply', name)
      )
    END,
    quorum.onward(name)
  );
  declared := $f$
      -- a user's column may have any name; so rows are (x.*), which no column can hide
      #variable_conflict use_variable
      DECLARE
        %s
        olds text[] := coalesce(part->>'o', '{}');
        news text[] := coalesce(part->>'i', '{}');
        stand text;
        every bool; alike bool;
        done bigint[];
      BEGIN$f$;
  EXECUTE format(
    'CREATE OR REPLACE FUNCTION %s(gid text, everything bigint, part jsonb) RETURNS text LANGUAGE plpgsql AS %L %s',
    quorum.made('rows', name),
    format(declared, '') || format($f$
        IF part ? 'n' THEN LOCK TABLE %1$s IN ROW EXCLUSIVE MODE; ELSE LOCK TABLE %1$s IN ROW SHARE MODE; END IF;
        PERFORM quorum.take_rows(%2$L, (part->>'n')::int[], (part->>'r')::int[]);
        stand := quorum.enter(gid, everything, part);
        IF stand <> 'same' THEN RETURN stand; END IF;
        IF NOT part ?| '{o,i}' THEN RETURN stand; END IF;
        %3$s
        RETURN stand;
      END$f$,
      quorum.made('table', name), name, few
    ),
    plans
  );
  EXECUTE format(
    'CREATE OR REPLACE FUNCTION %s(gid text, b bigint, who text) RETURNS void LANGUAGE plpgsql AS %L %s %s',
    quorum.made('accept', name),
    format(declared, 'body jsonb := quorum.admit(gid, b, who); part jsonb := body->''rows''->0;') || format($f$
        IF current_setting('session_replication_role') <> 'replica' THEN
          SET LOCAL session_replication_role = replica;
        END IF;
        LOCK TABLE quorum.everything IN ROW EXCLUSIVE MODE;
        LOCK TABLE %1$s IN ROW EXCLUSIVE MODE;
        PERFORM pg_advisory_xact_lock(quorum.lock_key('A', %2$L || n)) FROM unnest((part->>'n')::int[]) n;
        stand := quorum.enter(gid, (body->>'everything')::bigint, part);
        IF stand <> 'same' THEN PERFORM quorum.refuse(stand); END IF;
        %3$s
        %4$s
        INSERT INTO quorum.applied (gid) VALUES (gid);
      END$f$,
      quorum.made('table', name), name || '/', few,
      CASE
        WHEN to_regprocedure(keys || '(text[], text[])') IS NOT NULL THEN format('PERFORM %s(olds, news);', keys)
      END
    ),
    settings, plans
  );
END $$;
