/**
 * One run: servers, clients, faults, aftermath, verdict. Whatever it starts is handed to `tidy` at once, so that an
 * interruption leaves nothing behind.
 */
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { startServers, type EmbeddedServer } from '../../driver/embedded/embedded.ts'
import { Pool } from '../../driver/index.ts'
import { init } from '../../driver/schema/install.ts'
import { ask } from '../servers.ts'
import { booksOf, divergent, emptyServer, rebuild, settle, stateOf, withPool, type State } from './aftermath.ts'
import { Chance } from './chance.ts'
import type { FAULTS } from './faults.ts'
import { Fleet } from './fleet.ts'
import { now_ms, readJournals } from './journal.ts'
import { judge } from './judge.ts'
import { keysFor } from './lists.ts'
import { Nemesis } from './nemesis.ts'
import { Net } from './net.ts'
import { figuresOf, type Figures } from './report.ts'
import { ACCOUNTS, BALANCE } from './workload.ts'
import { World } from './world.ts'

export type Sabotage = 'row' | 'append' | 'read'
export interface Options {
  seconds: number
  servers: number
  clients: number
  workers: number
  seed: number /** The controls: no faults, but one thing behind the driver's back that must not go unnoticed. */
  sabotage?: readonly Sabotage[]
  only?: (keyof typeof FAULTS)[]
  /** Where the journals are kept. */
  keep?: string
}
const SETTLE_MS = 30_000
const REBUILD_MS = 90_000

export class Tidy {
  readonly #things: (() => unknown)[] = []
  #done: Promise<void> | undefined

  add(thing: () => unknown): void {
    this.#things.unshift(thing)
    if (this.#done) void Promise.resolve(thing()).catch(() => undefined)
  }

  all(): Promise<void> {
    return (this.#done ??= (async () => {
      for (const thing of this.#things) await Promise.resolve(thing()).catch(() => undefined)
    })())
  }
}

export async function run(options: Options, tidy: Tidy, say: (line: string) => void): Promise<Figures> {
  const { seconds, sabotage = [] } = options
  const chance = new Chance(options.seed)
  const folder = mkdtempSync(join(tmpdir(), 'pg-quorum-acme-'))
  tidy.add(() => {
    if (options.keep !== undefined)
      cpSync(folder, join(options.keep, `seed-${options.seed}-${Date.now()}`), { recursive: true })
    rmSync(folder, { recursive: true, force: true })
  })
  const starting = startServers(options.servers)
  tidy.add(async () => Promise.all((await starting.catch(() => [])).map((s) => s.destroy())))
  const servers = await starting
  const urls = servers.map((s) => s.url)
  await init(
    urls.map((connectionString) => ({ connectionString })),
    urls,
  )
  await open(urls, seconds)

  const net = await Net.open(options.clients, urls)
  tidy.add(() => net.close())
  const began = now_ms()
  const liar = sabotage.includes('read') ? servers[0]?.url : undefined
  const fleet = new Fleet(
    Array.from({ length: options.clients }, (_, i) => net.urls(i)),
    { folder, workers: options.workers, seed: options.seed, began, ...(liar === undefined ? {} : { lie: liar }) },
  )
  tidy.add(() => fleet.killAll())
  await Promise.all(fleet.slots.map((s) => fleet.start(s)))
  const world = new World(servers, fleet, net)
  const start = now_ms()
  const nemesis = new Nemesis(world, chance, (line) =>
    say(`${((now_ms() - start) / 1000).toFixed(1).padStart(6)} s  ${line}`),
  )
  // A server that is asked round the driver lies best when the driver cannot reach it.
  if (sabotage.includes('read')) net.lay({ cut: (_, s) => (s === 0 ? 'both' : undefined) })
  await nemesis.run(seconds, options.only, sabotage.length === 0)
  await world.heal()
  say(`${((now_ms() - start) / 1000).toFixed(1).padStart(6)} s  all faults but destruction are over`)
  const end = now_ms()
  await sleep(1000)
  await fleet.stop()
  const { hits } = net
  await net.close()

  const survivors = world.living.map((i) => world.server(i))
  const at = (): string => `${((now_ms() - start) / 1000).toFixed(1).padStart(6)} s`
  say(`${at()}  all clients have ended`)
  const healed = await withPool(urls, SETTLE_MS, () => settle(survivors, SETTLE_MS))
  if (!healed.done) world.failures.push(`not healed within ${SETTLE_MS} ms: ${JSON.stringify(healed.states)}`)
  say(
    `${at()}  ${healed.done ? `healed: nothing in doubt, ${survivors.length} equal servers after ${Math.round(healed.ms)} ms` : 'NOT healed'}`,
  )
  const all = await rebuilt(world, servers, tidy, say)
  await spoil(sabotage, all.servers, folder)
  const states = await Promise.all(all.servers.map(stateOf))
  const story = readJournals(folder)
  const verdict = judge(story, await Promise.all(all.servers.map(booksOf)))
  return figuresOf({
    options,
    story,
    verdict,
    states,
    divergent: divergent(states),
    healed_ms: healed.ms,
    rebuilt: all.how,
    happened: nemesis.happened,
    dark: world.dark,
    hits,
    end,
    wrong: [...world.failures, ...fleet.crashed],
  })
}

