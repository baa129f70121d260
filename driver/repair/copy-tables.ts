/**
 * The first phase of a clone (docs/protocol.md, section 8): all tables of one member, the users' and pg-quorum's
 * own, as they stand in one snapshot, so that rows, versions and history agree. What is visible there as committed
 * is decided; what was still prepared comes by catch-up. The versions come last and with the mark 'complete':
 * without it the copy is none, and starts again from the beginning.
 */
import type pg from 'pg'
import { bulkConnection, copy, cutOff } from '../replica/copy.ts'
import { now_ms } from '../runtime.ts'
import { transaction } from '../schema/install.ts'
import { recreate, type Origin } from '../schema/recreate.ts'

export interface CopyOptions {
  readonly source: pg.ClientConfig
  readonly target: pg.ClientConfig
  /** Tables copied at once, each over two connections. */
  readonly jobs: number
  readonly pgDump: string | undefined
  tell(line: string): void
  show(progress: CopyProgress): void
}
export interface CopyProgress {
  readonly tables: number
  readonly ofTables: number
  readonly bytes: number
  readonly ofBytes: number
  readonly rows: number
  readonly ms: number
}

/**
 * pg-quorum's own tables in the same snapshot (the dial too: a lead that had forgotten it would seal for fewer
 * members than readers rely on); quorum.stripe is copied by itself, at the end. Ballots, captures and `self` are
 * each member's own.
 */
const OURS = ['quorum.changeset', 'quorum.history', 'quorum.applied', 'quorum.mark', 'quorum.forgotten', 'quorum.dial']
const TRACKED = "SELECT coalesce(array_agg(t ORDER BY t), '{}') AS r FROM quorum.tracked"

export async function copyTables(options: CopyOptions): Promise<CopyProgress> {
  const open: pg.Client[] = []
  const connect = async (config: pg.ClientConfig, writing: boolean): Promise<pg.Client> => {
    const client = await bulkConnection(config, writing)
    open.push(client)
    return client
  }
  try {
    const source = await snapshotOf(await connect(options.source, false))
    const target = await connect(options.target, true)
    const from = now_ms()
    const how = await recreate(source, target, options.pgDump)
    options.tell(`schema: ${how === 'the same already' ? how : `by ${how}`}`)
    const tables = await listOf(source.client, TRACKED)
    if (String(tables) !== String(await listOf(target, TRACKED)))
      throw new Error('the target has other tables than the source')
    await transaction(target, async () => {
      await target.query("UPDATE quorum.self SET copy = 'begun'")
      await target.query(
        `TRUNCATE ${[...tables, ...OURS, 'quorum.stripe', 'quorum.ballot', 'quorum.capture'].join(', ')}`,
      )
    })
    // Before the bulk of it, so that nobody waits for it at the end.
    const sizes = new Map(
      (
        await source.client.query<{ t: string; size: string }>(
          'SELECT t, pg_table_size(t::regclass) AS size FROM unnest($1::text[]) t',
          [[...tables, ...OURS]],
        )
      ).rows.map((r) => [r.t, Number(r.size)]),
    )
    const queue = [...sizes.keys()].sort((a, b) => (sizes.get(b) ?? 0) - (sizes.get(a) ?? 0))
    let progress: CopyProgress = {
      tables: 0,
      ofTables: queue.length,
      bytes: 0,
      ofBytes: [...sizes.values()].reduce((a, b) => a + b, 0),
      rows: 0,
      ms: 0,
    }
    const add = (tables: number, bytes: number, rows: number): void =>
      options.show(
        (progress = {
          ...progress,
          tables: progress.tables + tables,
          bytes: progress.bytes + bytes,
          rows: progress.rows + rows,
          ms: now_ms() - from,
        }),
      )
    const worker = async (): Promise<void> => {
      const [reader, writer] = [await connect(options.source, false), await connect(options.target, true)]
      await reader.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
      await reader.query(`SET TRANSACTION SNAPSHOT '${source.snapshot}'`)
      for (let table = queue.shift(); table !== undefined; table = queue.shift())
        add(1, 0, await copyOne(reader, writer, table, (bytes) => add(0, bytes, 0)))
    }
    await Promise.all(Array.from({ length: Math.max(1, Math.min(options.jobs, queue.length)) }, worker))
    await transaction(target, async () => {
      await copyOne(source.client, target, 'quorum.stripe', () => undefined)
      await target.query(
        "SELECT setval('quorum.applied_seq_seq', coalesce((SELECT max(seq) FROM quorum.applied), 0) + 1, false)",
      )
      await continueSequences(source.client, target)
      await target.query("UPDATE quorum.self SET copy = 'complete'")
    })
    await target.query('ANALYZE')
    await Promise.all(open.map((c) => c.end()))
    return { ...progress, ms: now_ms() - from }
  } catch (error) {
    for (const client of open) cutOff(client)
    throw error
  }
}

