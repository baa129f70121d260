-- The seal, on the lead, in its open transaction (docs/protocol.md, section 4, step 5).

-- Before the seal, in the same message: deferred triggers are the user's, and run as the user.
DROP FUNCTION IF EXISTS
  quorum.immediate(),
  quorum.seal(text, jsonb, bool, bool, bigint, int);  -- they were called otherwise once
CREATE OR REPLACE FUNCTION quorum.immediate(lock_ms int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  SET CONSTRAINTS ALL IMMEDIATE;
  PERFORM pg_catalog.set_config('lock_timeout', lock_ms::pg_catalog.text, true);
END $$;

-- In the lead's open transaction, after immediate(). want: on how many members it shall be; more if the dial says so.
-- most: bytes of row images that a changeset may hold (54000 beyond). base: granules and base as read before the work.
-- prefix: the gid but for its digest. latest: the isolation level that the driver knows of lets each statement see the
-- latest commits.
-- inferred: whether the tables that were read are among the base's is the server's word, not the driver's.
-- Returns {"state": "clean"} (nothing written), {"state": "stale"} (a version moved),
-- {"state": "uncovered", "tables": […]} or {"state": "sealed", gid, body, write, fresh: the session's own word on its
-- isolation level, everything: its own version, unless the base says it as an entry of its own, wrote: [[table,
-- stripe, version], …], unless they are single rows, via: the function that accepts it, where there is a shorter one}.
CREATE OR REPLACE FUNCTION quorum.seal(prefix text, base jsonb, inferred bool, latest bool, most bigint, want int)
  RETURNS json LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
  SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  mine xid8 := pg_current_xact_id_if_assigned();
  me record;
  missed jsonb;
  sealed record;
  body text;
  gid text;
  parts jsonb;
  said text;
  wrote jsonb;
  everything bigint;
BEGIN
  -- The reply, which the digest is of, in UTF8; and the lead's commit is a vote, whatever the role or the database has
  -- set.
  SELECT s.building,
      coalesce(current_setting('quorum.unsaid', true), '') AS unsaid,
      EXISTS (SELECT FROM pg_largeobject_metadata m WHERE age(m.xmin) <= age(mine::xid)) AS large,
      latest AND current_setting('transaction_isolation') LIKE 'read %' AS fresh,
      NOT base @? '$[*] ? ((@.n == -1 && @.i == false) || @.t starts with "@")' AS rows,  -- wholes and names are not
      format('"write": %s, "epoch": %s, "lead": %s',
        greatest(want, coalesce((SELECT d.write FROM quorum.dial d), s.members / 2 + 1)),
        s.epoch,
        s.member) AS terms,
      greatest(want, coalesce((SELECT d.write FROM quorum.dial d), s.members / 2 + 1)) AS write,
      set_config('client_encoding', 'UTF8', true),
      set_config('synchronous_commit', 'on', true)
    INTO me
    FROM quorum.self s;
  IF me.building OR me.unsaid <> '' OR me.large AND mine IS NOT NULL THEN
    PERFORM quorum.not_sealed(me.unsaid);
  END IF;
  IF inferred THEN  -- the server's own word: every tracked relation that was read must have been known before the work
    missed := quorum.uncovered(quorum.granules_of(base));
    IF missed IS NOT NULL THEN RETURN json_build_object('state', 'uncovered', 'tables', missed); END IF;
  END IF;
  IF mine IS NULL THEN
    IF base @> '[{"t": "*", "w": true}]' THEN PERFORM quorum.check_classes(); END IF;
    RETURN '{"state": "clean"}';
  END IF;
  IF me.rows THEN
    sealed := quorum.seal_rows(mine, base, me.fresh, most);
  ELSE
    sealed := quorum.seal_any(mine, base, me.fresh, most);
  END IF;
  IF sealed.state = 'any' THEN sealed := quorum.seal_any(mine, base, me.fresh, most); END IF;
  IF sealed.state NOT IN ('rows', 'list') THEN RETURN json_build_object('state', sealed.state); END IF;
  body := format('{%s, %s}', me.terms, sealed.body);
  gid := prefix || left(encode(sha256(convert_to(body, 'UTF8')), 'hex'), 32);
  said := pg_advisory_xact_lock(quorum.lock_key('T', gid));
  INSERT INTO quorum.changeset (gid, body) VALUES (gid, body);
  IF sealed.state = 'rows' THEN
    parts := sealed.parts;
    FOR o IN 0 .. jsonb_array_length(parts) - 1 LOOP
      said := quorum.enter(gid, sealed.everything, parts->o);
      IF said <> 'same' THEN
        RAISE EXCEPTION 'what was sealed does not stand any more (%)', said USING ERRCODE = '40001';
      END IF;
    END LOOP;
    INSERT INTO quorum.applied (gid) VALUES (gid);
    RETURN json_build_object(
      'state', 'sealed',
      'gid', gid,
      'body', body,
      'write', me.write,
      'fresh', me.fresh,
      'everything', sealed.everything,
      'via', CASE
        WHEN jsonb_array_length(parts) = 1 AND NOT parts->0 ? 'r'
        THEN quorum.made('accept', parts->0->>'t')
      END);
  END IF;
  parts := body::jsonb;
  IF NOT parts->'base' @> '[{"t": "*", "i": true}]' THEN
    SELECT coalesce(max(s.version), 0) INTO everything  -- as it was
      FROM quorum.stripe s
      WHERE s.t = '*' AND s.n = -1;
  END IF;
  wrote := quorum.extend(gid, parts->'base', parts->'writes');
  RETURN json_build_object(
    'state', 'sealed',
    'gid', gid,
    'body', body,
    'write', me.write,
    'fresh', me.fresh,
    'everything', everything,
    'wrote', wrote);
END $$;

CREATE OR REPLACE FUNCTION quorum.not_sealed(unsaid text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM quorum.takes_part();
  IF unsaid <> '' THEN
    RAISE EXCEPTION
      '% was run where its text could not be seen (a string of more than 64 kB, or a function that is not PL/pgSQL), so the other replicas could not follow',
      unsaid
      USING ERRCODE = '0A000',
      HINT = 'Send it as a statement of its own, or run it in PL/pgSQL.';
  END IF;
  RAISE EXCEPTION 'large objects are not replicated'
    USING ERRCODE = '0A000',
    HINT = 'Keep them in a column of type bytea.';
END $$;

CREATE OR REPLACE FUNCTION quorum.within_limit(bytes numeric, most bigint)
  RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF bytes > most THEN
    RAISE EXCEPTION 'the transaction changes % MB of rows, more than the limit of % MB',
      ceil(bytes / 1048576), round(most / 1048576.0, 1)
      USING ERRCODE = '54000';
  END IF;
END $$;

-- What was captured, as parts (rows.sql), under A. state: 'rows'; 'any': it is more than single rows; 'clean': nothing
-- was; 'stale': what was read before the work has moved.
CREATE OR REPLACE FUNCTION quorum.seal_rows(
    mine xid8, base jsonb, fresh bool, most bigint,
    OUT state text, OUT everything bigint, OUT parts jsonb, OUT body text)
  LANGUAGE plpgsql AS $$
DECLARE
  r record;
  said text;
BEGIN
  -- The net effect: images that the transaction both made and unmade cancel, whatever the order its triggers ran in.
  -- What was written without having been declared (an insert, a cascade) rests on what stands now.
  FOR r IN
    SELECT u.t,
      array_agg(DISTINCT u.n) FILTER (WHERE u.w) ns,
      array_agg(DISTINCT u.n) FILTER (WHERE NOT u.w) rs,
      array_agg(u.image ORDER BY u.n, u.image) FILTER (WHERE u.s > 0) olds,
      array_agg(u.image ORDER BY u.n, u.image) FILTER (WHERE u.s < 0) news,
      sum(sum(u.caught)) OVER () AS caught,
      sum(sum(u.bytes)) OVER () AS bytes,
      min(min(u.n)) OVER () < 0 OR bool_or(bool_or(u.ddl)) OVER () AS any
    FROM (
      SELECT k.t, k.n, true w, k.image,
        sum(k.sign) s,
        count(*) caught,
        sum(octet_length(k.image)) bytes,
        bool_or(k.ddl IS NOT NULL) ddl
      FROM quorum.capture k
      WHERE k.xid = mine
      GROUP BY k.t, k.n, k.image
      UNION ALL
      SELECT e.t, e.n, e.w, NULL, 0, 0, 0, false
      FROM jsonb_to_recordset(base) e(t text, n int, w bool)
      WHERE e.n >= 0
    ) u
    GROUP BY u.t
    ORDER BY u.t COLLATE "C"
  LOOP
    IF state IS NULL THEN
      IF r.caught = 0 OR r.any OR r.bytes > most THEN
        PERFORM quorum.within_limit(r.bytes, most);
        state := CASE WHEN r.caught = 0 THEN 'clean' ELSE 'any' END;
        RETURN;
      END IF;
      state := 'rows';
      LOCK TABLE quorum.everything IN ROW EXCLUSIVE MODE;
    END IF;
    IF r.rs IS NOT NULL THEN
      r.rs := (SELECT array_agg(n ORDER BY n) FROM unnest(r.rs) n WHERE n <> ALL (coalesce(r.ns, '{}')));
    END IF;
    EXECUTE format('LOCK TABLE %s IN %s MODE',
      quorum.made('table', r.t),
      CASE WHEN r.ns IS NULL THEN 'ROW SHARE' ELSE 'ROW EXCLUSIVE' END);
    PERFORM quorum.take_rows(r.t, r.ns, r.rs);
    SELECT s.everything,
        concat_ws(', ', body, format('{%s%s%s}',
          s.part,
          ', "o": ' || to_json(r.olds::text),
          ', "i": ' || to_json(r.news::text)))
      INTO everything, body
      FROM quorum.stand_rows(r.t, r.ns, r.rs) s;
  END LOOP;
  IF state IS NULL THEN state := 'clean'; RETURN; END IF;
  DELETE FROM quorum.capture WHERE xid = mine;
  IF fresh AND base <> '[]' AND quorum.moved(base) THEN state := 'stale'; END IF;
  parts := '[' || body || ']';
  body := format('"everything": %s, "rows": [%s]', everything, body);
END $$;

-- The same of whatever it is: a list of granules, and items, which are tables' rows and DDL in order.
CREATE OR REPLACE FUNCTION quorum.seal_any(
    mine xid8, base jsonb, fresh bool, most bigint, OUT state text, OUT body text)
  LANGUAGE plpgsql AS $$
DECLARE
  caught record;
  items text;
  writes text;
  granules jsonb := quorum.granules_of(base);
  wholes text[];
  full_base text;
  hashes text := 'null';
BEGIN
  IF base @> '[{"t": "*", "w": true}]' THEN PERFORM quorum.check_classes(); END IF;
  SELECT count(*) AS rows, sum(octet_length(k.image)) AS bytes, bool_or(k.ddl IS NOT NULL) AS ddl
    INTO caught
    FROM quorum.capture k
    WHERE k.xid = mine;
  IF caught.rows = 0 THEN state := 'clean'; RETURN; END IF;
  PERFORM quorum.within_limit(caught.bytes, most);
  WITH net AS (
    SELECT c.segment, c.t, c.n, c.image, sum(c.sign) s
    FROM quorum.capture c
    WHERE c.xid = mine AND c.ddl IS NULL
    GROUP BY 1, 2, 3, 4
    HAVING sum(c.sign) <> 0
  ), copies AS (
    SELECT segment, t, n, image, s FROM net, generate_series(1, abs(s))
  ), by_table AS (
    SELECT segment, t,
      jsonb_build_object(
        't', t,
        'o', coalesce(jsonb_agg(image ORDER BY image COLLATE "C") FILTER (WHERE s > 0), '[]'),
        'n', coalesce(jsonb_agg(image ORDER BY image COLLATE "C") FILTER (WHERE s < 0), '[]')
      ) item
    FROM copies
    GROUP BY 1, 2
    UNION ALL
    SELECT c.segment, '', jsonb_build_object('ddl', c.ddl, 'path', c.path, 'as', c."as")
    FROM quorum.capture c
    WHERE c.xid = mine AND c.ddl IS NOT NULL
  )
  -- jsonb_agg is quadratic in the length of an item
  SELECT to_jsonb(coalesce(array_agg(item ORDER BY segment, t COLLATE "C"), '{}'))
    INTO items
    FROM by_table;
  SELECT coalesce(jsonb_agg(jsonb_build_array(t, n) ORDER BY t COLLATE "C", n), '[]')
    INTO writes
    FROM (
      SELECT DISTINCT c.t, c.n
      FROM quorum.capture c
      WHERE c.xid = mine AND c.ddl IS NULL
      UNION
      SELECT g->>'t', (g->>'n')::int
      FROM jsonb_array_elements(granules) g
      WHERE (g->>'w')::bool OR (g->>'n')::int = -1
      UNION
      SELECT '*', -1
      FROM quorum.capture c
      WHERE c.xid = mine AND c.ddl IS NOT NULL
    ) w;
  wholes := ARRAY(SELECT g->>'t' FROM jsonb_array_elements(granules) g WHERE (g->>'n')::int = -1);
  -- A table that was read whole counts as written.
  SELECT coalesce(jsonb_agg(jsonb_build_object('t', t, 'n', n, 'w', w) ORDER BY t COLLATE "C", n), '[]')
    INTO granules
    FROM (
      SELECT t, n, bool_or(w) w
      FROM (
        SELECT g->>'t' t, (g->>'n')::int n, (g->>'w')::bool OR (g->>'n')::int = -1 w
        FROM jsonb_array_elements(granules) g
        UNION ALL
        SELECT w->>0, (w->>1)::int, true
        FROM jsonb_array_elements(writes::jsonb) w
        WHERE NOT ('*' = ANY (wholes) OR w->>0 = ANY (wholes))
      ) u
      GROUP BY 1, 2
    ) v;
  PERFORM quorum.take(granules);
  DELETE FROM quorum.capture WHERE xid = mine;
  full_base := quorum.base(granules);
  IF fresh AND quorum.moved(base) THEN state := 'stale'; RETURN; END IF;
  IF caught.ddl THEN
    hashes := quorum.rewritten() || jsonb_build_object('', quorum.schema_hash());
  END IF;
  body := format('"base": %s, "writes": %s, "items": %s, "hashes": %s',
    full_base, writes, items, hashes);
  state := 'list';
END $$;

-- Tracked tables that this transaction has read (views and functions expanded: pg_locks knows) and that no granule
-- covers. Our own tables are left out first, since they are always there.
CREATE OR REPLACE FUNCTION quorum.uncovered(granules jsonb)
  RETURNS jsonb LANGUAGE plpgsql VOLATILE SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  seen oid[];
BEGIN
  IF granules @> '[{"t": "*"}]' THEN RETURN NULL; END IF;
  SELECT array_agg(l.relation)
    INTO seen
    FROM pg_lock_status() l
    WHERE l.pid = pg_backend_pid()
      AND l.locktype = 'relation'
      AND l.mode = 'AccessShareLock'
      AND l.relation >= 16384
      AND l.relation <> ALL (ARRAY[
        'quorum.self'::regclass,
        'quorum.dial'::regclass,
        'quorum.tracked'::regclass,
        'quorum.stripe'::regclass,
        'quorum.mark'::regclass,
        'quorum.capture'::regclass,
        'quorum.self_pkey'::regclass,
        'quorum.dial_pkey'::regclass,
        'quorum.tracked_pkey'::regclass,
        'quorum.stripe_pkey'::regclass,
        'quorum.mark_pkey'::regclass,
        'quorum.capture_xid'::regclass
      ]::oid[]);
  IF seen IS NULL THEN RETURN NULL; END IF;
  SELECT array_agg(c.oid)
    INTO seen
    FROM pg_class c
    WHERE c.oid = ANY (seen)
      AND c.relkind IN ('r', 'p')
      AND NOT granules @> jsonb_build_array(jsonb_build_object('t', c.oid::regclass::text));
  -- as mostly: what follows takes as long as all the rest of a seal's looking round
  IF seen IS NULL THEN RETURN NULL; END IF;
  RETURN (
    SELECT jsonb_agg(DISTINCT k.t)
    FROM (
      SELECT coalesce(pg_partition_root(o), o) rel
      FROM unnest(seen) o
      -- a partition's bounds are looked up in its parent; whoever reads the root locks its partitions too
      WHERE NOT EXISTS (SELECT FROM pg_class p WHERE p.oid = o AND p.relkind = 'p')
    ) x
    JOIN pg_class c ON c.oid = x.rel
    JOIN pg_namespace s ON s.oid = c.relnamespace
    JOIN quorum.tracked k ON k.t = format('%I.%I', s.nspname, c.relname)
    WHERE NOT granules @> jsonb_build_array(jsonb_build_object('t', k.t))
  );
END $$;

-- Did anything that was read before the work move since? Versions only: read marks are for writers' bases.
CREATE OR REPLACE FUNCTION quorum.moved(base jsonb) RETURNS bool LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  b record;
  h record;
BEGIN
  PERFORM
    FROM jsonb_to_recordset(base) e(t text, n int, i bool, v bigint)
    WHERE (e.n >= 0 OR e.i)
      AND e.v <> coalesce((SELECT s.version FROM quorum.stripe s WHERE s.t = e.t AND s.n = e.n), 0);
  IF FOUND THEN RETURN true; END IF;
  FOR b IN
    SELECT *
    FROM jsonb_to_recordset(base) e(t text, n int, i bool, v bigint, c numeric)
    WHERE e.n = -1 AND NOT e.i
  LOOP
    h := quorum.stand(b.t, b.n, false, b.i);
    IF h.v <> b.v OR h.c <> b.c THEN RETURN true; END IF;
  END LOOP;
  RETURN false;
END $$;
