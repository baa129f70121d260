-- What each replica keeps (docs/protocol.md, section 3). Installed once; later changes are numbered migrations beside
-- this file.
CREATE SCHEMA quorum;

-- This server's place in the cluster. system_identifier unmasks a copy, or a dump restored elsewhere.
CREATE TABLE quorum.self (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  cluster text NOT NULL,
  member int NOT NULL,
  members int NOT NULL,
  epoch bigint NOT NULL,
  system_identifier text NOT NULL,
  schema_version int NOT NULL,
  -- another one after each `init` and `clone`: a server that was emptied on purpose begins again
  incarnation text NOT NULL DEFAULT gen_random_uuid()::text,
  -- it has forgotten, or never known, what this member promised: it takes no part (docs/decisions/0005)
  building boolean NOT NULL DEFAULT false,
  -- while building, what the tables hold: null, whatever was there before; begun, part of a copy; adopted, what the
  -- cluster begins with, and it has never voted
  copy text CHECK (copy IN ('begun', 'complete', 'adopted')));

-- How far the write-ahead logs of others ('system identifier/incarnation') were seen flushed: see flushed.sql.
CREATE TABLE quorum.flushed (who text PRIMARY KEY, lsn pg_lsn NOT NULL);

CREATE TABLE quorum.tracked (
  t text COLLATE "C" PRIMARY KEY,           -- schema.table, as format('%I.%I') writes it
  pk text[] NOT NULL,                       -- empty: no primary key, every write is one of the whole table
  shadow text NOT NULL);                    -- the empty relation whose lock modes are the table's A

CREATE TABLE quorum.stripe (
  t text COLLATE "C", n int, version bigint NOT NULL, chain bigint NOT NULL, PRIMARY KEY (t, n));

-- Committed on its own, before the prepare: a resolver must be able to read what a prepared transaction hides.
CREATE TABLE quorum.changeset (
  gid text COLLATE "C" PRIMARY KEY, body text NOT NULL, at timestamptz NOT NULL DEFAULT now());

-- Written inside the prepared transaction: present = committed here. seq respects every dependency, because it is drawn
-- under A.
CREATE TABLE quorum.applied (
  gid text COLLATE "C" PRIMARY KEY, seq bigserial NOT NULL UNIQUE, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE quorum.history (
  t text COLLATE "C", n int, version bigint, gid text COLLATE "C" NOT NULL, PRIMARY KEY (t, n, version));
CREATE INDEX history_gid ON quorum.history (gid);
-- many: how many it stands for, since it takes older ones in (quorum.leave_marks); total: the sum of their gids' hashes,
-- null for its own alone.
CREATE TABLE quorum.mark (
  t text COLLATE "C", n int, version bigint, gid text COLLATE "C",
  many bigint NOT NULL DEFAULT 1, total numeric,
  PRIMARY KEY (t, n, version, gid));

-- Two columns, never one: to have promised a ballot is not to have accepted in it (dangers.md, N7).
CREATE TABLE quorum.ballot (
  gid text COLLATE "C" PRIMARY KEY,
  promised bigint NOT NULL,
  promised_to text COLLATE "C" NOT NULL,
  accepted bigint NOT NULL DEFAULT 0,
  decision text CHECK (decision IN ('commit', 'abort')));

CREATE UNLOGGED TABLE quorum.capture (
  xid xid8 NOT NULL, segment int NOT NULL,
  t text COLLATE "C", n int, image text, sign int,
  ddl text, path text, "as" text);
CREATE INDEX capture_xid ON quorum.capture (xid);

CREATE TABLE quorum.everything ();          -- the A of '*'
