/**
 * A driver in a process of its own, to be killed at a named step. Usage: tsx child.ts <step> <json {urls, locks,
 * statements}>; says "reached" when it is there.
 */
import { Pool } from '../driver/index.ts'
import { onStep } from '../driver/runtime.ts'

const [, , where, json] = process.argv
const job = JSON.parse(json ?? '{}') as { urls: string[]; locks?: string[]; statements: string[]; pause?: boolean }
const pool = new Pool({ replicas: job.urls, max: 2 })
await pool.query('SELECT 1')
onStep((step) => {
  if (step !== where) return
  if (!job.pause) process.kill(process.pid, 'SIGKILL')
  process.send?.('reached')
  return new Promise((resume) => process.once('message', () => resume()))
})
try {
  await pool.transaction({ ...(job.locks ? { locks: job.locks } : {}), retries: 0 }, async (tx) => {
    for (const text of job.statements) await tx.query(text)
  })
  process.send?.('acknowledged')
} catch (error) {
  const { code, outcome, message } = error as { code?: string; outcome?: string; message: string }
  process.send?.({ code, outcome, message })
}
await pool.end()
process.disconnect?.()
