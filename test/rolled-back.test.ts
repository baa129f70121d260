/**
 * A member whose disk went back in time (a backup restored under its own identity) has forgotten votes: it must not
 * vote again.
 */
import { expect } from 'chai'
import { execFileSync } from 'node:child_process'
import { rm } from 'node:fs/promises'
import type { EmbeddedServer } from '../driver/embedded/embedded.ts'
import { balanceOn, bank, cluster, failure, until, type TestCluster } from './cluster.ts'
import { ask } from './servers.ts'

describe('a disk that went back in time', function () {
  before(function () {
    if (process.env['PG_QUORUM_DOCKER']) this.skip()
  })
  this.timeout(60_000)
  let c: TestCluster
  beforeEach(async () => {
    c = await cluster()
  })
  afterEach(() => c.destroy())

  /**
   * An update that only the first and the last server saw; the last one's disk is then that of before, and the
   * first is destroyed.
   */
  async function lostVote(witnessed: boolean): Promise<void> {
    const [first, second, last] = c.servers as unknown as [EmbeddedServer, EmbeddedServer, EmbeddedServer]
    const pool = c.pool()
    await bank(pool)
    await until('all have it', 5000, async () => (await balanceOn(last, 1)) === 1000)
    await last.stop()
    execFileSync('cp', ['-a', last.dir, `${last.dir}-backup`])
    await last.start()
    const [now] = await ask(
      last,
      "SELECT (system_identifier || '/' || incarnation) who, pg_current_wal_flush_lsn()::text lsn FROM quorum.self",
    )
    await until(
      'the witness has seen it go on',
      15_000,
      async () =>
        (
          await ask(second, 'SELECT lsn FROM quorum.flushed WHERE who = $1 AND lsn > $2::pg_lsn', [
            now?.['who'],
            now?.['lsn'],
          ])
        ).length === 1,
    )
    await ask(second, 'CHECKPOINT') // it is told without a flush
    await second.kill()
    await pool.query('UPDATE accounts SET balance = 7 WHERE id = 1')
    await until('it has voted and committed', 5000, async () => (await balanceOn(last, 1)) === 7)
    await pool.end()
    await last.stop()
    await rm(last.dir, { recursive: true })
    execFileSync('mv', [`${last.dir}-backup`, last.dir])
    await second.start()
    await last.start()
    if (!witnessed) for (const s of [second, last]) await ask(s, 'TRUNCATE quorum.flushed')
    await first.kill()
  }

  it('is recognised before it votes; the acknowledged write is not read as if it had never been', async () => {
    await lostVote(true)
    const error = await failure(c.pool().query('SELECT balance FROM accounts WHERE id = 1'))
    expect(error.message).match(/takes no part|being built/)
    expect((await ask(c.servers[2]!, 'SELECT building FROM quorum.self'))[0]).deep.equal({ building: true })
  })

  it('control: nobody remembers, and the acknowledged write is gone', async () => {
    await lostVote(false)
    expect((await c.pool().query('SELECT balance FROM accounts WHERE id = 1')).rows).deep.equal([{ balance: '1000' }])
  })
})
