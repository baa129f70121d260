// The vocabulary of driver/sql: what the text of one statement says about itself.
// Views, functions, triggers, rules, cascades and search_path are invisible in a text: a table
// named here may be a view, and a function named here may write. What a text can never tell at
// all (DO, CALL, EXECUTE, a statement that was not parsed) is marked `opaque`.
// In `key`, a `value` is the literal as written ('007' for id = '007'), not yet in the column's
// type: two spellings of one key must be brought to one form before they are compared.

export type KeyPart = { column: string } & ({ param: number /* 1-based */ } | { value: string })

export interface TableUse {
  /** As written, quotes resolved: 'accounts' or 'bank.accounts'. */
  table: string
  mode: 'read' | 'write'
  /** Every `column = constant` the rows must satisfy; the caller checks it covers the primary key. */
  key?: KeyPart[]
  /** A plain INSERT, and nothing else in the statement touches this table. */
  insertOnly?: true
}

export type Kind =
  | 'read'
  | 'write'
  | 'ddl'
  | 'begin'
  | 'commit'
  | 'rollback'
  | 'savepoint' // SAVEPOINT, RELEASE, ROLLBACK TO
  | 'session' // SET, SHOW, RESET, DISCARD, LISTEN, PREPARE, DEALLOCATE, FETCH, CLOSE, ANALYZE ...
  | 'lock' // LOCK TABLE
  | 'outside' // refuses a transaction block: VACUUM, CREATE INDEX CONCURRENTLY ...
  | 'two-phase' // PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED
  | 'unknown' // not parsed: a syntax error, or too long

export interface Statement {
  kind: Kind
  /** This statement's own slice of the source. */
  text: string
  tables: TableUse[]
  /** Every function called, lower-case, as written: 'f' or 's.f'; also current_timestamp and its like. */
  functions: string[]
  opaque: boolean
  /** Its own text calls setval(), which must reach every member. */
  sets?: true
  lock?: { tables: string[]; mode: 'shared' | 'exclusive' }
  begin?: { readOnly: boolean; isolation?: string; chain?: boolean }
  /** COMMIT AND CHAIN, ROLLBACK AND CHAIN. */
  chain?: boolean
  /** It makes a temporary table, view or sequence. */
  temporary?: true
  /** Of DDL: the tables, views, indexes and sequences that it alters or drops. */
  names?: string[]
  /** DECLARE without HOLD, which PostgreSQL refuses outside a transaction block. */
  inBlock?: true
  /** Refuses a transaction block, but may run member by member; index: the name it makes or drops. */
  outside?: { does: 'each' | 'create' | 'drop'; index?: string; unique?: true }
  /** COPY t FROM. */
  copyFrom?: boolean
}
