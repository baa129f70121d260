-- Evidence, promises, and what catch-up asks (docs/protocol.md, sections 7 and 8).

-- What `verify --repair` has changed on this replica.
CREATE TABLE IF NOT EXISTS quorum.repair (
  at timestamptz NOT NULL DEFAULT now(),
  t text NOT NULL,
  key text[] NOT NULL,
  before text,
  after text,
  by text NOT NULL
);

CREATE OR REPLACE FUNCTION quorum.doubt() RETURNS jsonb LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN (
    SELECT coalesce(jsonb_agg(jsonb_build_object(
        'gid', p.gid,
        'age_ms', (extract(epoch FROM clock_timestamp() - p.prepared) * 1000)::bigint,
        'owner_alive', quorum.owner_alive(p.gid)
      )), '[]')
    FROM pg_prepared_xacts p
    -- whoever else prepares something under such a name has no vote
    WHERE p.database = current_database() AND p.owner = 'quorum_txn' AND p.gid LIKE 'quorum\_%'
  );
END $$;

-- The owner's session-level lock stands on a connection of its own; free means that connection is gone. Tried, and not
-- looked for among all locks: with many drivers and transactions that took the servers' whole time. (Two that try at
-- once may both hear that it lives; then the next look says so.)
CREATE OR REPLACE FUNCTION quorum.owner_alive(gid text) RETURNS bool LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  owner text := split_part(gid, '_', 4);
  key bigint := quorum.lock_key('L', split_part(gid, '_', 4));
BEGIN
  IF owner = current_setting('quorum.owner', true) THEN RETURN true; END IF;  -- this session holds it
  IF NOT pg_try_advisory_lock(key) THEN RETURN true; END IF;
  PERFORM pg_advisory_unlock(key);
  RETURN false;
END $$;

