/**
 * What one server says about itself beyond the protocol: version, clock, prepared slots, the size of its log. On a
 * connection of its own, so that a server which is no member, or not one yet, can be looked at as well. Reads only.
 */
import pg from 'pg'
import pTimeout from 'p-timeout'
import { now_ms, wall_ms } from '../runtime.ts'

export interface Facts {
  readonly server_version: string
  /** A standby of another server, or replaying a backup: takes no writes. */
  readonly standby: boolean
  readonly read_only: boolean
  /** A clone is being made of it; it does not vote yet. */
  readonly building: boolean
  readonly schema_version: number | null
  /** How much this server's clock is ahead of this machine's; the error is half the round trip. */
  readonly clock_offset_ms: number
  readonly clock_error_ms: number
  readonly prepared_used: number
  readonly prepared_max: number
  /** Prepared by somebody else than pg-quorum. */
  readonly prepared_foreign: number
  /** null without the schema quorum. Above 256 MB the number of changesets is the planner's estimate. */
  readonly log_bytes: number | null
  readonly changesets: number | null
  readonly changesets_exact: boolean
}

const BASIC = `
  SELECT current_setting('server_version') AS server_version, pg_is_in_recovery() AS standby,
    current_setting('default_transaction_read_only') = 'on' AS read_only,
    (SELECT count(*)::int FROM pg_prepared_xacts) AS prepared_used,
    current_setting('max_prepared_transactions')::int AS prepared_max,
    (SELECT count(*)::int FROM pg_prepared_xacts WHERE gid NOT LIKE 'quorum\\_%') AS prepared_foreign,
    to_regnamespace('quorum') IS NOT NULL
      AND coalesce(pg_has_role(to_regrole('quorum_txn'), 'MEMBER'), false) AS here`
const LOG = `
  SELECT coalesce((SELECT (to_jsonb(s)->>'building')::bool FROM quorum.self s), false) AS building,
    (SELECT schema_version FROM quorum.self) AS schema_version,
    (
      SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::float8
      FROM pg_class c
      WHERE c.oid IN (
        'quorum.changeset'::regclass, 'quorum.history'::regclass, 'quorum.applied'::regclass,
        'quorum.ballot'::regclass, 'quorum.mark'::regclass)
    ) AS log_bytes,
    (SELECT greatest(reltuples, 0)::float8 FROM pg_class WHERE oid = 'quorum.changeset'::regclass) AS changesets,
    pg_relation_size('quorum.changeset') <= 268435456 AS small`

/** A connection of ours that ends with the work, whatever becomes of it. */
export async function visit<T>(
  config: pg.ClientConfig,
  deadline_ms: number,
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = new pg.Client({
    ...config,
    connectionTimeoutMillis: deadline_ms,
    query_timeout: deadline_ms,
    application_name: 'pg-quorum',
  })
  client.on('error', () => undefined)
  try {
    return await pTimeout(
      (async () => {
        await client.connect()
        return work(client)
      })(),
      { milliseconds: deadline_ms },
    )
  } finally {
    void client.end().catch(() => undefined)
  }
}

export async function factsOf(client: pg.Client): Promise<Facts> {
  const { here, ...basic } = (
    await client.query<
      Pick<
        Facts,
        'server_version' | 'standby' | 'read_only' | 'prepared_used' | 'prepared_max' | 'prepared_foreign'
      > & { here: boolean }
    >(BASIC)
  ).rows[0]!
  const clock = await clockOf(client)
  if (!here)
    return {
      ...basic,
      ...clock,
      building: false,
      schema_version: null,
      log_bytes: null,
      changesets: null,
      changesets_exact: true,
    }
  await client.query('SET ROLE quorum_txn')
  const { small, ...log } = (
    await client.query<
      Pick<Facts, 'building' | 'schema_version'> & { log_bytes: number; changesets: number; small: boolean }
    >(LOG)
  ).rows[0]!
  const changesets = small
    ? (await client.query<{ n: number }>('SELECT count(*)::float8 AS n FROM quorum.changeset')).rows[0]!.n
    : log.changesets
  return { ...basic, ...clock, ...log, changesets, changesets_exact: small }
}

/** The quickest of a few answers says most: the server read its clock somewhere between our asking and our hearing. */
async function clockOf(client: pg.Client): Promise<Pick<Facts, 'clock_offset_ms' | 'clock_error_ms'>> {
  let best = { clock_offset_ms: 0, clock_error_ms: Infinity }
  for (let i = 0; i < 4; i++) {
    const asked = now_ms()
    const { rows } = await client.query<{ at: number }>(
      'SELECT extract(epoch FROM clock_timestamp())::float8 * 1000 AS at',
    )
    const took = now_ms() - asked
    if (took / 2 < best.clock_error_ms)
      best = { clock_offset_ms: rows[0]!.at - (wall_ms() - took / 2), clock_error_ms: took / 2 }
  }
  return best
}
