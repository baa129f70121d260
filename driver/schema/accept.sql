-- The accept on a follower, and what is written out for it for each table; replay (docs/protocol.md, section 4, step 6,
-- and section 8).

-- What applies a changeset's rows and checks its keys is written out for each tracked table, so that it is planned once
-- and not at each accept.
-- Small changesets go by index, whatever the statistics say; a large one gets a plan of its own.
CREATE OR REPLACE FUNCTION quorum.made(what text, t text) RETURNS text LANGUAGE sql STABLE AS $$
  -- a longer name would be cut off, and then be another table's
  SELECT format(
    'quorum_shadow.%I',
    CASE WHEN octet_length(what || t) < 63 THEN what || ' ' || t ELSE what || ' ' || md5(t) END
  )
$$;

CREATE OR REPLACE FUNCTION quorum.make(what text, name text, code text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  -- (the body as a literal: a name in it may contain any dollar quote)
  EXECUTE format(
    'CREATE OR REPLACE FUNCTION %s(olds text[], news text[]) RETURNS void LANGUAGE plpgsql AS %L SET plan_cache_mode = auto SET enable_seqscan = on',
    quorum.made(what, name),
    format($f$
    -- a user's column may have any name; so rows are (x.*), which no column can hide
    #variable_conflict use_variable
    DECLARE
      got bigint := 0; want bigint;
      few bool := cardinality(olds) + cardinality(news) <= 100;
      said text;
    BEGIN
      said := set_config('plan_cache_mode', CASE WHEN few THEN 'force_generic_plan' ELSE 'force_custom_plan' END, true);
      said := set_config('enable_seqscan', CASE WHEN few THEN 'off' ELSE 'on' END, true);
      %s
    END$f$, code)
  );
END $$;

-- How a table's rows are written from images i.r (of the table's type): columns and values, how one is found again
-- (same; twin: among others), what an update sets; crossing: a second unique index could be crossed by two updated rows
-- halfway: then they go out before they come in.
CREATE OR REPLACE FUNCTION quorum.written(
  name text, OUT key text[], OUT img text, OUT cols text, OUT vals text,
  OUT same text, OUT twin text, OUT sets text, OUT crossing bool
) LANGUAGE plpgsql STABLE AS $$
DECLARE
  rel regclass := to_regclass(name);
BEGIN
  key := (SELECT pk FROM quorum.tracked WHERE t = name);
  img := quorum.image(rel, name);
  SELECT
      string_agg(quote_ident(attname), ', ' ORDER BY attnum),
      string_agg(format('(i.r).%I', attname), ', ' ORDER BY attnum)
    INTO cols, vals
    FROM pg_attribute
    WHERE attrelid = rel AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
  SELECT
      string_agg(format('x.%1$I = (i.r).%1$I', c), ' AND '),
      string_agg(format('(y.r).%1$I = (i.r).%1$I', c), ' AND ')
    INTO same, twin
    FROM unnest(key) c;
  SELECT
      format(
        '(%s) = ROW(%s)',
        string_agg(quote_ident(attname), ', ' ORDER BY attnum),
        string_agg(format('(i.r).%I', attname), ', ' ORDER BY attnum)
      )
    INTO sets
    FROM pg_attribute
    WHERE attrelid = rel AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
      AND attidentity <> 'a' AND NOT attname = ANY (key)
    HAVING count(*) > 0;
  crossing := 1 < (
    SELECT count(*)
      FROM pg_index i
      JOIN pg_class c ON c.oid = i.indexrelid
      WHERE (i.indrelid = rel OR i.indrelid IN (SELECT relid FROM pg_partition_tree(rel)))
        AND NOT c.relispartition
        AND (i.indisunique OR i.indisexclusion)
  );
END $$;

