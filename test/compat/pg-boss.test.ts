/** A queue in pg-boss's own schema, filled and worked while the lead dies. */
import PgBoss from 'pg-boss'
import { until } from '../cluster.ts'
import { compat } from './harness.ts'

compat(
  'pg-boss',
  async (db) => {
    const boss = new PgBoss({ db: { executeSql: (text, values) => db.pool.query(text, values) } })
    let complaints = 0
    boss.on('error', () => complaints++)
    try {
      await boss.start()
      await boss.createQueue('mails')
      const sent = new Set<number>()
      const done = new Map<number, number>()
      await boss.work<{ n: number }>('mails', { batchSize: 500, pollingIntervalSeconds: 0.5 }, async (jobs) => {
        for (const {
          data: { n },
        } of jobs)
          done.set(n, (done.get(n) ?? 0) + 1)
      })
      await db.storm(3, 4000, async (n) => {
        await boss.send('mails', { n }, { retryLimit: 5, retryDelay: 0 })
        sent.add(n)
      })
      await until('all mails are done', 60_000, async () => [...sent].every((n) => done.has(n)))
      console.log(
        `        ${sent.size} sent, ${[...done.values()].filter((t) => t > 1).length} done twice, ${complaints} errors emitted`,
      )
      await boss.stop({ graceful: true, wait: true })
    } finally {
      await boss.stop({ graceful: false }).catch(() => undefined) // else its own timers go on
    }
  },
  /a foreign key from or to one partition alone is not supported/,
)
