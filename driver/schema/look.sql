-- The question of a read of one row (docs/protocol.md, section 5): how its stripe stands here, having waited until nothing is in doubt on it. Nobody need hold anything:
-- with one stripe there is one order, and the lead was looked at before it reads.

-- [table, stripe, its version, its table's own, everything's own, on how many members every write is]. null: not one row of a tracked table that says all about itself
-- (a view, row security). 55P03: it stays in doubt.
CREATE OR REPLACE FUNCTION quorum.look(granules jsonb, patience_ms int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE place text := granules->0->>'t'; stripe int := granules->0->>'n';
BEGIN
  IF stripe IS NULL OR stripe < 0 OR (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = to_regclass(place)) THEN RETURN NULL; END IF;
  PERFORM quorum.takes_part(), set_config('lock_timeout', patience_ms::text, true);
  PERFORM quorum.take(granules);
  RETURN jsonb_build_array(place, stripe, (quorum.stand(place, stripe, false, false)).v, (quorum.stand(place, -1, false, true)).v, (quorum.stand('*', -1, false, true)).v, quorum.write_floor());
END $$ SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
