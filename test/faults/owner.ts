/**
 * The owner of the transaction that a fault strikes: a driver in a process of its own, which does one job after
 * another for its parent. At the named step it says so and stands until the parent has struck, so that no fault
 * depends on luck.
 */
import { Pool, type Client } from '../../driver/index.ts'
import { onStep, type Step } from '../../driver/runtime.ts'

export interface Job {
  id: string
  step: Step
  urls: string[]
}
export type Told =
  | { ready: { owner: string; lead: string } }
  | { reached: string }
  | { answer: 'acknowledged' | { code?: string; outcome?: string; message: string } }
  | { ended: true }

const tell = (told: Told): void => void process.send?.(told)
const word = (expected: string): Promise<void> =>
  new Promise((resolve) => {
    const listen = (message: unknown): void => {
      if (message !== expected) return
      process.off('message', listen)
      resolve()
    }
    process.on('message', listen)
  })
process.on('disconnect', () => process.exit(0))
process.on('message', (message: Job | string) => {
  if (typeof message !== 'string') void work(message)
})

async function work({ id, step, urls }: Job): Promise<void> {
  const pool = new Pool({ replicas: urls, max: 2 })
  const client = (await pool.connect()) as unknown as Client & { release(): void }
  const lead = client.replicaName
  client.release()
  const go = word('go')
  tell({ ready: { owner: pool.cluster.owner, lead } })
  await go
  let stood = false
  onStep((name, gid) => {
    // The steps of a resolver are ours only with our own transaction: the pool's sweep may meet somebody else's.
    if (stood || name !== step || (gid !== '' && !gid.includes(`_${pool.cluster.owner}_`))) return
    stood = true
    const on = word('on')
    tell({ reached: gid })
    return on
  })
  const ended = word('end')
  try {
    await pool.transaction({ locks: ['accounts/1', `entries/${id}`], retries: 0 }, async (tx) => {
      await tx.query('UPDATE accounts SET balance = balance + 1 WHERE id = 1')
      await tx.query('INSERT INTO entries VALUES ($1)', [id])
    })
    tell({ answer: 'acknowledged' })
  } catch (error) {
    const { code, outcome, message } = error as { code?: string; outcome?: string; message: string }
    tell({
      answer: { ...(code === undefined ? {} : { code }), ...(outcome === undefined ? {} : { outcome }), message },
    })
  }
  await ended
  onStep(undefined)
  await pool.end()
  tell({ ended: true })
}
