/**
 * Statements that refuse a transaction block and change no row: VACUUM, REINDEX, CLUSTER, CREATE and DROP INDEX
 * CONCURRENTLY. They run member by member, over connections of their own. An index is at last written into the log
 * (CREATE INDEX IF NOT EXISTS, DROP INDEX IF EXISTS), which a member that was away executes when it catches up.
 * Until then members may have different indexes: only such as decide nothing, so never unique ones.
 */
import pg from 'pg'
import { codeOf, notSupported, QuorumError, sentenceOf } from '../errors.ts'
import { isServersWord } from '../replica/sqlstate.ts'
import type { Replica, Self } from '../replica/replica.ts'
import { SQL } from '../replica/statements.ts'
import { sleep } from '../runtime.ts'
import type { Statement } from '../sql/statement.ts'
import type { Wiring } from './connect.ts'
import type { Desk } from './desk.ts'
import { cut } from './lead.ts'

const ALIVE_MS = 2000
/** How often in a row a member may be silent, while a statement runs there, before it is given up. */
const SILENT_LIMIT = 3

type Run = (text: string) => Promise<pg.QueryResult>
/** log: a statement through the protocol. */
export async function runOutside(
  wiring: Wiring,
  first: Replica,
  statement: Statement,
  desk: Desk,
  log: (text: string) => Promise<unknown>,
): Promise<pg.QueryResult> {
  const { outside, text } = statement
  if (!outside)
    throw notSupported(
      `${text.split(/\s+/).slice(0, 3).join(' ')} … cannot run inside a transaction, ` +
        'and so not on all replicas at once',
      'Run it on each replica by itself, if it may differ there for a while.',
    )
  if (outside.unique)
    throw notSupported(
      'an index that is unique on some replicas only would let them differ',
      'CREATE UNIQUE INDEX without CONCURRENTLY makes it on all at once, and holds up the table’s writers meanwhile.',
    )
  if (outside.does !== 'each' && outside.index === undefined)
    throw notSupported('CREATE INDEX CONCURRENTLY needs a name, so that the index has the same on all replicas')
  const path = (await desk.own('SHOW search_path')).rows[0] as { search_path: string }
  const name = pg.escapeLiteral(outside.index ?? '')
  const found = async (
    run: Run,
  ): Promise<{ valid: boolean; is_unique: boolean; made: string; full: string } | undefined> =>
    (
      await run(`
        SELECT i.indisvalid AS valid, i.indisunique AS is_unique, pg_get_indexdef(i.indexrelid) AS made,
          format('%I.%I', n.nspname, c.relname) AS full
        FROM pg_index i
        JOIN pg_class c ON c.oid = i.indexrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = to_regclass(${name})`)
    ).rows[0] as never
  const before = outside.does === 'each' ? undefined : await found((question) => desk.own(question))
  if (outside.does === 'drop' && before?.is_unique)
    throw notSupported(
      'a unique index that is gone on some replicas only would let them differ',
      'Use DROP INDEX without CONCURRENTLY.',
    )

  const done: string[] = []
  const silent: string[] = []
  let result: pg.QueryResult | undefined
  let made = ''
  for (const replica of [first, ...wiring.cluster.replicas.filter((r) => r !== first)]) {
    try {
      await on(wiring, replica, async (run) => {
        await run(`SELECT set_config('search_path', ${pg.escapeLiteral(path.search_path)}, false)`)
        const here = outside.does === 'each' ? undefined : await found(run)
        // left over from an attempt that failed
        if (outside.does === 'create' && here && !here.valid) await run(`DROP INDEX CONCURRENTLY ${here.full}`)
        // an earlier attempt came so far
        if (replica !== first && (outside.does === 'create' ? here?.valid : outside.does === 'drop' && !here)) return
        const ran = await run(text)
        result ??= ran
        if (outside.does === 'create' && made === '') made = (await found(run))?.made ?? ''
      })
      done.push(replica.name)
    } catch (error) {
      if (!isServersWord(error) && replica !== first) {
        silent.push(replica.name)
        continue
      }
      // as PostgreSQL says it: nothing has changed anywhere, or nothing that is valid
      if (done.length === 0) throw error
      throw new QuorumError(
        `${text.split(/\s+/).slice(0, 3).join(' ')} … was done on ${done.join(', ')}, ` +
          `and failed on ${replica.name}: ${sentenceOf(error)}`,
        {
          code: codeOf(error) || '08006',
          outcome: 'unknown',
          retryable: false,
          cause: error,
          hint: 'Rows are not affected. Repeat the statement: it goes on where it failed.',
        },
      )
    }
  }
  if (outside.does === 'create' && /^CREATE INDEX /.test(made))
    await log(made.replace(/^CREATE INDEX /, 'CREATE INDEX IF NOT EXISTS '))
  if (outside.does === 'drop' && before) await log(`DROP INDEX IF EXISTS ${before.full}`)
  if (silent.length > 0)
    desk.warn(
      `${silent.join(', ')} did not answer${
        outside.does === 'each' ? ' and was left out' : ', and follows when it catches up'
      }`,
    )
  return result as pg.QueryResult
}

/** It may take hours, so it has no deadline; but a member that is silent meanwhile is given up. */
async function on(wiring: Wiring, replica: Replica, work: (run: Run) => Promise<void>): Promise<void> {
  const client = new pg.Client({ ...wiring.configs[replica.index], keepAlive: true, application_name: 'pg-quorum' })
  client.on('error', () => undefined)
  let open = true
  try {
    await client.connect()
    wiring.cluster.check(
      (await client.query<{ hello: Self }>(SQL.hello, [wiring.cluster.owner])).rows[0]!.hello,
      replica.index,
    )
    void (async () => {
      for (let missed = 0; open && missed < SILENT_LIMIT; await sleep(ALIVE_MS))
        missed = await replica.hello().then(
          () => 0,
          () => missed + 1,
        )
      if (open) cut(client)
    })()
    await work((text) => client.query(text))
  } finally {
    open = false
    await client.end().catch(() => undefined)
  }
}
