/**
 * What a run consists of, and who can reach whom in it: the servers with their condition, the clients, the network
 * between them.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { EmbeddedServer } from '../../driver/embedded/embedded.ts'
import type { Fleet, Slot } from './fleet.ts'
import { now_ms } from './journal.ts'
import type { Net } from './net.ts'

export type Condition = 'up' | 'down' | 'frozen' | 'destroyed'

export class World {
  readonly servers: readonly EmbeddedServer[]
  readonly fleet: Fleet
  readonly net: Net
  readonly condition: Condition[]
  readonly majority: number
  /** Times at which no client could reach a majority. */
  readonly dark: { from: number; to: number }[] = []
  readonly failures: string[] = []

  constructor(servers: readonly EmbeddedServer[], fleet: Fleet, net: Net) {
    this.servers = servers
    this.fleet = fleet
    this.net = net
    this.condition = servers.map(() => 'up')
    this.majority = Math.floor(servers.length / 2) + 1
  }

  server(index: number): EmbeddedServer {
    const server = this.servers[index]
    if (!server) throw new Error(`there is no server ${index}`)
    return server
  }

  /** Those that are not destroyed. */
  get living(): number[] {
    return this.servers.map((_, i) => i).filter((i) => this.condition[i] !== 'destroyed')
  }

  get up(): number[] {
    return this.servers.map((_, i) => i).filter((i) => this.condition[i] === 'up')
  }

  get clients(): Slot[] {
    return this.fleet.slots.filter((s) => s.child !== undefined && !s.frozen)
  }

  canWrite(slot: Slot): boolean {
    return this.up.filter((s) => this.net.reaches(slot.index, s)).length >= this.majority
  }

  /** Call after every change. */
  note(): void {
    const light = this.clients.some((c) => this.canWrite(c))
    const last = this.dark.at(-1)
    if (!light && (last === undefined || last.to !== Infinity)) this.dark.push({ from: now_ms(), to: Infinity })
    if (light && last?.to === Infinity) last.to = now_ms()
  }

  async kill(index: number): Promise<void> {
    if (this.condition[index] === 'destroyed') return
    this.condition[index] = 'down'
    this.note()
    await this.server(index).kill()
  }

  async start(index: number): Promise<void> {
    if (this.condition[index] !== 'down') return
    try {
      await this.server(index).start()
    } catch (error) {
      if ((this.condition[index] as Condition) === 'destroyed') return // it was destroyed while it started
      throw error
    }
    if (this.condition[index] === 'down') this.condition[index] = 'up'
    this.note()
  }

  freeze(index: number): void {
    if (this.condition[index] !== 'up') return
    this.condition[index] = 'frozen'
    this.server(index).freeze()
    this.note()
  }

  thaw(index: number): void {
    if (this.condition[index] !== 'frozen') return
    this.server(index).thaw()
    this.condition[index] = 'up'
    this.note()
  }

  /** kill -9 of all of them at once, then their disks. */
  async destroy(indexes: readonly number[]): Promise<void> {
    for (const i of indexes) this.condition[i] = 'destroyed'
    this.note()
    await Promise.all(indexes.map((i) => this.server(i).kill()))
    await Promise.all(indexes.map((i) => this.server(i).destroy()))
  }

  /** Everything that can be undone is. */
  async heal(): Promise<void> {
    this.net.liftAll()
    for (const slot of this.fleet.slots) this.fleet.thaw(slot)
    for (const i of this.living) this.thaw(i)
    await Promise.all(this.living.map((i) => this.start(i)))
    await sleep(0)
    this.note()
  }
}
