-- DDL inside a function, a procedure or DO: the text of the statement that was sent does not show it
-- (docs/protocol.md, section 11).

-- Fires after each DDL command on the lead (followers apply in the replica role, where it does not). A command inside
-- PL/pgSQL is carried like one that was sent: its text is in the call stack. Any other is left to the driver, which
-- says quorum.ddl() for what it sees; seal refuses what nobody said.
CREATE OR REPLACE FUNCTION quorum.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
  stack pg_catalog.text;
  sent pg_catalog.bool;
  statement pg_catalog.text;
  temporary pg_catalog.bool;
  path pg_catalog.text := pg_catalog.current_setting('search_path');
BEGIN
  -- what the user's path puts before pg_catalog is not for us
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  <<said>> BEGIN
    EXIT said WHEN current_setting('quorum.own', true) = 'on'
      OR coalesce(current_setting('quorum.cover', true), '') = '';
    EXIT said WHEN (TG_EVENT = 'sql_drop') <> (TG_TAG LIKE 'DROP %');  -- ALTER TABLE … DROP COLUMN is both
    IF TG_EVENT = 'sql_drop' THEN
      SELECT bool_and(d.is_temporary) INTO temporary
        FROM pg_event_trigger_dropped_objects() d
        WHERE d.original;
    ELSE
      SELECT bool_and(c.schema_name IS NOT DISTINCT FROM 'pg_temp') INTO temporary
        FROM pg_event_trigger_ddl_commands() c
        WHERE NOT c.in_extension;
    END IF;
    EXIT said WHEN temporary IS NULL;  -- IF NOT EXISTS, or a part of CREATE EXTENSION
    GET DIAGNOSTICS stack = PG_CONTEXT;
    sent := position(E'\n' IN stack) = 0;
    IF temporary THEN
      IF sent THEN PERFORM set_config('quorum.temporary', 'on', true); END IF;
      EXIT said;
    END IF;
    statement := substring(stack FROM E'^[^\n]*?\nSQL statement "(.*?)"\nPL/pgSQL function ');
    IF statement IS NULL THEN
      PERFORM set_config('quorum.unsaid', TG_TAG, true), set_config('quorum.temporary', '', true);
    ELSE
      PERFORM set_config('quorum.cover', 'infer', true), quorum.ddl(statement, path);
    END IF;
  END said;
  PERFORM set_config('search_path', path, true);
END $$;

DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'quorum_ddl') THEN
    CREATE EVENT TRIGGER quorum_ddl ON ddl_command_end EXECUTE FUNCTION quorum.on_ddl();
    CREATE EVENT TRIGGER quorum_drop ON sql_drop EXECUTE FUNCTION quorum.on_ddl();
  END IF;
END $$;
