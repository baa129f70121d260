-- What statements change, caught by triggers; which tables are tracked; DDL and hashes
-- (docs/protocol.md, sections 3 and 10).

-- What a client's statements set off runs as quorum_owner, with no way in for names of the user's: types are written
-- out by their output functions, never by a cast, which may be a user's own function.
CREATE OR REPLACE FUNCTION quorum.as_text(value text, typ oid) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT format(CASE WHEN typnamespace = 'pg_catalog'::regnamespace THEN '(%s)::text' ELSE 'concat(%s)' END, value)
  FROM pg_type
  WHERE oid = typ
$$;

-- What a table's rows are written as text under. Whose text depends on no setting needs none: to set them and set them
-- back costs a good part of what it costs to catch a row.
CREATE OR REPLACE FUNCTION quorum.settings_of(rel oid) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT CASE
    WHEN EXISTS (
      SELECT FROM pg_attribute a
      WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped
        AND a.atttypid <> ALL ('{bool,int2,int4,int8,numeric,text,varchar,bpchar,uuid,jsonb}'::regtype[])
    ) THEN
      'SET datestyle = ''ISO, MDY'' SET intervalstyle = ''postgres'' SET bytea_output = ''hex'' SET extra_float_digits = 1 SET quote_all_identifiers = off SET array_nulls = on SET timezone = ''UTC'' SET lc_monetary = ''C'' SET xmloption = ''content'''
    ELSE ''
  END
$$;

CREATE OR REPLACE FUNCTION quorum.covered(t text, stripes int[]) RETURNS void LANGUAGE plpgsql STABLE AS $$
DECLARE
  cover text := current_setting('quorum.cover', true);
  missing int;
BEGIN
  IF cover = 'infer' THEN RETURN; END IF;
  SELECT s INTO missing
    FROM unnest(stripes) s
    WHERE NOT EXISTS (
      SELECT FROM jsonb_array_elements(cover::jsonb) g
      WHERE (g->>'w')::bool
        AND (g->>'t' = '*' OR (g->>'t' = covered.t AND ((g->>'n')::int = -1 OR (g->>'n')::int = s)))
    )
    LIMIT 1;
  IF missing IS NOT NULL THEN
    RAISE EXCEPTION 'write to "%" is not covered by the declared locks', t
      USING ERRCODE = 'QB006',
        HINT = 'Declare the row ("table/key"), the table or "*" as an exclusive lock, or declare nothing and let pg-quorum infer the locks.';
  END IF;
END $$;

