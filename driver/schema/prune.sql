-- Shortening the log (docs/decisions/0006). What goes: a committed transaction's changeset and its history rows. What
-- stays: applied, ballot, stripe and mark, from which every question about a decision is answered, until it is forgotten
-- under a policy (below). History is deleted oldest first in each stripe, so quorum.beyond sees by one missing row that
-- it was.

-- The log: changesets that are committed here. Up to which place in this member's order are they beyond the policy?
-- 0: none. null: no such limit.
CREATE OR REPLACE FUNCTION quorum.log_limit(keep_changesets bigint, keep_days float8)
  RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  by_count bigint := 0;
  by_age bigint := 0;
BEGIN
  IF keep_changesets IS NOT NULL THEN
    SELECT a.seq INTO by_count
    FROM quorum.changeset c JOIN quorum.applied a USING (gid)
    ORDER BY a.seq DESC OFFSET keep_changesets LIMIT 1;
  END IF;
  -- below the first that is young: a clock that was set back must not let a later one go before an earlier one
  IF keep_days IS NOT NULL THEN
    SELECT coalesce(min(a.seq) FILTER (WHERE a.at >= now() - keep_days * interval '1 day') - 1, max(a.seq))
    INTO by_age
    FROM quorum.changeset c JOIN quorum.applied a USING (gid);
  END IF;
  RETURN greatest(by_count, by_age, 0);
END $$;

