/**
 * What `init --from` asks before it changes anything: each server in a transaction that is rolled back. The source
 * says what of it could not be replicated, in the words of the functions that would refuse it; each target makes
 * the source's schema, and says what it lacks for that.
 */
import type pg from 'pg'
import { sentenceOf } from '../errors.ts'
import { lay } from './install.ts'
import { build, contentsOf, dumped, hashOf } from './recreate.ts'

export interface Rehearsal {
  readonly hash: string
  readonly tables: number
  readonly bytes: number
  /** What owns something in the source's database or is granted something in it: must exist on the targets. */
  readonly roles: readonly string[]
  readonly extensions: readonly string[]
  /** Sentences; nothing can be done before they are seen to. */
  readonly against: readonly string[]
}

const MISFITS = `
  SELECT format('table %I.%I: %s', nspname, relname, bad) AS why FROM quorum.theirs() WHERE bad IS NOT NULL
  UNION ALL
  SELECT format('sequence %s: %s', q.name, bad)
  FROM quorum.self me, quorum.sequences() q,
    quorum.no_classes(q.cycle, q.first - q.inc * (me.member - 1), q.inc, q.lo, q.hi, me.members) bad
  WHERE bad IS NOT NULL
  UNION ALL
  SELECT format(
    '%s large objects, which cannot be replicated: move them into columns of type bytea, and lo_unlink() them',
    count(*))
  FROM pg_largeobject_metadata
  HAVING count(*) > 0
  UNION ALL
  SELECT format('transaction %L is prepared there: COMMIT PREPARED or ROLLBACK PREPARED it first', gid)
  FROM pg_prepared_xacts
  WHERE database = current_database()
  UNION ALL
  SELECT format('subscription "%s" writes into it behind any driver: drop it first', subname)
  FROM pg_subscription s
  JOIN pg_database d ON d.oid = s.subdbid
  WHERE d.datname = current_database()`
// The role that initdb made owns things without an entry.
const ROLES = `
  SELECT rolname AS r
  FROM pg_roles
  WHERE rolname !~ '^(pg_|quorum_)'
    AND (
      oid = 10
      OR oid IN (
        SELECT refobjid
        FROM pg_shdepend
        WHERE refclassid = 'pg_authid'::regclass
          AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())))
  ORDER BY 1`

export async function rehearseSource(client: pg.Client, members: number): Promise<Rehearsal> {
  const contents = await contentsOf(client)
  const names = async (text: string): Promise<string[]> =>
    (await client.query<{ r: string }>(text)).rows.map((row) => row.r)
  return rolledBack(client, async () => {
    await lay(client, 'rehearsal', 1, members, true, [])
    const against = (await client.query<{ why: string }>(MISFITS)).rows.map((r) => r.why)
    return {
      hash: await hashOf(client),
      tables: contents.reduce((n, c) => n + c.tables.length, 0),
      bytes: contents.reduce((n, c) => n + c.bytes, 0),
      against,
      roles: await names(ROLES),
      extensions: await names('SELECT extname::text AS r FROM pg_extension ORDER BY 1'),
    }
  })
}

/** What stands against building the source's schema here; nothing if it is here already. */
export async function rehearseTarget(
  source: pg.Client,
  model: Rehearsal,
  target: pg.Client,
  members: number,
  pgDump: string,
): Promise<string[]> {
  const filled = (await contentsOf(target)).filter((c) => c.rows)
  if (filled.length > 0)
    return [
      `it is not empty (${filled
        .map((c) => `schema ${c.schema}: ${c.tables.slice(0, 5).join(', ')}${c.tables.length > 5 ? ', …' : ''}`)
        .join('; ')}): give an empty database`,
    ]
  const missing = async (list: readonly string[], from: string): Promise<string[]> =>
    (
      await target.query<{ r: string }>(`SELECT r FROM unnest($1::text[]) r EXCEPT ${from} ORDER BY 1`, [list])
    ).rows.map((row) => row.r)
  const roles = await missing(model.roles, 'SELECT rolname FROM pg_roles')
  const extensions = await missing(model.extensions, 'SELECT name FROM pg_available_extensions')
  const against = [
    ...(roles.length > 0
      ? [
          `the roles ${roles.join(', ')} are missing on it: create them, with the same attributes ` +
            '(CREATE ROLE; pg_dumpall --roles-only shows them)',
        ]
      : []),
    ...(extensions.length > 0 ? [`the extensions ${extensions.join(', ')} are not installed on that machine`] : []),
  ]
  if (against.length > 0) return against
  return rolledBack(target, async () => {
    await lay(target, 'rehearsal', 2, members, true, [])
    if ((await hashOf(target)) === model.hash) return []
    if ((await contentsOf(target)).some((c) => c.tables.length > 0))
      return ['it has tables, but not those of the source: drop them']
    const byHand = 'or create the schema there by hand (pg_dump --schema-only from the source, psql) and repeat'
    try {
      await build(target, await dumped({ client: source }, target, pgDump))
    } catch (error) {
      return [
        `the source's schema cannot be made on it: ${sentenceOf(error).replaceAll(/\s+/g, ' ').trim()}. ` +
          `Give --pg-dump the pg_dump of the source's version or newer, ${byHand}`,
      ]
    }
    return (await hashOf(target)) === model.hash
      ? []
      : [`the schema that pg_dump makes on it differs from the source's: create it by hand and repeat`]
  })
}

async function rolledBack<T>(client: pg.Client, work: () => Promise<T>): Promise<T> {
  await client.query('BEGIN')
  try {
    return await work()
  } finally {
    await client.query('ROLLBACK')
  }
}
