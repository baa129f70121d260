-- Guards, and the first look of a transaction or a read (docs/protocol.md, sections 4 and 5).

-- G, session level. wait = false tries all at once and keeps nothing unless it gets all; wait = true queues in the
-- global order (under lock_timeout).
CREATE OR REPLACE FUNCTION quorum.guard(granules jsonb, wait bool) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
  g record;
  taken text[] := '{}';
  ok bool;
  k text;
BEGIN
  FOR g IN
    SELECT name, bool_or(x) x
    FROM (
      SELECT
        CASE (e->>'n')::int WHEN -1 THEN e->>'t' ELSE (e->>'t') || '/' || (e->>'n') END name,
        (e->>'w')::bool AND NOT ((e->>'n')::int = -1 AND NOT (e->>'w')::bool) x
      FROM jsonb_array_elements(granules) e
      UNION ALL
      SELECT e->>'t', false FROM jsonb_array_elements(granules) e WHERE (e->>'n')::int >= 0
      UNION ALL
      SELECT '*', false
    ) s
    GROUP BY name
    ORDER BY name COLLATE "C"
  LOOP
    IF wait THEN
      IF g.x THEN
        PERFORM pg_advisory_lock(quorum.lock_key('G', g.name));
      ELSE
        PERFORM pg_advisory_lock_shared(quorum.lock_key('G', g.name));
      END IF;
      ok := true;
    ELSIF g.x THEN
      ok := pg_try_advisory_lock(quorum.lock_key('G', g.name));
    ELSE
      ok := pg_try_advisory_lock_shared(quorum.lock_key('G', g.name));
    END IF;
    IF NOT ok THEN
      PERFORM pg_advisory_unlock_all(), quorum.works_for(current_setting('quorum.driver', true));
      RETURN false;
    END IF;
  END LOOP;
  RETURN true;
END $$;

-- Versions, having waited for A in shared mode: whatever is in doubt on these granules has ended, or is named in
-- "doubt".
CREATE OR REPLACE FUNCTION quorum.observe(granules jsonb, patience_ms int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE free bool := true;
BEGIN
  PERFORM quorum.takes_part();
  BEGIN
    PERFORM set_config('lock_timeout', patience_ms::text, true);
    PERFORM quorum.take((
      SELECT coalesce(jsonb_agg(e || '{"w": false}'), '[]') FROM jsonb_array_elements(granules) e));
  EXCEPTION WHEN lock_not_available OR deadlock_detected THEN free := false;
  END;
  RETURN jsonb_build_object(
    'granules', granules,
    'base', quorum.base(granules),
    'doubt', CASE WHEN free THEN '[]' ELSE quorum.doubt() END,
    'free', free,
    'write', quorum.write_floor());
END $$;

-- The first message of a declared transaction: guards on this member and, once held, what it knows.
CREATE OR REPLACE FUNCTION quorum.lock(locks jsonb, wait bool, patience_ms int)
  RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  granules jsonb := quorum.normalise(
    locks, coalesce(current_setting('quorum.path', true), current_setting('search_path')));
BEGIN
  IF NOT quorum.guard(granules, wait) THEN RETURN '{"granted": false}'; END IF;
  RETURN quorum.observe(granules, patience_ms) || '{"granted": true}';
END $$;
