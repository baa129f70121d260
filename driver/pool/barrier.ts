/**
 * A transaction under `*` that changes nothing but a comment. Every transaction rests on everything's own stripe,
 * so once this one is committed by a majority, each of the others is committed below it, or can never be
 * (docs/decisions/0005). Writers wait while it runs, for at most LOCK_MS at a time.
 */
import pg from 'pg'
import { sentenceOf } from '../errors.ts'
import { jitter, now_ms, sleep } from '../runtime.ts'
import type { Pool } from './pool.ts'

const LOCK_MS = 2000
/** Between two tries the writers shall get through. */
const REST_MS = 500

/**
 * Tries again until `patience_ms` are over; `waiting` hears why, each time. note: letters and digits, found in the
 * changeset again.
 */
export async function barrier(
  pool: Pool,
  note: string,
  patience_ms: number,
  waiting: (why: string) => void,
): Promise<void> {
  const from = now_ms()
  for (;;) {
    try {
      return await once(pool, note)
    } catch (error) {
      // Also when its outcome is unknown: another one does no harm.
      if (now_ms() - from > patience_ms)
        throw new Error(
          `a transaction under everything could not be committed within ${Math.round(patience_ms / 1000)} s: ${sentenceOf(error)}`,
          { cause: error },
        )
      waiting(sentenceOf(error))
      await sleep(jitter(REST_MS))
    }
  }
}

async function once(pool: Pool, note: string): Promise<void> {
  const client = await pool.connect()
  let broken = true
  try {
    await client.query('BEGIN')
    // First the lock and then the versions (which the driver reads before the statement): under writers they would
    // have moved in between.
    const raw = pg.Client.prototype.query.bind(client) as (text: string) => Promise<unknown>
    await raw(`SET LOCAL lock_timeout = ${LOCK_MS}`)
    await raw(`SELECT quorum.take('[{"t": "*", "n": -1, "w": true}]')`)
    await client.query(`COMMENT ON SCHEMA quorum IS 'pg-quorum ${note}'`)
    await client.query('COMMIT')
    broken = false
  } finally {
    client.release(broken)
  }
}