-- As the user, who may have no rights on this schema at all: so it calls nothing. A statement that changes no row must
-- be refused as well: whether it does depends on what this replica happens to know.
CREATE OR REPLACE FUNCTION quorum.before_statement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF coalesce(pg_catalog.current_setting('quorum.cover', true), '') OPERATOR(pg_catalog.=) '' THEN
    IF pg_catalog.current_setting('quorum.bypass', true) OPERATOR(pg_catalog.=) 'on'
      AND pg_catalog.pg_has_role(session_user, 'quorum_txn', 'MEMBER')
    THEN
      RETURN NULL;
    END IF;
    RAISE EXCEPTION 'write to "%" goes round pg-quorum', pg_catalog.format('%I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME)
      USING ERRCODE = 'QB006',
        HINT = 'Write through the pg-quorum driver; a direct write would make this replica differ from the others.';
  END IF;
  RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION quorum.untrack(gone text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE k record;
BEGIN
  FOR k IN SELECT * FROM quorum.tracked WHERE t = gone LOOP
    EXECUTE format('DROP TABLE IF EXISTS %s', k.shadow);
    -- CASCADE: a table that was renamed still has its triggers, and gets new ones.
    EXECUTE format(
      'DROP FUNCTION IF EXISTS %s(), %s(text, bigint, text), %s(text, bigint, jsonb), %s(text[], text[]), %s(text[], text[]) CASCADE',
      quorum.made('capture', gone),
      quorum.made('accept', gone),
      quorum.made('rows', gone),
      quorum.made('apply', gone),
      quorum.made('keys', gone));
    DELETE FROM quorum.tracked WHERE t = gone;
  END LOOP;
END $$;

-- A row x as the text that travels. A partition's is that of its root, by the columns' names; virtual columns are
-- computed by whoever reads.
CREATE OR REPLACE FUNCTION quorum.image(rel regclass, root text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT CASE
    WHEN rel = to_regclass(root) AND NOT bool_or(attgenerated = 'v')
      THEN 'textin(record_out(x.*))'  -- (no column can hide x.*)
    ELSE format(
      'textin(record_out(ROW(%s)::%s))',
      string_agg(
        CASE WHEN attgenerated = 'v' THEN 'NULL' ELSE format('x.%I', attname) END, ', ' ORDER BY attnum),
      root)
  END
  FROM pg_attribute
  WHERE attrelid = to_regclass(root) AND attnum > 0 AND NOT attisdropped
$$;

-- Brings tracking in line with the tables that exist: called by init and after every DDL, as whoever ran it. What is
-- ours is made by quorum_owner; triggers and sequences are made by their owners, or in their name by the function that
-- `init` has made for them.
CREATE OR REPLACE FUNCTION quorum.track() RETURNS void LANGUAGE plpgsql AS $$
DECLARE o record;
BEGIN
  PERFORM quorum.shadow();
  PERFORM quorum.equip();
  FOR o IN
    SELECT DISTINCT b.owner, (
      SELECT format('quorum_shadow.%I()', p.proname)
      FROM pg_proc p
      WHERE p.pronamespace = 'quorum_shadow'::regnamespace
        AND p.proowner = b.owner
        AND p.proname LIKE 'equip %'
    ) fn
    FROM quorum.bare() b
  LOOP
    IF o.fn IS NULL THEN
      RAISE EXCEPTION
        'what the role "%" owns cannot be replicated yet: a superuser runs `pg-quorum init --role %` once',
        pg_get_userbyid(o.owner), pg_get_userbyid(o.owner)
        USING ERRCODE = '42501';
    END IF;
    EXECUTE 'SELECT ' || o.fn;
  END LOOP;
  PERFORM quorum.make_all();
END $$
  SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
  SET standard_conforming_strings = on SET quorum.own = 'on';

CREATE OR REPLACE FUNCTION quorum.make_all()
  RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE r record;
BEGIN
  FOR r IN
    SELECT p.oid::regprocedure AS f
    FROM pg_proc p
    WHERE p.pronamespace = 'quorum_shadow'::regnamespace
      AND p.prorettype = 'trigger'::regtype
      AND NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgfoid = p.oid)
  LOOP
    EXECUTE format('DROP FUNCTION %s', r.f);  -- a partition's that is gone
  END LOOP;
  PERFORM quorum.make_apply(t), quorum.make_keys(t) FROM quorum.tracked;
  PERFORM quorum.make_rows(t, quorum.settings_of(t::regclass)) FROM quorum.tracked;
END $$;

-- What lacks a trigger of ours, or has one that was disabled (DISABLE TRIGGER ALL) or calls another function (a table
-- that was renamed). TRUNCATE of a partitioned table reaches each partition's own. And sequences that are in no class.
CREATE OR REPLACE FUNCTION quorum.bare() RETURNS TABLE (owner oid, ddl text) LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
    SELECT c.relowner, format(
      'CREATE OR REPLACE TRIGGER %I %s ON %I.%I %s FOR EACH STATEMENT EXECUTE FUNCTION %s()',
      'quorum_' || v.op, v.event, s.nspname, c.relname, v.refs, f.name)
    FROM pg_class c
      JOIN pg_namespace s ON s.oid = c.relnamespace
      JOIN quorum.tracked k ON to_regclass(k.t) = coalesce(pg_partition_root(c.oid), c.oid),
      (VALUES
        ('before', 'BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE', ''),
        ('insert', 'AFTER INSERT', 'REFERENCING NEW TABLE AS new_rows'),
        ('update', 'AFTER UPDATE', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows'),
        ('delete', 'AFTER DELETE', 'REFERENCING OLD TABLE AS old_rows'),
        ('truncate', 'BEFORE TRUNCATE', '')
      ) v(op, event, refs),
      LATERAL (
        SELECT CASE
          WHEN v.op = 'before' THEN 'quorum.before_statement'
          ELSE quorum.made('capture', format('%I.%I', s.nspname, c.relname))
        END
      ) f(name)
    WHERE c.relkind IN ('r', 'p')
      AND NOT (v.op = 'truncate' AND c.relkind = 'p')
      AND NOT EXISTS (
        SELECT FROM pg_trigger g
        WHERE g.tgrelid = c.oid
          AND g.tgname = 'quorum_' || v.op
          AND g.tgfoid = to_regprocedure(f.name || '()')
          AND g.tgenabled = 'O'
      )
    UNION ALL
    SELECT c.relowner, NULL
    FROM quorum.sequences() q JOIN pg_class c ON c.oid = q.oid
    WHERE NOT q.ok;
END $$;

-- As an owner, or somebody who may do what owners may: what is bare of theirs gets what it needs.
CREATE OR REPLACE FUNCTION quorum.equip() RETURNS void LANGUAGE plpgsql AS $$
DECLARE b record;
BEGIN
  FOR b IN
    SELECT *
    FROM quorum.bare() x
    WHERE x.ddl IS NOT NULL AND pg_has_role(current_user, x.owner, 'USAGE')
  LOOP
    EXECUTE b.ddl;
  END LOOP;
  PERFORM quorum.classify();
END $$;

-- The users' tables, and why one of them could not be carried faithfully.
CREATE OR REPLACE FUNCTION quorum.theirs()
  RETURNS TABLE (oid oid, nspname name, relname name, relkind "char", root oid, bad text)
  LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
    SELECT c.oid, s.nspname, c.relname, c.relkind, coalesce(pg_partition_root(c.oid), c.oid)::oid,
      CASE
        WHEN EXISTS (
          SELECT FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
          WHERE c.oid IN (i.inhparent, i.inhrelid) AND p.relkind <> 'p'
        ) THEN 'inheritance is not supported: a partitioned table is'
        WHEN EXISTS (
          SELECT FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhrelid
          WHERE i.inhparent = c.oid AND p.relkind = 'f'
        ) THEN 'a foreign table as a partition is not supported'
        WHEN c.relispartition AND EXISTS (
          SELECT FROM pg_constraint k
          WHERE k.contype = 'f' AND c.oid IN (k.conrelid, k.confrelid) AND k.conparentid = 0
        ) THEN
          'a foreign key from or to one partition alone is not supported: make it one of the partitioned table'
        WHEN NOT EXISTS (
          SELECT FROM pg_attribute a
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
        ) THEN 'it has no columns that hold values'
        WHEN EXISTS (
          SELECT FROM pg_cast k JOIN pg_type y ON y.typrelid = c.oid
          WHERE (k.castsource, k.casttarget) IN ((y.oid, 'text'::regtype), ('text'::regtype, y.oid))
        ) THEN 'there is a cast between its rows and text, which is how they are carried'
        WHEN c.relpersistence = 'u' THEN 'an unlogged table would be emptied by a crash: make it LOGGED'
        WHEN EXISTS (
          SELECT FROM pg_trigger g
          WHERE g.tgrelid = c.oid AND g.tgenabled IN ('A', 'R') AND NOT g.tgisinternal
        ) THEN 'a trigger that is ENABLE ALWAYS or REPLICA would fire again on every replica'
        WHEN EXISTS (
          SELECT FROM pg_rewrite w WHERE w.ev_class = c.oid AND w.ev_enabled IN ('A', 'R')
        ) THEN 'a rule that is ENABLE ALWAYS or REPLICA would rewrite again on every replica'
        WHEN EXISTS (
          SELECT FROM pg_constraint k
          WHERE k.conrelid = c.oid AND k.contype IN ('u', 'p', 'x') AND k.condeferrable
        ) THEN 'a DEFERRABLE unique or exclusion constraint is not supported'
        WHEN EXISTS (
          SELECT FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
          WHERE a.attrelid = c.oid
            AND 'oid'::regtype IN (y.oid, y.typbasetype, y.typelem)
            AND a.attnum > 0
            AND y.typname <> 'oidvector'
        ) THEN 'a column of type oid (large objects) differs between servers'
      END
    FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p')
      AND c.relpersistence <> 't'
      AND s.nspname NOT IN ('quorum', 'quorum_shadow', 'pg_catalog', 'information_schema')
      AND s.nspname !~ '^pg_'
      AND NOT EXISTS (
        SELECT FROM pg_depend d
        WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
      )
    ORDER BY 2, 3;
END $$;

-- Refuses what could not be carried faithfully; makes one trigger function for each tracked table, written out so that
-- its statements are planned once. What is tracked of a partitioned table is its root. Its partitions only have
-- triggers, which capture what is written to them directly as rows of the root.
CREATE OR REPLACE FUNCTION quorum.shadow()
  RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  r record;
  name text;
  root text;
  key text[];
  fn text;
  keyexpr text;
  settings text;
BEGIN
  FOR r IN
    SELECT k.t
    FROM quorum.tracked k LEFT JOIN pg_class c ON c.oid = to_regclass(k.t)
    WHERE c.oid IS NULL OR c.relispartition
  LOOP
    PERFORM quorum.untrack(r.t);
  END LOOP;
  FOR r IN SELECT * FROM quorum.theirs() LOOP
    name := format('%I.%I', r.nspname, r.relname);
    IF r.bad IS NOT NULL THEN
      RAISE EXCEPTION 'table %: %', name, r.bad USING ERRCODE = '0A000';
    END IF;
    root := (
      SELECT format('%I.%I', s.nspname, c.relname)
      FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
      WHERE c.oid = r.root
    );
    SELECT coalesce(array_agg(a.attname::text ORDER BY p.ord), '{}')
      INTO key
      FROM pg_constraint k,
        unnest(k.conkey) WITH ORDINALITY p(num, ord)
        JOIN pg_attribute a ON a.attnum = p.num
      WHERE k.conrelid = r.root AND k.contype = 'p' AND a.attrelid = r.root;
    IF r.oid <> r.root THEN
      NULL;
    ELSIF NOT EXISTS (SELECT FROM quorum.tracked WHERE t = name) THEN
      EXECUTE format('CREATE TABLE IF NOT EXISTS %s ()', quorum.made('table', name));
      INSERT INTO quorum.tracked VALUES (name, key, quorum.made('table', name));
    ELSE
      UPDATE quorum.tracked SET pk = key WHERE t = name AND pk <> key;
    END IF;
    keyexpr := CASE
      WHEN cardinality(key) = 0 THEN '-1'
      ELSE (
        SELECT 'quorum.stripe_of(ARRAY['
          || string_agg(quorum.as_text(format('x.%I', a.attname), a.atttypid), ', ' ORDER BY k.o)
          || ']::text)'
        FROM unnest(key) WITH ORDINALITY k(name, o)
          JOIN pg_attribute a ON a.attrelid = r.root AND a.attname = k.name
      )
    END;
    fn := quorum.made('capture', name);
    settings := quorum.settings_of(r.root);
    EXECUTE format(
      'CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS %L %s SET search_path = pg_catalog, pg_temp',
      fn,
      format($f$
        #variable_conflict use_variable
        DECLARE
          mine xid8;
          part int;
        BEGIN
          IF TG_RELID <> %4$L::regclass THEN
            RAISE EXCEPTION 'this function is the trigger of another table' USING ERRCODE = '42501';
          END IF;
          -- a bypass: the BEFORE trigger let it through
          IF coalesce(current_setting('quorum.cover', true), '') = '' THEN RETURN NULL; END IF;
          mine := pg_current_xact_id();
          part := coalesce(nullif(current_setting('quorum.segment', true), ''), '0');
          IF TG_OP = 'UPDATE' THEN
            INSERT INTO quorum.capture (xid, segment, t, n, image, sign)
              SELECT mine, part, %2$L, %3$s, %5$s, 1 FROM old_rows x
              UNION ALL
              SELECT mine, part, %2$L, %3$s, %5$s, -1 FROM new_rows x;
          ELSIF TG_OP = 'INSERT' THEN
            INSERT INTO quorum.capture (xid, segment, t, n, image, sign)
              SELECT mine, part, %2$L, %3$s, %5$s, -1 FROM new_rows x;
          ELSIF TG_OP = 'DELETE' THEN
            INSERT INTO quorum.capture (xid, segment, t, n, image, sign)
              SELECT mine, part, %2$L, %3$s, %5$s, 1 FROM old_rows x;
          ELSE
            INSERT INTO quorum.capture (xid, segment, t, n, image, sign)
              SELECT mine, part, %2$L, %3$s, %5$s, 1 FROM %4$s x;
          END IF;
          IF current_setting('quorum.cover', true) IS DISTINCT FROM 'infer' THEN
            PERFORM quorum.covered(%2$L, (
              SELECT array_agg(DISTINCT k.n) FROM quorum.capture k WHERE k.xid = mine AND k.t = %2$L));
          END IF;
          RETURN NULL;
        END$f$,
        fn, root, keyexpr, name, quorum.image(r.oid, root)),
      settings);
  END LOOP;
END $$;

-- Everything about the users' tables that must be equal on all replicas (not the sequences' strides, which must
-- differ).
CREATE OR REPLACE FUNCTION quorum.schema_hash() RETURNS text LANGUAGE sql STABLE AS $$
  SELECT md5(coalesce(string_agg(line, E'\n' ORDER BY line COLLATE "C"), ''))
  FROM (
    SELECT format(
      '%I.%I.%s %I %s %s %s %s %s',
      s.nspname, c.relname, row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum),
      a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
      pg_get_expr(d.adbin, d.adrelid)) line
    FROM pg_class c
      JOIN pg_namespace s ON s.oid = c.relnamespace
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relkind IN ('r', 'p', 'v', 'm')
      AND s.nspname NOT IN ('quorum', 'quorum_shadow', 'information_schema')
      AND s.nspname !~ '^pg_'
    UNION ALL
    SELECT format('%s %s %s', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid))
    FROM pg_constraint k JOIN pg_namespace s ON s.oid = k.connamespace
    WHERE k.contype <> 'n'
      AND s.nspname NOT IN ('quorum', 'quorum_shadow', 'information_schema')
      AND s.nspname !~ '^pg_'
    UNION ALL
    SELECT pg_get_indexdef(i.indexrelid)
    FROM pg_index i
      JOIN pg_class c ON c.oid = i.indrelid
      JOIN pg_namespace s ON s.oid = c.relnamespace
    -- others decide nothing, and are built member by member (CONCURRENTLY)
    WHERE (i.indisunique OR i.indisexclusion) AND s.nspname !~ '^(pg_|quorum|information_schema)'
    UNION ALL
    SELECT format(
      '%I.%I %s %s %s',
      s.nspname, c.relname, pg_get_partkeydef(c.oid),
      (SELECT i.inhparent::regclass FROM pg_inherits i WHERE i.inhrelid = c.oid),
      pg_get_expr(c.relpartbound, c.oid))
    FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
    WHERE (c.relkind = 'p' OR c.relispartition) AND s.nspname !~ '^(pg_|quorum|information_schema)'
    UNION ALL
    SELECT pg_get_triggerdef(g.oid)
    FROM pg_trigger g
      JOIN pg_class c ON c.oid = g.tgrelid
      JOIN pg_namespace s ON s.oid = c.relnamespace
    WHERE NOT g.tgisinternal
      AND g.tgname !~ '^quorum_'
      AND s.nspname !~ '^(pg_|quorum|information_schema)'
  ) l