CREATE OR REPLACE FUNCTION quorum.evidence(gid text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  prepared bool;
  b record;
  body jsonb;
  done bool;
  past bool;
BEGIN
  PERFORM quorum.takes_part();
  -- prepared first, applied after: a commit in between is then seen as committed, never as nothing
  SELECT EXISTS (
      SELECT FROM pg_prepared_xacts p
      WHERE p.gid = evidence.gid AND p.database = current_database() AND p.owner = 'quorum_txn'
    )
    INTO prepared;
  SELECT EXISTS (SELECT FROM quorum.applied a WHERE a.gid = evidence.gid) INTO done;
  SELECT * INTO b FROM quorum.ballot x WHERE x.gid = evidence.gid;
  SELECT c.body::jsonb INTO body FROM quorum.changeset c WHERE c.gid = evidence.gid;
  past := NOT done AND NOT prepared AND body IS NOT NULL
    AND quorum.against(quorum.base_of(body)) = 'ahead';
  IF past THEN  -- was it this one that went past its base, just now?
    SELECT EXISTS (SELECT FROM quorum.applied a WHERE a.gid = evidence.gid) INTO done;
  END IF;
  RETURN jsonb_build_object(
    'member', (SELECT member FROM quorum.self),
    'lead', body->'lead',
    'write', body->'write',
    'committed', done,
    'prepared', prepared AND NOT done,
    'promised', coalesce(b.promised, 0),
    'accepted', coalesce(b.accepted, 0),
    'decision', b.decision,
    'has', body IS NOT NULL,
    'superseded', past AND NOT done,
    'forgotten', NOT done AND NOT prepared AND quorum.may_be_forgotten(gid),
    'owner_alive', quorum.owner_alive(gid));
END $$;

-- quorum_txn may end everybody's sessions but a superuser's; that, only a driver that connects as one. Who may not
-- leaves it standing: it is asked again.
CREATE OR REPLACE FUNCTION quorum.terminate(pid int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  me text := current_setting('role');
BEGIN
  PERFORM pg_terminate_backend(pid);
EXCEPTION WHEN insufficient_privilege THEN
  IF (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) THEN
    PERFORM set_config('role', 'none', true), pg_terminate_backend(pid), set_config('role', me, true);
  END IF;
END $$;

-- Ends the session that holds T(gid) here: not one that is prepared, which is none, nor one that brings it over, and
-- has the turn.
CREATE OR REPLACE FUNCTION quorum.oust(gid text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM quorum.terminate(h.pid)
    FROM quorum.holders(quorum.lock_key('T', gid)) h
    WHERE h.pid NOT IN (SELECT c.pid FROM quorum.holders(quorum.lock_key('C', '')) c);
END $$;
CREATE OR REPLACE FUNCTION quorum.holders(key bigint)
  RETURNS TABLE (pid int) LANGUAGE sql VOLATILE AS $$
  SELECT l.pid
  FROM pg_locks l
  WHERE l.locktype = 'advisory'
    AND l.granted
    AND l.pid IS NOT NULL
    AND l.pid <> pg_backend_pid()
    AND l.objsubid = 1
    AND l.classid::bigint = ((key >> 32) & 4294967295)
    AND l.objid::bigint = (key & 4294967295)
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
$$;

-- Phase 1 and, with a decision, phase 2 of a ballot. Excludes an accept on its way, and the lead's open session: all of
-- them hold T(gid).
CREATE OR REPLACE FUNCTION quorum.promise(gid text, b bigint, who text, choice text)
  RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  e jsonb;
  mine quorum.ballot;
BEGIN
  PERFORM quorum.takes_part();
  SET LOCAL synchronous_commit = on;
  IF NOT pg_try_advisory_xact_lock(quorum.lock_key('T', gid)) THEN
    e := quorum.evidence(gid);
    IF NOT ((e->>'prepared')::bool OR (e->>'committed')::bool) THEN
      IF NOT (e->>'owner_alive')::bool THEN PERFORM quorum.oust(gid); END IF;
      RETURN e || '{"yes": false, "busy": true}';
    END IF;
  END IF;
  e := quorum.evidence(gid);
  IF (e->>'committed')::bool OR (e->>'forgotten')::bool THEN RETURN e || '{"yes": false}'; END IF;
  IF (e->>'superseded')::bool AND choice IS DISTINCT FROM 'abort' THEN RETURN e || '{"yes": false}'; END IF;
  IF choice = 'commit' AND NOT (e->>'prepared')::bool THEN RETURN e || '{"yes": false}'; END IF;
  INSERT INTO quorum.ballot AS x (gid, promised, promised_to, accepted, decision)
    VALUES (gid, b, who, CASE WHEN choice IS NULL THEN 0 ELSE b END, choice)
    ON CONFLICT ON CONSTRAINT ballot_pkey DO UPDATE
      SET promised = b,
        promised_to = who,
        accepted = CASE WHEN choice IS NULL THEN x.accepted ELSE b END,
        decision = coalesce(choice, x.decision)
      WHERE (x.promised, x.promised_to) < (b, who) OR (x.promised = b AND x.promised_to = who)
    RETURNING * INTO mine;
  IF mine.gid IS NULL THEN RETURN e || '{"yes": false}'; END IF;
  -- The row's own word, not the look taken above: the update may have waited for another resolver's acceptance.
  RETURN e || jsonb_build_object('yes', true, 'accepted', mine.accepted, 'decision', mine.decision);
END $$;

-- Catch-up: which changesets does this member have beyond these versions, in this member's order?
CREATE OR REPLACE FUNCTION quorum.versions()
  RETURNS jsonb LANGUAGE plpgsql VOLATILE SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (
    SELECT coalesce(jsonb_agg(jsonb_build_array(t, n, version, chain::text)), '[]') FROM quorum.stripe
  );
END $$;

-- Stripes that stand higher here than there, and where they stand there. (Never row against row, of a thousand stripes
-- each.)
CREATE OR REPLACE FUNCTION quorum.higher(theirs jsonb, OUT ts text[], OUT ns int[], OUT vs bigint[])
  LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  SELECT array_agg(s.t), array_agg(s.n), array_agg(coalesce(v.version, 0))
    INTO ts, ns, vs
    FROM quorum.stripe s
    LEFT JOIN (
      SELECT x->>0 t, (x->>1)::int n, (x->>2)::bigint version
      FROM jsonb_array_elements(theirs) x
      OFFSET 0
    ) v ON v.t = s.t AND v.n = s.n
    WHERE s.version > coalesce(v.version, 0);
END $$ SET enable_nestloop = off;

-- A log that was pruned must not look like one that has nothing more (QB010). Looked at last: what is pruned meanwhile
-- is then missed as well.
CREATE OR REPLACE FUNCTION quorum.beyond(theirs jsonb, most int)
  RETURNS TABLE (gid text) LANGUAGE plpgsql VOLATILE SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  h record;
BEGIN
  h := quorum.higher(theirs);
  IF h.ts IS NULL THEN RETURN; END IF;
  -- (Fenced: who plans it with the limit may go through `applied` in its order, from the oldest on, and what is missing
  -- is the newest.)
  RETURN QUERY
    SELECT x.gid
    FROM (
      SELECT a.gid, a.seq
      FROM quorum.applied a
      WHERE a.gid IN (
        SELECT k.gid
        FROM unnest(h.ts, h.ns, h.vs) u(t, n, version)
        JOIN quorum.history k ON k.t = u.t AND k.n = u.n AND k.version > u.version
      )
      OFFSET 0
    ) x
    ORDER BY x.seq
    LIMIT most;
  PERFORM
    FROM unnest(h.ts, h.ns, h.vs) u(t, n, version)
    WHERE NOT EXISTS (
      SELECT FROM quorum.history k WHERE k.t = u.t AND k.n = u.n AND k.version = u.version + 1
    );
  IF FOUND THEN
    RAISE EXCEPTION 'its log no longer reaches back to what that replica has: that replica needs a clone'
      USING ERRCODE = 'QB010';
  END IF;
END $$;

-- Asked at each pulse, by every driver. As long as no transaction has begun or ended, the answer is the last one: a
-- snapshot never comes back once it has changed.
CREATE OR REPLACE FUNCTION quorum.position() RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  seen text := pg_current_snapshot()::text;
  kept text := coalesce(current_setting('quorum.position', true), '');
  said text;
BEGIN
  IF split_part(kept, ' ', 1) = seen THEN RETURN split_part(kept, ' ', 2); END IF;
  SELECT coalesce(sum(version), 0) || ':' || coalesce(sum(chain::numeric), 0)
    INTO said
    FROM quorum.stripe;
  PERFORM set_config('quorum.position', seen || ' ' || said, false);
  RETURN said;
END $$;

CREATE OR REPLACE FUNCTION quorum.hello() RETURNS jsonb LANGUAGE sql VOLATILE AS $$
  SELECT to_jsonb(s) || jsonb_build_object(
    'actual_identifier', (SELECT system_identifier::text FROM pg_control_system()),
    'prepared_max', current_setting('max_prepared_transactions')::int,
    'fsync', current_setting('fsync'),
    'full_page_writes', current_setting('full_page_writes'),
    'write', quorum.write_floor())
  FROM quorum.self s
$$ SET search_path = pg_catalog, pg_temp;
