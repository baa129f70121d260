-- DDL inside a function, a procedure or DO: the text of the statement that was sent does not show it (docs/protocol.md, section 11).

-- Fires after each DDL command on the lead (followers apply in the replica role, where it does not). A command inside PL/pgSQL is carried like one that
-- was sent: its text is in the call stack. Any other is left to the driver, which says quorum.ddl() for what it sees; seal refuses what nobody said.
CREATE OR REPLACE FUNCTION quorum.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE stack text; sent bool; statement text; temporary bool;
BEGIN
  IF current_setting('quorum.own', true) = 'on' OR coalesce(current_setting('quorum.cover', true), '') = '' THEN RETURN; END IF;
  IF (TG_EVENT = 'sql_drop') <> (TG_TAG LIKE 'DROP %') THEN RETURN; END IF;  -- ALTER TABLE … DROP COLUMN is both
  IF TG_EVENT = 'sql_drop' THEN SELECT bool_and(d.is_temporary) INTO temporary FROM pg_event_trigger_dropped_objects() d WHERE d.original;
  ELSE SELECT bool_and(c.schema_name IS NOT DISTINCT FROM 'pg_temp') INTO temporary FROM pg_event_trigger_ddl_commands() c WHERE NOT c.in_extension; END IF;
  IF temporary IS NULL THEN RETURN; END IF;  -- IF NOT EXISTS, or a part of CREATE EXTENSION
  GET DIAGNOSTICS stack = PG_CONTEXT;
  sent := position(E'\n' IN stack) = 0;
  IF temporary THEN
    IF sent THEN PERFORM set_config('quorum.temporary', 'on', true); END IF;
    RETURN;
  END IF;
  statement := substring(stack FROM E'^[^\n]*?\nSQL statement "(.*?)"\nPL/pgSQL function ');
  IF statement IS NULL THEN PERFORM set_config('quorum.unsaid', TG_TAG, true), set_config('quorum.temporary', '', true);
  ELSE PERFORM set_config('quorum.cover', 'infer', true), quorum.ddl(statement, current_setting('search_path'));
  END IF;
END $$;

DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'quorum_ddl') THEN
    CREATE EVENT TRIGGER quorum_ddl ON ddl_command_end EXECUTE FUNCTION quorum.on_ddl();
    CREATE EVENT TRIGGER quorum_drop ON sql_drop EXECUTE FUNCTION quorum.on_ddl();
  END IF;
END $$;