$$
  SET search_path = pg_catalog, pg_temp
  SET standard_conforming_strings = on;  -- (else what a literal looks like)

CREATE OR REPLACE FUNCTION quorum.table_hash(t regclass) RETURNS text LANGUAGE plpgsql AS $$
DECLARE h text;
BEGIN
  EXECUTE format($q$
    SELECT count(*) || ':'
      || coalesce(sum(('x' || substr(md5(textin(record_out(x.*))), 1, 15))::bit(60)::bigint::numeric), 0)
    FROM %s x$q$, t) INTO h;
  RETURN h;
END $$
  SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1
  SET quote_all_identifiers = off SET array_nulls = on SET timezone = 'UTC' SET lc_monetary = 'C'
  SET xmloption = 'content' SET search_path = pg_catalog;

-- Relations whose rows a DDL statement of this transaction wrote (rewritten, born with rows, attached, refreshed):
-- compared by content, since no trigger saw them. A partition by itself: a new one is no reason to read all the others.
-- A subtransaction's xid is younger than its parent's.
CREATE OR REPLACE FUNCTION quorum.rewritten() RETURNS jsonb LANGUAGE sql AS $$
  SELECT coalesce(jsonb_object_agg(format('%I.%I', s.nspname, c.relname), quorum.table_hash(c.oid::regclass)), '{}')
  FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
  WHERE CASE c.relkind
    WHEN 'r' THEN
      age(c.xmin) <= age(pg_current_xact_id()::xid)
      AND EXISTS (
        SELECT FROM quorum.tracked k WHERE to_regclass(k.t) = coalesce(pg_partition_root(c.oid), c.oid))
    WHEN 'm' THEN
      c.relispopulated
      AND s.nspname !~ '^(pg_|quorum|information_schema)'
      AND (age(c.xmin) <= age(pg_current_xact_id()::xid) OR current_setting('quorum.refreshed', true) = 'on')
  END
