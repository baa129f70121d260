-- Sequences: each member hands out its own residue class of every sequence, so that two leads can never give the same
-- value twice (N31). A class is written into the sequence itself, as INCREMENT and START; what it was when we wrote
-- it stands in its comment, so that a later ALTER is noticed.

-- The users' sequences, as they were given (inc, start) and as they are here (stride, first).
CREATE OR REPLACE FUNCTION quorum.sequences()
  RETURNS TABLE (
    oid oid, name text, inc bigint, stride bigint, first bigint, lo bigint, hi bigint, cycle bool, ok bool
  ) LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
  WITH s AS (
    SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, p.*, me.member, me.members,
      regexp_match(
        coalesce(obj_description(c.oid, 'pg_class'), ''),
        '^pg-quorum: member ([0-9]+) of ([0-9]+)(?:, by (-?[0-9]+) from (-?[0-9]+))?$') m
    FROM quorum.self me, pg_sequence p
    JOIN pg_class c ON c.oid = p.seqrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname NOT IN ('quorum', 'quorum_shadow', 'pg_catalog', 'information_schema')
      AND n.nspname !~ '^pg_'
      AND c.relpersistence <> 't'
  ), o AS (
    SELECT s.*, ours,
      CASE WHEN ours THEN coalesce(m[3]::bigint, seqincrement) END AS old_by,
      CASE WHEN ours THEN coalesce(m[4]::bigint, seqstart) END AS old_from
    FROM s, LATERAL (SELECT coalesce(m[1]::int = member AND m[2]::int = members, false) AS ours) x
  ), g AS (
    SELECT o.*,
      CASE WHEN ours AND seqincrement = old_by THEN old_by / members ELSE seqincrement END AS given,
      CASE
        WHEN ours AND seqstart = old_from THEN old_from - old_by / members * (member - 1)
        ELSE seqstart
      END AS start
    FROM o
  )
  SELECT g.oid, g.name, given, given * members, start + given * (member - 1), seqmin, seqmax, seqcycle,
    ours AND m[3] IS NOT NULL AND (seqincrement, seqstart) = (old_by, old_from)
  FROM g;
END $$;

-- The first value of a class that is not before n.
CREATE OR REPLACE FUNCTION quorum.in_class(n numeric, first bigint, stride bigint)
  RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
  SELECT first + stride * greatest(0, ceil((n - first) / stride))
$$;

-- Why a sequence cannot be shared out. Of all members alike: what only some refuse would leave them behind.
CREATE OR REPLACE FUNCTION quorum.no_classes(
  cycle bool, start bigint, inc bigint, lo bigint, hi bigint, members int
) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT
    CASE
      WHEN cycle THEN 'CYCLE is not supported, since the members would begin again with the same values'
      WHEN NOT (start BETWEEN lo AND hi AND start + inc * (members - 1) BETWEEN lo AND hi) THEN
        format('from %s to %s there is no room for %s members, each of which hands out its own values',
          lo, hi, members)
    END
$$;

-- After DDL, and by init, as an owner or for owners: what is new, was altered or restarted goes (back) into this
-- member's class. What was handed out before stays behind.
CREATE OR REPLACE FUNCTION quorum.classify() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  me quorum.self;
  q record; at record;
  next numeric;
  bad text;
BEGIN
  SELECT * INTO me FROM quorum.self;
  FOR q IN
    SELECT s.* FROM quorum.sequences() s
    JOIN pg_class c ON c.oid = s.oid
    WHERE pg_has_role(current_user, c.relowner, 'USAGE')
  LOOP
    bad := quorum.no_classes(q.cycle, q.first - q.inc * (me.member - 1), q.inc, q.lo, q.hi, me.members);
    IF bad IS NOT NULL THEN RAISE EXCEPTION 'sequence %: %', q.name, bad USING ERRCODE = '0A000'; END IF;
    EXECUTE format('SELECT last_value, is_called FROM %s', q.name) INTO at;
    next := quorum.in_class(
      CASE WHEN at.is_called THEN at.last_value::numeric + q.inc ELSE at.last_value END,
      q.first, q.stride);
    CONTINUE WHEN q.ok
      AND next = CASE WHEN at.is_called THEN at.last_value::numeric + q.stride ELSE at.last_value END;
    EXECUTE format('ALTER SEQUENCE %s INCREMENT BY %s START WITH %s', q.name, q.stride, q.first);
    IF next BETWEEN q.lo AND q.hi THEN
      EXECUTE format('ALTER SEQUENCE %s RESTART WITH %s', q.name, next);
    ELSE  -- used up
      PERFORM setval(q.oid,
        (next - q.stride * ceil((next - (CASE WHEN q.inc > 0 THEN q.hi ELSE q.lo END)) / q.stride))::bigint);
    END IF;
    EXECUTE format('COMMENT ON SEQUENCE %s IS %L', q.name,
      format('pg-quorum: member %s of %s, by %s from %s', me.member, me.members, q.stride, q.first));
  END LOOP;