CREATE OR REPLACE FUNCTION quorum.log_entries(after bigint, most int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  first bigint := after;
BEGIN
  IF after = 0 THEN
    SELECT min(a.seq) - 1 INTO first FROM quorum.changeset c JOIN quorum.applied a USING (gid);
  END IF;
  RETURN (
    SELECT coalesce(jsonb_agg(jsonb_build_array(e.gid, e.seq) ORDER BY e.seq), '[]')
    FROM (
      SELECT a.gid, a.seq
      FROM quorum.applied a JOIN quorum.changeset c USING (gid)
      WHERE a.seq > first
      ORDER BY a.seq LIMIT most
    ) e
  );
END $$;

-- Which of these are committed here, and stay so whatever happens: catch-up commits without waiting for the disk, so
-- something is flushed behind them.
CREATE OR REPLACE FUNCTION quorum.committed(gids text[]) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  here jsonb;
BEGIN
  SELECT coalesce(jsonb_agg(a.gid), '[]') INTO here FROM quorum.applied a WHERE a.gid = ANY (gids);
  PERFORM set_config('synchronous_commit', 'on', true), pg_logical_emit_message(true, 'pg-quorum', '');
  RETURN here;
END $$;

CREATE OR REPLACE FUNCTION quorum.prune(gids text[], dry bool) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  changesets bigint; rows bigint; bytes bigint;
BEGIN
  IF dry THEN
    SELECT count(*), coalesce(sum(pg_column_size(c.body) + pg_column_size(c.gid) + 36), 0)
    INTO changesets, bytes
    FROM quorum.changeset c JOIN quorum.applied a USING (gid)
    WHERE c.gid = ANY (gids);
    SELECT count(*), bytes + coalesce(sum(pg_column_size(h.*)), 0)
    INTO rows, bytes
    FROM quorum.history h JOIN quorum.applied a USING (gid)
    WHERE h.gid = ANY (gids);
  ELSE
    -- one driver at a time; what a crash brings back goes the next time
    PERFORM pg_advisory_xact_lock(quorum.lock_key('P', '')), set_config('synchronous_commit', 'off', true);
    WITH gone AS (
      DELETE FROM quorum.changeset c USING quorum.applied a
      WHERE c.gid = ANY (gids) AND a.gid = c.gid
      RETURNING pg_column_size(c.body) + pg_column_size(c.gid) + 36 size
    )
    SELECT count(*), coalesce(sum(size), 0) INTO changesets, bytes FROM gone;
    WITH gone AS (
      DELETE FROM quorum.history h USING quorum.applied a
      WHERE h.gid = ANY (gids) AND a.gid = h.gid
      RETURNING pg_column_size(h.*) size
    )
    SELECT count(*), bytes + coalesce(sum(size), 0) INTO rows, bytes FROM gone;
  END IF;
  RETURN jsonb_build_object('changesets', changesets, 'history', rows, 'bytes', bytes);
END $$;

-- Changesets that are neither committed nor prepared here after a day: of transactions that were rolled back. Without
-- it this member knows what it would know had the message that brought it been lost; should it be needed after all,
-- whoever has it prepared brings it again.
CREATE OR REPLACE FUNCTION quorum.prune_aborted(most int, dry bool) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  gids text[];
  changesets bigint; bytes bigint;
BEGIN
  SELECT coalesce(array_agg(o.gid), '{}')
  INTO gids
  FROM (
    SELECT c.gid
    FROM quorum.changeset c
    WHERE c.at < now() - interval '1 day'
      AND NOT EXISTS (SELECT FROM quorum.applied a WHERE a.gid = c.gid)
      AND NOT EXISTS (SELECT FROM pg_prepared_xacts p WHERE p.gid = c.gid)
    LIMIT most
  ) o;
  SELECT count(*), coalesce(sum(pg_column_size(c.body) + pg_column_size(c.gid) + 36), 0)
  INTO changesets, bytes
  FROM quorum.changeset c
  WHERE c.gid = ANY (gids);
  IF NOT dry THEN
    PERFORM pg_advisory_xact_lock(quorum.lock_key('P', '')), set_config('synchronous_commit', 'off', true);
    DELETE FROM quorum.changeset c WHERE c.gid = ANY (gids);
  END IF;
  RETURN jsonb_build_object('changesets', changesets, 'history', 0, 'bytes', bytes);
END $$;

-- Forgetting that a transaction was committed (docs/decisions/0011): once every member has it for good and nobody has its
-- changeset any more, its row in applied goes, and here stands up to which of its driver's transactions there may have
-- been such: of those that are not known any more nobody may say that they were not committed.
CREATE TABLE IF NOT EXISTS quorum.forgotten (owner text COLLATE "C" PRIMARY KEY, upto text COLLATE "C" NOT NULL);

-- Its place among its driver's, in digits that sort.
CREATE OR REPLACE FUNCTION quorum.place_of(gid text) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT lpad(split_part(gid, '_', 5), 13, '0') COLLATE "C" $$;

-- It may have been committed, and forgotten since.
CREATE OR REPLACE FUNCTION quorum.may_be_forgotten(gid text) RETURNS bool LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN EXISTS (
    SELECT FROM quorum.forgotten f WHERE f.owner = split_part(gid, '_', 4) AND f.upto >= quorum.place_of(gid)
  );
END $$;

-- Of the next so many after this place, those that are older.
CREATE OR REPLACE FUNCTION quorum.outcomes(after bigint, keep_days float8, most int) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
  RETURN (
    SELECT coalesce(jsonb_agg(jsonb_build_array(n.gid, n.seq) ORDER BY n.seq), '[]')
    FROM (SELECT a.gid, a.seq, a.at FROM quorum.applied a WHERE a.seq > after ORDER BY a.seq LIMIT most) n
    WHERE n.at < now() - keep_days * interval '1 day'
  );
END $$;

-- Which of these need not be known here any more, if no other member needs them: committed for good (quorum.committed)
-- and older than that, nothing else of them left, and nothing in doubt that their driver began before them.
CREATE OR REPLACE FUNCTION quorum.forgettable(gids text[], keep_days float8) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  doubts text[] := ARRAY(SELECT p.gid FROM pg_prepared_xacts p WHERE p.gid LIKE 'quorum\_%');
  here jsonb;
BEGIN
  SELECT coalesce(jsonb_agg(a.gid), '[]')
  INTO here
  FROM quorum.applied a
  WHERE a.gid = ANY (gids)
    AND a.at < now() - keep_days * interval '1 day'
    AND NOT EXISTS (SELECT FROM quorum.changeset c WHERE c.gid = a.gid)
    AND NOT EXISTS (SELECT FROM quorum.history h WHERE h.gid = a.gid)
    AND NOT EXISTS (
      SELECT FROM unnest(doubts) d
      WHERE split_part(d, '_', 4) = split_part(a.gid, '_', 4) AND quorum.place_of(d) <= quorum.place_of(a.gid)
    );
  PERFORM set_config('synchronous_commit', 'on', true), pg_logical_emit_message(true, 'pg-quorum', '');
  RETURN here;
END $$;

CREATE OR REPLACE FUNCTION quorum.forget(gids text[], dry bool) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  outcomes bigint; bytes bigint;
BEGIN
  SELECT count(*), coalesce(sum(pg_column_size(a.*)), 0)
  INTO outcomes, bytes
  FROM quorum.applied a
  WHERE a.gid = ANY (gids);
  IF NOT dry THEN
    PERFORM pg_advisory_xact_lock(quorum.lock_key('P', '')), set_config('synchronous_commit', 'off', true);
    INSERT INTO quorum.forgotten AS f
      SELECT split_part(a.gid, '_', 4), max(quorum.place_of(a.gid))
      FROM quorum.applied a
      WHERE a.gid = ANY (gids)
      GROUP BY 1
    ON CONFLICT (owner) DO UPDATE SET upto = greatest(f.upto, excluded.upto);
    DELETE FROM quorum.ballot b WHERE b.gid = ANY (gids);
    DELETE FROM quorum.applied a WHERE a.gid = ANY (gids);
  END IF;
  RETURN jsonb_build_object('outcomes', outcomes, 'bytes', bytes);
END $$;
