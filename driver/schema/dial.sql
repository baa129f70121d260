-- What the members have agreed on about the dial (docs/protocol.md, section 9): how many of them every write is on,
-- whoever makes it. A strong reader may ask as many fewer. It changes under everything, as a statement that the
-- changeset carries, so that no write is sealed under one value and counted under another.
CREATE TABLE IF NOT EXISTS quorum.dial (one boolean PRIMARY KEY DEFAULT true CHECK (one), write int NOT NULL);

CREATE OR REPLACE FUNCTION quorum.write_floor() RETURNS int LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN (SELECT coalesce((SELECT d.write FROM quorum.dial d), s.members / 2 + 1) FROM quorum.self s);
END $$;

CREATE OR REPLACE FUNCTION quorum.set_write_floor(many int)
  RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT pg_has_role(session_user, 'quorum_txn', 'MEMBER') THEN
    RAISE EXCEPTION 'the role "%" may not turn the dial', session_user USING ERRCODE = '42501';
  END IF;
  INSERT INTO quorum.dial (write) VALUES (many) ON CONFLICT (one) DO UPDATE SET write = excluded.write;
END $$;

-- The versions of the stripes that granules cover, and of the schema ('*'), in the caller's snapshot.
CREATE OR REPLACE FUNCTION quorum.stripes(granules jsonb)
  RETURNS jsonb LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM quorum.takes_part();
  RETURN jsonb_build_object(
    'granules', granules,
    'stripes', (
      SELECT coalesce(jsonb_agg(jsonb_build_array(s.t, s.n, s.version)), '[]')
        FROM quorum.stripe s
        WHERE s.t = '*'
          OR EXISTS (
            SELECT FROM jsonb_array_elements(granules) g
              WHERE g->>'t' = '*' OR (g->>'t' = s.t AND (g->>'n')::int IN (-1, s.n))
          )
    )
  );
END $$;

-- Takes committed changesets back, the last first, in a transaction that its caller rolls back, and that cannot be
-- committed: how an earlier state is read again.
CREATE TABLE IF NOT EXISTS quorum.undone (at timestamptz NOT NULL DEFAULT now());
CREATE OR REPLACE FUNCTION quorum.never() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'an earlier state was read in this transaction: it can only be rolled back' USING ERRCODE = '25000';
END $$;
CREATE OR REPLACE FUNCTION quorum.undo(gids text[]) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
  g text;
  i jsonb;
BEGIN
  INSERT INTO quorum.undone DEFAULT VALUES;
  SET LOCAL session_replication_role = replica;
  FOREACH g IN ARRAY gids LOOP
    IF NOT EXISTS (SELECT FROM quorum.changeset c WHERE c.gid = g) THEN
      RAISE EXCEPTION 'its changeset is not kept any more' USING ERRCODE = 'QB010';
    END IF;
    FOR i IN
      SELECT e
        FROM quorum.changeset c, jsonb_array_elements(quorum.items_of(c.body::jsonb)) WITH ORDINALITY x(e, o)
        WHERE c.gid = g
        ORDER BY o DESC
    LOOP
      IF i ? 'ddl' THEN
        RAISE EXCEPTION 'the schema has changed since: a snapshot from before cannot be read any more'
          USING ERRCODE = '0A000';
      END IF;
      PERFORM quorum.for_table('apply', jsonb_build_object('t', i->'t', 'o', i->'n', 'n', i->'o'));
    END LOOP;
  END LOOP;
  SET LOCAL session_replication_role = origin;
END $$
  SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1
  SET quote_all_identifiers = off SET array_nulls = on SET timezone = 'UTC' SET lc_monetary = 'C'
  SET xmloption = 'content' SET search_path = pg_catalog, pg_temp;

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'quorum.undone'::regclass AND tgname = 'never') THEN
    CREATE CONSTRAINT TRIGGER never AFTER INSERT ON quorum.undone
      DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION quorum.never();
    ALTER TABLE quorum.undone ENABLE ALWAYS TRIGGER never;
  END IF;
END $$;
