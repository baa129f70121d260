-- The questions of reads of one row (docs/protocol.md, section 5): how their stripes stand here, and whether anything
-- is in doubt on them. Nobody holds anything longer than it takes to look: with one stripe there is one order.

-- What a table is called here, what its rows are called by, and at which version of everything that is so. null: not
-- a tracked table that says all about itself (a view, row security).
CREATE OR REPLACE FUNCTION quorum.shape(name text, path text) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
  place text := quorum.normalise(
    jsonb_build_array(jsonb_build_object('t', name, 'w', false, 'soft', true)), path)->0->>'t';
BEGIN
  RETURN (
    SELECT jsonb_build_object(
      't', k.t,
      'pk', k.pk,
      'everything', quorum.everything_at(),
      'plain', quorum.plain(ARRAY[name], path),
      'closed', quorum.closed(r.oid),
      'types', (
        SELECT jsonb_agg(format_type(a.atttypid, a.atttypmod) ORDER BY o)
        FROM unnest(k.pk) WITH ORDINALITY u(c, o)
        JOIN pg_attribute a ON a.attrelid = r.oid AND a.attname = u.c))
    FROM quorum.tracked k
    JOIN pg_class r ON r.oid = to_regclass(k.t)
    WHERE k.t = place AND cardinality(k.pk) > 0 AND NOT r.relrowsecurity
  );
END $$ SET search_path = pg_catalog, pg_temp;

CREATE OR REPLACE FUNCTION quorum.everything_at()
  RETURNS bigint LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN coalesce((SELECT s.version FROM quorum.stripe s WHERE s.t = '*' AND s.n = -1), 0);
END $$;

-- Many rows at once: table i and its row's key, as a text array's text, or its stripe. On how many members every
-- write is and everything's version; then of each row its stripe, its version, and its table's own; version -1:
-- something is in doubt. patience_ms: wait so long for what is in doubt (55P03 if it stays so); null: do not wait.
-- First the locks, then the versions in later snapshots: what was in doubt no more when its lock was free is in them.
CREATE OR REPLACE FUNCTION quorum.looks(ts text[], keys text[], patience_ms int)
  RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  stripes int[];
  frees bool[];
  answer text;
BEGIN
  -- one snapshot for all, from before the locks
  IF left(current_setting('transaction_isolation'), 5) <> 'read ' THEN RETURN NULL; END IF;
  IF patience_ms IS NULL THEN
    SELECT
      array_agg(u.n ORDER BY u.o),
      array_agg(
        w.free
          AND pg_try_advisory_xact_lock_shared(quorum.lock_key('A', u.t || '/-1'))
          AND pg_try_advisory_xact_lock_shared(quorum.lock_key('A', u.t || '/' || u.n))
        ORDER BY u.o)
    INTO stripes, frees
    FROM (
      SELECT pg_try_advisory_xact_lock_shared(quorum.lock_key('A', '*/-1')) AS free OFFSET 0
    ) w, (
      SELECT x.t, CASE WHEN left(x.key, 1) = '{' THEN quorum.stripe_of(x.key) ELSE x.key::int END n, x.o
      FROM unnest(ts, keys) WITH ORDINALITY x(t, key, o) OFFSET 0
    ) u;
  ELSE
    PERFORM
      set_config('lock_timeout', patience_ms::text, true),
      pg_advisory_xact_lock_shared(quorum.lock_key('A', '*/-1'));
    FOR i IN 1 .. cardinality(ts) LOOP
      stripes[i] := CASE WHEN left(keys[i], 1) = '{' THEN quorum.stripe_of(keys[i]) ELSE keys[i]::int END;
      PERFORM pg_advisory_xact_lock_shared(quorum.lock_key('A', ts[i] || '/-1'));
      PERFORM pg_advisory_xact_lock_shared(quorum.lock_key('A', ts[i] || '/' || stripes[i]));
      frees[i] := true;
    END LOOP;
  END IF;
  SELECT
    CASE
      WHEN NOT s.building THEN concat_ws(' ',
        coalesce((SELECT d.write FROM quorum.dial d), s.members / 2 + 1),
        coalesce((SELECT x.version FROM quorum.stripe x WHERE x.t = '*' AND x.n = -1), 0),
        (
          SELECT string_agg(
            concat_ws(' ',
              u.n,
              CASE
                WHEN u.free
                  THEN coalesce((SELECT x.version FROM quorum.stripe x WHERE x.t = u.t AND x.n = u.n), 0)
                ELSE -1
              END,
              coalesce((SELECT x.version FROM quorum.stripe x WHERE x.t = u.t AND x.n = -1), 0)),
            ' ' ORDER BY u.o)
          FROM unnest(ts, stripes, frees) WITH ORDINALITY u(t, n, free, o)
        ))
    END
  INTO answer
  FROM quorum.self s;
  IF answer IS NULL THEN PERFORM quorum.takes_part(); END IF;
  RETURN answer;
END $$ SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan;

-- How rows stand here, as looks name them, for a statement that comes after it: everything's own version; then of
-- each row its stripe, its version, and its table's own.
CREATE OR REPLACE FUNCTION quorum.stand_of(ts text[], keys text[])
  RETURNS text LANGUAGE plpgsql VOLATILE
  SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN (
    SELECT concat_ws(' ',
      coalesce((SELECT x.version FROM quorum.stripe x WHERE x.t = '*' AND x.n = -1), 0),
      string_agg(
        concat_ws(' ',
          u.n,
          coalesce((SELECT x.version FROM quorum.stripe x WHERE x.t = u.t AND x.n = u.n), 0),
          coalesce((SELECT x.version FROM quorum.stripe x WHERE x.t = u.t AND x.n = -1), 0)),
        ' ' ORDER BY u.o))
    FROM (
      SELECT x.t, quorum.stripe_of(x.key) n, x.o
      FROM unnest(ts, keys) WITH ORDINALITY x(t, key, o) OFFSET 0
    ) u
  );
END $$;

-- A whole table that is in doubt from before its writers took the advisory lock that looks ask for (quorum.take):
-- nobody may look past it.
DO $$
BEGIN
  IF EXISTS (
    SELECT FROM pg_locks l
    JOIN (
      SELECT to_regclass(shadow)::oid r, t FROM quorum.tracked
      UNION ALL
      SELECT 'quorum.everything'::regclass, '*'
    ) k ON k.r = l.relation,
    LATERAL (SELECT quorum.lock_key('A', k.t || '/-1') OFFSET 0) w(key)
    WHERE l.pid IS NULL
      AND l.mode = 'ExclusiveLock'
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND NOT EXISTS (
        SELECT FROM pg_locks a
        WHERE a.pid IS NULL
          AND a.virtualtransaction = l.virtualtransaction
          AND a.locktype = 'advisory'
          AND a.classid::bigint = ((w.key >> 32) & 4294967295)
          AND a.objid::bigint = (w.key & 4294967295))
  ) THEN
    RAISE EXCEPTION 'a transaction on a whole table is still prepared here by an older pg-quorum: finish it first with the pg-quorum that made it (pg-quorum resolve)';
  END IF;
END $$;
