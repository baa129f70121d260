/**
 * The client processes as their parent sees them, and the ledger of what they were promised: every acknowledged
 * transfer, with the time it was acknowledged, survives here whatever happens to the client or to any server. What
 * the audit compares the servers with.
 */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { FromClient, ToClient } from './client.ts'

export interface BankClient {
  readonly name: string
  readonly process: ChildProcess
  readonly exited: Promise<unknown>
  owner: string
}

export class Fleet {
  readonly acknowledged = new Map<string, number>()
  readonly failures: Extract<FromClient, { kind: 'failed' }>[] = []
  /** Those whose outcome was unknown to the client, until it asked. */
  asked = 0
  /** Names of the clients that were killed: of what they had under way nobody was told anything. */
  readonly killed = new Set<string>()
  /** Owners as they stand in the gids of those clients' transactions. */
  readonly deadOwners = new Set<string>()
  readonly dyingGids = new Set<string>()
  /** Ended without being told to. */
  readonly crashed: string[] = []
  readonly #urls: readonly string[]
  readonly #clients = new Set<BankClient>()
  #stopping = false

  constructor(urls: readonly string[]) {
    this.#urls = urls
  }

  /** Starts a client and waits until it has reached the servers. */
  async start(name: string): Promise<BankClient> {
    const child = fork(fileURLToPath(new URL('client.ts', import.meta.url)), [name], {
      execArgv: ['--import', import.meta.resolve('tsx')],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      env: { ...process.env, PG_QUORUM_REPLICAS: this.#urls.join(',') },
    })
    const client: BankClient = { name, process: child, owner: '', exited: once(child, 'exit') }
    this.#clients.add(client)
    child.on('error', () => undefined) // a message to a client that died meanwhile
    child.once('exit', () => {
      this.#clients.delete(client)
      if (!this.#stopping && !this.killed.has(name)) this.crashed.push(name)
    })
    await new Promise<void>((ready, failed) => {
      child.once('exit', (code, signal) =>
        failed(new Error(`client ${name} ended before it was ready (${signal ?? code})`)),
      )
      child.on('message', (message: FromClient) => this.#hear(client, message, ready))
    })
    return client
  }

  send(client: BankClient, message: ToClient): void {
    if (client.process.connected) client.process.send(message, () => undefined)
  }

  /** Has it kill itself with SIGKILL in the middle of its next commit; from outside if there is no next commit. */
  async kill(client: BankClient): Promise<void> {
    this.killed.add(client.name)
    this.deadOwners.add(client.owner)
    this.send(client, 'die')
    await this.#ended(client, 3000)
  }

  /** Lets every worker finish what it is at. */
  async stop(): Promise<void> {
    this.#stopping = true
    const all = [...this.#clients]
    for (const client of all) this.send(client, 'stop')
    await Promise.all(all.map((client) => this.#ended(client, 15_000)))
  }

  killAll(): void {
    this.#stopping = true
    for (const client of this.#clients) client.process.kill('SIGKILL')
  }

  async #ended(client: BankClient, patience_ms: number): Promise<void> {
    const late = new AbortController()
    await Promise.race([
      client.exited,
      sleep(patience_ms, undefined, { signal: late.signal }).then(
        () => {
          if (!this.killed.has(client.name)) this.crashed.push(`${client.name} (did not stop)`)
          client.process.kill('SIGKILL')
          return client.exited
        },
        () => undefined,
      ),
    ])
    late.abort()
  }

  #hear(client: BankClient, message: FromClient, ready: () => void): void {
    switch (message.kind) {
      case 'ready':
        client.owner = message.owner
        return ready()
      case 'acknowledged':
        this.acknowledged.set(message.id, message.at)
        if (message.asked) this.asked++
        return
      case 'failed':
        this.failures.push(message)
        return
      case 'dying':
        this.dyingGids.add(message.gid)
        return
      default:
        message satisfies never
    }
  }
}
