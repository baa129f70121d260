-- Who may do what (docs/decisions/0007). Run by a superuser; nobody else needs to be one. Roles are per server, so they
-- may be there already.
DO $$
DECLARE r text;
BEGIN
  FOREACH r IN ARRAY ARRAY['quorum_owner', 'quorum_txn', 'quorum_app', 'quorum_lead'] LOOP
    IF to_regrole(r) IS NULL THEN EXECUTE format('CREATE ROLE %I', r); END IF;
  END LOOP;
END $$;
-- quorum_owner owns what is installed, and what a client's statements set off runs as it. quorum_txn is whom the
-- driver's links act as: every prepared transaction is its, so any driver can finish any. quorum_app (applications) may
-- become it, but does not inherit from it; quorum_lead only leads.
ALTER ROLE quorum_owner NOLOGIN INHERIT BYPASSRLS;
ALTER ROLE quorum_txn NOLOGIN INHERIT BYPASSRLS;
ALTER ROLE quorum_app NOLOGIN NOINHERIT;
ALTER ROLE quorum_lead NOLOGIN INHERIT;
GRANT pg_read_all_data, pg_write_all_data TO quorum_owner, quorum_txn;
GRANT pg_signal_backend TO quorum_txn;
GRANT pg_read_all_stats TO quorum_owner;  -- whose sessions stand still (unheard.sql)
GRANT SET ON PARAMETER session_replication_role TO quorum_owner, quorum_txn;
DO $$
BEGIN  -- NOINHERIT is what it means before PostgreSQL 16, and the default of INHERIT FALSE since
  IF NOT pg_has_role('quorum_app', 'quorum_txn', 'MEMBER') THEN
    GRANT quorum_txn TO quorum_app;
  END IF;
END $$;
ALTER DEFAULT PRIVILEGES FOR ROLE quorum_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
