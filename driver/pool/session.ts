/**
 * What a client's session on its lead has come to differ in from the driver's own sessions: its search_path,
 * temporary tables, channels.
 */
import type pg from 'pg'
import type { LockRequest } from '../protocol/locks.ts'
import { SQL } from '../replica/statements.ts'
import { readsOf } from '../sql/infer.ts'
import type { Statement } from '../sql/statement.ts'

export class SessionState {
  /** The channels may be others than before. */
  listens = false
  /** How many statements have run here that may have changed what names mean. */
  changes = 0
  /**
   * The statement that is running is not one of them: it changed a row of a plain table, where nothing of the
   * application's runs.
   */
  harmless = false
  /** The open transaction has one, and its end may change it back. */
  #changed = false
  #path = false
  #temporary = false
  readonly #own: (text: string, values: unknown[]) => Promise<pg.QueryResult>

  constructor(own: (text: string, values: unknown[]) => Promise<pg.QueryResult>) {
    this.#own = own
  }

  unsure(inTransaction = false): void {
    this.changes++
    this.#changed = inTransaction
  }

  /** All of these have run, as one string, and a transaction is open now, or not. */
  ran(
    [statement, another]: readonly Statement[],
    inTransaction: boolean,
    builtIns: ReadonlySet<string> = new Set(),
  ): void {
    const { harmless } = this
    this.harmless = false
    if (statement && !another && ['commit', 'rollback', 'savepoint'].includes(statement.kind)) {
      if (this.#changed) this.changes++
      this.#changed &&= statement.kind === 'savepoint'
    } else if (!statement || another || (statement.kind !== 'begin' && !harmless && !readsOf(statement, builtIns)))
      this.unsure(inTransaction)
  }

  /** A statement that only concerns the session has run. */
  saw({ text }: Statement): void {
    if (/search_path|\bschema\b|reset\s+all|discard/i.test(text)) this.#path = true
    if (/^\s*(un)?listen\b|^\s*discard\b/i.test(text)) this.listens = true
  }

  /** Before a statement: DDL on temporary tables is this session's own, and nothing of it is carried to the others. */
  async isTemporary(statement: Statement): Promise<boolean> {
    if (statement.temporary) this.#temporary = true
    if (statement.kind !== 'ddl' || !this.#temporary || !statement.names?.length) return false
    return ((await this.#own(SQL.temporary, [statement.names])).rows[0] as { r: boolean }).r
  }

  /**
   * As the lead understands these names, where search_path was set: the other members' sessions would understand
   * others.
   */
  async named(requests: readonly LockRequest[]): Promise<readonly LockRequest[]> {
    const names = [...new Set(requests.map((r) => r.t).filter((t) => t !== '*' && !t.startsWith('@')))]
    if (!this.#path || names.length === 0) return requests
    const known = ((await this.#own(SQL.qualify, [names])).rows[0] as { r: Record<string, string> }).r
    return requests.map((r) => ({ ...r, t: known[r.t] ?? r.t }))
  }

  /** The tables in their texts, in the same way. */
  async tables(statements: readonly Statement[]): Promise<readonly string[]> {
    return (
      await this.named(
        [...new Set(statements.flatMap((s) => s.tables.map((use) => use.table)))].map((t) => ({ t, w: true })),
      )
    ).map((r) => r.t)
  }

  /**
   * With the tables that lie behind these, which may be views: for what is read as a stream, and cannot be read
   * again.
   */
  async withBeneath(requests: readonly LockRequest[]): Promise<readonly LockRequest[]> {
    const names = requests.map((r) => r.t).filter((t) => t !== '*')
    if (names.length === 0) return requests
    return [
      ...requests,
      ...((await this.#own(SQL.beneath, [names])).rows[0] as { r: string[] }).r.map((t) => ({ t, w: false })),
    ]
  }

  /** RESET ALL inside a transaction would also reset what capture has noted there (schema/capture.sql). */
  async keeping<T>(resetting: () => Promise<T>): Promise<T> {
    const {
      rows: [kept],
    } = await this.#own(
      `
        SELECT coalesce(current_setting('quorum.segment', true), '') AS segment,
          coalesce(current_setting('quorum.unsaid', true), '') AS unsaid`,
      [],
    )
    const { segment, unsaid } = kept as { segment: string; unsaid: string }
    const result = await resetting()
    await this.#own("SELECT set_config('quorum.segment', $1, true), set_config('quorum.unsaid', $2, true)", [
      segment,
      unsaid,
    ])
    return result
  }

  async channels(): Promise<string[]> {
    this.listens = false
    return ((await this.#own(SQL.channels, [])).rows[0] as { r: string[] }).r
  }
}
