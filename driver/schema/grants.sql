-- Owners and privileges of everything that is installed, made new or renewed: nothing is left to PUBLIC
-- (test/lint.test.ts holds it).
DO $$
DECLARE
  o record;
  me xid := pg_current_xact_id()::xid;
BEGIN
  -- What no file brings any more (another signature, perhaps) goes.
  FOR o IN
    SELECT p.oid::regprocedure f
    FROM pg_proc p
    WHERE p.pronamespace = 'quorum'::regnamespace AND p.xmin <> me
  LOOP
    EXECUTE format('DROP FUNCTION %s', o.f);
  END LOOP;
  IF EXISTS (
      SELECT FROM pg_class c
      WHERE c.relnamespace IN ('quorum'::regnamespace, 'quorum_shadow'::regnamespace)
        AND c.relkind = 'r'
        AND c.relowner <> 'quorum_owner'::regrole
        AND c.xmin <> me
    )
    AND EXISTS (
      SELECT FROM pg_prepared_xacts WHERE database = current_database() AND gid LIKE 'quorum\_%'
    )
  THEN
    RAISE EXCEPTION
      'transactions of an older pg-quorum are still prepared here: finish them first with the pg-quorum that made them (pg-quorum resolve)';
  END IF;
  FOR o IN
    SELECT s.oid::regnamespace n FROM pg_namespace s WHERE s.nspname IN ('quorum', 'quorum_shadow')
  LOOP
    EXECUTE format(
      'ALTER SCHEMA %s OWNER TO quorum_owner; REVOKE ALL ON SCHEMA %s FROM PUBLIC; GRANT USAGE ON SCHEMA %s TO quorum_txn, quorum_app, quorum_lead',
      o.n, o.n, o.n);
  END LOOP;
  -- (ALTER TABLE waits for every prepared transaction, so only where it changes something.)
  FOR o IN
    SELECT c.oid::regclass t
    FROM pg_class c
    WHERE c.relnamespace IN ('quorum'::regnamespace, 'quorum_shadow'::regnamespace)
      AND c.relkind = 'r'
      AND c.relowner <> 'quorum_owner'::regrole
  LOOP
    EXECUTE format('ALTER TABLE %s OWNER TO quorum_owner', o.t);
  END LOOP;
  FOR o IN
    SELECT p.oid::regprocedure f, p.pronamespace = 'quorum'::regnamespace ours
    FROM pg_proc p
    WHERE p.pronamespace IN ('quorum'::regnamespace, 'quorum_shadow'::regnamespace)
      AND p.proname !~ '^(run|equip) '
  LOOP
    EXECUTE format(
      'ALTER FUNCTION %s OWNER TO quorum_owner; REVOKE ALL ON FUNCTION %s FROM PUBLIC; GRANT EXECUTE ON FUNCTION %s TO quorum_txn',
      o.f, o.f, o.f);
  END LOOP;
  -- What the connection of a client calls, and what those who make triggers must be allowed to. (What applies rows and
  -- checks keys runs with the caller's rights.)
  FOR o IN
    SELECT p.oid::regprocedure f
    FROM pg_proc p
    WHERE (p.pronamespace = 'quorum_shadow'::regnamespace AND p.proname !~ '^(run|equip) ')
      OR (p.pronamespace = 'quorum'::regnamespace AND p.proname IN (
        'before_statement', 'on_ddl', 'normalise', 'stripe_of', 'granules_of', 'base', 'plain', 'shape', 'looks',
        'stand_of', 'closed', 'everything_at', 'hello', 'beyond', 'versions', 'stripes', 'undo',
        'write_floor', 'set_write_floor', 'immediate', 'seal', 'uncovered', 'after_others', 'ddl', 'keep_ddl',
        'track', 'shadow', 'equip', 'bare', 'make_all', 'sequences', 'in_class', 'no_classes', 'classify',
        'before_setval', 'after_setval', 'restart', 'made', 'as_text', 'works_for'
      ))
  LOOP
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO quorum_app, quorum_lead', o.f);
  END LOOP;
  GRANT SELECT ON quorum.tracked, quorum.self, quorum.dial TO quorum_app, quorum_lead;
END $$;
ALTER DEFAULT PRIVILEGES FOR ROLE quorum_owner IN SCHEMA quorum_shadow
  GRANT EXECUTE ON FUNCTIONS TO quorum_txn, quorum_app, quorum_lead;

-- Lets a role use pg-quorum, and run DDL through it: on the other replicas that runs in a function of the role's own,
-- whoever's driver brings it there, and what a table needs from its owner is done by another. None for superusers:
-- whoever may act as quorum_txn can call them. SECURITY DEFINER forbids SET ROLE.
CREATE OR REPLACE FUNCTION pg_temp.register(who text, application bool) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  run text := quorum.made('run', who);
  equip text := quorum.made('equip', who);
BEGIN
  IF to_regrole(quote_ident(who)) IS NULL THEN
    RAISE EXCEPTION 'there is no role "%" on this server: create it first (CREATE ROLE %)', who, quote_ident(who);
  END IF;
  IF (SELECT rolsuper FROM pg_roles WHERE rolname = who) THEN RETURN; END IF;
  IF application AND NOT pg_has_role(who, 'quorum_app', 'USAGE') THEN
    EXECUTE format('GRANT quorum_app TO %I', who);
  END IF;
  IF NOT pg_has_role(who, 'quorum_lead', 'USAGE') THEN
    EXECUTE format('GRANT quorum_lead TO %I', who);
  END IF;
  IF NOT pg_has_role(who, 'quorum_lead', 'USAGE') THEN
    RAISE EXCEPTION
      'the role "%" is NOINHERIT, so it gains nothing by being a member of quorum_lead: ALTER ROLE % INHERIT',
      who, quote_ident(who);
  END IF;
  EXECUTE format($f$
    CREATE OR REPLACE FUNCTION %s(statement text, path text)
      RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
    BEGIN
      PERFORM set_config('search_path', path, true);
      EXECUTE statement;
      PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
      PERFORM quorum.classify();
    END $body$ $f$, run);
  EXECUTE format($f$
    CREATE OR REPLACE FUNCTION %s()
      RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
    BEGIN PERFORM quorum.equip(); END $body$ $f$, equip);
  EXECUTE format(
    'ALTER FUNCTION %1$s(text, text) OWNER TO %3$I; ALTER FUNCTION %2$s() OWNER TO %3$I; REVOKE ALL ON FUNCTION %1$s(text, text), %2$s() FROM PUBLIC;
    GRANT EXECUTE ON FUNCTION %1$s(text, text) TO quorum_txn; GRANT EXECUTE ON FUNCTION %2$s() TO quorum_txn, quorum_app, quorum_lead',
    run, equip, who);
END $$;
