-- Who sees that a disk went back in time: each member keeps how far it has seen the others' write-ahead logs flushed,
-- told by drivers every few seconds. One that comes back with less was restored from a backup, or lost what it had
-- promised: it takes no part until it is cloned.

-- seen: who → LSN, from all that the driver has met.
-- Returns the same, with what is known here and how far this member is.
CREATE OR REPLACE FUNCTION quorum.flushed(seen jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  me text := (SELECT system_identifier || '/' || incarnation FROM quorum.self);
  here pg_lsn := pg_current_wal_flush_lsn();
BEGIN
  IF (seen->>me)::pg_lsn > here THEN
    UPDATE quorum.self SET building = true WHERE NOT building;
    RAISE WARNING
      'pg-quorum: this server has less than it had: others saw % flushed, it has %; it was restored from a backup or lost its last writes, and takes no part until it is cloned',
      seen->>me, here;
  ELSE
    -- to forget a word or two costs nothing that matters, to flush each would
    PERFORM set_config('synchronous_commit', 'off', true);
  END IF;
  INSERT INTO quorum.flushed AS w
    SELECT s.key, s.value::pg_lsn FROM jsonb_each_text(seen) s WHERE s.key <> me
    ON CONFLICT (who) DO UPDATE SET lsn = excluded.lsn WHERE w.lsn < excluded.lsn;
  RETURN jsonb_build_object(me, here) || (SELECT coalesce(jsonb_object_agg(who, lsn), '{}') FROM quorum.flushed);
END $$;
