/**
 * The client processes as their parent sees them: slots, each with its own network, in which one process follows
 * another when it was killed.
 */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { ClientJob } from './client.ts'

export interface Slot {
  readonly index: number
  readonly urls: readonly string[]
  child: ChildProcess | undefined
  frozen: boolean
}
export interface FleetOptions {
  readonly folder: string
  readonly workers: number
  readonly seed: number
  readonly began: number
  readonly lie?: string
}

export class Fleet {
  readonly slots: readonly Slot[]
  readonly #options: FleetOptions
  /** Ended without being told to, or did not end when they were. */
  readonly crashed: string[] = []
  started = 0
  #stopping = false
  readonly #expected = new WeakSet<ChildProcess>()

  constructor(urls: readonly (readonly string[])[], options: FleetOptions) {
    this.#options = options
    this.slots = urls.map((u, index) => ({ index, urls: u, child: undefined, frozen: false }))
  }

  async start(slot: Slot): Promise<void> {
    if (this.#stopping || slot.child) return
    const number = ++this.started
    const name = `c${slot.index + 1}.${number}`
    const { folder, workers, seed, began, lie } = this.#options
    const job: ClientJob = {
      name,
      number,
      urls: [...slot.urls],
      workers,
      seed,
      began,
      journal: join(folder, `${name}.jsonl`),
      ...(lie !== undefined && slot.index === 0 ? { lie } : {}),
    }
    const child = fork(fileURLToPath(new URL('client.ts', import.meta.url)), [JSON.stringify(job)], {
      execArgv: ['--import', 'tsx'],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    })
    slot.child = child
    child.on('error', () => undefined) // a message to a client that died meanwhile
    child.once('exit', (code, signal) => {
      if (slot.child === child) Object.assign(slot, { child: undefined, frozen: false })
      if (!this.#expected.has(child) && !(this.#stopping && code === 0))
        this.crashed.push(
          `client ${name} ended with ${signal ?? code}${code === 4 ? ': an operation never ended' : ''}`,
        )
    })
    await Promise.race([once(child, 'message'), once(child, 'exit')])
  }

  async kill(slot: Slot): Promise<void> {
    const child = slot.child
    if (!child) return
    this.#expected.add(child)
    const gone = once(child, 'exit')
    child.kill('SIGKILL')
    await gone
  }

  freeze(slot: Slot): void {
    slot.child?.kill('SIGSTOP')
    slot.frozen = slot.child !== undefined
  }

  thaw(slot: Slot): void {
    slot.child?.kill('SIGCONT')
    slot.frozen = false
  }

  /** Lets every worker finish what it is at. */
  async stop(): Promise<void> {
    this.#stopping = true
    await Promise.all(
      this.slots.map(async (slot) => {
        const child = slot.child
        if (!child) return
        this.thaw(slot)
        const gone = once(child, 'exit')
        if (child.connected) child.send('stop', () => undefined)
        const late = new AbortController()
        await Promise.race([
          gone,
          sleep(70_000, undefined, { signal: late.signal }).then(
            () => {
              this.crashed.push(`client of slot ${slot.index + 1} did not stop`)
              return this.kill(slot)
            },
            () => undefined,
          ),
        ])
        late.abort()
      }),
    )
  }

  killAll(): void {
    this.#stopping = true
    for (const { child } of this.slots) {
      if (!child) continue
      this.#expected.add(child)
      child.kill('SIGKILL')
    }
  }
}
