-- The seal, on the lead, in its open transaction (docs/protocol.md, section 4, step 5).

-- Before the seal, in the same message: deferred triggers are the user's, and run as the user.
DROP FUNCTION IF EXISTS quorum.immediate(), quorum.seal(text, jsonb, bool, bool, bigint, int);  -- they were called otherwise once
CREATE OR REPLACE FUNCTION quorum.immediate(lock_ms int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  SET CONSTRAINTS ALL IMMEDIATE;
  PERFORM pg_catalog.set_config('lock_timeout', lock_ms::pg_catalog.text, true);
END $$;

-- In the lead's open transaction, after immediate(). want: on how many members it shall be; more if the dial says so. most: bytes of row images that a changeset may hold (54000 beyond). cover: granules and base as read before the work. prefix: the gid but for its digest. latest: the isolation level that the driver knows of lets each statement see the latest commits.
-- Returns {"state": "clean"} (nothing written), {"state": "stale"} (a version moved), {"state": "uncovered", "tables": […]} or {"state": "sealed", gid, body, write, wrote, everything: its own version where the base has it as part of a whole, fresh: the session's own word on its isolation level}.
CREATE OR REPLACE FUNCTION quorum.seal(prefix text, base jsonb, inferred bool, latest bool, most bigint, want int) RETURNS json LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE items text; writes text; granules jsonb; full_base text; body text; gid text; missed jsonb; mine xid8 := pg_current_xact_id_if_assigned(); hashes text := 'null'; many int; me record; caught record; h record; said text;
  fresh bool := latest AND current_setting('transaction_isolation') LIKE 'read %'; none bool := jsonb_array_length(base) = 0; one bool := none OR quorum.of_one_row(base); place text := base #>> '{2,t}'; stripe int := base #>> '{2,n}'; wrote text; wholes text[]; everything bigint;
BEGIN
  SELECT s.building, s.epoch, s.member INTO me FROM quorum.self s;
  IF me.building THEN PERFORM quorum.takes_part(); END IF;
  said := set_config('client_encoding', 'UTF8', true);  -- of the reply, which the digest is of
  said := set_config('synchronous_commit', 'on', true);  -- the lead's commit is a vote, whatever the role or the database has set
  IF coalesce(current_setting('quorum.unsaid', true), '') <> '' THEN
    RAISE EXCEPTION '% was run where its text could not be seen (a string of more than 64 kB, or a function that is not PL/pgSQL), so the other replicas could not follow', current_setting('quorum.unsaid')
      USING ERRCODE = '0A000', HINT = 'Send it as a statement of its own, or run it in PL/pgSQL.';
  END IF;
  granules := CASE WHEN none THEN base WHEN one THEN jsonb_build_array(base->2) ELSE quorum.granules_of(base) END;
  IF inferred THEN  -- the server's own word: every tracked relation that was read must have been known before the work
    missed := quorum.uncovered(granules);
    IF missed IS NOT NULL THEN RETURN json_build_object('state', 'uncovered', 'tables', missed); END IF;
  END IF;
  IF granules @> '[{"t": "*", "w": true}]' THEN PERFORM quorum.check_classes(); END IF;
  IF mine IS NULL THEN RETURN '{"state": "clean"}'; END IF;
  IF EXISTS (SELECT FROM pg_largeobject_metadata m WHERE age(m.xmin) <= age(mine::xid)) THEN
    RAISE EXCEPTION 'large objects are not replicated' USING ERRCODE = '0A000', HINT = 'Keep them in a column of type bytea.';
  END IF;
  SELECT count(*) AS rows, sum(octet_length(k.image)) AS bytes, min(k.t) AS t, min(k.n) AS n, bool_and(k.ddl IS NULL) AND min(k.t) = max(k.t) AND min(k.n) = max(k.n) AS same, count(*) FILTER (WHERE k.sign > 0) AS olds, bool_or(k.ddl IS NOT NULL) AS ddl,
    min(k.image COLLATE "C") FILTER (WHERE k.sign > 0) AS old, min(k.image COLLATE "C") FILTER (WHERE k.sign < 0) AS new INTO caught FROM quorum.capture k WHERE k.xid = mine;
  IF caught.rows = 0 THEN RETURN '{"state": "clean"}'; END IF;
  IF caught.bytes > most THEN RAISE EXCEPTION 'the transaction changes % MB of rows, more than the limit of % MB', ceil(caught.bytes / 1048576.0), round(most / 1048576.0, 1) USING ERRCODE = '54000'; END IF;
  IF none THEN place := caught.t; stripe := caught.n; END IF;  -- nothing was read but what it holds (the driver's byKey)
  one := one AND caught.same AND caught.t = place AND caught.n = stripe AND stripe >= 0 AND caught.olds < 2 AND caught.rows - caught.olds < 2 AND caught.old IS DISTINCT FROM caught.new AND (none OR base #>> '{2,w}' = 'true');
  IF one THEN  -- the same as below, of the one row that was written once
    PERFORM quorum.take_row(place, stripe, true);
    DELETE FROM quorum.capture WHERE xid = mine;
    h := quorum.stand_row(place, stripe);
    IF fresh AND NOT none AND (h.everything <> (base #>> '{0,v}')::bigint OR h.whole <> (base #>> '{1,v}')::bigint OR h.v <> (base #>> '{2,v}')::bigint) THEN RETURN '{"state": "stale"}'; END IF;
    full_base := quorum.base_row(place, stripe, true, h);
    items := format('[{"t": %s, "o": [%s], "n": [%s]}]', to_json(place), to_json(caught.old), to_json(caught.new));
    writes := format('[[%s, %s]]', to_json(place), stripe);
  ELSE
    WITH net AS (  -- the net effect: images that the transaction both made and unmade cancel, whatever the order its triggers ran in
        SELECT c.segment, c.t, c.n, c.image, sum(c.sign) s FROM quorum.capture c WHERE c.xid = mine AND c.ddl IS NULL GROUP BY 1, 2, 3, 4 HAVING sum(c.sign) <> 0),
      copies AS (SELECT segment, t, n, image, s FROM net, generate_series(1, abs(s))),
      by_table AS (
        SELECT segment, t, jsonb_build_object('t', t, 'o', coalesce(jsonb_agg(image ORDER BY image COLLATE "C") FILTER (WHERE s > 0), '[]'), 'n', coalesce(jsonb_agg(image ORDER BY image COLLATE "C") FILTER (WHERE s < 0), '[]')) item
        FROM copies GROUP BY 1, 2
        UNION ALL SELECT c.segment, '', jsonb_build_object('ddl', c.ddl, 'path', c.path, 'as', c."as") FROM quorum.capture c WHERE c.xid = mine AND c.ddl IS NOT NULL)
      SELECT to_jsonb(coalesce(array_agg(item ORDER BY segment, t COLLATE "C"), '{}')) INTO items FROM by_table;  -- jsonb_agg is quadratic in the length of an item
    SELECT coalesce(jsonb_agg(jsonb_build_array(t, n) ORDER BY t COLLATE "C", n), '[]') INTO writes FROM (
        SELECT DISTINCT c.t, c.n FROM quorum.capture c WHERE c.xid = mine AND c.ddl IS NULL
        UNION SELECT g->>'t', (g->>'n')::int FROM jsonb_array_elements(granules) g WHERE (g->>'w')::bool OR (g->>'n')::int = -1
        UNION SELECT '*', -1 FROM quorum.capture c WHERE c.xid = mine AND c.ddl IS NOT NULL) w;
    wholes := ARRAY(SELECT g->>'t' FROM jsonb_array_elements(granules) g WHERE (g->>'n')::int = -1);
    -- What was written without having been declared (an insert, a cascade) rests on what stands now; a table that was read whole counts as written.
    SELECT coalesce(jsonb_agg(jsonb_build_object('t', t, 'n', n, 'w', w) ORDER BY t COLLATE "C", n), '[]') INTO granules FROM (
        SELECT t, n, bool_or(w) w FROM (
          SELECT g->>'t' t, (g->>'n')::int n, (g->>'w')::bool OR (g->>'n')::int = -1 w FROM jsonb_array_elements(granules) g
          UNION ALL SELECT w->>0, (w->>1)::int, true FROM jsonb_array_elements(writes::jsonb) w WHERE NOT ('*' = ANY (wholes) OR w->>0 = ANY (wholes))) u GROUP BY 1, 2) v;
    PERFORM quorum.take(granules);
    DELETE FROM quorum.capture WHERE xid = mine;
    full_base := quorum.base(granules);
    IF fresh AND quorum.moved(base) THEN RETURN '{"state": "stale"}'; END IF;
    IF NOT full_base::jsonb @> '[{"t": "*", "i": true}]' THEN SELECT coalesce(max(s.version), 0) INTO everything FROM quorum.stripe s WHERE s.t = '*' AND s.n = -1; END IF;
    IF caught.ddl THEN
      hashes := quorum.rewritten() || jsonb_build_object('', quorum.schema_hash());
    END IF;
  END IF;
  many := greatest(want, quorum.write_floor());
  body := format('{"write": %s, "base": %s, "writes": %s, "items": %s, "hashes": %s, "epoch": %s, "lead": %s}', many, full_base, writes, items, hashes, me.epoch, me.member);
  gid := prefix || left(encode(sha256(convert_to(body, 'UTF8')), 'hex'), 32);
  PERFORM pg_advisory_xact_lock(quorum.lock_key('T', gid));
  INSERT INTO quorum.changeset (gid, body) VALUES (gid, body);
  IF one THEN wrote := format('[[%s, %s, %s]]', to_json(place), stripe, quorum.extend_row(gid, place, stripe)); ELSE wrote := quorum.extend(gid, full_base::jsonb, writes::jsonb); END IF;
  RETURN json_build_object('state', 'sealed', 'gid', gid, 'body', body, 'write', many, 'wrote', wrote::json, 'fresh', fresh, 'everything', everything);
END $$;

-- Tracked tables that this transaction has read (views and functions expanded: pg_locks knows) and that no granule covers. Our own tables are left out first, since they are always there.
CREATE OR REPLACE FUNCTION quorum.uncovered(granules jsonb) RETURNS jsonb LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE seen oid[];
BEGIN
  IF granules @> '[{"t": "*"}]' THEN RETURN NULL; END IF;
  SELECT array_agg(l.relation) INTO seen FROM pg_lock_status() l WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.mode = 'AccessShareLock' AND l.relation >= 16384
    AND l.relation <> ALL (ARRAY['quorum.self'::regclass, 'quorum.dial'::regclass, 'quorum.tracked'::regclass, 'quorum.stripe'::regclass, 'quorum.mark'::regclass, 'quorum.capture'::regclass,
      'quorum.self_pkey'::regclass, 'quorum.dial_pkey'::regclass, 'quorum.tracked_pkey'::regclass, 'quorum.stripe_pkey'::regclass, 'quorum.mark_pkey'::regclass, 'quorum.capture_xid'::regclass]::oid[]);
  IF seen IS NULL THEN RETURN NULL; END IF;
  SELECT array_agg(c.oid) INTO seen FROM pg_class c WHERE c.oid = ANY (seen) AND c.relkind IN ('r', 'p') AND NOT granules @> jsonb_build_array(jsonb_build_object('t', c.oid::regclass::text));
  IF seen IS NULL THEN RETURN NULL; END IF;  -- as mostly: what follows takes as long as all the rest of a seal's looking round
  RETURN (SELECT jsonb_agg(DISTINCT k.t) FROM (SELECT coalesce(pg_partition_root(o), o) rel FROM unnest(seen) o
        WHERE NOT EXISTS (SELECT FROM pg_class p WHERE p.oid = o AND p.relkind = 'p')) x  -- a partition's bounds are looked up in its parent; whoever reads the root locks its partitions too
    JOIN pg_class c ON c.oid = x.rel JOIN pg_namespace s ON s.oid = c.relnamespace JOIN quorum.tracked k ON k.t = format('%I.%I', s.nspname, c.relname)
    WHERE NOT granules @> jsonb_build_array(jsonb_build_object('t', k.t)));
END $$;

-- Did anything that was read before the work move since? Versions only: read marks are for writers' bases.
CREATE OR REPLACE FUNCTION quorum.moved(base jsonb) RETURNS bool LANGUAGE plpgsql VOLATILE AS $$
DECLARE b record; h record;
BEGIN
  PERFORM FROM jsonb_to_recordset(base) e(t text, n int, i bool, v bigint) WHERE (e.n >= 0 OR e.i) AND e.v <> coalesce((SELECT s.version FROM quorum.stripe s WHERE s.t = e.t AND s.n = e.n), 0);
  IF FOUND THEN RETURN true; END IF;
  FOR b IN SELECT * FROM jsonb_to_recordset(base) e(t text, n int, i bool, v bigint, c numeric) WHERE e.n = -1 AND NOT e.i LOOP
    h := quorum.stand(b.t, b.n, false, b.i);
    IF h.v <> b.v OR h.c <> b.c THEN RETURN true; END IF;
  END LOOP;
  RETURN false;
END $$;
