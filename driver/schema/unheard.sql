-- Sessions of drivers that stand still or cannot be heard, and what they keep others from (docs/protocol.md, (t)).

-- Each session of a driver says whose it is, by a lock that it keeps as long as it lasts: of two numbers, so that it is
-- taken for no other of ours.
CREATE OR REPLACE FUNCTION quorum.works_for(driver text)
  RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF driver <> '' THEN
    PERFORM pg_advisory_lock_shared(1903521623, hashtext(driver)), set_config('quorum.driver', driver, false);
  END IF;
END $$;

-- The idle sessions of drivers of whom nothing at all has been heard here for so long, if somebody waits for one of
-- them. A driver that lives feels this member's pulse several times a second. (Where nobody waits, as mostly, this asks
-- for no locks: pg_locks stops everybody.)
CREATE OR REPLACE FUNCTION quorum.unheard(patience_ms int)
  RETURNS int[] LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  since timestamptz := clock_timestamp() - patience_ms * interval '1 millisecond';
  waiting int[] := ARRAY(
    SELECT a.pid FROM pg_stat_activity a WHERE a.wait_event_type = 'Lock' AND a.datname = current_database());
BEGIN
  IF cardinality(waiting) = 0 THEN RETURN waiting; END IF;
  RETURN ARRAY(
    WITH ours AS MATERIALIZED (
      SELECT l.pid, l.objid AS driver, a.state_change, a.state <> 'active' OR a.wait_event ~ '^Client' AS idle
      FROM pg_locks l
      JOIN pg_stat_activity a ON a.pid = l.pid
      WHERE l.locktype = 'advisory'
        AND l.objsubid = 2
        AND l.classid::bigint = 1903521623
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ), quiet AS (
      SELECT driver
      FROM ours
      GROUP BY driver
      HAVING bool_and(state_change < since)
        AND bool_or(idle AND pid IN (SELECT unnest(pg_blocking_pids(w)) FROM unnest(waiting) w))
    )
    SELECT pid FROM ours JOIN quiet USING (driver) WHERE idle
  );
END $$;
