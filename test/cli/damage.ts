/** Damage to plant on one server behind the driver, what verify must say of it, and how to take it back. */
import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { Finding } from '../../driver/repair/verdict.ts'
import { ask, type TestServer } from '../servers.ts'

export interface Damage {
  readonly what: string
  /** Which server; the lead of most writers is 0. */
  readonly on: number
  plant(s: TestServer): Promise<unknown>
  undo(s: TestServer): Promise<unknown>
  /** Each must be found, with that server in the minority. */
  readonly says: readonly Partial<Record<'kind' | 'object' | 'key' | 'says', string | RegExp>>[]
  /** Kinds that may be said besides, as what follows from it. */
  readonly also?: readonly string[]
  /** Drivers in use would repair it, or be stopped by it: planted when there are none. */
  readonly quiet?: true
}

const behind = async (s: TestServer, text: string): Promise<unknown> =>
  ask(s, `BEGIN; SET LOCAL quorum.bypass = 'on'; SET LOCAL session_replication_role = replica; ${text}; COMMIT`)
const rows = (
  what: string,
  on: number,
  key: string,
  says: RegExp,
  plant: string,
  undo: string,
  table = 'public.accounts',
): Damage => ({
  what,
  on,
  plant: (s) => behind(s, plant),
  undo: (s) => behind(s, undo),
  says: [{ kind: 'row', object: table, key, says }],
})
const sql = (
  what: string,
  on: number,
  says: Damage['says'],
  plant: string,
  undo: string,
  more: Partial<Damage> = {},
): Damage => ({ what, on, plant: (s) => ask(s, plant), undo: (s) => ask(s, undo), says, ...more })
/** Takes a row of the log out, or changes it, and keeps the old one in a table that verify does not look at. */
const log = (
  what: string,
  on: number,
  says: Damage['says'],
  table: string,
  where: string,
  change: string,
  more: Partial<Damage> = {},
): Damage => ({
  what,
  on,
  says,
  ...more,
  plant: (s) =>
    ask(s, `CREATE TABLE quorum_shadow.kept AS SELECT * FROM quorum.${table} WHERE ${where}; ${change} WHERE ${where}`),
  undo: (s) =>
    ask(
      s,
      `BEGIN; DELETE FROM quorum.${table} x USING quorum_shadow.kept k WHERE ${table === 'changeset' || table === 'applied' ? 'x.gid = k.gid' : `x.t = k.t AND x.n = k.n${table === 'stripe' ? '' : ' AND x.version = k.version'}`}; INSERT INTO quorum.${table} SELECT * FROM quorum_shadow.kept; DROP TABLE quorum_shadow.kept; COMMIT`,
    ),
})

const of = (id: number): string => `t = 'public.accounts' AND n = quorum.stripe_of('{${id}}')`
/**
 * The stripe of account 80, which nobody writes any more; that of 81 was written three times; 71 was written while
 * 70 was read.
 */
const gidOf = (id: number): string => `(SELECT gid FROM quorum.history WHERE ${of(id)} ORDER BY version DESC LIMIT 1)`

export const TABLES = [
  'CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0))',
  'INSERT INTO accounts SELECT g, 1000 FROM generate_series(1, 100) g',
  'CREATE TABLE notes (a int, b text, body text DEFAULT $$none$$, f float8, PRIMARY KEY (a, b))',
  "INSERT INTO notes SELECT g, 'k, ' || g, repeat('abcdefgh', 1000), 0 FROM generate_series(1, 20) g",
  'CREATE TABLE plain (a int, b text)',
  "INSERT INTO plain SELECT g % 5, 'x' FROM generate_series(1, 20) g",
  'CREATE TABLE numbered (id bigserial PRIMARY KEY, at int)',
  'INSERT INTO numbered (at) SELECT g FROM generate_series(1, 5) g',
  'CREATE INDEX numbered_at ON numbered (at)',
  'CREATE VIEW rich AS SELECT * FROM accounts WHERE balance > 5',
  'CREATE FUNCTION twice(x int) RETURNS int LANGUAGE sql AS $$ SELECT 2 * x $$',
  "CREATE TYPE mood AS ENUM ('fine', 'bad')",
  'UPDATE accounts SET balance = 1001 WHERE id = 80',
  ...[1, 2, 3].map((n) => `UPDATE accounts SET balance = ${1000 + n} WHERE id = 81`),
]

