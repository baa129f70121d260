/**
 * Jobs added by the SQL function and by the library, done by a runner that hears of them by LISTEN; a table of the
 * jobs done.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Logger, makeWorkerUtils, run } from 'graphile-worker'
import { until } from '../cluster.ts'
import { compat } from './harness.ts'

compat('graphile-worker', async (db) => {
  const { pool, again } = db
  await pool.query('CREATE TABLE done (n int PRIMARY KEY, times int NOT NULL)')
  const logger = new Logger(() => () => undefined)
  const utils = await makeWorkerUtils({ pgPool: pool, logger })
  await utils.migrate()
  const started = new Map<number, number>()
  let failures = 0
  const runner = await run({
    pgPool: pool,
    concurrency: 4,
    noHandleSignals: true,
    logger,
    pollInterval: 1000,
    taskList: {
      async note(payload, { query }) {
        const { n } = payload as { n: number }
        started.set(n, Date.now())
        await again(() =>
          query('INSERT INTO done VALUES ($1, 1) ON CONFLICT (n) DO UPDATE SET times = done.times + 1', [n]),
        )
      },
    },
  })
  runner.events.on('job:error', () => failures++)
  runner.promise.catch((error: unknown) => console.log('runner ended', error))
  await sleep(500) // it listens by now

  const before = Date.now()
  await utils.addJob('note', { n: -1 })
  await until(
    'the job was done',
    20_000,
    async () => (await pool.query('SELECT FROM done WHERE n = -1')).rowCount === 1,
  )
  console.log(`        a job started after ${started.get(-1)! - before} ms`)

  // In a transaction, by the SQL function: it is there with the commit, or not at all.
  const client = await pool.connect()
  await client.query('BEGIN')
  await client.query(`SELECT graphile_worker.add_job('note', '{"n": -2}')`)
  await client.query('ROLLBACK')
  client.release()
  await again(async () => {
    const c = await pool.connect()
    try {
      await c.query('BEGIN')
      await c.query(`SELECT graphile_worker.add_job('note', '{"n": -3}')`)
      await c.query('COMMIT')
    } catch (error) {
      await c.query('ROLLBACK').catch(() => undefined)
      throw error
    } finally {
      c.release()
    }
  })

  const added = new Set<number>()
  const from = Date.now()
  const count = await db.storm(3, 4000, async (n) => {
    await utils.addJob('note', { n })
    added.add(n)
  })
  console.log(`        ${count} jobs added in ${Date.now() - from} ms`)
  await until('all jobs are done', 60_000, async () => {
    const { rows } = await pool.query<{ n: number }>('SELECT n FROM done')
    const done = new Set(rows.map((r) => r.n))
    return [...added, -1, -3].every((n) => done.has(n)) && !done.has(-2)
  })
  console.log(
    `        all done after ${Date.now() - from} ms; ${failures} job errors, ${(await pool.query('SELECT count(*)::int n FROM done WHERE times > 1')).rows[0].n} done twice, ${(await pool.query('SELECT count(*)::int n FROM graphile_worker.jobs')).rows[0].n} left`,
  )
  await runner.stop()
  await utils.release()
})
