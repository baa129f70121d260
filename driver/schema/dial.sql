-- What the members have agreed on about the dial (docs/protocol.md, section 9): how many of them every write is on, whoever makes it. A strong reader may
-- ask as many fewer. It changes under everything, as a statement that the changeset carries, so that no write is sealed under one value and counted under another.
CREATE TABLE IF NOT EXISTS quorum.dial (one boolean PRIMARY KEY DEFAULT true CHECK (one), write int NOT NULL);

CREATE OR REPLACE FUNCTION quorum.write_floor() RETURNS int LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN (SELECT coalesce((SELECT d.write FROM quorum.dial d), s.members / 2 + 1) FROM quorum.self s);
END $$;

CREATE OR REPLACE FUNCTION quorum.set_write_floor(many int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO quorum.dial (write) VALUES (many) ON CONFLICT (one) DO UPDATE SET write = excluded.write;
END $$;