-- Its sequences go on behind the values that came. (The numbers are each member's own: verify leaves this out,
-- replica/questions.ts.)
CREATE OR REPLACE FUNCTION quorum.onward(name text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT
      coalesce(
        string_agg(
          format($f$
      PERFORM setval(%2$L, %4$s::bigint + ((m - %4$s + %5$s - 1) / %5$s) * %5$s)
        FROM (SELECT max((v::%1$s).%3$I)::bigint m FROM unnest(news) v) x, %2$s q
        WHERE m > q.last_value AND m > %4$s;$f$,
            name, format('%I.%I', s.nspname, c.relname), a.attname, p.seqstart, p.seqincrement
          ),
          '' ORDER BY c.oid
        ),
        ''
      )
    FROM pg_depend d
    JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
    JOIN pg_namespace s ON s.oid = c.relnamespace
    JOIN pg_sequence p ON p.seqrelid = c.oid
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE d.refobjid = to_regclass(name) AND d.deptype IN ('a', 'i') AND p.seqincrement > 0
$$;

CREATE OR REPLACE FUNCTION quorum.make_apply(name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  parts bool := (SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(name));
  w record;
  code text;
  olds text := format('(SELECT v::%s r, v FROM unnest(olds) v OFFSET 0)', name);
  news text := format('(SELECT v::%s r, v FROM unnest(news) v OFFSET 0)', name);
BEGIN
  w := quorum.written(name);
  IF cardinality(w.key) > 0 THEN
    code := format($f$
      IF cardinality(olds) > 0 THEN
        SELECT count(*) INTO got FROM %2$s i JOIN %1$s x ON %4$s WHERE %11$s = i.v;
        IF got <> cardinality(olds) THEN
          RAISE EXCEPTION 'rows of %% found here differ from those of the lead (%% of %% equal)',
            %9$L, got, cardinality(olds)
            USING ERRCODE = 'QB004';
        END IF;
        DELETE FROM %1$s x USING %2$s i
          WHERE %4$s AND (%6$s OR NOT EXISTS (SELECT FROM %3$s y WHERE %5$s));
      END IF;
      IF cardinality(news) > 0 THEN
        IF cardinality(olds) > 0 THEN %7$s NULL; END IF;
        -- a row that is here and not on the lead stops it
        INSERT INTO %1$s (%8$s) OVERRIDING SYSTEM VALUE
          SELECT %10$s FROM %3$s i WHERE %6$s OR NOT EXISTS (SELECT FROM %2$s y WHERE %5$s);
        SELECT count(*) INTO got FROM %3$s i JOIN %1$s x ON %4$s WHERE %11$s = i.v;
        IF got <> cardinality(news) THEN
          RAISE EXCEPTION 'rows of %% stored here differ from those of the lead', %9$L USING ERRCODE = 'QB004';
        END IF;
      END IF;$f$,
      name, olds, news, w.same, w.twin,
      CASE WHEN w.crossing THEN 'cardinality(news) > 1' ELSE 'false' END,
      CASE
        WHEN w.sets IS NOT NULL THEN format('UPDATE %s x SET %s FROM %s i WHERE %s;', name, w.sets, news, w.same)
      END,
      w.cols, name, w.vals, w.img
    );
  ELSE
    code := format($f$
      WITH o AS (
        SELECT v, row_number() OVER (PARTITION BY v) k FROM unnest(olds) v
      ), x AS (
        SELECT %8$s at, %6$s v, row_number() OVER (PARTITION BY %6$s) k FROM %1$s x WHERE cardinality(olds) > 0
      ), d AS (
        DELETE FROM %1$s x WHERE %7$s IN (SELECT %9$s FROM x JOIN o USING (v, k)) RETURNING 1
      )
      SELECT count(*) INTO got FROM d;
      IF got <> cardinality(olds) THEN
        RAISE EXCEPTION 'rows of %% found here differ from those of the lead', %2$L USING ERRCODE = 'QB004';
      END IF;
      WITH s AS (
        INSERT INTO %1$s AS x (%3$s) OVERRIDING SYSTEM VALUE SELECT %4$s FROM %5$s i RETURNING %6$s v
      )
      SELECT count(*) INTO got FROM (SELECT v FROM s EXCEPT ALL SELECT unnest(news)) y;
      IF got <> 0 THEN
        RAISE EXCEPTION 'rows of %% stored here differ from those of the lead', %2$L USING ERRCODE = 'QB004';
      END IF;$f$,
      name, name, w.cols, w.vals, news, w.img,
      CASE WHEN parts THEN '(x.tableoid, x.ctid)' ELSE 'x.ctid' END,
      CASE WHEN parts THEN 'x.tableoid place, x.ctid' ELSE 'x.ctid' END,
      CASE WHEN parts THEN 'place, at' ELSE 'at' END
    );
  END IF;
  PERFORM quorum.make('apply', name, code || quorum.onward(name));
END $$;

-- Foreign keys, which the replica role leaves unchecked: on every replica that accepts, so that two leads cannot cross
-- (section 6).
CREATE OR REPLACE FUNCTION quorum.make_keys(name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  rel regclass := to_regclass(name);
  code text := '';
  k record;
BEGIN
  FOR k IN
    SELECT
        c.conname, c.conrelid, c.confrelid,
        (
          SELECT format('%I.%I', s.nspname, r.relname)
            FROM pg_class r
            JOIN pg_namespace s ON s.oid = r.relnamespace
            WHERE r.oid = CASE c.conrelid WHEN rel THEN c.confrelid ELSE c.conrelid END
        ) other,
        j.child, j.parent, j.both
      FROM pg_constraint c, LATERAL (
        SELECT
            string_agg(format('(v::%s).%I AS k%s', name, ch.attname, o), ', ' ORDER BY o) child,
            string_agg(format('(v::%s).%I AS k%s', name, pa.attname, o), ', ' ORDER BY o) parent,
            jsonb_build_object(
              'child', string_agg(format('c.%I = f.k%s', ch.attname, o), ' AND ' ORDER BY o),
              'parent', string_agg(format('p.%I = f.k%s', pa.attname, o), ' AND ' ORDER BY o)
            ) both
          FROM unnest(c.conkey, c.confkey) WITH ORDINALITY u(a, b, o)
          JOIN pg_attribute ch ON ch.attrelid = c.conrelid AND ch.attnum = a
          JOIN pg_attribute pa ON pa.attrelid = c.confrelid AND pa.attnum = b
      ) j
      WHERE c.contype = 'f' AND rel IN (c.conrelid, c.confrelid)
        AND c.conparentid = 0  -- (the partitions' own are the root's)
  LOOP
    IF k.conrelid = rel THEN
      code := code || format($f$
        IF cardinality(news) > 0 THEN
          SELECT count(*) INTO want
            FROM (SELECT DISTINCT %1$s FROM unnest(news) v) f
            WHERE NOT (f IS NULL) AND f IS NOT NULL;
          SELECT count(*) INTO got
            FROM (
              SELECT 1
                FROM %2$s p
                JOIN (SELECT DISTINCT %1$s FROM unnest(news) v) f ON %3$s
                FOR KEY SHARE OF p
            ) x;
          IF got <> want THEN
            RAISE EXCEPTION 'insert or update on table "%%" violates foreign key constraint "%%"', %4$L, %5$L
              USING ERRCODE = '23503';
          END IF;
        END IF;$f$,
        k.child, CASE WHEN k.confrelid = rel THEN name ELSE k.other END, k.both->>'parent', name, k.conname
      );
    END IF;
    -- only keys that are gone can be missed;
    -- looking for the others would scan the whole child for every change of a parent
    IF k.confrelid = rel THEN
      code := code || format($f$
        IF cardinality(olds) > 0
          AND EXISTS (SELECT %1$s FROM unnest(olds) v EXCEPT SELECT %1$s FROM unnest(news) v)
        THEN
          SELECT count(*) INTO got
            FROM %2$s c
            JOIN (SELECT %1$s FROM unnest(olds) v) f ON %3$s
            WHERE NOT EXISTS (SELECT FROM %4$s p WHERE %5$s);
          IF got <> 0 THEN
            RAISE EXCEPTION 'update or delete on table "%%" violates foreign key constraint "%%"', %6$L, %7$L
              USING ERRCODE = '23503';
          END IF;
        END IF;$f$,
        k.parent, CASE WHEN k.conrelid = rel THEN name ELSE k.other END, k.both->>'child',
        name, k.both->>'parent', name, k.conname
      );
    END IF;
  END LOOP;
  IF code = '' THEN EXECUTE format('DROP FUNCTION IF EXISTS %s(text[], text[])', quorum.made('keys', name));
  ELSE PERFORM quorum.make('keys', name, code);
  END IF;
END $$;

-- Gives an item's rows to the function that was made for its table ('keys': only where there are foreign keys).
CREATE OR REPLACE FUNCTION quorum.for_table(what text, item jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF to_regclass(item->>'t') IS NULL THEN RAISE EXCEPTION 'no table %', item->>'t' USING ERRCODE = 'QB004'; END IF;
  EXECUTE format('SELECT %s($1, $2)', quorum.made(what, item->>'t'))
    USING
      ARRAY(SELECT jsonb_array_elements_text(item->'o')),
      ARRAY(SELECT jsonb_array_elements_text(item->'n'));
END $$;

-- Inside the transaction that PREPARE TRANSACTION will keep. ballot 0: the owner's; b >= 1: a resolver's that has
-- promised b here. What may be accepted at all.
CREATE OR REPLACE FUNCTION quorum.admit(gid text, b bigint, who text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  here record;
  locked text := pg_advisory_xact_lock(quorum.lock_key('T', gid));
BEGIN
  SELECT
      c.json AS body,
      CASE
        -- BEGIN and SET LOCAL come in a message of their own:
        -- had they been cancelled, this would be committed by itself
        WHEN current_setting('lock_timeout') = '0' AND b < 9007199254740991 THEN '25P01'
        WHEN s.building AND b < 9007199254740991 THEN 'QB009'  -- above: a replay, which is no vote
        WHEN EXISTS (SELECT FROM quorum.applied a WHERE a.gid = admit.gid) THEN 'QB008'
        WHEN EXISTS (
          SELECT FROM quorum.ballot p WHERE p.gid = admit.gid AND (p.promised, p.promised_to) > (b, who)
        ) THEN 'QB003'
        -- may_be_forgotten, written out: each accept asks it, and a call costs more than the look
        WHEN b < 9007199254740991 AND EXISTS (
          SELECT FROM quorum.forgotten f
          WHERE f.owner = split_part(admit.gid, '_', 4) AND f.upto >= quorum.place_of(admit.gid)
        ) THEN 'ahead'
        WHEN c.json IS NULL THEN 'QB004'
        WHEN (c.json->>'epoch')::bigint <> s.epoch THEN 'QB005'
      END AS no
    INTO here
    FROM quorum.self s
    LEFT JOIN (
      SELECT
          CASE
            WHEN left(encode(sha256(convert_to(k.body, 'UTF8')), 'hex'), 32) = right(k.gid, 32) THEN k.body::jsonb
          END AS json
        FROM quorum.changeset k
        WHERE k.gid = admit.gid
        OFFSET 0
    ) c ON true;
  IF here.no IS NOT NULL THEN PERFORM quorum.refuse(here.no); END IF;
  RETURN here.body;
END $$;

CREATE OR REPLACE FUNCTION quorum.refuse(why text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM CASE WHEN why = 'QB009' THEN quorum.takes_part() END;
  RAISE EXCEPTION '%',
    CASE why
      WHEN 'behind' THEN 'this member lags'
      WHEN 'ahead' THEN 'the changeset is stale'
      WHEN 'QB008' THEN 'committed here already'
      WHEN 'QB003' THEN 'promised to a resolver'
      WHEN '25P01' THEN 'to accept is for a transaction that will be prepared'
      WHEN 'QB004' THEN 'the changeset is missing or not the one the gid names'
      ELSE 'its epoch is not this member''s'
    END
    USING ERRCODE = CASE why WHEN 'behind' THEN 'QB001' WHEN 'ahead' THEN 'QB002' ELSE why END;
END $$;

CREATE OR REPLACE FUNCTION quorum.accept(gid text, b bigint, who text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  body jsonb := quorum.admit(gid, b, who);
  stand text;
BEGIN
  IF current_setting('session_replication_role') <> 'replica' THEN
    SET LOCAL session_replication_role = replica;
  END IF;
  stand := CASE WHEN body ? 'rows' THEN quorum.accept_rows(gid, body) ELSE quorum.accept_any(gid, body) END;
  IF stand <> 'same' THEN PERFORM quorum.refuse(stand); END IF;
END $$
  SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1
  SET quote_all_identifiers = off SET array_nulls = on SET timezone = 'UTC' SET lc_monetary = 'C'
  SET xmloption = 'content' SET search_path = pg_catalog, pg_temp;

-- Single rows (rows.sql): table by table, in the global order; A first, then how it stands, then the rows; the foreign
-- keys when all rows are there.
CREATE OR REPLACE FUNCTION quorum.accept_rows(gid text, body jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  parts jsonb := body->'rows';
  everything bigint := body->>'everything';
  stand text; f text;
BEGIN
  LOCK TABLE quorum.everything IN ROW EXCLUSIVE MODE;
  FOR o IN 0 .. jsonb_array_length(parts) - 1 LOOP
    f := quorum.made('rows', parts->o->>'t');
    IF to_regproc(f) IS NULL THEN
      RAISE EXCEPTION 'table "%" is not tracked here', parts->o->>'t' USING ERRCODE = 'QB001';
    END IF;
    EXECUTE 'SELECT ' || f || '($1, $2, $3)' INTO stand USING gid, everything, parts->o;
    IF stand <> 'same' THEN RETURN stand; END IF;
  END LOOP;
  FOR o IN 0 .. jsonb_array_length(parts) - 1 LOOP
    f := quorum.made('keys', parts->o->>'t');
    IF to_regproc(f) IS NOT NULL THEN
      EXECUTE 'SELECT ' || f || '($1, $2)'
        USING coalesce(parts->o->>'o', '{}')::text[], coalesce(parts->o->>'i', '{}')::text[];
    END IF;
  END LOOP;
  INSERT INTO quorum.applied (gid) VALUES (accept_rows.gid);
  RETURN 'same';
END $$;

-- Whatever it is: whole tables, names, everything, DDL.
CREATE OR REPLACE FUNCTION quorum.accept_any(gid text, body jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  base jsonb := body->'base';
  items jsonb := body->'items';
  i jsonb;
  place text;
  h record;
  ddl bool := false;
BEGIN
  PERFORM quorum.take(quorum.granules_of(base));
  place := quorum.against(base);
  IF place <> 'same' THEN RETURN place; END IF;
  FOR o IN 0 .. jsonb_array_length(items) - 1 LOOP
    i := items->o;
    IF i ? 'ddl' THEN
      SET LOCAL session_replication_role = origin;
      ddl := true;
      PERFORM set_config('quorum.cover', 'infer', true), set_config('quorum.own', 'on', true);
      PERFORM quorum.run_as(i->>'as', i->>'ddl', i->>'path');
      DELETE FROM quorum.capture WHERE xid = pg_current_xact_id_if_assigned();
      SET LOCAL session_replication_role = replica;
    ELSE PERFORM quorum.for_table('apply', i);
    END IF;
  END LOOP;
  IF NOT ddl THEN  -- under DDL nothing else is in flight: the lead's own checks were everyone's
    FOR o IN 0 .. jsonb_array_length(items) - 1 LOOP
      IF to_regproc(quorum.made('keys', items->o->>'t')) IS NOT NULL THEN
        PERFORM quorum.for_table('keys', items->o);
      END IF;
    END LOOP;
  END IF;
  IF jsonb_typeof(body->'hashes') = 'object' THEN
    FOR h IN SELECT * FROM jsonb_each_text(body->'hashes') LOOP
      IF h.value IS DISTINCT FROM (
        CASE WHEN h.key = '' THEN quorum.schema_hash() ELSE quorum.table_hash(to_regclass(h.key)) END
      ) THEN
        RAISE EXCEPTION 'the DDL gave something else here than on the lead (%)',
          CASE WHEN h.key = '' THEN 'schema' ELSE h.key END
          USING ERRCODE = 'QB004';
      END IF;
    END LOOP;
  END IF;
  PERFORM quorum.extend(gid, base, body->'writes');
  RETURN 'same';
END $$;

-- Before a replay's first statement: its gid is decided. A session that still holds T(gid) after a while is the lead's
-- that nobody hears any more, and would block even the changeset's row; its work comes from here.
CREATE OR REPLACE FUNCTION quorum.seize(gid text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  patience text := current_setting('lock_timeout');
BEGIN
  PERFORM set_config('lock_timeout', '500ms', true);
  BEGIN
    PERFORM pg_advisory_xact_lock(quorum.lock_key('T', gid));
  EXCEPTION WHEN lock_not_available THEN PERFORM quorum.oust(gid);
  END;
  PERFORM set_config('lock_timeout', patience, true);
  PERFORM pg_advisory_xact_lock(quorum.lock_key('T', gid));
END $$;

-- A changeset whose decision is commit, brought over; false where it is committed already.
CREATE OR REPLACE FUNCTION quorum.replay(gid text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(quorum.lock_key('T', gid));
  IF EXISTS (SELECT FROM quorum.applied a WHERE a.gid = replay.gid) THEN RETURN false; END IF;
  PERFORM quorum.accept(gid, 9007199254740991, '');
  RETURN true;
END $$;
