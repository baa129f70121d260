-- May writes to these tables share a transaction with others (driver/pool/group.ts)? Only where nothing of the
-- application's runs, or is put off to the end, that could tell: user triggers, rules, deferrable constraints,
-- cascades; and where a name is an ordinary table.

CREATE OR REPLACE FUNCTION quorum.plain(names text[], path text)
  RETURNS bool LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  n text;
  rel regclass;
BEGIN
  FOREACH n IN ARRAY names LOOP
    PERFORM set_config('search_path', path, true);
    rel := coalesce(
      pg_catalog.to_regclass(pg_catalog.quote_ident(n)),
      pg_catalog.to_regclass(pg_catalog.format('%I.%I',
        pg_catalog.split_part(n, '.', 1),
        pg_catalog.substr(n, pg_catalog.strpos(n, '.') OPERATOR(pg_catalog.+) 1))));
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    IF NOT EXISTS (
      SELECT FROM pg_class c
      WHERE c.oid = rel AND c.relkind = 'r' AND c.relpersistence = 'p' AND NOT c.relhasrules
        AND NOT EXISTS (
          SELECT FROM pg_trigger g
          WHERE g.tgrelid = c.oid AND (g.tgdeferrable OR NOT g.tgisinternal AND g.tgname !~ '^quorum_'))
        AND NOT EXISTS (
          SELECT FROM pg_constraint k
          WHERE k.confrelid = c.oid AND k.contype = 'f'
            AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd')))
    ) THEN
      RETURN false;
    END IF;
  END LOOP;
  RETURN true;
END $$;

-- Is what a statement on these tables reads all in its text? Where they are plain, and nothing of the application's
-- is called behind it: no types of its own, no functions in constraints, defaults and indexes, and in this database
-- no operators and casts that may read a table (IMMUTABLE functions, and those in C, do not). Then the seal need not
-- ask for the locks that were taken.
CREATE OR REPLACE FUNCTION quorum.closed(rel oid)
  RETURNS bool LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN
    NOT EXISTS (
      SELECT FROM pg_attribute a
      JOIN pg_type y ON y.oid = a.atttypid
      WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped
        AND (y.typnamespace <> 'pg_catalog'::regnamespace OR y.typtype = 'd'))
    AND NOT EXISTS (
      SELECT FROM pg_depend d
      JOIN pg_proc f ON f.oid = d.refobjid AND f.oid >= 16384
      WHERE d.refclassid = 'pg_proc'::regclass
        AND (
          d.classid = 'pg_constraint'::regclass
            AND d.objid IN (SELECT k.oid FROM pg_constraint k WHERE k.conrelid = rel)
          OR d.classid = 'pg_attrdef'::regclass
            AND d.objid IN (SELECT v.oid FROM pg_attrdef v WHERE v.adrelid = rel)
          OR d.classid = 'pg_class'::regclass
            AND (d.objid = rel OR d.objid IN (SELECT i.indexrelid FROM pg_index i WHERE i.indrelid = rel))))
    AND NOT EXISTS (
      SELECT FROM pg_proc f
      JOIN pg_language l ON l.oid = f.prolang AND l.lanname NOT IN ('internal', 'c')
      WHERE f.provolatile <> 'i'
        AND (
          f.oid IN (SELECT o.oprcode FROM pg_operator o WHERE o.oid >= 16384)
          OR f.oid IN (SELECT c.castfunc FROM pg_cast c WHERE c.oid >= 16384)));
END $$;