$$;

-- DDL of others that is prepared here comes first, or track() would meet tables that are half gone; the lock itself is
-- let go at once.
CREATE OR REPLACE FUNCTION quorum.after_others()
  RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  LOCK TABLE quorum.everything IN ROW SHARE MODE;
  RAISE EXCEPTION USING ERRCODE = 'QB000';
EXCEPTION WHEN SQLSTATE 'QB000' THEN NULL;
END $$;

-- After a DDL statement, as whoever ran it.
CREATE OR REPLACE FUNCTION quorum.ddl(statement text, path text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  temporary bool := current_setting('quorum.temporary', true) = 'on';
  who text := CASE current_setting('role') WHEN 'none' THEN session_user::text ELSE current_setting('role') END;
BEGIN
  PERFORM set_config('quorum.temporary', '', true);
  PERFORM quorum.after_others();
  IF temporary THEN RETURN; END IF;  -- the session's own, on its lead
  IF current_setting('standard_conforming_strings') = 'off'
    AND statement ~ ('''[^'']*' || repeat(chr(92), 2))
  THEN
    RAISE EXCEPTION
    'a backslash in DDL means something else on the other replicas, which run it with standard_conforming_strings = on'
      USING ERRCODE = '0A000',
        HINT = 'SET standard_conforming_strings = on, and write E''…'' where a backslash shall escape.';
  END IF;
  IF current_user <> who THEN
    RAISE EXCEPTION
      'DDL inside a SECURITY DEFINER function cannot be carried: it runs as "%" here and would run as "%" on the other replicas',
      current_user, who
      USING ERRCODE = '0A000', HINT = 'SET ROLE, and run it outside the function.';
  END IF;
  PERFORM quorum.track(), quorum.keep_ddl(statement, path), set_config('quorum.unsaid', '', true);
END $$ SET search_path = pg_catalog, pg_temp;

-- "as": whom the session was acting as, by its own word and not the caller's; the followers run the statement as that
-- role.
CREATE OR REPLACE FUNCTION quorum.keep_ddl(statement text, path text)
  RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  who text := CASE current_setting('role') WHEN 'none' THEN session_user::text ELSE current_setting('role') END;
BEGIN
  IF statement ~ '^COMMENT ON SCHEMA quorum IS ''pg-quorum [^'']*''$' THEN
    who := NULL;  -- a barrier (decision 5), which any driver can carry
  ELSIF quorum.runner(who) IS NULL AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = who) THEN
    RAISE EXCEPTION
      'the role "%" may not change the schema through pg-quorum yet: a superuser runs `pg-quorum init --role %` once',
      who, who
      USING ERRCODE = '42501';
  END IF;
  IF statement ~* '(create|alter)[[:space:]]+(role|user|group)'
    AND statement ~* '[[:<:]]password[[:>:]]'
    AND statement !~* 'password[[:space:]]+null'
  THEN
    RAISE EXCEPTION 'a password would stand in the log of changesets'
      USING ERRCODE = '0A000',
        HINT = 'Create the role without it, then run ALTER ROLE … PASSWORD on each server by itself, with psql.';
  END IF;
  PERFORM quorum.note(statement, path, who);
END $$;

-- A statement that the others execute, between the rows that were written before and after it.
CREATE OR REPLACE FUNCTION quorum.note(statement text, path text, who text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE s int := coalesce(nullif(current_setting('quorum.segment', true), ''), '0')::int;
BEGIN
  IF statement ~* '^[[:space:]]*refresh[[:space:]]+materialized' THEN
    -- CONCURRENTLY makes a temporary table, which no follower could prepare, and leaves pg_class as it was
    statement := regexp_replace(statement, '[[:space:]]concurrently[[:space:]]', ' ', 'i');
    PERFORM set_config('quorum.refreshed', 'on', true);
  END IF;
  INSERT INTO quorum.capture (xid, segment, ddl, path, "as")
    VALUES (pg_current_xact_id(), s + 1, statement, path, who);
  PERFORM set_config('quorum.segment', (s + 2)::text, true);
END $$;

-- The function in which DDL of this role runs on a follower; by its owner, since roles are renamed.
CREATE OR REPLACE FUNCTION quorum.runner(who text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT format('quorum_shadow.%I', p.proname)
  FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner
  WHERE p.pronamespace = 'quorum_shadow'::regnamespace
    AND p.proname LIKE 'run %'
    AND r.rolname = who
    AND NOT r.rolsuper
$$;

-- On a follower. A superuser's DDL is run only by a superuser's link: whoever may act as quorum_txn could have written
-- it into the log.
CREATE OR REPLACE FUNCTION quorum.run_as(who text, statement text, path text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  runner text := quorum.runner(who);
  me text := current_setting('role');
BEGIN
  IF statement ~ '^COMMENT ON SCHEMA quorum IS ''pg-quorum [^'']*''$' THEN RETURN; END IF;
  IF runner IS NOT NULL THEN
    EXECUTE format('SELECT %s($1, $2)', runner) USING statement, path;
    PERFORM quorum.track();
    RETURN;
  END IF;
  IF NOT (
    coalesce((SELECT rolsuper FROM pg_roles WHERE rolname = who), who IS NULL)
    AND (SELECT rolsuper FROM pg_roles WHERE rolname = session_user)
  ) THEN
    RAISE EXCEPTION 'DDL of the role "%" cannot be run here: %', who, CASE
      WHEN (SELECT rolsuper FROM pg_roles WHERE rolname = who) THEN
        'it is a superuser''s, and only a driver that connects as one brings it (`pg-quorum catch-up` with such urls)'
      ELSE format('a superuser runs `pg-quorum init --role %s` once, with all replicas up', who)
    END USING ERRCODE = '42501';
  END IF;
  PERFORM set_config('role', coalesce(who, 'none'), true), set_config('search_path', path, true);
  EXECUTE statement;
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  PERFORM quorum.track();
  PERFORM set_config('role', me, true);
END $$;