/**
 * One snapshot for all, with every table locked against DDL before it is taken: a rewritten table would be empty in
 * an older snapshot. LOCK itself takes none.
 */
async function snapshotOf(client: pg.Client): Promise<Origin> {
  for (;;) {
    const tables = await listOf(client, TRACKED)
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
    if (tables.length > 0) await client.query(`LOCK TABLE ${tables.join(', ')} IN ACCESS SHARE MODE`)
    const snapshot = (await client.query<{ r: string }>('SELECT pg_export_snapshot() AS r')).rows[0]?.r ?? ''
    if (String(tables) === String(await listOf(client, TRACKED))) return { client, snapshot }
    await client.query('ROLLBACK')
  }
}

const listOf = async (client: pg.ClientBase, text: string): Promise<string[]> =>
  (await client.query<{ r: string[] }>(text)).rows[0]?.r ?? []

/**
 * Committed by itself unless the target is in a transaction. What was stored is read again and compared, table by
 * table.
 */
async function copyOne(
  reader: pg.Client,
  writer: pg.Client,
  table: string,
  moved: (bytes: number) => void,
): Promise<number> {
  const columns = await listOf(
    writer,
    `
      SELECT array_agg(quote_ident(attname) ORDER BY attnum) AS r
      FROM pg_attribute
      WHERE attrelid = '${table.replaceAll("'", "''")}'::regclass
        AND attnum > 0 AND NOT attisdropped AND attgenerated = ''`,
  )
  const list = columns.length > 0 ? ` (${columns.join(', ')})` : ''
  const parted = (
    await writer.query<{ r: boolean }>("SELECT relkind = 'p' AS r FROM pg_class WHERE oid = $1::regclass", [table])
  ).rows[0]?.r
  const rows = await copy(
    reader,
    parted ? `COPY (SELECT ${columns.join(', ')} FROM ${table}) TO STDOUT` : `COPY ${table}${list} TO STDOUT`,
    writer,
    `COPY ${table}${list} FROM STDIN`,
    moved,
  )
  const [there, here] = await Promise.all(
    [reader, writer].map(
      async (c) => (await c.query<{ r: string }>('SELECT quorum.table_hash($1::regclass) AS r', [table])).rows[0]?.r,
    ),
  )
  if (there !== here)
    throw new Error(
      `${table}: what the target has stored is not what the source holds ` +
        `(rows and their checksum: ${here} there, ${there} at the source)`,
    )
  return rows
}

/** Past whatever the source has handed out or seen in a row, in this member's own residue class. */
async function continueSequences(source: pg.ClientBase, target: pg.ClientBase): Promise<void> {
  const { rows } = await target.query<{ name: string; inc: string; start: string; min: string; max: string }>(`
    SELECT format('%I.%I', n.nspname, c.relname) AS name,
      p.seqincrement AS inc, p.seqstart AS start, p.seqmin AS min, p.seqmax AS max
    FROM pg_sequence p
    JOIN pg_class c ON c.oid = p.seqrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname NOT IN ('quorum', 'quorum_shadow') AND n.nspname !~ '^pg_' AND c.relpersistence <> 't'`)
  for (const s of rows) {
    const at = (
      await source.query<{ last_value: string; is_called: boolean }>(`SELECT last_value, is_called FROM ${s.name}`)
    ).rows[0]
    if (!at) continue
    const [last, start, inc] = [BigInt(at.last_value), BigInt(s.start), BigInt(s.inc)]
    const ahead = (last - start) * (inc > 0n ? 1n : -1n)
    const size = inc > 0n ? inc : -inc
    const next = ahead <= 0n ? start : start + ((ahead + size - 1n) / size) * inc
    if (next >= BigInt(s.min) && next <= BigInt(s.max))
      await target.query('SELECT setval($1::regclass, $2::bigint, $3)', [
        s.name,
        next.toString(),
        ahead > 0n || (at.is_called && ahead === 0n),
      ])
  }
}
