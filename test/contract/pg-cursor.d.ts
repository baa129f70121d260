/** What the tests use of pg-cursor, which brings no types. */
declare module 'pg-cursor' {
  import type { EventEmitter } from 'node:events'
  import type pg from 'pg'
  export default class Cursor<Row = any> extends EventEmitter implements pg.Submittable {
    constructor(text: string, values?: unknown[], config?: { rowMode?: string; types?: pg.CustomTypesConfig })
    submit(connection: pg.Connection): void
    read(rows: number): Promise<Row[]>
    read(
      rows: number,
      callback: (
        error: Error | undefined,
        rows: Row[],
        result: pg.QueryResult<Row extends pg.QueryResultRow ? Row : never>,
      ) => void,
    ): void
    close(): Promise<void>
  }
}
