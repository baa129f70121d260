/**
 * One client process: several workers on one Pool, seen through proxies of its own, until it is told to stop or is
 * killed. It ends when its parent does.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Pool } from '../../driver/index.ts'
import { Chance } from './chance.ts'
import { Journal, now_ms } from './journal.ts'
import { Worker } from './workload.ts'

export interface ClientJob {
  name: string
  number: number
  urls: string[]
  workers: number
  seed: number
  journal: string
  began: number
  lie?: string
}
const PATIENCE_MS = 40_000

process.on('disconnect', () => process.exit())
process.on('SIGINT', () => undefined) // Ctrl-C reaches the whole process group; the parent decides what it means
if (!process.connected) process.exit(2)

const job = JSON.parse(process.argv[2] ?? '{}') as ClientJob
const journal = new Journal(job.journal)
const pool = new Pool({ replicas: job.urls, max: job.workers })
let sequence = 0
let stopping = false
const chance = new Chance(job.seed * 1000 + job.number)
const workers = Array.from(
  { length: job.workers + (job.lie === undefined ? 0 : 1) },
  (_, i) =>
    new Worker(
      {
        pool,
        journal,
        chance,
        began: job.began,
        lie: i === job.workers ? job.lie : undefined,
        stopping: () => stopping,
        nextId: () => job.number * 1_000_000 + ++sequence, // int4: good for 2000 processes
      },
      `${job.name}.${i}`,
    ),
)

process.on('message', (message) => {
  if (message === 'stop') stopping = true
})
process.on('unhandledRejection', (error) => {
  journal.write({ e: 'error', t: now_ms(), code: 'unhandled', text: String(error), untyped: true })
  process.exit(3)
})
process.send?.('ready')

const work = Promise.all(workers.map((w) => w.run()))
while (!stopping) await Promise.race([sleep(200, undefined), work])
const late = await Promise.race([work.then(() => false), sleep(PATIENCE_MS).then(() => true)])
if (late) {
  for (const { busy } of workers)
    if (busy) journal.write({ e: 'slow', t: now_ms(), ms: now_ms() - busy.since, how: `${busy.how}, never ended` })
} else await Promise.race([pool.end(), sleep(15_000)])
process.exit(late ? 4 : 0)
