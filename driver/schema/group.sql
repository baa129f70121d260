-- May writes to these tables share a transaction with others (driver/pool/group.ts)? Only where nothing of the application's runs, or is put off to the end, that could
-- tell: user triggers, rules, deferrable constraints, cascades; and where a name is an ordinary table.

CREATE OR REPLACE FUNCTION quorum.plain(names text[], path text) RETURNS bool LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE n text; rel regclass;
BEGIN
  FOREACH n IN ARRAY names LOOP
    PERFORM set_config('search_path', path, true);
    rel := coalesce(pg_catalog.to_regclass(pg_catalog.quote_ident(n)), pg_catalog.to_regclass(pg_catalog.format('%I.%I', pg_catalog.split_part(n, '.', 1), pg_catalog.substr(n, pg_catalog.strpos(n, '.') OPERATOR(pg_catalog.+) 1))));
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = rel AND c.relkind = 'r' AND c.relpersistence = 'p' AND NOT c.relhasrules
        AND NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND (g.tgdeferrable OR NOT g.tgisinternal AND g.tgname !~ '^quorum_'))
        AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.confrelid = c.oid AND k.contype = 'f' AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd')))) THEN
      RETURN false;
    END IF;
  END LOOP;
  RETURN true;
END $$;