END $$;

-- setval() on the lead, for all: before the statement what was there is noted; after it the lead's own value goes
-- into its class at once, since setval() is not taken back with the transaction, and the others are told as by DDL.
-- They are lowered only where the lead was.
CREATE OR REPLACE FUNCTION quorum.before_setval()
  RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM set_config('quorum.sequences',
    coalesce(jsonb_object_agg(s.oid, pg_sequence_last_value(s.oid)), '{}')::text, true)
  FROM quorum.sequences() s;
END $$;

CREATE OR REPLACE FUNCTION quorum.after_setval()
  RETURNS void LANGUAGE plpgsql
  SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
DECLARE
  q record; at record;
  next numeric;
  before jsonb := current_setting('quorum.sequences')::jsonb;
BEGIN
  FOR q IN
    SELECT * FROM quorum.sequences() s
    WHERE s.oid IN (
      SELECT l.relation FROM pg_locks l WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation')
  LOOP
    EXECUTE format('SELECT last_value, is_called FROM %s', q.name) INTO at;
    next := CASE WHEN at.is_called THEN at.last_value::numeric + q.inc ELSE at.last_value END;
    PERFORM quorum.note(
      format('SELECT quorum.restart(%L, %s, %L)',
        q.name,
        next,
        coalesce((at.last_value - (before->>q.oid::text)::bigint) * sign(q.inc) < 0, false)),
      'pg_catalog',
      (SELECT pg_get_userbyid(relowner) FROM pg_class c WHERE c.oid = q.oid));
    PERFORM quorum.enter_class(q.oid);
  END LOOP;
END $$;

CREATE OR REPLACE FUNCTION quorum.restart(seq text, next numeric, lower bool)
  RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  q record; at record;
BEGIN
  SELECT * INTO q FROM quorum.sequences() s WHERE s.oid = to_regclass(seq);
  EXECUTE format('SELECT last_value, is_called FROM %s', seq) INTO at;
  IF lower
    OR (next - (CASE WHEN at.is_called THEN at.last_value::numeric + q.inc ELSE at.last_value END))
      * sign(q.inc) > 0
  THEN
    IF next BETWEEN q.lo AND q.hi THEN
      EXECUTE format('ALTER SEQUENCE %s RESTART WITH %s', seq, next);
    ELSE
      PERFORM setval(seq::regclass, CASE WHEN q.inc > 0 THEN q.hi ELSE q.lo END);
    END IF;
  END IF;
END $$;

-- At once and for good, whatever becomes of the transaction. false: it was in its class.
CREATE OR REPLACE FUNCTION quorum.enter_class(seq oid) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
  q record; at record;
  next numeric;
BEGIN
  SELECT * INTO q FROM quorum.sequences() s WHERE s.oid = seq;
  EXECUTE format('SELECT last_value, is_called FROM %s', q.name) INTO at;
  next := quorum.in_class(
    CASE WHEN at.is_called THEN at.last_value::numeric + q.inc ELSE at.last_value END,
    q.first, q.stride);
  IF NOT q.ok
    OR next = (CASE WHEN at.is_called THEN at.last_value::numeric + q.stride ELSE at.last_value END)
  THEN
    RETURN false;
  END IF;
  IF next BETWEEN q.lo AND q.hi THEN
    PERFORM setval(seq, next::bigint, false);
  ELSE
    PERFORM setval(seq,
      (next - q.stride * ceil((next - (CASE WHEN q.inc > 0 THEN q.hi ELSE q.lo END)) / q.stride))::bigint);
  END IF;
  RETURN true;
END $$;

-- Where a function ran that nobody could look into: a setval() in it that left the class is refused, and the sequence
-- put back.
CREATE OR REPLACE FUNCTION quorum.check_classes() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  q record;
BEGIN
  FOR q IN
    SELECT s.oid, s.name
    FROM pg_locks l
    JOIN quorum.sequences() s ON s.oid = l.relation
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.mode = 'RowExclusiveLock'
  LOOP
    IF quorum.enter_class(q.oid) THEN
      RAISE EXCEPTION
        'sequence %: a function has set it, and setval() inside a function acts on one replica only', q.name
        USING ERRCODE = '0A000', HINT = 'Call setval() in a statement of its own.';
    END IF;
  END LOOP;
END $$;
