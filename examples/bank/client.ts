/**
 * One client process of the bank: four workers that transfer money until they are told to stop. It tells its parent
 * each transfer that was acknowledged, at the moment it was, because the parent must know what was promised even if
 * this process is killed next. PG_QUORUM_REPLICAS says where the servers are. It ends when its parent does, however
 * that ends.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { Pool, QuorumError } from '../../driver/index.ts'
import { onStep } from '../../driver/runtime.ts'
import { transfer } from './bank.ts'

export type FromClient =
  | { kind: 'ready'; owner: string }
  | { kind: 'acknowledged'; id: string; at: number; asked: boolean }
  | { kind: 'failed'; id: string; code: string; message: string; outcome: string }
  | { kind: 'dying'; gid: string }
export type ToClient = 'go' | 'die' | 'stop'

const WORKERS = 4
const name = process.argv[2] ?? 'client'
let stopping = false

const tell = (message: FromClient, then: () => void = () => undefined): void => {
  if (process.connected) process.send?.(message, undefined, undefined, then)
}

process.on('disconnect', () => process.exit())
process.on('SIGINT', () => undefined) // Ctrl-C reaches the whole process group; the parent decides what it means
if (!process.connected) process.exit(2)

const pool = new Pool({ max: WORKERS })
await pool.query('SELECT 1')

process.on('message', (message: ToClient) => {
  if (message === 'go')
    void Promise.all(Array.from({ length: WORKERS }, work))
      .then(() => pool.end())
      .then(() => process.exit())
  if (message === 'stop') stopping = true
  if (message === 'die') dieInTheMiddleOfACommit()
})
tell({ kind: 'ready', owner: pool.cluster.owner })

async function work(): Promise<void> {
  while (!stopping) {
    const id = randomUUID()
    try {
      await transfer(pool, id, name)
      tell({ kind: 'acknowledged', id, at: Date.now(), asked: false })
    } catch (error) {
      await explain(id, error)
    }
  }
}

/** An error says whether the transfer happened; where it cannot, the pool is asked until it knows. */
async function explain(id: string, error: unknown): Promise<void> {
  const { code = '', message } = error as Error & { code?: string }
  let outcome: string = error instanceof QuorumError ? error.outcome : 'not-committed'
  const gid = error instanceof QuorumError ? error.gid : undefined
  for (let attempt = 0; outcome === 'unknown' && gid !== undefined && attempt < 50; attempt++) {
    outcome = await pool.outcomeOf(gid).catch(() => 'unknown')
    if (outcome === 'unknown') await sleep(100)
  }
  if (outcome === 'committed') return tell({ kind: 'acknowledged', id, at: Date.now(), asked: true })
  if (code === '23514') return // the account has too little money: the bank's own rule, and no news
  tell({ kind: 'failed', id, code, message, outcome })
  await sleep(50)
}

/** kill -9 at the worst moment: the followers hold the transaction prepared, the lead has not committed it yet. */
function dieInTheMiddleOfACommit(): void {
  onStep((step, gid) => {
    if (step !== 'accepted') return
    return new Promise<void>(() => tell({ kind: 'dying', gid }, () => process.kill(process.pid, 'SIGKILL')))
  })
}
