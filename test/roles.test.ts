/**
 * Who may do what (docs/decisions/0007): nobody here but `init` is a superuser. A role that runs migrations, one
 * that has only some rights on some columns, row-level security and users' SECURITY DEFINER functions are to act as
 * on one server; the protocol's own tables are closed.
 */
import { expect } from 'chai'
import pg from 'pg'
import { Pool } from '../driver/index.ts'
import { init } from '../driver/schema/install.ts'
import { failure, settled, until } from './cluster.ts'
import { ask, destroyAll, threeServers, type TestServer } from './servers.ts'

describe('roles', () => {
  let servers: TestServer[]
  const pools: Pool[] = []
  const urls = (role: string): string[] => servers.map((s) => s.url.replace('//postgres@', `//${role}@`))
  const as = (role: string): Pool => {
    const pool = new Pool({ replicas: urls(role), max: 3 })
    pools.push(pool)
    return pool
  }
  const everywhere = (text: string): Promise<unknown> => Promise.all(servers.map((s) => ask(s, text)))
  const on = async (role: string, text: string): Promise<Error & { code?: string }> =>
    failure(ask({ url: urls(role)[0]! }, text))
  let migrator: Pool
  let app: Pool

  before(async function () {
    this.timeout(60_000)
    servers = await threeServers()
    await everywhere(
      'CREATE ROLE migrator LOGIN CREATEROLE; CREATE ROLE app LOGIN; CREATE ROLE stranger LOGIN; CREATE ROLE auditor NOLOGIN; ALTER DATABASE postgres OWNER TO migrator',
    )
    await init(
      servers.map((s) => ({ connectionString: s.url })),
      servers.map((s) => s.url),
      ['migrator', 'app'],
    )
    migrator = as('migrator')
    app = as('app')
    await migrator.query(`
      CREATE TABLE accounts (id serial PRIMARY KEY, owner text NOT NULL, balance int NOT NULL DEFAULT 0, secret text);
      CREATE TABLE audit (id bigint GENERATED ALWAYS AS IDENTITY, what text, who text DEFAULT current_user);
      GRANT SELECT (id, owner, balance), INSERT (owner, balance), UPDATE (balance) ON accounts TO app;
      GRANT USAGE ON SEQUENCE accounts_id_seq TO app;
      CREATE FUNCTION note(what text) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = public AS 'INSERT INTO audit (what) VALUES (what)';
      CREATE TABLE notes (id int PRIMARY KEY, owner text, t text); ALTER TABLE notes ENABLE ROW LEVEL SECURITY; ALTER TABLE notes FORCE ROW LEVEL SECURITY;
      CREATE POLICY own ON notes USING (owner = current_user) WITH CHECK (owner = current_user); GRANT ALL ON notes TO app`)
  })
  after(async () => {
    await Promise.all(pools.map((p) => p.end()))
    await destroyAll(servers)
  })

  it('an application with rights on some columns writes what it may, and nothing else', async () => {
    await app.query("INSERT INTO accounts (owner, balance) VALUES ('a', 10)")
    await app.query('UPDATE accounts SET balance = balance + 1 WHERE id = (SELECT min(id) FROM accounts)')
    expect((await app.query('SELECT owner, balance FROM accounts')).rows).deep.equal([{ owner: 'a', balance: 11 }])
    for (const text of [
      "UPDATE accounts SET secret = 'x'",
      'SELECT secret FROM accounts',
      'DELETE FROM accounts',
      'TRUNCATE accounts',
      'SELECT * FROM audit',
      'ALTER TABLE accounts ADD x int',
      'DROP TABLE audit',
    ])
      expect((await failure(app.query(text))).code, text).equal('42501')
    await settled(servers)
  })

  it('a SECURITY DEFINER function of the users acts as its owner', async () => {
    await app.query("SELECT note('seen')")
    expect((await migrator.query('SELECT what, who FROM audit')).rows).deep.equal([{ what: 'seen', who: 'migrator' }])
  })

  it('row-level security, also FORCE: the client sees its own rows; the replicas, and TRUNCATE, all of them', async () => {
    await migrator.query("INSERT INTO notes VALUES (1, 'migrator', 'mine')")
    await app.query("INSERT INTO notes VALUES (2, 'app', 'ours')")
    expect((await app.query('SELECT id FROM notes')).rows).deep.equal([{ id: 2 }])
    expect((await failure(app.query("INSERT INTO notes VALUES (3, 'migrator', 'not mine')"))).code).equal('42501')
    expect((await app.query("UPDATE notes SET t = 'changed'")).rowCount).equal(1)
    await settled(servers)
    expect(await Promise.all(servers.map((s) => ask(s, 'SELECT id FROM notes ORDER BY id')))).deep.equal(
      servers.map(() => [{ id: 1 }, { id: 2 }]),
    )
    await migrator.query('TRUNCATE notes')
    await settled(servers)
  })

  it('deferred triggers run as the user, and see no more than the user', async () => {
    await migrator.query(`CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF current_user <> 'app' THEN RAISE EXCEPTION 'as %', current_user; END IF; PERFORM FROM audit; RETURN NULL; END $$;
      CREATE TABLE late (id int PRIMARY KEY); GRANT ALL ON late TO app; CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()`)
    await settled(servers)
    const error = await failure(app.query('INSERT INTO late VALUES (1)'))
    expect([error.code, error.message]).deep.equal(['42501', 'permission denied for table audit'])
    await migrator.query('DROP TABLE late; DROP FUNCTION late')
  })

  it('what DDL makes belongs to whoever made it, on every replica', async () => {
    await migrator.query('CREATE TABLE made (id int); CREATE VIEW seen AS SELECT 1 AS one; CREATE ROLE made_here')
    await settled(servers)
    const text =
      "SELECT relname::text, pg_get_userbyid(relowner)::text AS owner FROM pg_class WHERE relname IN ('made', 'seen') ORDER BY 1"
    expect(await Promise.all(servers.map((s) => ask(s, text)))).deep.equal(
      servers.map(() => [
        { relname: 'made', owner: 'migrator' },
        { relname: 'seen', owner: 'migrator' },
      ]),
    )
    expect(
      await Promise.all(
        servers.map((s) => ask(s, "SELECT FROM pg_roles WHERE rolname = 'made_here'").then((r) => r.length)),
      ),
    ).deep.equal([1, 1, 1])
  })

  it('a password in DDL is refused, and stands in no log of changesets', async () => {
    for (const text of [
      "CREATE ROLE secretive LOGIN PASSWORD 'canary7'",
      "/* x */ ALTER USER made_here\n ENCRYPTED PASSWORD 'canary7'",
    ]) {
      const error = await failure(migrator.query(text))
      expect([error.code, error.message.includes('canary7')], text).deep.equal(['0A000', false])
    }
    await migrator.query('ALTER ROLE made_here PASSWORD NULL')
    await migrator.query('CREATE TABLE user_password (role text, password text)')
    expect(
      await Promise.all(
        servers.map((s) => ask(s, "SELECT FROM quorum.changeset WHERE body LIKE '%canary7%'").then((r) => r.length)),
      ),
    ).deep.equal([0, 0, 0])
  })

  it("a laggard gets the migrator's DDL from the application's driver", async () => {
    await servers[2]!.kill()
    await migrator.query('CREATE TABLE while_away (id serial PRIMARY KEY)')
    await Promise.all(
      pools
        .splice(0)
        .filter((p) => p !== app)
        .map((p) => p.end()),
    )
    pools.push(app)
    await servers[2]!.start()
    await until(
      'caught up by the application',
      10_000,
      async () => (await ask(servers[2]!, "SELECT to_regclass('while_away') AS r"))[0]?.['r'] !== null,
    )
    await settled(servers)
    migrator = as('migrator')
  })

  it('a role that is not registered, and one that is not allowed at all, are told what to do', async () => {
    await everywhere('CREATE ROLE half LOGIN; GRANT quorum_app TO half; GRANT CREATE ON SCHEMA public TO half')
    expect((await failure(as('half').query('CREATE TABLE half (id int)'))).message).match(/init --role half/)
    const error = await failure(as('stranger').query('SELECT 1 FROM accounts'))
    expect(error.message).match(/the role stranger may not use pg-quorum.*pg-quorum init --role stranger/)
  })

  it("the protocol's tables and prepared transactions are closed to those who do not become quorum_txn", async () => {
    for (const t of ['changeset', 'applied', 'history', 'stripe', 'mark', 'ballot', 'capture'])
      expect((await on('app', `SELECT * FROM quorum.${t}`)).code, t).equal('42501')
    for (const text of [
      "INSERT INTO quorum.capture (xid, segment) VALUES ('3', 0)",
      'UPDATE quorum.self SET building = true',
      "SELECT quorum.accept('x', 0, '')",
      "SELECT quorum.promise('x', 1, 'me', 'abort')",
      "SELECT quorum.extend('x', '[]', '[]')",
      "SELECT quorum.enter('x', 0, '{}')",
      'SELECT quorum.take(\'[{"t": "*", "n": -1, "w": true}]\')',
      `SELECT quorum_shadow."run migrator"('DROP TABLE accounts', 'public')`,
      'SET ROLE quorum_owner',
      'SET session_replication_role = replica',
      "SET LOCAL quorum.bypass = 'on'; UPDATE accounts SET secret = NULL",
    ])
      expect((await on('app', text)).code, text).equal('42501')
    await ask(
      servers[0]!,
      "BEGIN; SET LOCAL ROLE quorum_txn; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'theirs'",
    )
    expect((await on('app', "ROLLBACK PREPARED 'theirs'")).code).equal('42501')
    const client = new pg.Client(urls('app')[0])
    await client.connect()
    await client.query('SET ROLE quorum_txn')
    await client.query("ROLLBACK PREPARED 'theirs'") // the tension that decision 7 names
    await client.end()
  })

  it('every function and table of ours: its owner, its path, and nothing for PUBLIC', async () => {
    // (what `init` makes for a role is that role's; a function that runs as its owner looks up no name of a user's)
    const LINT = `SELECT f.oid::regprocedure::text AS what, CASE
        WHEN f.proname ~ '^(run|equip) ' AND f.pronamespace = 'quorum_shadow'::regnamespace AND (pg_get_userbyid(f.proowner) NOT IN ('migrator', 'app') OR NOT f.prosecdef) THEN 'is not its role''s'
        WHEN NOT (f.proname ~ '^(run|equip) ') AND f.proowner <> 'quorum_owner'::regrole THEN 'is not quorum_owner''s'
        WHEN f.prosecdef AND NOT 'search_path=pg_catalog, pg_temp' = ANY (coalesce(f.proconfig, '{}')) THEN 'runs as its owner without a pinned path that ends in pg_temp'
        WHEN EXISTS (SELECT FROM aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a WHERE a.grantee = 0) THEN 'may be called by PUBLIC'
        WHEN f.proname LIKE 'run %' AND has_function_privilege('quorum_app', f.oid, 'EXECUTE') THEN 'may be called by applications'
      END AS says FROM pg_proc f WHERE f.pronamespace IN ('quorum'::regnamespace, 'quorum_shadow'::regnamespace)
      UNION ALL SELECT c.oid::regclass::text, CASE WHEN c.relowner <> 'quorum_owner'::regrole THEN 'is not quorum_owner''s' WHEN EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee = 0) THEN 'is open to PUBLIC'
        WHEN has_table_privilege('quorum_app', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') THEN 'may be written by applications' END FROM pg_class c WHERE c.relkind IN ('r', 'S') AND c.relnamespace IN ('quorum'::regnamespace, 'quorum_shadow'::regnamespace)`
    const found = async (): Promise<unknown[]> => ask(servers[0]!, `SELECT * FROM (${LINT}) l WHERE says IS NOT NULL`)
    expect(await found()).deep.equal([])
    await ask(
      servers[0]!,
      "CREATE FUNCTION quorum.planted() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; GRANT SELECT ON quorum.changeset TO PUBLIC",
    )
    expect((await found()).length, 'the control').equal(2)
    await ask(servers[0]!, 'DROP FUNCTION quorum.planted(); REVOKE SELECT ON quorum.changeset FROM PUBLIC')
  })

  it('what somebody else prepares under the name of a transaction has no vote', async () => {
    const gid = `quorum_x_1_y_1_${'0'.repeat(32)}`
    await ask({ url: urls('stranger')[1]! }, `BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION '${gid}'`)
    const replica = app.cluster.replicas[1]!
    expect([(await replica.evidence(gid)).prepared, await replica.present([gid])]).deep.equal([false, []])
    await ask({ url: urls('stranger')[1]! }, `ROLLBACK PREPARED '${gid}'`)
  })

  it("who writes past the driver is refused in words, whatever his rights on pg-quorum's schema", async () => {
    await migrator.query('GRANT ALL ON notes TO stranger')
    await settled(servers)
    for (const text of ["UPDATE notes SET t = 'x'", "SET quorum.bypass = 'on'; UPDATE notes SET t = 'x'"])
      expect((await on('stranger', text)).message).match(/goes round pg-quorum/)
  })

  it("one table's capture function is no trigger for another table", async () => {
    await migrator.query('CREATE TABLE mine (id int, owner text, balance int, secret text)')
    await failure(
      migrator
        .query(
          'CREATE TRIGGER trick AFTER INSERT ON mine REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION quorum_shadow."capture public.accounts"()',
        )
        .then(() => migrator.query("INSERT INTO mine VALUES (99, 'thief', 1000000, '')")),
    )
    expect((await migrator.query("SELECT FROM accounts WHERE owner = 'thief'")).rowCount).equal(0)
    await migrator.query('DROP TABLE mine')
  })
})