async function open(urls: readonly string[], seconds: number): Promise<void> {
  const pool = new Pool({ replicas: [...urls] })
  try {
    await pool.query('CREATE TABLE lists (k text PRIMARY KEY, v int[] NOT NULL)')
    await pool.query('CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0))')
    await pool.query("INSERT INTO lists SELECT k, '{}' FROM unnest($1::text[]) k", [keysFor(seconds)])
    await pool.query('INSERT INTO accounts SELECT g, $2::int FROM generate_series(1, $1::int) g', [ACCOUNTS, BALANCE])
  } finally {
    await pool.end()
  }
}

/** All servers of the end: the survivors, and in the destroyed ones' places new ones, if they could be filled. */
async function rebuilt(
  world: World,
  servers: readonly EmbeddedServer[],
  tidy: Tidy,
  say: (line: string) => void,
): Promise<{ servers: EmbeddedServer[]; how: string }> {
  const survivors = world.living.map((i) => world.server(i))
  if (survivors.length === servers.length) return { servers: survivors, how: 'nothing was destroyed' }
  const all: EmbeddedServer[] = []
  try {
    for (const [i, old] of servers.entries()) {
      if (world.condition[i] !== 'destroyed') {
        all.push(old)
        continue
      }
      const fresh = await emptyServer(servers.length + i)
      tidy.add(() => fresh.destroy())
      all.push(fresh)
    }
    const result: { ms: number; states: State[]; done: boolean } = await rebuild(all, REBUILD_MS)
    if (!result.done)
      throw new Error(`not equal after ${REBUILD_MS} ms: ${result.states.map((s) => s.position).join(', ')}`)
    const how = `empty servers, init and clone in ${(result.ms / 1000).toFixed(1)} s`
    say(`          rebuilt: ${how}`)
    return { servers: all, how }
  } catch (error) {
    world.failures.push(`the destroyed servers were not rebuilt: ${String(error)}`)
    return { servers: survivors, how: 'not rebuilt' }
  }
}

/** The controls: what a run must notice. */
async function spoil(sabotage: readonly Sabotage[], servers: readonly EmbeddedServer[], folder: string): Promise<void> {
  const behind = "SET session_replication_role = replica; SET quorum.bypass = 'on';"
  const [first] = servers
  if (sabotage.includes('row') && first)
    await ask(first, `${behind} UPDATE accounts SET balance = balance + 1 WHERE id = 1`)
  if (!sabotage.includes('append')) return
  const victim = readJournals(folder)
    .operations.filter((op) => op.type === 'ok')
    .flatMap((op) => op.invoked)
    .find((m) => m[0] === 'append')
  for (const server of servers)
    await ask(
      server,
      `${behind} UPDATE lists SET v = array_remove(v, ${Number(victim?.[2])}) WHERE k = '${victim?.[1] ?? ''}'`,
    )
}