export const DAMAGE: readonly Damage[] = [
  rows(
    'a changed number',
    2,
    'id=60',
    /another one/,
    'UPDATE accounts SET balance = 1 WHERE id = 60',
    'UPDATE accounts SET balance = 1000 WHERE id = 60',
  ),
  rows(
    'one byte of a long text',
    1,
    'a=7, b=k, 7',
    /another one/,
    "UPDATE notes SET body = overlay(body placing 'X' from 5003 for 1) WHERE a = 7",
    "UPDATE notes SET body = overlay(body placing 'c' from 5003 for 1) WHERE a = 7",
    'public.notes',
  ),
  rows(
    'a missing row',
    2,
    'id=61',
    /is missing/,
    'DELETE FROM accounts WHERE id = 61',
    'INSERT INTO accounts VALUES (61, 1000)',
  ),
  rows(
    'an extra row',
    0,
    'id=777',
    /there only/,
    'INSERT INTO accounts VALUES (777, 5)',
    'DELETE FROM accounts WHERE id = 777',
  ),
  {
    ...rows(
      'a changed key',
      1,
      'id=62',
      /is missing/,
      'UPDATE accounts SET id = 762 WHERE id = 62',
      'UPDATE accounts SET id = 62 WHERE id = 762',
    ),
    says: [
      { kind: 'row', key: 'id=62', says: /missing/ },
      { kind: 'row', key: 'id=762', says: /there only/ },
    ],
  },
  {
    ...rows(
      'two rows that changed places',
      2,
      '',
      /./,
      'UPDATE accounts SET balance = CASE id WHEN 80 THEN 1003 ELSE 1001 END WHERE id IN (80, 81)',
      'UPDATE accounts SET balance = CASE id WHEN 80 THEN 1001 ELSE 1003 END WHERE id IN (80, 81)',
    ),
    says: [
      { kind: 'row', key: 'id=80' },
      { kind: 'row', key: 'id=81' },
    ],
  },
  rows(
    'minus zero for zero',
    2,
    'a=3, b=k, 3',
    /another one/,
    "UPDATE notes SET f = '-0' WHERE a = 3",
    'UPDATE notes SET f = 0 WHERE a = 3',
    'public.notes',
  ),
  rows(
    'null for a value',
    2,
    'a=4, b=k, 4',
    /another one/,
    'UPDATE notes SET f = NULL WHERE a = 4',
    'UPDATE notes SET f = 0 WHERE a = 4',
    'public.notes',
  ),
  rows(
    'one more of a row without a key',
    2,
    '(3,x)',
    /another one/,
    "INSERT INTO plain VALUES (3, 'x')",
    'DELETE FROM plain WHERE ctid = (SELECT max(ctid) FROM plain WHERE a = 3)',
    'public.plain',
  ),
  log(
    'a changed changeset',
    2,
    [{ kind: 'changeset', says: /was changed/ }],
    'changeset',
    `gid = ${gidOf(80)}`,
    "UPDATE quorum.changeset SET body = replace(body, '1001', '1002')",
  ),
  log(
    'a missing changeset',
    1,
    [{ kind: 'changeset', says: /is missing/ }],
    'changeset',
    `gid = ${gidOf(80)}`,
    'DELETE FROM quorum.changeset',
  ),
  log(
    'a changed gid in the history',
    2,
    [
      { kind: 'chain', object: /^public.accounts stripe \d+$/, says: /history gives/ },
      { kind: 'applied', says: /not among/ },
    ],
    'history',
    `${of(80)} AND version = 2`,
    "UPDATE quorum.history SET gid = translate(gid, '0123', '1230')",
    { also: ['history', 'changeset'] },
  ),
  log(
    'a hole in the history',
    2,
    [{ kind: 'history', says: /has \d of the versions/ }],
    'history',
    `${of(81)} AND version = 3`,
    'DELETE FROM quorum.history',
    { also: ['history'] },
  ),
  log(
    'a history without its end',
    1,
    [{ kind: 'history', says: /ends at/ }],
    'history',
    `${of(81)} AND version = 4`,
    'DELETE FROM quorum.history',
    { also: ['history'] },
  ),
  log(
    'a commit that is not listed',
    2,
    [{ kind: 'applied', says: /not among/ }],
    'applied',
    `gid = ${gidOf(81)}`,
    'DELETE FROM quorum.applied',
  ),
  log(
    'a wrong chain',
    1,
    [{ kind: 'chain', object: /^public.accounts stripe \d+$/, says: /another history/ }],
    'stripe',
    of(80),
    'UPDATE quorum.stripe SET chain = chain + 1',
  ),
  log(
    'a wrong version',
    2,
    [{ kind: 'history', says: /stands at version 3/ }],
    'stripe',
    of(80),
    'UPDATE quorum.stripe SET version = version + 1',
    { also: ['behind'] },
  ),
  log(
    'a missing version',
    2,
    [{ kind: 'history', says: /no version/ }],
    'stripe',
    of(80),
    'DELETE FROM quorum.stripe',
    { also: ['behind'] },
  ),
  log('a missing read mark', 2, [{ kind: 'read mark', says: /lacks/ }], 'mark', of(70), 'DELETE FROM quorum.mark'),
  sql(
    'an invented read mark',
    1,
    [{ kind: 'read mark', says: /not applied/ }],
    `INSERT INTO quorum.mark SELECT t, n, version, 'quorum_x' FROM quorum.stripe WHERE ${of(80)}`,
    "DELETE FROM quorum.mark WHERE gid = 'quorum_x'",
  ),
  sql(
    'a ballot that cannot be',
    2,
    [{ kind: 'ballot' }],
    "INSERT INTO quorum.ballot VALUES ('quorum_y', 1, '', 2, 'abort')",
    "DELETE FROM quorum.ballot WHERE gid = 'quorum_y'",
  ),
  sql(
    'a missing trigger',
    2,
    [{ kind: 'trigger', object: 'quorum_update on public.notes', says: 'is missing' }],
    'DROP TRIGGER quorum_update ON notes',
    'SELECT quorum.track()',
  ),
  sql(
    'a disabled trigger',
    1,
    [{ kind: 'trigger', object: 'quorum_before on public.notes', says: /not enabled/ }],
    'ALTER TABLE notes DISABLE TRIGGER quorum_before',
    'ALTER TABLE notes ENABLE TRIGGER quorum_before',
  ),
  sql(
    'a changed function of the protocol',
    2,
    [{ kind: 'function', object: /quorum\.owner_alive/ }],
    'ALTER FUNCTION quorum.owner_alive(text) STABLE',
    'ALTER FUNCTION quorum.owner_alive(text) VOLATILE',
  ),
  sql(
    'a changed function made for a table',
    1,
    [{ kind: 'function', object: /apply public\.notes/ }],
    'CREATE OR REPLACE FUNCTION quorum_shadow."apply public.notes"(olds text[], news text[]) RETURNS void LANGUAGE sql AS $$ $$',
    'DROP FUNCTION quorum_shadow."apply public.notes"(text[], text[]); SELECT quorum.track()',
  ),
  sql(
    'a function made for a table is gone',
    1,
    [{ kind: 'function', object: /rows public\.notes/, says: 'is missing' }],
    'DROP FUNCTION quorum_shadow."rows public.notes"(text, bigint, jsonb)',
    'SELECT quorum.track()',
  ),
  sql(
    'a table that is not tracked',
    2,
    [{ kind: 'table', object: 'public.stray', says: /not tracked/ }],
    'CREATE TABLE stray (a int)',
    'DROP TABLE stray',
    { also: ['table', 'column'] },
  ),
  sql(
    'a missing index',
    2,
    [{ kind: 'index', object: 'public.numbered_at', says: 'is missing' }],
    'DROP INDEX numbered_at',
    'CREATE INDEX numbered_at ON public.numbered USING btree (at)',
  ),
  sql(
    'another default',
    1,
    [{ kind: 'column', object: 'public.notes.body' }],
    "ALTER TABLE notes ALTER body SET DEFAULT 'some'",
    "ALTER TABLE notes ALTER body SET DEFAULT 'none'",
  ),
  sql(
    'a missing constraint',
    2,
    [{ kind: 'constraint', object: 'accounts_balance_check on public.accounts' }],
    'ALTER TABLE accounts DROP CONSTRAINT accounts_balance_check',
    'ALTER TABLE accounts ADD CONSTRAINT accounts_balance_check CHECK (balance >= 0)',
  ),
  sql(
    'another view',
    2,
    [{ kind: 'view', object: 'public.rich' }],
    'CREATE OR REPLACE VIEW rich AS SELECT * FROM accounts WHERE balance > 6',
    'CREATE OR REPLACE VIEW rich AS SELECT * FROM accounts WHERE balance > 5',
  ),
  sql(
    'another function of the user',
    2,
    [{ kind: 'function', object: /twice/ }],
    'CREATE OR REPLACE FUNCTION twice(x int) RETURNS int LANGUAGE sql AS $$ SELECT 3 * x $$',
    'CREATE OR REPLACE FUNCTION twice(x int) RETURNS int LANGUAGE sql AS $$ SELECT 2 * x $$',
  ),
  sql(
    'another value of an enum',
    1,
    [{ kind: 'type', object: 'public.mood' }],
    "ALTER TYPE mood RENAME VALUE 'bad' TO 'sad'",
    "ALTER TYPE mood RENAME VALUE 'sad' TO 'bad'",
  ),
  sql(
    'a sequence with another stride',
    2,
    [{ kind: 'sequence', object: 'public.numbered_id_seq' }],
    'ALTER SEQUENCE numbered_id_seq INCREMENT BY 1',
    'ALTER SEQUENCE numbered_id_seq INCREMENT BY 3',
  ),
  sql(
    'captured rows left over',
    2,
    [{ kind: 'captured rows', object: 'public.plain' }],
    "INSERT INTO quorum.capture VALUES ('3', 0, 'public.plain', -1, '(1,x)', 1)",
    'DELETE FROM quorum.capture',
  ),
  sql(
    'triggers switched off by a setting',
    1,
    [{ kind: 'setting', object: 'session_replication_role' }],
    'ALTER DATABASE postgres SET session_replication_role = replica',
    'ALTER DATABASE postgres RESET session_replication_role',
    { quiet: true },
  ),
  sql(
    'another epoch',
    2,
    [{ kind: 'membership' }],
    'UPDATE quorum.self SET epoch = 9',
    'UPDATE quorum.self SET epoch = 1',
    { quiet: true },
  ),
  sql(
    'a missing shadow relation',
    2,
    [{ kind: 'tracked table', object: 'public.plain', says: /no shadow/ }],
    'DROP TABLE quorum_shadow."table public.plain"',
    'CREATE TABLE quorum_shadow."table public.plain" ()',
    { quiet: true },
  ),
  sql(
    'a prepared transaction without a changeset',
    1,
    [{ kind: 'prepared transaction', object: 'quorum_z' }],
    "BEGIN; SET LOCAL ROLE quorum_txn; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'quorum_z'",
    "ROLLBACK PREPARED 'quorum_z'",
    { quiet: true },
  ),
  {
    what: 'a byte flipped in the file of a table',
    on: 2,
    quiet: true,
    says: [{ object: 'public.notes', kind: /row|unreadable/ }],
    plant: (s) => onDisk(s, 'k, 9', 'k, 8'),
    undo: (s) => onDisk(s, 'k, 8', 'k, 9'),
  },
]

/**
 * Turns the last byte of the first `from` into that of `to`, while the server is down. (A short text; the page
 * keeps its checksum.)
 */
let place = -1
async function onDisk(s: TestServer, from: string, to: string): Promise<void> {
  await ask(s, 'CHECKPOINT')
  const [file] = await ask(s, "SELECT current_setting('data_directory') AS dir, pg_relation_filepath('notes') AS path")
  await s.stop()
  const fd = openSync(join(String(file?.['dir']), String(file?.['path'])), 'r+')
  const page = Buffer.alloc(8192)
  readSync(fd, page, 0, page.length, 0)
  if (place < 0) place = page.indexOf(from)
  if (place < 0 || page.indexOf(from, place) !== place) throw new Error(`"${from}" is not at ${place}`)
  writeSync(fd, to, place)
  closeSync(fd)
  await s.start()
}

export const fits = (f: Finding, says: Damage['says'][number], replica: string): boolean =>
  Object.entries(says).every(([k, v]) => (v instanceof RegExp ? v.test(f[k as 'kind'] ?? '') : f[k as 'kind'] === v)) &&
  (f.replicas.length === 1 ? f.replicas[0] === replica : f.kind === 'sequence')
